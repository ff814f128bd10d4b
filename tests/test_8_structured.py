"""Rung 8: neurons and heads that are removed. Oracles: the layer before, whose integers stay and whose f32 results are
within the derived bounds, given the smaller layer's own values; weights worked by hand.

A ``check_*`` function takes the implementation under test, so that tests/mutants_structured.py can hand it wrong ones.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_1_arithmetic import equal, rng
from test_2_registers import JITTED
from test_3_operators import norm_parameters, normal

from refimpl.integer.gemm import gemm_u8s8s32, gemm_u8s8s32_pair_saturating
from refimpl.kernels.gemm_u8s8s32 import GEMM
from refimpl.models.judge import JUDGE, find
from refimpl.nn import LINEARS, NO_TAP, REFERENCE, EncoderLayer, Linear, Recorder, encoder_layer
from refimpl.nn.feed_forward import feed_forward
from refimpl.prune import (
    keep_columns,
    keep_heads,
    keep_neurons,
    keep_rows,
    live_columns,
    live_heads,
    live_neurons,
    live_rows,
)
from refimpl.quant import QUANTIZED, QuantizedLinear, integer_linear, quantize_weight, quantized_linear

F32 = np.float32

LIVE, SILENT, UNHEARD, CONSTANT = "live", "silent", "unheard", "constant"
"""What a neuron or a head may be. Silent: its producer is zero; constant: but for the bias; unheard: its consumer is
zero."""
MIXED, PARTLY, UNASKED = "mixed", "partly", "unasked"
"""Heads alone. Mixed: each channel is silent or unheard; partly: the second is silent; unasked: q and k are zero."""
DEAD = {SILENT, UNHEARD, MIXED}
NEURONS = [LIVE, SILENT, UNHEARD, CONSTANT]
HEADS = [*NEURONS, MIXED, PARTLY, UNASKED]


def set_to_zero(p, rows=(), columns=(), bias=()):
    weight, new = p.weight.copy(), p.bias.copy()
    weight[list(rows)], weight[:, list(columns)], new[list(bias)] = 0, 0, 0
    return Linear(weight, new)


def between(producer, consumer, kinds, size):
    """Both layers, unit i of ``size`` channels being what kinds[i] says."""
    silent, unheard, constant = [], [], []
    for i, kind in enumerate(kinds):
        channels = list(range(i * size, (i + 1) * size))
        silent += {SILENT: channels, MIXED: channels[::2], PARTLY: channels[1:2]}.get(kind, [])
        unheard += {UNHEARD: channels, MIXED: channels[1::2]}.get(kind, [])
        constant += channels if kind == CONSTANT else []
    return set_to_zero(producer, silent + constant, bias=silent), set_to_zero(consumer, columns=unheard)


def linear_of(m, k, seed):
    """f32, no weight so small that its code would be 0."""
    sign = rng(seed).choice(F32([-1, 1]), (m, k))
    return Linear(sign * rng(seed + 1).uniform(0.2, 1, (m, k)).astype(F32), normal(m, seed=seed + 2))


def layer(neurons=(LIVE,), heads=(LIVE,), d=4, e=2, seed=0):
    """An f32 layer of such neurons and heads."""
    c, f = len(heads) * e, len(neurons)
    q, k, v = (linear_of(c, d, seed + i) for i in range(3))
    v, attention_output = between(v, linear_of(d, c, seed + 3), heads, e)
    intermediate, output = between(linear_of(f, d, seed + 4), linear_of(d, f, seed + 5), neurons, 1)
    unasked = [i * e + j for i, kind in enumerate(heads) if kind == UNASKED for j in range(e)]
    q, k = (set_to_zero(p, unasked, bias=unasked) for p in (q, k))
    norm = norm_parameters(d)
    return EncoderLayer(q, k, v, attention_output, norm, intermediate, output, norm)


def quantized(p):
    """The same in INT8; the input scale clips some inputs."""
    codes = {}
    for name in LINEARS:
        linear = getattr(p, name)
        codes[name] = QuantizedLinear(*quantize_weight(linear.weight), F32(0.01)[...], linear.bias)
    return p._replace(**codes)


def yes(*values):
    return np.array(values, bool)


def mask_of(kinds):
    return np.array([kind not in DEAD for kind in kinds])


def some_live(kinds):
    """At least one that stays, to have a layer at all."""
    return any(kind not in DEAD for kind in kinds)


def taps(p, x, heads, ops):
    recorder = Recorder()
    mask = np.ones(x.shape[:2], np.int64)
    mask[1:, -1] = 0
    encoder_layer(x, mask, p, heads, ops, recorder)
    return recorder.values, mask


# --- what lives ------------------------------------------------------------------------------------------------------

PRODUCER = Linear(F32([[0, 0], [1, -1], [0, 0], [-0.0, 0], [0, 2]]), F32([0, 0, 3, -0.0, -2]))
ROWS = [False, True, True, False, True]
CONSUMER = Linear(F32([[0, 0, 2], [0, 0, -2]]), F32([1, 1]))
COLUMNS = [False, False, True]

KINDS = [[LIVE], [SILENT, LIVE, UNHEARD], [CONSTANT, SILENT, LIVE, CONSTANT, UNHEARD], [UNHEARD, SILENT, LIVE] * 3]
HEAD_KINDS = [*KINDS, [UNASKED, MIXED, PARTLY], [SILENT, UNASKED, MIXED, CONSTANT, LIVE, UNHEARD]]


def in_codes(p):
    return QuantizedLinear(p.weight.astype(np.int8), np.ones(len(p.bias), F32), F32(1)[...], p.bias)


def check_live_rows(function):
    for p in (PRODUCER, in_codes(PRODUCER)):
        equal(function(p), np.array(ROWS))


def check_live_columns(function):
    for p in (CONSUMER, in_codes(CONSUMER)):
        equal(function(p), np.array(COLUMNS))


def check_live_neurons(function):
    for kinds in KINDS:
        for p in (layer(neurons=kinds), quantized(layer(neurons=kinds))):
            equal(function(p), mask_of(kinds))


def check_live_heads(function):
    for kinds in HEAD_KINDS:
        for e in (2, 3):
            for p in (layer(heads=kinds, e=e), quantized(layer(heads=kinds, e=e))):
                equal(function(p, len(kinds)), mask_of(kinds))


def test_live():
    check_live_rows(live_rows)
    check_live_columns(live_columns)
    check_live_neurons(live_neurons)
    check_live_heads(live_heads)


# --- the product before and after ------------------------------------------------------------------------------------


def on_kernel(target):
    """The quantized table with the dense kernel's product."""

    def linear(x, p, tap=NO_TAP):
        return integer_linear(x, p, lambda u: getattr(GEMM, target)(u, GEMM.pack(p.codes)), tap)

    return QUANTIZED._replace(linear=linear)


