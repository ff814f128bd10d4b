"""Rung 7: which form a weight gets. Oracles: the same bits in every form; timings that are made up."""

import numpy as np
import pytest
from test_1_arithmetic import equal, rng
from test_2_registers import NEEDS_JIT
from tiny import ONE_OF_EACH_HEAD, quantized, rows

from refimpl.kernels.encoder.forms import FORMS, density, density_32x32
from refimpl.kernels.layout import bsr4x1
from refimpl.models import compress
from refimpl.models.runtime import choice
from refimpl.models.runtime.choice import Run, decide
from refimpl.models.runtime.session import Session
from refimpl.models.runtime.weights import prepare
from refimpl.prune import expand, topk_mask

NAME = ONE_OF_EACH_HEAD[0]


def weight(m, k, density_, seed=0):
    w = rng(seed).integers(1, 128, (m, k)).astype(np.int8)
    return bsr4x1.pack(w * expand(topk_mask(rng(seed).random((m // 4, k)), density_)))


@pytest.fixture
def clock(monkeypatch):
    """Makes up what the forms take: name -> samples, the last repeated; keeps what was prepared, all of which is to be
    compiled together, before it is timed."""
    prepared, compiled = [], []

    def stage(**seconds):
        def fake(form, w, tokens):
            prepared.append((form.name, w.shape, tokens))
            left = list(seconds["sparse" if form.name == "4x1" else form.name])
            call = (form.name, w.shape)

            def once():
                assert call in compiled[-1]
                return left.pop(0) if len(left) > 1 else left[0]

            return Run(once, 1.0, call)

        monkeypatch.setattr(choice, "_prepared", fake)
        monkeypatch.setattr(choice, "compile_first", lambda calls, say: compiled.append(calls))
        return prepared

    return stage


def forms_of(decisions):
    return {layer: decision.form for layer, decision in decisions.items()}


def test_the_fastest_is_taken_and_equal_layers_are_timed_once(clock):
    weights = {
        "a": weight(12, 400, 0.9),
        "b": weight(12, 400, 0.91, 1),
        "c": weight(24, 40, 0.9),
        "d": weight(12, 40, 0.3),
    }
    prepared = clock(sparse=[9e-6], dense=[8e-6])
    found = decide(weights, None)
    assert forms_of(found) == {"a": "dense", "b": "dense", "c": "dense", "d": "4x1"}
    assert prepared == [(form, shape, choice.TOKENS) for shape in [(12, 400), (24, 40)] for form in ("4x1", "dense")]
    assert found["b"].microseconds == pytest.approx({"4x1": 9, "dense": 8})
    assert (found["d"].microseconds, found["a"].shape, found["b"].density) == ({}, (12, 400), density(weights["b"]))
    clock(sparse=[7e-6], dense=[8e-6])
    assert set(forms_of(decide(weights, None)).values()) == {"4x1"}


def test_one_slow_sample_decides_nothing(clock):
    """The least sample counts, and is looked for until two agree."""
    clock(sparse=[9e-3, 7e-3, 5e-3, 3e-3, 5e-6], dense=[8e-6, 9e-3, 9e-3, 8e-6])
    found = decide({"a": weight(12, 40, 0.9)}, None)["a"]
    assert (found.form, found.microseconds) == ("4x1", pytest.approx({"4x1": 5, "dense": 8}))


def test_time_for_samples_is_bounded(clock, monkeypatch):
    monkeypatch.setattr(choice, "BUDGET", 0)
    ticking = iter(range(1, 100))
    clock(sparse=[9e-6], dense=[8e-6])
    monkeypatch.setattr(choice, "_prepared", lambda *_: Run(lambda: 2.0 ** next(ticking), 1.0, None))
    decide({"a": weight(12, 40, 0.9)}, None)
    assert next(ticking) == 1 + 2 * choice.TURNS


def test_the_user_may_fix_forms(clock):
    weights = {"a": weight(12, 40, 0.9), "b": weight(12, 40, 0.3)}
    prepared = clock(sparse=[9e-6], dense=[8e-6])
    for form in FORMS:
        assert set(forms_of(decide(weights, form)).values()) == {form}
    assert forms_of(decide(weights, {"a": "4x1", "b": "dense"})) == {"a": "4x1", "b": "dense"}
    assert prepared == []
    assert forms_of(decide(weights, {"b": "dense"})) == {"a": "dense", "b": "dense"}
    with pytest.raises(ValueError, match="the form of a is '4x4'; need one of 4x1, dense, 32x32, bitmask"):
        decide(weights, "4x4")
    with pytest.raises(ValueError, match="form names the layer 'q'; need one of a, b"):
        decide(weights, {"q": "4x1"})
    with pytest.raises(ValueError, match="form is 'dense'; need none, since no layer of the model is in INT8"):
        decide({}, "dense")


def test_what_is_worth_timing():
    whole, scattered = np.ones((96, 96), np.int8), weight(96, 96, 0.2)
    blocks = whole.copy()
    blocks[:32], blocks[32:64, :64] = 0, 0
    holes = blocks * expand(rng(0).random((24, 96)) < 0.9)
    kinds = [choice._kind(w) for w in (scattered, *map(bsr4x1.pack, (whole, blocks, holes)))]
    assert [kind.forms for kind in kinds] == [("4x1",), ("4x1", "dense"), ("4x1", "32x32"), ("4x1", "32x32")]
    assert [kind.work[-1] for kind in kinds[1:]] == [20, 9, 9]
    assert density_32x32(bsr4x1.pack(holes)) == density_32x32(bsr4x1.pack(blocks)) == pytest.approx(4 / 9)
    assert density_32x32(bsr4x1.pack(np.pad(blocks, ((0, 4), (0, 4))))) == 4 / 16


@NEEDS_JIT
@pytest.mark.parametrize("name", ONE_OF_EACH_HEAD)
def test_every_form_gives_the_same_bits(name):
    packed = compress.pack(quantized(name))
    sessions = [Session(packed, form=form) for form in (*FORMS, None)]
    sessions.append(Session(packed, form={"layer.0.qkv": "dense", "layer.0.output": "dense"}))
    for one in rows(name):
        for other in sessions[1:]:
            equal(other(*one), sessions[0](*one))


@NEEDS_JIT
def test_decisions_are_listed():
    weights = prepare(compress.pack(quantized(NAME)), {"layer.0.output": "dense"})
    table = choice.rows(weights.decisions)
    assert [row[0] for row in table[:4]] == [
        f"layer.0.{part}" for part in ("qkv", "attention_output", "intermediate", "output")
    ]
    d, f = weights.config.hidden, weights.config.feed_forward
    assert table[3] == ("layer.0.output", f"{d}x{f}", f"{weights.decisions['layer.0.output'].density:.2f}", "dense", "")
    with pytest.raises(ValueError, match="form is given, but the weights are prepared already"):
        Session(weights, form="dense")


@NEEDS_JIT
def test_a_real_measurement():
    """Where one form is many times slower, its time shows it."""
    big = {"a": weight(768, 768, 0.65), "b": weight(96, 96, 1)}
    for tokens in (1, 64, 65):
        found = decide(big, None, tokens)
        assert all(1e-2 < us < 1e6 for d in found.values() for us in d.microseconds.values())
        assert all({"4x1", "dense"} <= set(d.microseconds) for d in found.values())
