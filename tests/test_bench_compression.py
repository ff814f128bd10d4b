"""Results of recipes: what is kept of a report, which bar a row must reach, and that the page is what its rows say."""

import json
from argparse import Namespace

import numpy as np
import pytest
import recipe_child
import recipe_report
import tiny
from test_2_registers import NEEDS_JIT
from test_bench import bench, run_main  # noqa: F401

from refimpl.integer.pairs import unsafe_pairs
from refimpl.kernels import cpu
from refimpl.models import compress, packed_file
from refimpl.models.bert import forward, linears
from refimpl.models.recipes import reading
from refimpl.models.recipes.kinds import Movement, QuantizeAware
from refimpl.models.recipes.prune_kind import Prune
from refimpl.models.recipes.recipe import Recipe, to_json
from refimpl.models.runner import runner
from refimpl.models.verify.int8 import SATURATING

JPQD = Movement(epochs=2, warmup_start_epoch=1, warmup_end_epoch=2, factor=0.1, quantize=True)


def stages(*made):
    return to_json(Recipe("mine", "", made))


def row(name, recipe, value, **more):
    """One whose dense row had 91.0."""
    engine = {"name": "refimpl", "ran": True, "why": "", "version": "0.1.0", "metrics": {"accuracy": value},
              "rows": 872, "different": 0}  # fmt: skip
    encoder = {"before": 4e6, "after": 1e6, "ratio": 5.3}
    return {
        "name": name, "command": f"refimpl compress dense --recipe {name}", "limit": None, "recipe": recipe,
        "task": "sst2", "seed": 0, "machine": "that", "seconds": 90.0, "baseline": {"accuracy": 90.9}, "notes": [],
        "sizes": {"files": {"packed.safetensors": 2e6}, "encoder": encoder}, "trained": {"accuracy": value},
        "engines": [engine], "sparsity": 0.0,
    } | more  # fmt: skip


def dense(value=91.0, **more):
    return row("dense", {"name": "dense", "about": "f32", "stages": []}, value, **more)


def shipped(name):
    return to_json(reading.load(name, "sst2"))


@pytest.mark.parametrize(
    ("recipe", "value", "told"),
    [
        (shipped("ptq"), 90.5, ["at most 0.5 below dense: 0.50, met"]),
        (shipped("ptq"), 90.49, ["at most 0.5 below dense: 0.51, missed"]),
        (shipped("ptq-overflow-fix"), 90.9, []),
        (shipped("qat"), 90.69, ["at most 0.3 below dense: 0.31, missed"]),
        (shipped("prune-4x1-80"), 89.6, ["at most 1.5 below dense: 1.40, met", "the aim, at most 1.0: 1.40, missed"]),
        (shipped("prune-4x1-90"), 89.0, ["at most 3.0 below dense: 2.00, met", "the aim, at most 2.0: 2.00, met"]),
        (shipped("prune-4x1-90"), 87.9, ["at most 3.0 below dense: 3.10, missed",
                                         "the aim, at most 2.0: 3.10, missed"]),
        (stages(Prune(epochs=1, sparsity=0.8, block=(1, 1))), 91.0, []),
        (stages(Prune(epochs=1, sparsity=0.7), QuantizeAware(epochs=1)), 91.0, []),
        (stages(JPQD), 90.0, ["at most 1.0 below dense: 1.00, met",
                              "the encoder at least 5.2 times smaller: 5.30, met"]),
        (shipped("distil-mse"), 88.0, ["better than the same student on labels: no such row, not told"]),
        (shipped("student-labels"), 88.0, []),
    ],
)  # fmt: skip
def test_a_row_is_told_its_bars(bench, recipe, value, told):  # noqa: F811
    bars = bench("compression_bars")
    rows = [dense(), row("a", recipe, value)]
    assert [bars.said(bar) for bar in bars.bars(bars.Page("sst2", rows), rows[1])] == told
    trial = rows[1] | {"limit": 100}
    assert bars.bars(bars.Page("sst2", rows), trial) == []