def same_neurons(before, after, live, x, ops=QUANTIZED):
    """INT8: equal integers on both sides of the neurons, and equal bits of the block."""
    assert after.intermediate.codes.shape == (live.sum(), x.shape[-1])
    assert after.output.codes.shape == (x.shape[-1], live.sum())
    assert after.intermediate.weight_scale.shape == (live.sum(),)
    old, new = Recorder(), Recorder()
    equal(feed_forward(x, after, ops, new), feed_forward(x, before, QUANTIZED, old))
    for name in ("intermediate.acc", "intermediate", "gelu", "output.codes"):
        equal(new.values[name], old.values[name][..., live])
    equal(new.values["output.acc"], old.values["output.acc"])


def same_heads(before, after, live, x, ops=QUANTIZED):
    """INT8: equal q, k and v of what stays, and of equal contexts equal integers of attention_output."""
    channels = live.repeat(len(before.v.bias) // live.size)
    old, new = taps(before, x, live.size, QUANTIZED)[0], Recorder()
    for name in "qkv":
        assert getattr(after, name).codes.shape == (channels.sum(), x.shape[-1])
        equal(ops.linear(x, getattr(after, name), new.scope(name)), old[name][..., channels])
        equal(new.values[f"{name}.acc"], old[f"{name}.acc"][..., channels])
    assert after.attention_output.codes.shape == (x.shape[-1], channels.sum())
    got = ops.linear(old["context"][..., channels], after.attention_output, new.scope("attention_output"))
    equal(new.values["attention_output.acc"], old["attention_output.acc"])
    equal(got, old["attention_output"])


class Before:
    """Judges each value of the smaller layer by the operators of the layer before, given the smaller one's values.

    What was removed has no value of its own and gets the exact one. ``kept``: tap -> where the smaller value lies.
    """

    def __init__(self, values, kept, prefix=""):
        self.values, self.kept, self.prefix = values, kept, prefix

    def scope(self, name):
        return Before(self.values, self.kept, f"{self.prefix}{name}.")

    def __call__(self, name, exact):
        name = self.prefix + name
        whole = (exact.value if exact.ours is None else exact.ours).copy()
        assert whole[self.kept.get(name, ...)].shape == self.values[name].shape
        whole[self.kept.get(name, ...)] = self.values[name]
        finding = find(whole, exact)
        assert finding.outside == finding.different == 0, f"{name} {finding}"
        return whole


def inside_bounds(before, after, x, ops, heads, neurons):
    """The whole layer, tap by tap. heads, neurons: which are live, bool (H,), (F,)."""
    channels = heads.repeat(len(before.v.bias) // heads.size)
    values, mask = taps(after, x, heads.sum(), ops)
    kept = dict.fromkeys(["q", "k", "v", "context", "attention_output.codes"], np.s_[..., channels])
    kept |= dict.fromkeys(["scores", "probs"], np.s_[:, heads])
    kept |= dict.fromkeys(["intermediate", "gelu", "output.codes"], np.s_[..., neurons])
    encoder_layer(x.astype(np.float64), mask, before, heads.size, JUDGE, Before(values, kept))


def check_keep_rows(function):
    live = yes(0, 1, 0, 1, 1)
    for p in (PRODUCER, in_codes(PRODUCER)):
        got = function(p, live)
        equal(got[0], p[0][[1, 3, 4]])
        equal(got.bias, F32([0, -0.0, -2]))
    scaled = function(in_codes(PRODUCER)._replace(weight_scale=F32([1, 2, 3, 4, 5])), live)
    equal(scaled.weight_scale, F32([2, 4, 5]))
    equal(scaled.input_scale, F32(1)[...])


def check_keep_columns(function):
    for p in (CONSUMER, in_codes(CONSUMER)):
        got = function(p, yes(0, 1, 1))
        equal(got[0], p[0][:, [1, 2]])
        assert got[0].flags.c_contiguous
        equal(got.bias, p.bias)
    equal(got.weight_scale, F32([1, 1]))


def check_keep_neurons(function):
    for seed, kinds in enumerate(KINDS):
        before, live, x = layer(neurons=kinds, seed=seed), mask_of(kinds), normal(2, 5, 4, seed=seed)
        inside_bounds(before, function(before, live), x, REFERENCE, yes(1), live)
        integers = quantized(before)
        same_neurons(integers, function(integers, live), live, x)


def check_keep_heads(function):
    for seed, kinds in enumerate(HEAD_KINDS):
        before, live, x = layer(heads=kinds, e=3, seed=seed), mask_of(kinds), normal(2, 5, 4, seed=seed)
        inside_bounds(before, function(before, len(kinds), live), x, REFERENCE, live, yes(1))
        integers = quantized(before)
        same_heads(integers, function(integers, len(kinds), live), live, x)


def test_keep():
    check_keep_rows(keep_rows)
    check_keep_columns(keep_columns)
    check_keep_neurons(keep_neurons)
    check_keep_heads(keep_heads)


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(NEURONS), min_size=1, max_size=70).filter(some_live),
    st.lists(st.sampled_from(HEADS), min_size=1, max_size=7).filter(some_live),
    st.integers(2, 9),
    st.integers(1, 9),
    st.integers(0, 2**16),
)
def test_any_layer(neurons, heads, d, e, seed):
    """Both removals together, f32 and INT8, the f32 parts of either within their bounds."""
    before, x = layer(neurons, heads, d, e, seed), normal(2, 3, d, seed=seed)
    for p, ops in ((before, REFERENCE), (quantized(before), QUANTIZED)):
        live = live_neurons(p), live_heads(p, len(heads))
        equal(live[0], mask_of(neurons))
        equal(live[1], mask_of(heads))
        after = keep_heads(keep_neurons(p, live[0]), len(heads), live[1])
        inside_bounds(p, after, x, ops, live[1], live[0])
    same_neurons(p, after, live[0], x)
    same_heads(p, after, live[1], x)


