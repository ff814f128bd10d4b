"""Rung 7: the race of engines. The model of random numbers is what it says; what is wrong is not timed; who is timed
takes turns; what counts is picked from the times; and the command says it all, in tables, JSON, a plot or one line."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import tiny
from test_2_registers import NEEDS_JIT
from test_cli import one_line, refimpl  # noqa: F401
from vnni import NEEDS_VNNI

from refimpl.kernels.gemm_bf16 import GEMM_BF16
from refimpl.models import compress, engines, packed_file
from refimpl.models.bench import case as cases
from refimpl.models.bench import gate, measuring, variants
from refimpl.models.bench.case import FAILED, TIMED, WRONG, Result, measure
from refimpl.models.bench.contestants import Candidate, Contestant, contestants
from refimpl.models.bench.measuring import Samples
from refimpl.models.bench.plan import BATCHES, LATENCY, LONG, PRODUCTION, SCENARIOS, THROUGHPUT, TOKENS, Budget, Case
from refimpl.models.bench.plan import make_plan as plan_of
from refimpl.models.bench.plot import relative
from refimpl.models.bench.report import Report
from refimpl.models.bench.standings import Entry, run, standings
from refimpl.models.bench.synthetic import OUTLIER, synthetic
from refimpl.models.bert import forward, linears
from refimpl.models.engines.others import load_function
from refimpl.models.information import density_of, sparsity
from refimpl.nn import EncoderLayer
from refimpl.quant import QUANTIZED, QuantizedLinear, dequantize_weight

SHAPE = {"layers": 2, "hidden": 64, "heads": 2, "feed_forward": 128, "vocabulary": 60, "positions": 48}
DENSITY = 0.4
EXACT = Budget(seconds=1e-3)
FLOATS = ("BF16", "f32") if GEMM_BF16.source.runs_natively() else ("f32",)
"""Precisions that ours runs in beside INT8."""
ENGINES = [
    pytest.param(engine, marks=pytest.mark.skipif(engine not in engines.installed(), reason=f"{engine} is missing"))
    for engine in engines.NAMES
]


@pytest.fixture(scope="module")
def quantized():
    return synthetic(DENSITY, **SHAPE)


@pytest.fixture(scope="module")
def files(quantized, tmp_path_factory):
    return variants.export_variants(quantized, tmp_path_factory.mktemp("variants"))


@pytest.fixture
def packed(quantized, tmp_path) -> Path:
    path = tmp_path / "packed.safetensors"
    packed_file.save(compress.pack(quantized), path)
    return path


# --- the model of random numbers -------------------------------------------------------------------------------------


def test_the_synthetic_model_is_pruned_and_quantized(quantized):
    layers = linears(quantized.model)
    assert len(layers) == 6 * SHAPE["layers"]
    for layer in layers.values():
        assert isinstance(layer, QuantizedLinear)
        live = dequantize_weight(layer.codes, layer.weight_scale).reshape(-1, 4, layer.codes.shape[1]).any(1).mean()
        assert live == pytest.approx(DENSITY, abs=1e-3)
    assert quantized.tokenizer.encode(["a cat"]).ids.max() < SHAPE["vocabulary"]
    assert {name: getattr(quantized.model.config, name) for name in SHAPE} == SHAPE


def test_some_channels_are_outliers():
    model = synthetic(0.5, hidden=768, layers=1, feed_forward=8, vocabulary=60, positions=64).model
    inputs = variants.random_batch(np.random.default_rng(1), model.config, 2, 64)
    recorded = tiny.record(model, inputs, QUANTIZED)
    for tap in ("embeddings", "layer.0.attention_norm", "layer.0.output_norm"):
        sizes = np.sort(np.sqrt(np.square(recorded[tap]).mean((0, 1))))
        assert (sizes[-6:] > 0.5 * OUTLIER[0] * np.median(sizes)).all(), tap
        assert (sizes[:-6] < 0.5 * OUTLIER[0] * np.median(sizes)).all(), tap


def test_a_seed_is_a_model(quantized):
    tiny.same_model(synthetic(DENSITY, **SHAPE).model, quantized.model)
    other = synthetic(DENSITY, seed=1, **SHAPE).model
    assert not np.array_equal(other.layers[0].q.codes, quantized.model.layers[0].q.codes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"density": 1.5}, "density is 1.5; need 0 to 1"),
        ({"hidden": 65}, "hidden is 65; need a multiple of heads, 2"),
        ({"layers": 0}, "layers is 0; need an integer from 1"),
        ({"vocabulary": 30}, "vocabulary is 30; need at least 31"),
    ],
)
def test_a_synthetic_model_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        synthetic(**{"density": 0.5} | SHAPE | change)


# --- what the other engines are given --------------------------------------------------------------------------------


def test_a_file_a_precision_of_the_same_weights(quantized, files):
    assert [(v.name, v.precision) for v in files] == [("", "INT8"), ("", "f32")]
    exact = linears(files[1].model)
    for name, layer in linears(quantized.model).items():
        np.testing.assert_array_equal(exact[name].weight, layer.codes * layer.weight_scale[:, None])
    assert all(v.path.stat().st_size > 0 for v in files)


def test_a_model_with_integer_attention_is_also_given_without(quantized, monkeypatch, tmp_path):
    fields = tuple(dict.fromkeys((*EncoderLayer._fields, "attention_scales")))
    layer = namedtuple("layer", fields)
    layers = tuple(layer(**{**p._asdict(), "attention_scales": 1.0}) for p in quantized.model.layers)
    model = variants.replace(quantized.model, layers=layers)
    written = {}
    monkeypatch.setattr(variants, "export_onnx", lambda model, path: written.setdefault(path, model))
    found = variants.export_variants(compress.Quantized(model, quantized.tokenizer), tmp_path)
    assert [(v.name, v.precision) for v in found] == [("", "INT8"), ("f32 attention", "INT8"), ("", "f32")]
    assert [v.model.layers[0].attention_scales for v in found] == [1.0, None, None]
    assert len(written) == 3


def test_inputs_repeat_their_texts(files):
    inputs = variants.make_inputs(files, 12)
    assert inputs.texts.ids.shape == (variants.TEXTS, 12)
    assert 0 < inputs.blur < gate.CEILING / gate.BLURS
    np.testing.assert_array_equal(inputs.expected[files[0].path], forward(files[0].model, inputs.texts, QUANTIZED))
    for size, count in [(1, 8), (2, 4), (3, 3), (8, 1), (20, 1)]:
        batches = inputs.batches(size)
        assert len(batches) == count
        assert {batch.ids.shape for batch, _ in batches} == {(size, 12)}
        assert {row for _, rows in batches for row in rows} == set(range(variants.TEXTS))
        for batch, rows in batches:
            np.testing.assert_array_equal(batch.ids, inputs.texts.ids[rows])


# --- the gate --------------------------------------------------------------------------------------------------------

SCORES = np.array([[[4, 1], [1, 3.0], [0, 0]]] * 2, np.float32)  # (B, T, 2): starts at 0, ends at 1


def agree(output, reference=SCORES, head="question_answering", limit=0.1):
    return gate.agree(head, output, reference, limit)


def changed(index, value):
    output = SCORES.copy()
    output[index] = value
    return output


def test_the_reference_agrees_with_itself():
    found = agree(SCORES.copy())
    assert (found.right, found.distance, found.same, found.tied, found.of) == (True, 0, 4, 0, 4)


def test_another_choice_agrees_only_where_the_reference_has_a_tie():
    close = SCORES.copy()
    close[0, 1, 0] = 3.9
    swapped = close.copy()
    swapped[0, 1, 0] = 4.1
    found = agree(swapped, close)
    assert (found.right, found.same, found.tied) == (True, 3, 1)
    assert not agree(changed((0, 1, 0), 4.1)).right  # the reference has 4 and 1 there
    assert agree(changed((0, 1, 0), 4.1), limit=0.5).same == 3


@pytest.mark.parametrize(
    "output",
    [
        np.zeros_like(SCORES),
        -SCORES,
        SCORES * 2,
        SCORES[:1],
        SCORES[..., 0],
        SCORES.astype(int),
        changed((1, 2, 0), np.nan),
        changed((1, 2, 0), -np.inf),
    ],
)
def test_what_is_wrong_is_not_right(output):
    assert not agree(output).right


def test_one_text_of_many_is_enough_to_be_wrong():
    many = np.tile(SCORES, (200, 1, 1))
    output = many.copy()
    output[17, 2, 1] = 3.5
    found = agree(output, many)
    assert found.distance < found.limit
    assert (found.right, found.same, found.of) == (False, 799, 800)


def test_decisions_of_every_head():
    labels = np.array([[0, 5.0, 1], [3, 0, 0]], np.float32)
    assert agree(labels, labels, "classification").of == 2
    assert agree(SCORES, SCORES, "masked_lm").of == 6
    unit = np.eye(2, dtype=np.float32)
    assert agree(unit, unit, "sentence_embedding") == gate.Agreement(0, 0.1, 0, 0, 0)
    turned = np.array([[0.999, 0.045], [0, 1]], np.float32)
    assert agree(turned, unit, "sentence_embedding").right
    assert not agree(unit[::-1], unit, "sentence_embedding").right


def test_the_limit_is_three_blurs_within_reason():
    assert gate.limit_of(0.02) == pytest.approx(0.06)
    assert gate.limit_of(0.0) == gate.FLOOR
    assert gate.limit_of(2.0) == gate.CEILING


# --- taking turns ----------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only where a run says so: run(name, seconds) -> a run; ``.order`` of the names."""

    class Clock:
        now, order = 0.0, []

        def run(self, name, *seconds):
            waits = list(seconds)

            def once():
                self.order.append(name)
                self.now += waits.pop(0) if len(waits) > 1 else waits[0]

            return once

    made = Clock()
    made.order = []
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: made.now)
    return made