def test_bars_of_dense_rows_and_of_students(bench):  # noqa: F811
    bars = bench("compression_bars")
    rows = [dense(90.49), row("mse", shipped("distil-mse"), 88.0), row("labels", shipped("student-labels"), 87.9)]
    rows.append(row("other seed", shipped("student-labels"), 99.0, seed=1))
    page = bars.Page("sst2", rows)
    assert [bar[1:] for bar in bars.bars(page, rows[0])] == [("90.49", False)]
    assert [bar[1:] for bar in bars.bars(page, rows[1])] == [("88.00 against 87.90", True)]
    assert page.below(rows[1]) == 2.49
    assert bars.Page("sst2", rows[1:]).below(rows[1]) == 2.9  # below the recipe's own baseline


def test_the_page(bench, monkeypatch, tmp_path):  # noqa: F811
    pytest.importorskip("matplotlib")
    compression, curve = bench("compression"), bench("compression_curve")
    (tmp_path / "ptq.json").write_text(json.dumps(row("ptq", shipped("ptq"), 90.0, seconds=None)))
    ran = [("compressed", "native", 90, 0), ("compressed", "avx512", 60, 300), ("compressed", "emulated", 61, 299),
           ("repaired", "native", 89, 0)]  # fmt: skip
    without = [{"model": model, "isa": isa, "ran": True, "why": "", "metrics": {"accuracy": value}, "different": count}
               for model, isa, value, count in ran]  # fmt: skip
    without[2]["different_from"] = {"native": 299, "avx512": 2}
    qat = row("b2", shipped("qat"), 90.0, limit=50, saturation=without, notes=["a note"], heads=[3, 4], neurons=[8, 8])
    (tmp_path / "b2.json").write_text(json.dumps(qat))
    (tmp_path / "dense.json").write_text(json.dumps(dense()))
    ours = dense()["engines"][0]
    trained = {"model_command": "refimpl train base -o dense", "command": "refimpl compress other --recipe b3",
               "engines": [ours, *(ours | {"name": name, "saturates": True} for name in ("X", "Y"))]}  # fmt: skip
    (tmp_path / "b3.json").write_text(json.dumps(row("b3", shipped("jpqd-sst2"), 90.0, **trained)))
    points = [{"line": m, "number": 0, "kept": d, "metrics": {"accuracy": 80 + 9 * d}, "updates": 1, "seconds": 9.0}
              for m in ("inc", "movement") for d in (0.5, 0.05)]  # fmt: skip
    found = {"model": "dense", "data": "sst2", "machine": "that", "limit": None, "epochs": 1, "seed": 0, "threads": 1}
    (tmp_path / curve.CURVE).write_text(json.dumps(found | {"dense": {"accuracy": 91.0}, "points": points[1:]}))
    other = ours | {"name": "other", "metrics": {"accuracy": 88.0}, "different": 1}
    emulated = {"metrics": {"accuracy": 87.0}, "different_from": {"refimpl": 6, "other": 5}}
    old = {"machine": "old", "task": "sst2", "engines": [ours, other], "emulated": emulated}
    (tmp_path / compression.OLD_CPU).write_text(json.dumps(old))
    page = tmp_path / "page.md"
    run_main(compression, monkeypatch, "render", "--results", tmp_path, "--page", page)
    text = page.read_text().replace("|---", "")
    table = text[text.index("| recipe |") :].splitlines()
    assert table[2:5] == [
        "| dense | 91.00 | 91.00 | did not run | did not run | - | at least 90.5: 91.00, met |",
        "| ptq | 90.00 | 90.00 | did not run | did not run | 1.00 | at most 0.5 below dense: 1.00, missed |",
        "| qat (`b2`, first 50 rows of each file) | 90.00 | 90.00 | did not run | did not run | 0.90 | - |",
    ]
    assert (
        table[11]
        == "| qat (`b2`, first 50 rows of each file) | 0.0% | 3 of 4 | all | 4.0 → 1.0 | 5.30 | 2.0 | 1.5 | 0 |"
    )
    assert "| 90.00 | 60.00 (300 differ) | did not run | 61.00 (299 differ) | 89.00 | did not run |" in text
    assert "| did not run | 2, - |" in text
    assert "| other 0.1.0 | 88.00 | 1 |\n| emulated | 87.00 | 6; 5 unlike other |" in text
    assert "## SST-2: accuracy on 872 dev rows" in text
    assert "| inc | 80.45 at 5% | - |\n| movement | 84.50 at 50% | 80.45 at 5% |" in text
    assert text.count("For time, a row that names a limit") == 1
    assert "    refimpl compress dense --recipe b2\n\n* a note" in text
    assert (
        "    refimpl train base -o dense\n    refimpl compress other --recipe b3\n\n"
        "* without VNNI on that, sums of pairs saturate in X and Y\n" in text
    )
    figure = page.with_name(compression.FIGURE).read_text()
    assert "dense 91.00" in figure
    run_main(compression, monkeypatch, "render", "--results", tmp_path, "--page", page)
    assert page.with_name(compression.FIGURE).read_text() == figure


