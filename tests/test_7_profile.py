"""Rung 7: where the time goes. Oracles: a count of multiply-accumulates and bytes from the weights before they were
packed and the letters of the shapes; sums; the roofline by hand; a clock that ticks at each look."""

import json
from itertools import count

import numpy as np
import pytest
import tiny
from test_2_registers import NEEDS_JIT
from test_5_kernels import need_threads
from test_cli import one_line, packed, refimpl  # noqa: F401

from refimpl.kernels import peak
from refimpl.models import compress
from refimpl.models.bench.synthetic import random_texts, synthetic
from refimpl.models.profiling import passes, roofs, yardsticks
from refimpl.models.profiling.passes import Passes
from refimpl.models.profiling.roofs import Place, Roofs
from refimpl.models.runtime import work as working
from refimpl.models.runtime.session import Session, fill
from refimpl.models.runtime.weights import prepare
from refimpl.models.runtime.work import Work

LENGTHS = [3, 30, 32, 41]
SHAPE = {"layers": 2, "hidden": 48, "heads": 3, "feed_forward": 96, "vocabulary": 60, "positions": 48}


def filled(session, lengths=LENGTHS):
    """A plan with its inputs, and the texts."""
    texts = random_texts(np.random.default_rng(1), session.weights.config, lengths)
    ready = session.ready(session.shape(texts.mask))
    fill(ready, *texts)
    return ready, texts


# --- what a step does ------------------------------------------------------------------------------------------------


def made(stage):
    """A model whose blocks are alive at random, not as many in each block row."""
    quantized = synthetic(0.4, **SHAPE)
    if stage != "INT8 attention":
        return quantized
    return tiny.quantized_with_attention("bert_classification")