@pytest.mark.parametrize("target", ["emulated", *JITTED])
def test_the_dense_kernel_runs_the_smaller_layer(target):
    """More than one tile of 64 channels before, fewer after; what the kernel makes of it is what the oracle makes."""
    neurons, heads = [LIVE, SILENT, UNHEARD, CONSTANT, UNHEARD] * 14, [UNHEARD, LIVE, MIXED, LIVE, SILENT]
    before, x = quantized(layer(neurons, heads, d=24, e=7)), normal(2, 7, 24)
    live = mask_of(neurons), mask_of(heads)
    after = keep_heads(keep_neurons(before, live[0]), len(heads), live[1])
    same_neurons(before, after, live[0], x, on_kernel(target))
    same_heads(before, after, live[1], x, on_kernel(target))


# --- what the contract says besides ----------------------------------------------------------------------------------


def test_dead_ones_may_stay():
    before = layer([UNHEARD, LIVE, SILENT], [SILENT, LIVE, UNHEARD])
    after = keep_neurons(before, yes(1, 1, 0))
    equal(live_neurons(after), yes(0, 1))
    after = keep_heads(after, 3, yes(1, 1, 0))
    equal(live_heads(after, 2), yes(0, 1))
    assert after.attention_norm is before.attention_norm
    everything = keep_heads(keep_neurons(after, yes(1, 1)), 2, yes(1, 1))
    for name in LINEARS:
        for got, want in zip(getattr(everything, name), getattr(after, name), strict=True):
            equal(got, want)


