"""The benchmarks: what is wrong is not timed, every part of the race measures, and the README shows what was found."""

import importlib
import json
import re
from functools import partial
from itertools import product
from pathlib import Path

import numba
import pytest
import tiny
from test_2_registers import NEEDS_JIT

from refimpl.kernels import cpu
from refimpl.kernels.gemm_u8s8s32 import GEMM
from refimpl.kernels.peak import dot_products

FOLDER = Path(__file__).parents[1] / "asv_bench"


@pytest.fixture
def bench(monkeypatch):
    """Imports a module of the benchmarks by its name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


# --- what is wrong is not timed --------------------------------------------------------------------------------------


def off_by_one(call):
    """A kernel's call whose last number is wrong."""

    def wrong(*given):
        result = call(*given)
        result[-1, -1] += 1
        return result

    return wrong


def test_a_wrong_product_is_refused(bench):
    measuring = bench("benchmarks.measuring")
    a, w = measuring.operands(8, 8, 3, 0.5)
    with measuring.prepared(GEMM, a, w) as run:
        assert run() > 0
    wrong = GEMM._replace(call=off_by_one(GEMM.call))
    with pytest.raises(AssertionError, match="gemm_u8s8s32 and its oracle differ"), measuring.prepared(wrong, a, w):
        pass
    bitmask = bench("benchmarks.bitmask")
    with pytest.raises(AssertionError, match="gemm_u8s8s32 and its oracle differ"):
        bitmask.layers(wrong, a, w, GEMM.pack(w), 2)


ROW_NAMES = ("layernorm", "add_layernorm", "softmax", "gelu", "gelu_u8_table", "quantize_rows")


@pytest.mark.parametrize("name", ROW_NAMES)
def test_a_wrong_row_is_refused(bench, monkeypatch, name):
    operations = bench("benchmarks.operations")
    assert tuple(operations.ROWS) == ROW_NAMES
    kernel, inputs, reference = operations.ROWS[name]
    assert operations.rows(name, 2, 70).kernel() > 0
    wrong = kernel._replace(call=off_by_one(kernel.call))
    monkeypatch.setitem(operations.ROWS, name, (wrong, inputs, reference))
    with pytest.raises(AssertionError, match=f"{name} and its oracle differ"):
        operations.rows(name, 2, 70)


STAGES = [
    (name, stage)
    for name, stages in (("attention", "scores probs context"), ("attention_u8s8", "scores probs codes context"))
    for stage in stages.split()
]


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_a_wrong_attention_is_refused(bench, monkeypatch, name, stage):
    operations = bench("benchmarks.operations")
    monkeypatch.setattr(operations, "TOKENS", 5)
    build, module = operations.STAGED_DUELS[name], getattr(operations, name)
    assert build().kernel() > 0
    call = module.call

    def wrong(*given):
        result = call(*given)
        getattr(result, stage)[..., -1, -1] += 1
        return result

    monkeypatch.setattr(module, "call", wrong)
    with pytest.raises(AssertionError, match=f"{name} and its oracle differ"):
        build()


def test_a_wrong_fused_layer_is_refused(bench, monkeypatch):
    operations = bench("benchmarks.operations")
    for name, value in {"TOKENS": 70, "M": 8, "K": 16}.items():
        monkeypatch.setattr(operations, name, value)
    duel = operations.fused()
    assert duel.kernel() > 0
    assert duel.other() > 0
    fused = operations.linear_gelu_4x1

    def wrong(*given):
        result = call(*given)
        result[-1, -1, 5] += 1  # of the last token
        return result

    call = fused.call
    monkeypatch.setattr(fused, "call", wrong)
    with pytest.raises(AssertionError, match="linear_gelu_4x1 and its oracle differ"):
        operations.fused()


# --- the race and the README -----------------------------------------------------------------------------------------

SECTIONS = ("peak", "race", "threads", "bitmask", "operations", "bench")