def test_turns_alternate_and_the_first_run_of_a_turn_does_not_count(clock):
    found = measuring.in_turns({"a": clock.run("a", 0.01), "b": clock.run("b", 0.1)}, 0.5, 1)
    turn = ["a"] * 4 + ["b"] * 2
    assert clock.order == turn * 3
    assert found["a"] == pytest.approx((0.01, 0.01, 0.01, 9))
    assert found["b"].runs == 3


def test_a_long_run_counts_at_once(clock):
    assert measuring.in_turns({"a": clock.run("a", 1.0)}, 0.5, 1)["a"].runs == len(clock.order) == 3


def test_rounds_go_on_until_the_time_is_spent(clock):
    found = measuring.in_turns({"a": clock.run("a", 0.02)}, 2.0, 1)
    assert clock.now == pytest.approx(2.0, abs=0.1)
    assert found["a"].runs == pytest.approx(2 / 3 * len(clock.order))


def test_median_and_spread():
    assert measuring.summary([1.0, 2, 3, 4, 100]) == pytest.approx((3, 1.4, 61.6, 5))
    assert measuring.summary([7.0]) == (7, 7, 7, 1)
    assert measuring.in_turns({}, 1e9, 1) == {}


# --- a case ----------------------------------------------------------------------------------------------------------