def test_the_order_of_removal_and_quantization():
    """Without a consumer: either order. With a producer of zeros the column may have set its row's scale."""
    unheard, silent = layer([UNHEARD, LIVE, LIVE]), layer([SILENT, LIVE, LIVE])
    silent.output.weight[:, 0] = 100
    live = yes(0, 1, 1)
    first, last = quantized(keep_neurons(unheard, live)).output, keep_neurons(quantized(unheard), live).output
    equal(first.codes, last.codes)
    equal(first.weight_scale, last.weight_scale)
    first, last = quantized(keep_neurons(silent, live)).output, keep_neurons(quantized(silent), live).output
    assert (first.codes != last.codes).any()
    assert (first.weight_scale < last.weight_scale).all()


def test_a_head_that_asks_nothing_still_answers():
    """nn_pruning's rule would remove it: q and k are zero, so every key has the same probability."""
    before = layer(heads=[UNASKED, LIVE])
    equal(live_heads(before, 2), yes(1, 1))
    x = normal(1, 3, 4)
    without = before._replace(attention_output=set_to_zero(before.attention_output, columns=[0, 1]))
    old, new = (taps(p, x, 2, REFERENCE)[0] for p in (before, without))
    assert np.ptp(old["probs"][:, 0]) == 0
    assert np.abs(old["attention_output"] - new["attention_output"]).max() > 0.01


def test_a_constant_neuron_is_heard():
    before = layer([CONSTANT, LIVE])
    old = feed_forward(normal(1, 3, 4), before, REFERENCE)
    new = feed_forward(normal(1, 3, 4), before._replace(output=set_to_zero(before.output, columns=[0])), REFERENCE)
    assert np.abs(old - new).max() > 0.01


def test_raw_accumulators_differ_where_the_code_of_zero_met_a_weight():
    """A silent neuron travels as u8 128, so only the compensated accumulators are equal, as the contract says."""
    before = quantized(layer([SILENT, LIVE]))
    after = keep_neurons(before, yes(0, 1)).output
    assert (after.compensation != before.output.compensation).all()
    x = np.zeros((1, 2), F32)
    equal(quantized_linear(x[:, 1:], after), quantized_linear(x, before.output))