def told(arguments):
    """A report on such arguments: ours takes 1/4 ms a token on one thread, ONNX Runtime twice that in INT8 and 4 times
    in f32, which is too slow for production, and OpenVINO is wrong."""
    given = {}
    for option, value in zip(arguments[::2], arguments[1::2], strict=True):
        given.setdefault(option, []).append(value)
    (scenario,), (threads,), batch = given["--scenario"], given.get("--threads", "1"), int(given.get("--batch", "1")[0])
    who = [("refimpl", "INT8", 1), ("ONNX Runtime", "INT8", 2), ("OpenVINO", "INT8", 0), ("ONNX Runtime", "f32", 4)]
    rows = []
    for tokens, (name, precision, times) in product(map(int, given["--tokens"]), who):
        row = {"tokens": tokens, "name": name, "precision": precision, "status": "timed" if times else "wrong"}
        row |= dict.fromkeys(("setting", "batch", "ms", "texts_per_second", "ours_is_faster"))
        if times and (scenario != "production" or times * tokens < 512):
            ms = tokens * times * batch / 4 / int(threads)
            row |= {
                "setting": "" if name == "refimpl" else f"s{times}",
                "batch": batch,
                "ms": ms,
                "texts_per_second": batch * 1e3 / ms,
                "ours_is_faster": times,
            }
        rows.append(row)
    return {
        "arguments": arguments, "model": "that model", "density": float(given.get("--density", ["0.2"])[0]),
        "attention": "INT8", "cpu": cpu.name(), "threads": int(threads), "limit_ms": 10.0,
        "versions": {"refimpl": "0.1", "ONNX Runtime": "1.2"}, "scenarios": {scenario: rows},
    }  # fmt: skip


@pytest.fixture
def small(bench, monkeypatch):
    """race.py and readme.py, on tiny operands, and as if engines had been raced."""
    race, bitmask, operations = bench("race"), bench("benchmarks.bitmask"), bench("benchmarks.operations")
    changes = {
        race: {"SHAPES": ("64x32",), "TOKENS": (128,), "THREADS_SHAPE": "64x32", "THREADS_TOKENS": 70},
        bitmask: {"M": 64, "K": 32, "MOST_BYTES": 20_000},
        bench("scenarios"): {"LENGTHS": (32, 128), "PRODUCTION_LENGTHS": (16, 128), "report": told},
        bitmask.Bitmask: {"params": (tuple(bitmask.PLACES), (1, 7), (0.9, 0.1))},
        operations: {"TOKENS": 5, "M": 8, "K": 16, "ROW_DUELS": {"gelu 2x70": partial(operations.rows, "gelu", 2, 70)}},
    }
    for owner, values in changes.items():
        for name, value in values.items():
            monkeypatch.setattr(owner, name, value)
    return race, bench("readme")


def run_main(module, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["", *map(str, arguments)])
    module.main()