def expected(quantized, form, shape, texts):
    """Step -> (integer, f32, parameters, activations), from the codes before packing."""
    config, lanes, f32 = quantized.model.config, shape.panels * shape.width, 4
    d = config.hidden
    integer_attention = quantized.model.layers[0].attention_scales is not None

    def linear(*parts, out):
        codes = np.concatenate([part.codes for part in parts])
        m, k = codes.shape
        arrays = 4 * (4 if out == 1 else 3)  # start, scale, bias; steps where codes are written
        if form == "dense":
            whole = -(-m // 6) * 6  # tiles
            return whole * k * lanes, 0, whole * (k + arrays), (k + out * m) * lanes
        if form == "32x32":
            blocks = np.pad(codes, [(0, -m % 32), (0, -k % 32)]).reshape(-(-m // 32), 32, -(-k // 32), 32).any((1, 3))
            weight = 4 * (len(blocks) + 1) + 4 * int(blocks.sum()) + 1024 * int(blocks.sum())
            return 1024 * int(blocks.sum()) * lanes, 0, weight + arrays * (-(-m // 8) * 8), (k + out * m) * lanes
        live = codes.reshape(m // 4, 4, k).any(1).sum(1)
        groups = -(-live // 4)
        weight = 4 * (m // 4 + 1) + (16 + 4 * 2) * int(groups.sum())
        return 4 * int(live.sum()) * lanes, 0, weight + arrays * m, (k + out * m) * lanes

    def attention():
        macs, first = 0, 0
        for length in texts.mask.sum(1):
            touched = {token // shape.width for token in range(first, first + length)}
            keys = -(-length // 4) * 4
            macs += 2 * len(touched) * shape.width * keys * d
            first += keys
        read = 3 * d * lanes * (1 if integer_attention else f32) + 16 * shape.texts
        factors = f32 * (3 if integer_attention else 2)
        return (
            (int(macs), 0, factors, read + d * lanes)
            if integer_attention
            else (0, int(macs), factors, read + d * lanes)
        )

    def residual(done):
        return *done[:3], done[3] + f32 * d * lanes

    norm = 0, 0, 2 * f32 * d, (f32 + f32 + 1) * d * lanes
    distinct = [
        len({*column[texts.mask == 1]} | ({0} if padding(texts, shape) else set())) for column in columns(texts)
    ]
    types = config.token_types and distinct[2]
    found = {
        "embedding_rows": (
            0, 0, distinct[0] * (d + f32) + (distinct[1] + types) * d * f32, 3 * 8 * lanes + f32 * d * lanes,
        ),
        "embedding_sum": (0, 0, 8 * shape.width, 2 * f32 * d * lanes),
        "embeddings": norm,
    }  # fmt: skip
    for i, p in enumerate(quantized.model.layers):
        found |= {
            f"layer.{i}.qkv": linear(p.q, p.k, p.v, out=1 if integer_attention else f32),
            f"layer.{i}.attention_output.codes": attention(),
            f"layer.{i}.attention_sum": residual(linear(p.attention_output, out=f32)),
            f"layer.{i}.attention_norm": norm,
            f"layer.{i}.output.codes": linear(p.intermediate, out=1),
            f"layer.{i}.output_sum": residual(linear(p.output, out=f32)),
            f"layer.{i}.output_norm": norm,
        }
    found[f"layer.{config.layers - 1}.output_norm"] = *norm[:3], 2 * f32 * d * lanes  # nobody reads codes of it
    if config.head == "question_answering":
        tile = 6  # channels, two of which are the head's
        found["outputs"] = 0, tile * d * lanes, tile * f32 * (d + 1), f32 * (d + 2) * lanes
        d = 2
    rows = 8 * shape.rows + f32 * d * (lanes + shape.rows)
    return found | {"hidden": (0, 0, 8 * shape.width, rows)}


def columns(texts):
    """Ids, places and types."""
    return texts.ids, np.broadcast_to(np.arange(texts.ids.shape[1]), texts.ids.shape), texts.types


def padding(texts, shape):
    """Whether some lane holds no token, which then looks up the first row of each table."""
    return texts.mask.sum() < shape.panels * shape.width


CASES = [
    ("INT8", "4x1", LENGTHS),
    ("INT8", "dense", LENGTHS),
    ("INT8", "32x32", LENGTHS),
    ("INT8", "4x1", [40]),
    ("INT8 attention", "dense", [3, 16]),
]


def check_work(work, stage="INT8", form="4x1", lengths=LENGTHS):
    quantized = made(stage)
    ready, texts = filled(Session(prepare(compress.pack(quantized), form)), lengths)
    want = expected(quantized, form, ready.plan.shape, texts)
    assert [step.name for step in ready.plan.steps] == list(want)
    for step in ready.plan.steps:
        assert tuple(work(step, ready)) == want[step.name], step.name


@pytest.mark.parametrize(("stage", "form", "lengths"), CASES)
def test_the_work_of_every_step(stage, form, lengths):
    check_work(working.work, stage, form, lengths)


def test_a_kernel_that_nobody_has_counted():
    ready, _ = filled(Session(compress.pack(made("INT8"))))
    step = ready.plan.steps[3]._replace(kernel=peak.reads)
    with pytest.raises(ValueError, match=r"runs refimpl\.kernels\.peak, whose multiply-accumulates nobody has counted"):
        working.work(step._replace(arguments=lambda arrays: (1, 2, 3, 4)), ready)


# --- times -----------------------------------------------------------------------------------------------------------


def check_parts(parts):
    """Of eight passes of two steps the two fastest count, each fast where the other is slow; a look costs 1/4."""
    fast, slow = [[2, 1, 4, 2, 1], [1, 2, 2, 4, 1]], [[2, 2, 3, 3, 1], [9, 9, 9, 9, 9], [1, 1, 8, 1, 1]]
    spent = np.array([*slow, *fast, *slow], float)
    marks = np.concatenate([np.zeros((8, 1)), spent.cumsum(1)], 1) + np.arange(8)[:, None]
    found = parts(marks.tolist(), ["a", "b"], 0.25)
    assert list(found) == ["checks", "filling", "a", "b", "head", "timing itself"]
    assert list(found.values()) == pytest.approx([1.25, 1.25, 2.75, 2.75, 0.75, 1.25])
    assert sum(found.values()) == pytest.approx(10)


def test_parts_add_up():
    check_parts(passes.parts)


@NEEDS_JIT
def test_a_pass_looks_at_the_clock_after_each_part(monkeypatch):
    """And computes what the session does."""
    session = Session(compress.pack(made("INT8")))
    ready, texts = filled(session)
    want = session(*texts)
    ready.arrays["hidden"][:] = 0
    ticks = count()
    monkeypatch.setattr(passes.time, "perf_counter", lambda: float(next(ticks)))
    run = Passes(session, texts)
    run()
    run()
    parts = len(ready.plan.steps) + 3
    assert run.marks == [list(range(parts + 1)), list(range(parts + 1, 2 * parts + 2))]
    np.testing.assert_array_equal(session.head(ready, texts.mask), want)


def test_what_a_look_takes():
    ready, _ = filled(Session(compress.pack(made("INT8"))))
    assert 1e-8 < passes.look_seconds(ready.plan.steps[0], ready) < 1e-4


# --- roofs -----------------------------------------------------------------------------------------------------------

PLACES = Place("L3", 100), Place("L2", 10)
ROOFS = Roofs(1000.0, 100.0, {"L2": 50.0, "L3": 10.0}, 0.25, *PLACES)
BLIND = Roofs(None, 100.0, {"L2": 50.0, "L3": 10.0}, 0.25, *PLACES)


def check_shares(shares):
    """One second, by hand."""
    for done, calls, given, want, word in (
        (Work(500, 0, 2, 5), 1, ROOFS, (0.5, 0.3, 0.25), "compute"),
        (Work(499, 0, 2, 5), 1, ROOFS, (0.499, 0.3, 0.25), "instructions"),
        (Work(0, 50, 1, 1), 1, ROOFS, (0.5, 0.12, 0.25), "compute"),
        (Work(0, 0, 4, 30), 1, ROOFS, (0.0, 1.0, 0.25), "memory"),
        (Work(0, 0, 0, 0), 2, ROOFS, (0.0, 0.0, 0.5), "calls"),
        (Work(900, 0, 8, 5), 2, ROOFS, (0.9, 0.9, 0.5), "memory"),
        (Work(900, 0, 1, 0), 1, BLIND, (None, 0.1, 0.25), None),
        (Work(900, 0, 6, 0), 1, BLIND, (None, 0.6, 0.25), "memory"),
        (Work(0, 60, 1, 0), 1, BLIND, (0.6, 0.1, 0.25), "compute"),
    ):
        found = shares(1.0, calls, done, given)
        assert tuple(found) == pytest.approx(want)
        assert found.bound == word
    assert tuple(shares(2.0, 1, Work(500, 0, 2, 5), ROOFS)) == pytest.approx((0.25, 0.15, 0.125))


def test_what_bounds_a_step():
    check_shares(roofs.shares)


def test_where_bytes_are_read_from():
    caches = {1: 2**15, 2: 2**20, 3: 2**25}
    assert [yardsticks.place_of(size, caches) for size in (0, 2**15, 2**15 + 1, 2**25, 2**25 + 1)] == [
        "L1", "L1", "L2", "L3", "memory",
    ]  # fmt: skip
    assert yardsticks.place_of(1, {}) == "memory"
    assert [yardsticks.block_of(place, caches) for place in ("L1", "L3", "memory")] == [2**14, 2**24, 2**27]
    assert yardsticks.block_of("memory", {}) == 2**27
    assert yardsticks.block_of("memory", {3: 2**30}) == 2**29


@NEEDS_JIT
def test_an_empty_call_has_nothing_to_do():
    session = Session(compress.pack(made("INT8")))
    ready, texts = filled(session)
    session(*texts)
    before = {name: array.copy() for name, array in ready.arrays.items()}
    yardsticks.yardsticks(ready).runs[yardsticks.CALL]()
    for name, array in ready.arrays.items():
        np.testing.assert_array_equal(array, before[name])


# --- the command -----------------------------------------------------------------------------------------------------

QUICK = ("--seconds", 0.01)
SHARES = ("share_of_compute", "share_of_memory", "share_of_calls")


def profile_json(refimpl, *arguments):  # noqa: F811
    status, out, err = refimpl("profile", *arguments, *QUICK, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


@NEEDS_JIT
def test_rows_add_up_to_the_pass(refimpl, packed):  # noqa: F811
    found = profile_json(refimpl, packed, "--tokens", 5, "--tokens", 12, "--batch", 2)
    assert found["lengths"] == [5, 5, 12, 12]
    session = Session(compress.pack(tiny.quantized("bert_classification")))
    ready, _ = filled(session, found["lengths"])
    names = [row["name"] for row in found["rows"]]
    assert names == ["checks", "filling", *(step.name for step in ready.plan.steps), "head", "timing itself"]
    for rows in (found["rows"], found["kinds"]):
        assert sum(row["ms"] for row in rows) == pytest.approx(found["pass_ms"])
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        assert sum(row["calls"] for row in rows) == len(ready.plan.steps)
    for step, row in zip(ready.plan.steps, found["rows"][2:-2], strict=True):
        done = Work(*(row[name] for name in ("integer_macs", "f32_macs", "parameter_bytes", "activation_bytes")))
        assert done == working.work(step, ready)
        assert row["line"].startswith(step.name + "  ")
        known = found["roofs"]["integer_macs_per_second"] is not None or not row["integer_macs"]
        told = (roofs.COMPUTE, roofs.INSTRUCTIONS) if known else (None,)
        assert row["bound"] in (roofs.MEMORY, roofs.CALLS, *told)
        assert all(row[name] >= 0 for name in SHARES if known or name != "share_of_compute")
    assert [row[name] for row in found["rows"] if not row["calls"] for name in SHARES] == [None] * 12
    limits = found["roofs"]
    assert all(value > 0 for value in (*limits["bytes_per_second"].values(), limits["f32_macs_per_second"]))
    assert {limits[name]["name"] for name in ("parameters", "activations")} == limits["bytes_per_second"].keys()
    assert found["passes"] >= 3
    assert 0 < found["unwatched_pass_ms"]["p10"] <= found["unwatched_pass_ms"]["median"]


@NEEDS_JIT
@pytest.mark.parametrize("more", [[], ["--all"]])
def test_tables_within_100_columns(refimpl, packed, more):  # noqa: F811
    status, out, err = refimpl("profile", packed, *QUICK, *more)
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    assert ("1.output_norm" in out) == bool(more)
    assert all(word in out for word in ("checks", "filling", "a pass", "100.0%", "GB/s"))


@NEEDS_JIT
def test_without_vnni_there_is_a_dash(refimpl, packed, monkeypatch):  # noqa: F811
    monkeypatch.setattr(peak.dot_products, "runs_natively", lambda: False)
    found = profile_json(refimpl, packed)
    assert found["roofs"]["integer_macs_per_second"] is None
    by_name = {row["name"]: row for row in found["kinds"]}
    assert by_name["qkv"]["share_of_compute"] is None
    assert by_name["attention_output.codes"]["share_of_compute"] > 0
    status, out, _ = refimpl("profile", packed, *QUICK)
    assert status == 0
    assert "no VNNI" in out
    (line,) = [line for line in out.splitlines() if line.startswith(" qkv")]
    assert "-" in line.split()


@NEEDS_JIT
def test_two_threads(refimpl, packed):  # noqa: F811
    need_threads(2)
    found = profile_json(refimpl, packed, "--threads", 2)
    assert (found["threads"], found["shape"]["threads"]) == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", 0], "--threads is 0; need 1 to"),
        (["--threads", 10**6], "--threads is 1000000; need 1 to"),
        (["--seconds", "nan"], "--seconds is nan; need more than 0"),
        (["--seconds", 0], "--seconds is 0; need more than 0"),
    ],
)
def test_mistakes(one_line, packed, arguments, message):  # noqa: F811
    assert message in one_line("profile", packed, *arguments)