def scripted(inputs, variant, wrong=None, wait=lambda: None):
    """A candidate's ``open``: the reference's own rows, or ``wrong`` of them."""

    def open_(shape):
        def run(batch):
            wait()
            rows = [int(np.flatnonzero((inputs.texts.ids == ids).all(1))[0]) for ids in batch.ids]
            output = inputs.expected[variant.path][rows]
            return output if wrong is None else wrong(output)

        return run

    return open_


def race(files, case, *found, budget=EXACT):
    inputs = variants.make_inputs(files, case.tokens)
    made = [
        Contestant(name, "INT8", [Candidate(setting, files[0], open_(inputs)) for setting, open_ in candidates.items()])
        for name, candidates in found
    ]
    return measure(made, case, inputs, "question_answering", budget)


def right(files, wait=lambda: None):
    return lambda inputs: scripted(inputs, files[0], wait=wait)


def zeros(files):
    return lambda inputs: scripted(inputs, files[0], np.zeros_like)


def test_what_is_wrong_is_not_timed(files, monkeypatch):
    timed = []
    monkeypatch.setattr(cases, "in_turns", lambda runs, *rest: timed.extend(runs) or measuring.in_turns(runs, *rest))
    good, bad = race(files, Case(2, 8), ("good", {"": right(files)}), ("bad", {"": zeros(files)}))
    assert (good.status, good.agreement.same, good.agreement.of) == (TIMED, 16, 16)
    assert good.samples.runs >= 3
    assert (bad.status, bad.samples, bad.agreement.right) == (WRONG, None, False)
    assert "distance 1.000" in bad.notes[0]
    assert [contestant for contestant, _ in timed] == [0]