def test_what_was_tried_is_told_where_a_bar_is_missed(bench):  # noqa: F811
    tables, bars = bench("compression_tables"), bench("compression_bars")
    pruned = row("p", stages(Prune(epochs=1, sparsity=0.8)), 91.0)
    assert tables.missed(bars.Page("sst2", [dense(90.5), pruned])) == []
    assert tables.missed(bars.Page("sst2", [dense(90.49), pruned])) == [bars.TRIED[bars.DENSE]]
    short = pruned | {"limit": 9, "baseline": {"accuracy": 99.0}}
    assert tables.missed(bars.Page("sst2", [dense(90.49), row("p", pruned["recipe"], 89.4), short])) == [
        bars.TRIED[bars.DENSE], bars.TRIED["4x1"]
    ]  # fmt: skip


def test_the_shipped_page_is_of_its_rows(bench):  # noqa: F811
    compression = bench("compression")
    if not compression.ROWS.exists():
        pytest.skip("nothing is collected")
    assert compression.PAGE.read_text("utf-8") == compression.page_of(compression.ROWS)


def test_what_is_kept_of_a_report(bench, monkeypatch, tmp_path):  # noqa: F811
    compression = bench("compression")
    report = recipe_report.report()
    report["command"] = "refimpl compress /some/minilm --data /far/sst2 -o /tmp/out --limit 100"
    report["model_training"] = {"task": "sst2", "epochs": 3, "version": "0.1.0"}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text(json.dumps(report))
    monkeypatch.setattr(compression, "f32_metrics", lambda *given: {"accuracy": 90.6})
    given = ("--data", tmp_path, "--results", tmp_path / "rows", "--model", "base")
    run_main(compression, monkeypatch, "collect", tmp_path / "out", *given)
    kept = json.loads((tmp_path / "rows" / "out.json").read_text())
    assert kept["command"] == "refimpl compress minilm --data sst2 -o out --limit 100"
    assert kept["model_command"] == f"refimpl train base --task sst2 --data {tmp_path.name} -o minilm --epochs 3"
    assert (kept["limit"], kept["heads"], kept["neurons"]) == (100, [46, 72], [4096, 9216])
    whole = sum(np.prod(layer["shape"]) for layer in report["layers"])
    assert kept["sparsity"] == 1 - sum(layer["nonzero"] for layer in report["layers"]) / whole
    assert [engine["different"] for engine in kept["engines"] if engine["ran"]] == [0, 2]
    assert "gorgeous" not in json.dumps(kept)
    many = report["engines"][1] | {"differences": 30 * report["engines"][1]["differences"]}
    assert len(compression.slim(many)["differences"]) == 20
    with pytest.raises(SystemExit):
        run_main(compression, monkeypatch, "collect", tmp_path, "--data", tmp_path, "--results", tmp_path / "rows")


