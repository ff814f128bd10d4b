"""Rung 3: attention with integer products. Oracle: Python's integers and fractions, and the derived bounds.

A ``check_*`` function takes the implementation under test, so that tests/mutants_attention.py can hand it wrong ones.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from test_1_arithmetic import equal, rng
from test_3_operators import F32, LOWEST, inside, normal, tiny_layer

from refimpl import bounds, nn
from refimpl.nn import AttentionScales
from refimpl.nn.attention import merge_heads, split_heads
from refimpl.nn.linear import linear
from refimpl.nn.ops import REFERENCE
from refimpl.nn.softmax import softmax
from refimpl.quant import QUANTIZED, Codes, quantize_activation, signed
from refimpl.quant.attention import coded_context, coded_operands, coded_scores

SCALES = AttentionScales(*(np.array(scale, F32) for scale in (0.05, 0.11, 0.02)))
SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 2, 17, 64)]


class Flipping(nn.Recorder):
    """Records, and hands on the codes with their lowest bit flipped: what follows must be made of those."""

    def __call__(self, name, value):
        return super().__call__(name, value) ^ np.uint8(1)


def codes(*shape, seed=0):
    """All codes, 0 to 255, and both ends for certain."""
    made = rng(seed).integers(0, 256, shape, np.uint8)
    made.reshape(-1)[[0, -1]] = 255, 0
    return made


def mask_of(b, t):
    """The first key of a text always stays."""
    mask = (rng(t).random((b, t)) < 0.7).astype(np.int64)
    mask[:, 0] = 1
    return mask


# --- operands --------------------------------------------------------------------------------------------------------


def check_coded_operands(op):
    """Values of many steps, ties among them, beyond both ends of the range; each operand with its own scale."""
    for shape in SHAPES:
        q, k, v = (
            np.rint(normal(*shape, seed=i, scale=200)).astype(F32) / F32(2) * scale for i, scale in enumerate(SCALES)
        )
        tap = Flipping()
        made = op(q, k, v, SCALES, tap)
        assert list(tap.values) == ["q_codes", "k_codes", "v_codes"]
        for x, scale, seen, operand in zip((q, k, v), SCALES, tap.values.values(), made, strict=True):
            want = [max(-128, min(127, round(float(quotient)))) + 128 for quotient in (x / scale).ravel()]
            equal(seen, np.array(want, np.uint8).reshape(shape))
            equal(operand.codes, seen ^ np.uint8(1))
            assert operand.scale == scale


def test_coded_operands():
    check_coded_operands(coded_operands)


def test_signed_codes():
    every = np.arange(256, dtype=np.uint8)
    equal(signed(every), np.arange(-128, 128).astype(np.int8))
    equal(signed(every[::-2]), np.arange(-128, 128).astype(np.int8)[::-2])
    with pytest.raises(TypeError, match="codes has dtype int8; need uint8"):
        signed(signed(every))


# --- products --------------------------------------------------------------------------------------------------------


def check_coded_scores(op):
    """op: (Codes, Codes, mask) -> scores; every code, and the masked keys at the bottom."""
    for b, h, t, e in SHAPES:
        q, k, mask = codes(b, h, t, e), codes(b, h, t, e, seed=1), mask_of(b, t)
        got = op(Codes(q, SCALES.q), Codes(k, SCALES.k), mask)
        acc = np.einsum("bhie,bhje->bhij", q.astype(int) - 128, k.astype(int) - 128)
        exact = acc * (float(SCALES.q) * float(SCALES.k) / math.sqrt(e))
        keys = np.broadcast_to(mask[:, None, None, :] != 0, got.shape)
        bound = bounds.scaled_scores(acc, SCALES.q, SCALES.k, e)
        assert got.shape == exact.shape
        inside(got[keys], exact[keys], bound[keys])
        assert (got[~keys] == LOWEST).all()


def test_coded_scores():
    check_coded_scores(coded_scores)


def probabilities(*shape, seed=0):
    """A sharp row, a flat one, and one whose numbers are a little below a border between two codes."""
    made = softmax(normal(*shape, seed=seed, scale=4))
    made[..., 0, :] = 0
    made[..., 0, 0] = 1
    made[..., -1, :] = (np.arange(shape[-1]) + F32(0.499)) / F32(255)
    return made


def check_coded_context(op):
    """op: (probs, Codes, tap) -> context, which must be made of the codes that the tap returned."""
    for b, h, t, e in SHAPES:
        probs, v, tap = probabilities(b, h, t, t), codes(b, h, t, e, seed=2), Flipping()
        got = op(probs, Codes(v, SCALES.v), tap)
        assert list(tap.values) == ["probs_codes"]
        seen = tap.values["probs_codes"]
        want = [round(Fraction(float(p)) * 255) for p in probs.ravel()]
        equal(seen, np.array(want, np.uint8).reshape(probs.shape))
        acc = np.einsum("bhij,bhje->bhie", (seen ^ np.uint8(1)).astype(int), v.astype(int) - 128)
        inside(got, acc * (float(SCALES.v) / 255), bounds.scaled_context(acc, SCALES.v))


def test_coded_context():
    check_coded_context(coded_context)


# --- the bounds ------------------------------------------------------------------------------------------------------


def test_bounds_of_products_hold_for_other_orders():
    acc = rng().integers(-(2**30), 2**30, 500).astype(np.int32)
    f32, e, (q, k, v) = acc.astype(F32), 48, SCALES
    root, share = F32(math.sqrt(e)), F32(1 / 255)
    exact, bound = acc * (float(q) * float(k) / math.sqrt(e)), bounds.scaled_scores(acc, q, k, e)
    for got in (f32 * (q * k) * (1 / root), f32 * q * k / root, f32 * q * (k * (1 / root)), f32 * (q * (1 / root) * k)):
        inside(got.astype(F32), exact, bound)
    assert (np.abs(f32 * (q * k) * F32(1 / np.sqrt(e)) * F32(1.000001) - exact) > bound).any()
    exact, bound = acc * (float(v) / 255), bounds.scaled_context(acc, v)
    for got in (f32 * (v * share), f32 * v * share, f32 * share * v, f32 * v / F32(255)):
        inside(got.astype(F32), exact, bound)
    assert (np.abs(f32 * (v * share) * F32(1.000001) - exact) > bound).any()


def test_bounds_of_products_cover_flushing():
    scale = np.array(2.0**-90, F32)
    acc = np.array([5, -(2**30)], np.int32)
    exact = acc * (2.0**-180 / math.sqrt(7))
    inside(np.zeros(2, F32), exact, bounds.scaled_scores(acc, scale, scale, 7))
    scale = np.array(2.0**-126, F32)
    inside(np.zeros(2, F32), acc * (2.0**-126 / 255), bounds.scaled_context(acc, scale))


def test_the_bound_of_a_code_of_a_probability_holds_for_divisions():
    p = np.concatenate([(np.arange(255) + 0.5) / 255, rng().random(1000)]).astype(F32)
    share = F32(1 / 255)
    for quotient in (p * F32(255), p / share, p * (1 / share)):
        assert (np.abs(np.rint(quotient) - p.astype(np.float64) * 255) <= bounds.quantize_probs(p)).all()
    for wrong in (np.floor(p * F32(255)), np.rint(p * F32(256))):
        assert (np.abs(wrong - p.astype(np.float64) * 255) > bounds.quantize_probs(p)).any()


# --- the layer -------------------------------------------------------------------------------------------------------


def layer_inputs():
    return normal(2, 7, 8), tiny_layer()._replace(attention_scales=SCALES), np.array([[1] * 5 + [0] * 2, [1] * 7])


def test_encoder_layer_with_integer_attention():
    """To the bit; what stands at padded positions changes no other token; the taps' names and types."""
    x, p, mask = layer_inputs()
    seen = nn.Recorder()
    y = nn.encoder_layer(x, mask, p, 2, QUANTIZED, seen)
    q, k, v = (
        Codes(quantize_activation(split_heads(linear(x, w), 2), scale), scale)
        for w, scale in zip((p.q, p.k, p.v), SCALES, strict=True)
    )
    context = coded_context(softmax(coded_scores(q, k, mask)), v)
    equal(seen.values["context"], merge_heads(context))
    other = np.where(mask[..., None] != 0, x, F32(9))
    kept = mask != 0
    equal(nn.encoder_layer(other, mask, p, 2, QUANTIZED)[kept], y[kept])
    names = "q k v q_codes k_codes v_codes scores probs probs_codes context attention_output attention_norm"
    assert list(seen.values)[:12] == names.split()
    coded = {name: value for name, value in seen.values.items() if name.endswith("codes")}
    assert {value.dtype for value in coded.values()} == {np.dtype(np.uint8)}
    assert [value.shape for value in coded.values()] == [(2, 2, 7, 4)] * 3 + [(2, 2, 7, 7)]
    plain = nn.encoder_layer(x, mask, p._replace(attention_scales=None), 2, REFERENCE)
    assert 0 < np.abs(y - plain)[kept].max() < 0.1 * np.abs(plain).max()


def test_without_scales_the_quantized_table_has_the_bits_of_the_reference():
    x, p, mask = layer_inputs()
    p = p._replace(attention_scales=None)
    want, seen = nn.Recorder(), nn.Recorder()
    nn.encoder_layer(x, mask, p, 2, REFERENCE, want)
    nn.encoder_layer(x, mask, p, 2, QUANTIZED, seen)
    assert list(seen.values) == list(want.values)
    for name, value in want.values.items():
        equal(seen.values[name], value)


def test_the_reference_refuses_a_layer_with_scales():
    x, p, mask = layer_inputs()
    with pytest.raises(TypeError, match="scales is AttentionScales; need None, or the op table of a quantized model"):
        nn.encoder_layer(x, mask, p, 2, REFERENCE)


def test_bad_scales_are_refused():
    q = normal(1, 1, 2, 3)
    for scale, error, message in (
        (np.array(1.0), TypeError, "scale has dtype float64; need float32"),
        (np.array(0, F32), ValueError, "scale has the element 0.0; need every element > 0"),
        (np.ones(3, F32), ValueError, r"scale has shape \(3,\); need \(\)"),
    ):
        with pytest.raises(error, match=message):
            coded_operands(q, q, q, SCALES._replace(v=scale))