@NEEDS_JIT
@pytest.mark.skipif(not dot_products.runs_natively(), reason="this CPU lacks AVX-512 VNNI, the yardstick")
@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="numba has 1 thread here")
def test_every_part_is_measured_and_shown(small, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    race, readme = small
    page = tmp_path / "README.md"
    page.write_text("before\n" + "".join(f"<!-- {name} -->\n<!-- /{name} -->\nbetween\n" for name in SECTIONS))
    for part in race.PARTS:
        run_main(race, monkeypatch, "--only", part, "--seconds", 0.001, "--results", tmp_path)
    (results,) = tmp_path.glob("*.json")
    assert results.stem == cpu.name()
    found = json.loads(results.read_text())
    assert {row["place"] for row in found["bitmask"]["rows"]} == {"cache", "memory", "memory, two at once"}
    assert all(bytes_ > 0 for bytes_ in map(int, found["bitmask"]["cache_bytes"].values()))
    for _ in range(2):
        run_main(readme, monkeypatch, "--results", tmp_path, "--readme", page)
        text = page.read_text()
        assert text.startswith("before\n<!-- peak -->\n| ")
        for name in SECTIONS:
            (shown,) = re.findall(rf"<!-- {name} -->\n(.+?)\n<!-- /{name} -->\nbetween\n", text, re.DOTALL)
            assert cpu.name() in shown
            assert shown.count("|---|") >= 1
    for picture in ("roofline.png", "production.png"):
        assert (tmp_path / picture).stat().st_size > 10_000


def test_what_is_missing_is_said(small, monkeypatch, tmp_path):
    _, readme = small
    page = tmp_path / "README.md"
    page.write_text("<!-- threads -->\n<!-- /threads -->\n")
    with pytest.raises(ValueError, match="has no pair <!-- race --> and <!-- /race -->"):
        run_main(readme, monkeypatch, "--only", "race", "--readme", page)
    with pytest.raises(ValueError, match=r"other.json has no 'threads'; race.py measures it on that CPU"):
        run_main(readme, monkeypatch, "--cpu", "other", "--results", tmp_path, "--readme", page)
    page.write_text("<!-- peak -->\n<!-- /peak -->\n")
    with pytest.raises(ValueError, match=r"has no race; race.py measures it"):
        run_main(readme, monkeypatch, "--results", tmp_path, "--readme", page)


def test_results_of_several_cpus_stand_side_by_side(bench):
    tables = bench("tables")
    name = tables.SPARSE_4X1[1].kernel.name

    def results(cpu_name, share):
        row = {"name": name, "density": 0.2, "share_of_peak": share}
        short = {"shape": "8x4", "tokens": 32, "rows": [row | {"share_of_peak": 8}]}
        long = {"shape": "8x4", "tokens": 128, "rows": [row, row | {"density": 0.1, "share_of_peak": 9}]}
        return {"cpu": cpu_name, "cases": [short, long]}

    want = "| share of peak, out x in | on one | on two |\n|---|---|---|\n| 8x4 | 0.25 | 0.50 |"
    assert tables.peak([results("one", 0.25), results("two", 0.5)]) == want


def test_threads_table(bench):
    row = {"name": "gemm_u8s8s32", "density": 1.0, "seconds": [3e-6, 2e-6]}
    found = {"cpu": "that", "threads": {"shape": "8x4", "tokens": 3, "rows": [row]}}
    assert bench("tables").threads(found).splitlines() == [
        "| 8x4, 3 tokens | density | one thread | two threads | times as fast |",
        "|---|---|---|---|---|",
        "| `gemm_u8s8s32` | 1 | 3 µs | 2 µs | 1.50x |",
        "",
        "Out x in. On that.",
    ]


def test_break_even(bench):
    break_even = bench("tables").break_even
    assert break_even((0.2, 0.4, 1.0), [0.5, 1.5, 2.0]) == pytest.approx(0.3)
    assert break_even((0.2, 0.4, 0.6), [0.5, 1.5, 0.5]) == pytest.approx(0.3)
    assert break_even((0.2, 0.4), [0.5, 1.0]) == 0.4
    assert break_even((0.2, 0.4), [1.5, 0.5]) is None
    assert break_even((0.2, 0.4), [0.5, 0.9]) == 0.4


def test_bitmask_table(bench):
    """From memory with one token, times in proportion to the density, equal at 0.3; everywhere else half as fast."""
    sizes = {"dense_bytes": 1000, "dense_seconds": 3e-6}
    rows = []
    for place, tokens, d in product(("cache", "memory"), (1, 4), (0.5, 0.1)):
        seconds = d * 1e-5 if (place, tokens) == ("memory", 1) else 6e-6
        row = {"place": place, "tokens": tokens, "density": d, "bitmask_bytes": 125 + 1000 * d}
        rows.append(sizes | row | {"bitmask_seconds": seconds})
    part = {"shape": "64x64", "cache_bytes": {"1": 2**15, "3": 2**25}, "streamed_bytes": 2e6, "rows": rows}
    assert bench("tables").bitmask({"cpu": "that", "bitmask": part}).splitlines() == [
        "| bitmask : dense | tokens | dense | 0.1 | 0.5 | break-even |",
        "|---|---|---|---|---|---|",
        "| bytes of weights |  | 0.00 MB | 0.23 | 0.62 | 0.87 |",
        "| time, weights in a cache | 1 | 3 µs | 2.00 | 2.00 | none |",
        "| time, weights in a cache | 4 | 3 µs | 2.00 | 2.00 | none |",
        "| time, weights from memory | 1 | 3 µs | 0.33 | 1.67 | 0.30 |",
        "| time, weights from memory | 4 | 3 µs | 2.00 | 2.00 | none |",
        "",
        "64x64, out x in, one thread a layer; from memory, 2 MB of layers in turn. On that, L3 32 MiB.",
        "",
        "Bitmask weights are faster than dense ones: in a cache, at no measured density; from memory, with 1 token "
        "below a density of 0.30, with 4 tokens at no measured density.",
    ]


@NEEDS_JIT
def test_a_scenario_is_what_the_command_finds(bench, monkeypatch, tmp_path):
    scenarios = bench("scenarios")
    monkeypatch.setattr(scenarios, "MODEL", [str(tiny.copy("distilbert_bare", tmp_path))])
    arguments = ["--scenario", "latency", "--tokens", "8", "--density", "0.5", "--seconds", "0.001"]
    found, like = scenarios.report(arguments), told(arguments)
    assert like.keys() <= found.keys() == {"arguments", *scenarios.KEPT}
    assert like["scenarios"]["latency"][0].keys() == found["scenarios"]["latency"][0].keys()
    with pytest.raises(RuntimeError, match=r"ended with status 2: error: --tokens is 1; need 2 to"):
        scenarios.report(["--tokens", "1"])


def test_scenario_tables(bench, monkeypatch):
    scenarios = bench("scenarios")
    for name, value in {"DENSITIES": (0.2, 1.0), "LENGTHS": (32, 128), "PRODUCTION_LENGTHS": (16, 128)}.items():
        monkeypatch.setattr(scenarios, name, value)
    monkeypatch.setattr(scenarios, "report", told)
    monkeypatch.setattr(cpu, "cores", lambda: [0, 1])
    pages = bench("scenario_tables").tables(scenarios.bench(1.0)).split("\n\n")
    latency, at_128, production = (page.replace("|---", "").splitlines() for page in pages[:3])
    assert latency == [
        "| ms for one text, tokens: | pruned | 32 | 128 |",
        "|",
        "| refimpl INT8 | 80% | 8.00 | 32.00 |",
        "| ONNX Runtime INT8 | 80% | 16.00 · 2.00x | 64.00 · 2.00x |",
        "| OpenVINO INT8 | 80% | wrong | wrong |",
        "| ONNX Runtime f32 | 80% | 32.00 · 4.00x | 128.00 · 4.00x |",
        "| refimpl INT8 | 0% | 8.00 | 32.00 |",
        "| ONNX Runtime INT8 | 0% | 16.00 · 2.00x | 64.00 · 2.00x |",
        "| OpenVINO INT8 | 0% | wrong | wrong |",
    ]
    assert at_128[:5] == [
        "| 128 tokens | pruned | ms for one text, 1 thread | ms for one text, 2 threads | texts a second, batch of 8 |",
        "|",
        "| refimpl INT8 | 80% | 32.00 | 16.00 | 31 |",
        "| ONNX Runtime INT8 | 80% | 64.00 · 2.00x | 32.00 · 2.00x | 16 · 2.00x |",
        "| OpenVINO INT8 | 80% | wrong | wrong | wrong |",
    ]
    assert production[0] == "| texts a second under 10 ms | pruned | 16 | 128 |"
    assert production[-1] == "| ONNX Runtime f32 | 80% | 62 (1) · 4.00x | - |"
    assert f"On {cpu.name()}; ONNX Runtime 1.2." in pages[3]
    assert pages[3].endswith("counts: ONNX Runtime INT8: s2; ONNX Runtime f32: s4.")