@NEEDS_JIT
def test_the_emulation_saturates_as_the_reference_does(bench):  # noqa: F811
    saturation = bench("compression_saturation")
    name = "bert_classification"
    quantized = compress.quantize(compress.calibrate(compress.prune(tiny.dense(name), 1.0), tiny.rows(name)))
    assert any(unsafe_pairs(layer.codes).any() for layer in linears(quantized.model).values())
    ready = saturation.emulated(compress.pack(quantized))
    for batch in tiny.rows(name):
        np.testing.assert_array_equal(ready.run(*batch), forward(quantized.model, batch, SATURATING))


def test_engines_here_are_beside_the_emulation(bench, monkeypatch, tmp_path):  # noqa: F811
    """What an engine answers otherwise than ours, and than the emulation, which answers as ours where no pair clips."""
    saturation = bench("compression_saturation")
    folder = recipe_child.prepare(tmp_path)
    packed_file.save(compress.compress(compress.load(folder / "model"), tiny.TEXTS, 0.5), tmp_path / "packed")
    monkeypatch.setattr(saturation, "emulated", runner)
    found = saturation.here(tmp_path / "packed", "sst2", folder / "data")
    assert found["machine"] == cpu.name()
    assert found["emulated"]["metrics"] == found["engines"][0]["metrics"]
    assert found["emulated"]["different_from"] == {
        row["name"]: row["different"] for row in found["engines"] if row["ran"]
    }


@pytest.mark.parametrize(
    ("features", "error"),
    [
        (["avx2", "avxvnni"], "this CPU has avxvnni; need one with AVX2"),
        (["neon"], "this CPU has no AVX2; need one with"),
    ],
)
def test_an_old_cpu_has_avx2_and_no_vnni(bench, monkeypatch, tmp_path, capsys, features, error):  # noqa: F811
    compression = bench("compression")
    monkeypatch.setattr(cpu, "features", lambda: frozenset(features))
    with pytest.raises(SystemExit):
        run_main(compression, monkeypatch, "old-cpu", "--data", tmp_path, "--results", tmp_path)
    assert error in " ".join(capsys.readouterr().err.split())


def test_rows_that_are_answered_apart(bench):  # noqa: F811
    apart = bench("compression_saturation").apart
    assert apart({1: "a", 2: "b", 4: "c"}, {2: "b", 3: "a", 4: "d"}) == [1, 3, 4]


def test_a_curve_goes_on(bench, monkeypatch, tmp_path):  # noqa: F811
    """Points that are done are not made again; another model's are refused."""
    curve = bench("compression_curve")
    made = []

    def stage(setting, number, stage, work):
        made.append(stage)
        if len(made) == 3:
            raise ValueError("enough")
        return Namespace(history=({"epoch": 1, "loss": 1.0, "accuracy": 50.0},), sparsity=((1, 0.3),), updates=1)

    setting = Namespace(folder=tmp_path / "out" / "stages", task=Namespace(evaluate=lambda model: {"accuracy": 91.0}))
    monkeypatch.setattr(curve, "run_stage", stage)
    monkeypatch.setattr(curve, "make_setting", lambda *given: setting)
    monkeypatch.setattr(curve, "taught", lambda setting: setting)
    model = tiny.copy("bert_classification", tmp_path)
    arguments = (model, "--data", tmp_path, "-o", tmp_path / "out")
    with pytest.raises(SystemExit):
        run_main(curve, monkeypatch, *arguments)
    found = json.loads((tmp_path / "out" / curve.CURVE).read_text())
    assert [point["line"] for point in found["points"]] == ["magnitude", "snip_momentum"]
    assert found["points"][0]["kept"] == pytest.approx(0.7)
    run_main(curve, monkeypatch, *arguments)
    assert len(json.loads((tmp_path / "out" / curve.CURVE).read_text())["points"]) == 30 == len(made) - 1
    with pytest.raises(SystemExit):
        run_main(curve, monkeypatch, *arguments, "--epochs", 2)