def test_an_engine_that_raises_has_failed(files):
    def broken(shape):
        raise OSError("no such library")

    def late(batch):
        raise RuntimeError("out of memory")

    for open_, message in [(broken, "OSError: no such library"), (lambda shape: late, "RuntimeError: out of memory")]:
        (found,) = race(files, Case(1, 8), ("bad", {"fast": lambda inputs, open_=open_: open_}))
        assert (found.status, found.samples, found.agreement) == (FAILED, None, None)
        assert found.notes == (f"fast: {message}",)


def test_too_few_texts_have_failed(files):
    (found,) = race(files, Case(4, 8), ("bad", {"": lambda inputs: scripted(inputs, files[0], lambda y: y[:1])}))
    assert found.status == FAILED
    assert "need 4 texts" in found.notes[0]


def test_the_fastest_candidate_that_is_right_counts(files, clock):
    def takes(seconds):
        return right(files, clock.run("", seconds))

    (found,) = race(
        files, Case(1, 8),
        ("engine", {"slow": takes(0.2), "quick": takes(0.1), "quicker": takes(0.095), "wrong": zeros(files)}),
    )  # fmt: skip
    assert (found.status, found.setting) == (TIMED, "quicker")
    assert found.samples.median == pytest.approx(0.095)
    assert [note.split(":")[0] for note in found.notes] == ["wrong"]


def test_timed_runs_go_through_different_texts(files):
    """An engine that remembers the last answer gains nothing."""
    seen = []

    def remember(inputs):
        open_ = scripted(inputs, files[0])
        return lambda shape: lambda batch: seen.append(batch.ids[0].tobytes()) or open_(shape)(batch)

    race(files, Case(1, 8), ("engine", {"": remember}))
    assert len(seen) > 2 * variants.TEXTS
    assert all(first != second for first, second in itertools.pairwise(seen))


def test_near_candidates_are_both_timed(files, clock):
    """The first tries lie: a takes 0.10 then and 0.12 later, b the other way round."""
    gated = [0.0] * variants.TEXTS
    (found,) = race(
        files, Case(1, 8),
        (
            "engine",
            {
                "a": right(files, clock.run("", *gated, 0.1, 0.1, 0.1, 0.12)),
                "b": right(files, clock.run("", *gated, 0.11, 0.11, 0.11, 0.09)),
            },
        ),
    )  # fmt: skip
    assert (found.setting, found.samples.median) == ("b", pytest.approx(0.09))


# --- which cases, and what counts ------------------------------------------------------------------------------------


def make_plan(scenarios=(), tokens=(), batches=(), positions=512, budget=EXACT):
    return plan_of(scenarios, tokens, batches, positions, budget)


def test_everything_by_default_and_no_case_twice():
    plan = make_plan()
    assert plan.scenarios == SCENARIOS
    assert plan.cases() == [Case(batch, n) for n in TOKENS for batch in BATCHES] + [Case(1, LONG)]
    assert make_plan([LATENCY]).cases() == [Case(1, n) for n in (*TOKENS, LONG)]
    assert make_plan([PRODUCTION, LATENCY], [8, 4, 8], [2]).cases() == [Case(1, 4), Case(2, 4), Case(1, 8), Case(2, 8)]
    assert {case.tokens for case in make_plan(positions=40).cases()} == {16, 32}
    assert {case.tokens for case in make_plan(positions=10).cases()} == {10}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((["speed"], [], []), "--scenario is 'speed'; need latency, throughput, production"),
        (([], [1], []), "--tokens is 1; need 2 to 512"),
        (([], [16, 513], []), "--tokens is 513; need 2 to 512, the model's positions"),
        (([], [], [0]), "--batch is 0; need 1 to 4096"),
        ((["latency"], [], [2]), "--batch is given, but latency has one text in a batch"),
        (([], [], [5000]), "--batch is 5000; need 1 to 4096"),
    ],
)
def test_a_plan_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        make_plan(*given)