def test_other_pairs_saturate():
    """What CPUs without VNNI return is no invariant of removal: 255 * 127 twice fits apart, not together."""
    codes, w, live = np.full((1, 3), 255, np.uint8), np.array([[127, 0, 127]], np.int8), yes(1, 0, 1)
    before = QuantizedLinear(w, F32([1]), F32(1)[...], F32([0]))
    after = keep_columns(before, live)
    equal(gemm_u8s8s32(codes[:, live], after.codes), gemm_u8s8s32(codes, w))
    assert gemm_u8s8s32_pair_saturating(codes, w) == 2 * 255 * 127
    assert gemm_u8s8s32_pair_saturating(codes[:, live], after.codes) == 32767


# --- wrong arguments -------------------------------------------------------------------------------------------------

P = layer([UNHEARD, LIVE, SILENT], [SILENT, LIVE, UNHEARD])
DEAD_LAYER = layer([UNHEARD, SILENT], [MIXED])


NEED = "p is tuple; need Linear or QuantizedLinear"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: live_rows((1, 2)), TypeError, NEED),
        (lambda: live_columns((1, 2)), TypeError, NEED),
        (lambda: live_neurons(P._replace(output=())), TypeError, NEED),
        (lambda: keep_heads(P._replace(q=()), 3, yes(0, 1, 0)), TypeError, NEED),
        (lambda: live_rows(Linear(F32([1]), F32([1]))), ValueError, r"p has shape \(1,\); need \(M, K\)"),
        (lambda: keep_rows(PRODUCER, np.ones(5)), TypeError, "live has dtype float64; need bool"),
        (lambda: keep_rows(PRODUCER, yes(1, 1)), ValueError, r"live has shape \(2,\); need \(5,\)"),
        (lambda: keep_rows(PRODUCER, yes(0, 0, 0, 0, 0)), ValueError, "live keeps none of 5 rows; need at least one"),
        (lambda: keep_columns(CONSUMER, [True] * 3), TypeError, "live is list; need an ndarray of bool"),
        (lambda: keep_columns(CONSUMER, yes(1, 1)), ValueError, r"live has shape \(2,\); need \(3,\)"),
        (lambda: keep_columns(CONSUMER, yes(0, 0, 0)), ValueError, "live keeps none of 3 columns"),
        (lambda: keep_neurons(P, np.ones(3, int)), TypeError, "live has dtype int64; need bool"),
        (lambda: keep_neurons(P, yes(1, 1)), ValueError, r"live has shape \(2,\); need \(3,\)"),
        (lambda: keep_neurons(P, yes(1, 0, 1)), ValueError, "live drops neuron 1, which is not dead; need its weights"),
        (lambda: keep_neurons(DEAD_LAYER, yes(0, 0)), ValueError, "live keeps none of 2 neurons; need at least one"),
        (lambda: live_neurons(P._replace(output=CONSUMER._replace(weight=F32([[1]])))), ValueError, "columns of the"),
        (lambda: keep_heads(P, 3, np.ones(3, int)), TypeError, "live has dtype int64; need bool"),
        (lambda: keep_heads(P, 3, yes(1, 1)), ValueError, r"live has shape \(2,\); need \(3,\)"),
        (lambda: keep_heads(P, 3, yes(1, 0, 1)), ValueError, "live drops head 1, which is not dead; need its weights"),
        (lambda: keep_heads(DEAD_LAYER, 1, yes(0)), ValueError, "live keeps none of 1 heads; need at least one"),
        (lambda: keep_heads(P._replace(q=PRODUCER), 3, yes(1, 1, 0)), ValueError, r"live has shape \(6,\); need \(5"),
        (lambda: live_heads(P, 4), ValueError, "heads is 4; need a divisor of the 6 rows of v"),
        (lambda: live_heads(P, 0), ValueError, "heads is 0; need a divisor"),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