def told(plan, files, clock, seconds):
    """Run a plan with two contestants, "ours" and one that takes ``seconds`` a text and half a millisecond."""
    inputs = {n: variants.make_inputs(files, n) for n in {case.tokens for case in plan.cases()}}

    def open_(each, shape):
        here = inputs[shape[1]]
        return scripted(here, files[0], wait=clock.run("", 0.0005 + each * shape[0]))(shape)

    found = [
        Contestant(name, "INT8", [Candidate("", files[0], lambda shape, each=each: open_(each, shape))])
        for name, each in (("ours", 0.001), ("other", seconds))
    ]
    said = []
    return list(run(plan, found, files, said.append)), said


def test_larger_batches_are_not_tried_once_one_is_too_long(files, clock):
    plan = make_plan([PRODUCTION], [8, 12], [1, 2, 4, 8, 16], budget=Budget(seconds=0.01, limit=0.0035))
    results, said = told(plan, files, clock, 0.0025)
    assert said == plan.cases()
    sizes = {
        name: [result.case.batch for result in results if result.name == name and result.case.tokens == 8]
        for name in ("ours", "other")
    }
    assert sizes == {"ours": [1, 2, 4], "other": [1, 2]}
    for tokens in (8, 12):
        ours, other = standings(plan, PRODUCTION, results)[tokens].values()
        assert (ours.best.case.batch, other.best.case.batch) == (2, 1)
        assert ours.value == pytest.approx(2 / 0.0025)
        assert ours.times == pytest.approx(1)
        assert other.times == pytest.approx(2.4)


def result(name, batch, median, status=TIMED, tokens=8):
    samples = Samples(median, median, median, 3) if status == TIMED else None
    return Result(name, "INT8", Case(batch, tokens), status, samples=samples)


RESULTS = [
    *(result("ours", batch, seconds) for batch, seconds in [(1, 0.002), (2, 0.003), (4, 0.008), (8, 0.012)]),
    *(result("other", batch, seconds) for batch, seconds in [(1, 0.003), (2, 0.011), (4, 0.016), (8, 0.024)]),
    *(result("bad", batch, 0.001, WRONG if batch == 4 else TIMED) for batch in (1, 2, 4, 8)),
    *(result("slow", batch, 0.02 * batch) for batch in (1, 2)),
]


@pytest.mark.parametrize(
    ("scenario", "values", "times"),
    [
        (LATENCY, {"ours": 0.002, "other": 0.003, "bad": 0.001, "slow": 0.02}, {"other": 1.5, "bad": 0.5, "slow": 10}),
        (THROUGHPUT, {"ours": 2 / 0.003, "other": 1 / 0.003, "slow": 50}, {"other": 2, "slow": 2 / 0.15}),
        (PRODUCTION, {"ours": 2 / 0.003, "other": 1 / 0.003}, {"other": 2}),
    ],
)
def test_what_counts(scenario, values, times):
    plan = make_plan(tokens=[8], batches=[1, 2, 4, 8])
    entries = {name: entry for (name, _), entry in standings(plan, scenario, RESULTS)[8].items()}
    assert list(entries) == ["ours", "other", "bad", "slow"]
    assert {name: e.value for name, e in entries.items() if e.value is not None} == pytest.approx(values)
    assert {name: e.times for name, e in entries.items() if e.times is not None} == pytest.approx({"ours": 1} | times)
    if scenario != LATENCY:
        assert entries["bad"] == Entry(WRONG)
    if scenario == PRODUCTION:
        assert entries["slow"] == Entry(TIMED)


def test_relative_performance(quantized):
    plan = make_plan([PRODUCTION], [8, 12], [1, 2, 4, 8])
    late = [result(r.name, r.case.batch, 0.02, tokens=12) for r in RESULTS if r.name != "bad"]
    report = Report("m", quantized.model.config, 0.4, "f32", plan, RESULTS + late)
    baseline, bars = relative(report.to_json()["scenarios"][PRODUCTION])
    assert baseline == ("other", "INT8")
    assert bars == {8: {("ours", "INT8"): pytest.approx(2), ("other", "INT8"): 1}, 12: {}}
    silent = [{"tokens": 8, "name": "ONNX Runtime", "precision": "INT8", "texts_per_second": None}]
    assert relative(silent + report.to_json()["scenarios"][PRODUCTION]) == (baseline, bars)
    assert relative(silent) == (("ONNX Runtime", "INT8"), {8: {}})


# --- engines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ["INT8", "f32"])
def test_a_fast_run_computes_what_a_judged_run_does(files, engine, precision):
    variant = next(v for v in files if v.precision == precision)
    inputs = variants.make_inputs(files, 8)
    judged = engines.open_session(engine, variant.path, [])
    first = engines.settings(engine)[0]
    for size in (1, 3):
        run = engines.open_fast(engine, variant.path, (size, 8), 1, first)
        for batch, _ in inputs.batches(size):
            np.testing.assert_allclose(run(batch), judged.run(batch)["output"], rtol=0, atol=0.1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", tiny.ONE_OF_EACH_HEAD)
@pytest.mark.parametrize("precision", [pytest.param("INT8", marks=NEEDS_VNNI), "f32"])
def test_every_setting_is_right_on_every_head(tmp_path, engine, name, precision):
    found = variants.export_variants(tiny.quantized(name), tmp_path)
    inputs = variants.make_inputs(found, 9)
    for variant in (each for each in found if each.precision == precision):
        for setting in engines.settings(engine):
            run = engines.open_fast(engine, variant.path, (2, 9), 1, setting)
            candidate = Candidate(setting, variant, lambda shape, run=run: run)
            head = variant.model.config.head
            agreement = cases.judge(run, candidate, Case(2, 9), inputs, head)
            assert agreement.right, (variant.precision, setting, agreement)


TELEMETRY = """
import threading
from refimpl.models.engines import {engine}
import sys
assert sys.modules.get("openvino_telemetry") is None
assert threading.active_count() == 1
print(open("/proc/self/maps").read().count("onnxruntime.db"))
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_report_nothing(engine):
    done = subprocess.run([sys.executable, "-c", TELEMETRY.format(engine=engine)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


TOY = """
from pathlib import Path
import numpy as np
from refimpl.models import packed_file
from refimpl.models.runtime.session import Session

session = Session(packed_file.load(Path({packed!r})))
calls = []

def make(onnx_path, batch_size, tokens, threads):
    assert Path(onnx_path).suffix == ".onnx" and Path(onnx_path).exists()
    calls.append((batch_size, tokens, threads))
    return lambda ids, mask: session(ids, mask).tolist()

def wrong(onnx_path, batch_size, tokens, threads):
    return lambda ids, mask: session(ids[::-1], mask)

def late(onnx_path, batch_size, tokens, threads):
    raise RuntimeError("no licence")

constant = 7
"""


@pytest.fixture
def toy(packed, tmp_path, monkeypatch):
    """The name of a module in the current folder."""
    (tmp_path / "toy_engine.py").write_text(TOY.format(packed=str(packed)))
    (tmp_path / "broken_engine.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "toy_engine", raising=False)
    return "toy_engine"


@NEEDS_JIT
def test_who_takes_part(quantized, files, toy):
    found = contestants(compress.pack(quantized), files, 1, [f"{toy}:make"])
    names = [(contestant.name, contestant.precision) for contestant in found]
    installed = [engines.NAMES[name] for name in engines.installed()]
    assert names == [
        *(("refimpl", "INT8"), (f"{toy}:make", "INT8"), *((name, "INT8") for name in installed)),
        *(("refimpl", precision) for precision in FLOATS),
        *((name, "f32") for name in installed),
    ]
    results = measure(found, Case(2, 16), variants.make_inputs(files, 16), "question_answering", EXACT)
    assert [r.status for r in results] == [TIMED] * len(found)
    assert sys.modules[toy].calls == [(2, 16, 1)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "--engine is ''; need module:function"),
        ("onnxruntime", "--engine is 'onnxruntime'; need module:function"),
        (":make", "need module:function"),
        ("no_such_engine:make", "cannot import no_such_engine: No module named"),
        ("broken_engine:make", "cannot import broken_engine: division by zero"),
        ("toy_engine:nothing", "toy_engine has no function nothing"),
        ("toy_engine:constant", "toy_engine has no function constant"),
    ],
)
@NEEDS_JIT
def test_a_broken_engine(toy, name, message):
    with pytest.raises(ValueError, match=message):
        load_function(name)


# --- the command -----------------------------------------------------------------------------------------------------

QUICK = ("--seconds", 0.001)


def bench_json(refimpl, *arguments):  # noqa: F811
    status, out, err = refimpl("bench", *arguments, *QUICK, "--json")
    assert "Traceback" not in err
    return status, json.loads(out)


@NEEDS_JIT
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_scenario_end_to_end(refimpl, packed, scenario):  # noqa: F811
    more = () if scenario == LATENCY else ("--batch", 2)
    status, report = bench_json(refimpl, packed, "--scenario", scenario, "--tokens", 8, "--tokens", 20, *more)
    assert status == 0
    assert report["passed"] is True
    assert list(report["scenarios"]) == [scenario]
    assert report["density"] == pytest.approx(DENSITY, abs=0.01)
    assert report["not_installed"] == [
        words for name, words in engines.NAMES.items() if name not in engines.installed()
    ]
    count = 1 + len(FLOATS) + 2 * len(engines.installed())
    assert len(report["cases"]) == len(report["scenarios"][scenario]) == 2 * count
    batch = 1 if scenario == LATENCY else 2
    for found in report["cases"]:
        assert (found["status"], found["batch"], found["notes"]) == ("timed", batch, [])
        assert 0 < found["p10_ms"] <= found["ms"] <= found["p90_ms"]
        assert found["texts_per_second"] == pytest.approx(1000 * batch / found["ms"])
        assert found["agreement"]["same"] + found["agreement"]["tied"] == found["agreement"]["of"]
        assert found["runs"] >= 3
    first, *rest = report["scenarios"][scenario][:count]
    assert (first["name"], first["tokens"], first["batch"], first["ours_is_faster"]) == ("refimpl", 8, batch, 1)
    assert all(entry["ours_is_faster"] == pytest.approx(entry["ms"] / first["ms"]) for entry in rest)


@NEEDS_JIT
def test_tables_within_100_columns(refimpl, packed, toy):  # noqa: F811
    status, out, err = refimpl(
        "bench", packed, "--tokens", 8, "--batch", 1, "--batch", 4, *QUICK, "--engine", f"{toy}:make"
    )
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith(tuple("LTP"))] == [
        "Latency",
        "Throughput",
        "Production",
    ]
    assert out.index("refimpl INT8") < out.index("toy_engine:make INT8")
    assert "wrong" not in out


@NEEDS_JIT
@pytest.mark.parametrize(("function", "mark"), [("wrong", "wrong"), ("late", "failed")])
def test_a_wrong_engine_is_refused(refimpl, packed, toy, function, mark):  # noqa: F811
    arguments = (packed, "--scenario", "latency", "--tokens", 8, "--engine", f"{toy}:{function}")
    if function == "wrong":
        arguments = (packed, "--scenario", "throughput", "--tokens", 8, "--batch", 2, *arguments[-2:])
    status, report = bench_json(refimpl, *arguments)
    assert (status, report["passed"]) == (1, False)
    (bad,) = [found for found in report["cases"] if found["status"] != "timed"]
    assert (bad["name"], bad["status"]) == (f"{toy}:{function}", mark)
    assert "ms" not in bad
    assert len(bad["notes"]) == 1
    (entry,) = [entry for entry in next(iter(report["scenarios"].values())) if entry["status"] != "timed"]
    assert (entry["ms"], entry["ours_is_faster"]) == (None, None)
    status, out, _ = refimpl("bench", *arguments, *QUICK)
    assert status == 1
    assert mark in out


@NEEDS_JIT
@NEEDS_VNNI
def test_a_directory_is_compressed_first(refimpl, tmp_path):  # noqa: F811
    for name in ("bert_classification", "distilbert_bare"):
        model = tiny.copy(name, tmp_path)
        status, report = bench_json(refimpl, model, "--scenario", "latency", "--tokens", 8, "--density", 0.5)
        assert status == 0, report
        assert (report["density"], report["attention"]) == (pytest.approx(0.5, abs=0.02), "INT8")
        assert report["config"]["head"] == tiny.dense(name).model.config.head


@NEEDS_JIT
@NEEDS_VNNI
def test_attention_in_f32(refimpl, tmp_path):  # noqa: F811
    model = tiny.copy("distilbert_bare", tmp_path)
    status, report = bench_json(refimpl, model, "--scenario", "latency", "--tokens", 8, "--f32-attention")
    assert (status, report["attention"]) == (0, "f32")


@NEEDS_JIT
def test_two_threads(refimpl, packed):  # noqa: F811
    if (os.cpu_count() or 1) < 2:
        pytest.skip("this machine has one CPU")
    status, report = bench_json(refimpl, packed, "--scenario", "latency", "--tokens", 8, "--threads", 2)
    assert (status, report["threads"]) == (0, 2)


@NEEDS_JIT
def test_an_engine_that_is_not_installed_is_left_out(refimpl, packed, monkeypatch):  # noqa: F811
    monkeypatch.setattr(engines, "installed", list)
    status, out, err = refimpl("bench", packed, "--scenario", "latency", "--tokens", 8, *QUICK, "--json")
    assert status == 0
    assert [line.split(" is not")[0] for line in err.splitlines()] == ["note: ONNX Runtime", "note: OpenVINO"]
    report = json.loads(out)
    assert report["not_installed"] == ["ONNX Runtime", "OpenVINO"]
    assert {found["name"] for found in report["cases"]} == {"refimpl"}


@NEEDS_JIT
@pytest.mark.parametrize("scenario", [LATENCY, PRODUCTION])
def test_a_plot(refimpl, packed, tmp_path, scenario):  # noqa: F811
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    path = tmp_path / "figure.png"
    more = () if scenario == LATENCY else ("--batch", 1)
    status, _, _ = refimpl("bench", packed, "--scenario", scenario, "--tokens", 8, *more, *QUICK, "--plot", path)
    assert status == 0
    assert path.read_bytes().startswith(b"\x89PNG\r\n")


def test_a_plot_without_matplotlib(one_line, monkeypatch, tmp_path):  # noqa: F811
    from refimpl.models.bench import plot

    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    error = one_line("bench", "--plot", tmp_path / "figure.png")
    assert "--plot needs matplotlib: python -m pip install 'refimpl[plot]'" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scenario", "speed"], "--scenario is 'speed'; need latency, throughput, production"),
        (["--tokens", 1], "--tokens is 1; need 2 to 48, the model's positions"),
        (["--tokens", 49], "--tokens is 49; need 2 to 48"),
        (["--batch", 0], "--batch is 0; need 1 to 4096"),
        (["--threads", 0], "--threads is 0; need 1 to"),
        (["--threads", 10**6], "--threads is 1000000; need 1 to"),
        (["--seconds", "nan"], "--seconds is nan; need more than 0"),
        (["--seconds", 0], "--seconds is 0; need more than 0"),
        (["--limit", -1], "--limit is -1; need more than 0"),
        (["--density", 0.5], "is packed already, so that --density cannot change it"),
        (["--int8-attention"], "is packed already, with its attention; leave --int8-attention and"),
        (["--density", 1.5], "--density is 1.5; need 0 to 1"),
        (["--engine", "onnxruntime"], "--engine is 'onnxruntime'; need module:function"),
        (["--synthetic"], "--synthetic makes a model, but"),
    ],
)
def test_mistakes(one_line, packed, arguments, message):  # noqa: F811
    assert message in one_line("bench", packed, *arguments)


def test_mistakes_of_paths(one_line, tmp_path):  # noqa: F811
    assert "nowhere does not exist; need a Hugging Face directory" in one_line("bench", tmp_path / "nowhere")
    if importlib.util.find_spec("matplotlib") is not None:
        assert "is not a folder; create it first" in one_line("bench", "--plot", tmp_path / "nowhere" / "x.png")
        assert "need the name of a file that ends in .png" in one_line("bench", "--plot", tmp_path / "x.gif")
        (tmp_path / "old.png").touch()
        assert "exists; name another file, or --force" in one_line("bench", "--plot", tmp_path / "old.png")


def test_the_density_of_a_packed_model(quantized):
    model = compress.pack(quantized).model
    assert density_of(model) == pytest.approx(1 - np.mean([sparsity(p) for p in linears(model).values()]), abs=1e-3)
