"""Rung 1: arithmetic. Oracles: Python integers, f64 division rounded once, published numbers, ONNX Runtime.

A ``check_*`` function takes the implementation under test, so that tests/mutants.py can hand it wrong ones.
"""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refimpl.integer import gemm, narrow, pairs
from refimpl.nn.taps import Recorder
from refimpl.quant import calibrate, codes, symmetric
from refimpl.quant import linear as quant_linear
from refimpl.quant.requantize import requantize

F32 = np.float32
SCALES = [F32(s) for s in (2.0**-126, 1.2e-38, 1e-30, 2.0**-17, 0.1, 1 / 3, 0.05, 1, 1.5, 3, 127, 1e20, 1e36)]
SHAPES = [(1, 1, 1), (1, 1, 2), (2, 3, 5), (3, 4, 63), (5, 7, 64), (2, 5, 65), (7, 17, 130)]  # N, M, K
BERT_SHAPE = (16, 384, 1536)


def rng(seed=0):
    return np.random.default_rng(seed)


def equal(got, want):
    """Equal shape, dtype and bits."""
    assert got.dtype == want.dtype, f"{got.dtype}, not {want.dtype}"
    np.testing.assert_array_equal(got, want)


# --- narrowing -------------------------------------------------------------------------------------------------------

WIDE = np.concatenate(
    [np.arange(-(2**17), 2**17)]
    + [sign * 2**power + np.arange(-3, 3) for sign in (-1, 1) for power in range(17, 63)]
    + [np.array([-(2**63), 2**63 - 1])]
)


def check_saturate(saturate, dtype):
    limits = np.iinfo(dtype)
    equal(saturate(WIDE), np.array([max(limits.min, min(limits.max, x)) for x in WIDE.tolist()], dtype))


def check_saturate_s8(saturate):
    check_saturate(saturate, np.int8)


def check_saturate_u8(saturate):
    check_saturate(saturate, np.uint8)


def check_saturate_s16(saturate):
    check_saturate(saturate, np.int16)


def check_wrap_s32(wrap):
    equal(wrap(WIDE), np.array([(x + 2**31) % 2**32 - 2**31 for x in WIDE.tolist()], np.int32))


@pytest.mark.parametrize("name", ["saturate_s8", "saturate_u8", "saturate_s16", "wrap_s32"])
def test_narrow(name):
    function = getattr(narrow, name)
    globals()[f"check_{name}"](function)
    assert function(np.array(5)).shape == ()
    assert int(function(np.uint32(7))) == 7
    with pytest.raises(TypeError, match="x has dtype float64; need an integer dtype"):
        function(np.zeros(2))


# --- codes -----------------------------------------------------------------------------------------------------------


def quotient(x, scale):
    """x / scale rounded once to f32. f64 has more than 2 * 24 + 2 bits, so rounding twice is rounding once."""
    with np.errstate(over="ignore"):
        return (np.float64(x) / np.float64(scale)).astype(F32)


def code(x, scale, low, high):
    """round(x / scale) in Python, ties to even, clamped: one number."""
    q = float(quotient(x, scale))
    return int(min(max(q, low), high)) if abs(q) == np.inf else min(max(round(q), low), high)


def hard_values(scale):
    """Every half integer times the scale with its neighbours: near a tie, one rounding more or less shows."""
    x = (np.arange(-260, 261) / 2 * np.float64(scale)).astype(F32)
    return np.concatenate([x, np.nextafter(x, F32(np.inf)), np.nextafter(x, F32(-np.inf)), EXTREMES])


EXTREMES = np.array([0, -0.0, 1e-45, -1e-45, 2.0**-126, -(2.0**-126), 3.4028235e38, -3.4028235e38], F32)


def check_scale_of(scale_of):
    x = np.concatenate([np.abs(hard_values(s)) for s in SCALES])
    want = [max(float(F32(v / 127)), 0) for v in x.tolist()]
    equal(scale_of(x), np.array([w if w >= 2.0**-126 else 1 for w in want], F32))


def check_quantize_activation(quantize):
    for scale in SCALES:
        x = hard_values(scale)
        want = np.array([code(v, scale, -128, 127) + 128 for v in x], np.uint8)
        assert {0, 128, 255} <= set(want.tolist())
        equal(quantize(x, scale[...]), want)


def check_quantize_weight(quantize):
    w = rng().normal(size=(9, 77)).astype(F32)
    w[1:8] *= F32(10.0) ** np.arange(-36, 34, 10, dtype=F32)[:, None]
    w[2] = 0
    w[3, :5] = EXTREMES[:5]
    w[4] = np.linspace(-127, 127, 77)  # scale 1
    w[5] = -np.abs(w[5])
    w[6] = 0.5 * np.arange(-38, 39)
    w[6, 0] = 127  # scale 1, many ties
    w[8] = 1e-40  # denormal
    for row, s in zip((1, 7), (F32(0.0371), F32(2 / 3)), strict=True):  # near ties of a scale that is no power of two
        w[row] = hard_values(s)[rng(row).integers(0, 3 * 521, 77)].clip(-127 * s, 127 * s)
        w[row, 0] = 127 * s
    codes, scale = quantize(w)
    equal(scale, np.array([s if (s := F32(np.abs(row).max()) / F32(127)) >= 2.0**-126 else 1 for row in w], F32))
    equal(codes, np.array([[code(v, s, -127, 127) for v in row] for row, s in zip(w, scale, strict=True)], np.int8))
    assert codes.min() == -127
    assert codes.max() == 127


def test_scale_of():
    check_scale_of(symmetric.scale_of)
    equal(symmetric.scale_of(np.zeros(3, F32)), np.ones(3, F32))
    with pytest.raises(TypeError, match="absmax has dtype float64; need float32"):
        symmetric.scale_of(np.zeros(2))
    with pytest.raises(ValueError, match=r"absmax is nan at \[1\]; need finite numbers"):
        symmetric.scale_of(np.array([0, np.nan], F32))
    with pytest.raises(ValueError, match=r"absmax has the element -1.0; need every element >= 0"):
        symmetric.scale_of(np.array([0, -1], F32))


def test_quantize():
    check_quantize_activation(symmetric.quantize_activation)
    check_quantize_weight(symmetric.quantize_weight)


def test_activations_reach_minus_128_and_weights_do_not():
    assert symmetric.quantize_activation(np.array([-128, -129], F32), F32(1)[...]).tolist() == [0, 0]
    assert symmetric.quantize_weight(np.array([[-128, 128]], F32))[0].tolist() == [[-127, 127]]


def test_code_value_code_is_the_identity_on_all_codes():
    codes = np.arange(256, dtype=np.uint8)
    scales = np.abs(rng(1).normal(size=300)).astype(F32) * F32(2) ** rng(2).integers(-120, 118, 300).astype(F32)
    for scale in [*scales, *SCALES]:
        value = symmetric.dequantize_activation(codes, scale[...])
        equal(symmetric.quantize_activation(value, scale[...]), codes)
    weight = np.tile(np.arange(-127, 128, dtype=np.int8), (scales.size, 1))
    equal(symmetric.quantize_weight(symmetric.dequantize_weight(weight, scales))[0], weight)


def test_quantization_rejects():
    x, one = np.zeros(3, F32), F32(1)[...]
    for wrong, error, message in [
        ((x.astype(np.float64), one), TypeError, "x has dtype float64; need float32"),
        ((x, np.array(1.0)), TypeError, "scale has dtype float64; need float32"),
        ((x, np.ones(3, F32)), ValueError, r"scale has shape \(3,\); need \(\)"),
        ((x, F32(0)[...]), ValueError, "scale has the element 0.0; need every element > 0"),
        ((x, F32(np.inf)[...]), ValueError, r"scale is inf at \[\]; need finite numbers"),
        ((x + F32(np.nan), one), ValueError, r"x is nan at \[0\]; need finite numbers"),
    ]:
        with pytest.raises(error, match=message):
            symmetric.quantize_activation(*wrong)
    for wrong, error, message in [
        (np.zeros((2, 3)), TypeError, "w has dtype float64; need float32"),
        (x, ValueError, r"w has shape \(3,\); need \(M, K\)"),
        (np.full((1, 1), np.inf, F32), ValueError, r"w is inf at \[0, 0\]; need finite numbers"),
    ]:
        with pytest.raises(error, match=message):
            symmetric.quantize_weight(wrong)
    with pytest.raises(ValueError, match=r"scale has shape \(2,\); need \(3,\)"):
        symmetric.dequantize_weight(np.zeros((3, 1), np.int8), np.ones(2, F32))
    with pytest.raises(TypeError, match="codes has dtype int8; need uint8"):
        symmetric.dequantize_activation(np.zeros(1, np.int8), one)
    with pytest.raises(ValueError, match=r"scale has shape \(2,\); need \(\)"):
        symmetric.dequantize_activation(np.zeros(2, np.uint8), np.ones(2, F32))
    with pytest.raises(ValueError, match=r"codes has shape \(\); need \(M, K\)"):
        symmetric.dequantize_weight(np.array(1, np.int8), np.ones(1, F32))


def test_calibrate():
    x = rng(3).normal(size=(5, 40)).astype(F32)
    assert calibrate.absmax(x) == max(abs(v) for v in x.ravel().tolist()) == calibrate.percentile(x, 100)
    assert calibrate.percentile(x, 0) == np.abs(x).min()
    assert calibrate.percentile(np.array([0, -3], F32), 50) == 1.5
    for wrong, error, message in [
        ((np.zeros(2), 1), TypeError, "x has dtype float64; need float32"),
        ((np.zeros(0, F32), 1), ValueError, "x is empty; need at least one observed value"),
        ((x, 101), ValueError, "q is 101; need 0 to 100"),
        ((np.array([np.inf], F32), 1), ValueError, r"x is inf at \[0\]; need finite numbers"),
    ]:
        with pytest.raises(error, match=message):
            calibrate.percentile(*wrong)


# --- requantization --------------------------------------------------------------------------------------------------


def requantize_scalar(acc, input_scale, weight_scale, output_scale):
    """One code; every step one f32 rounding, in Python."""
    multiplier = quotient(F32(np.float64(input_scale) * np.float64(weight_scale)), output_scale)
    value = F32(np.float64(F32(acc)) * np.float64(multiplier))  # F32(int) rounds to nearest even
    return min(max(round(float(value)), -128), 127) + 128


ACCS = np.unique(
    np.concatenate(
        [np.arange(-600, 601), np.array([-(2**31), 2**31 - 1])]
        + [s * (2**p + np.arange(-3, 4)) for s in (-1, 1) for p in range(10, 31)]
        + [np.arange(-262, 263) * 2**p // 2 + d for p in (9, 20) for d in (-1, 0, 1)]
    )
)


def near_ties(multiplier):
    """Accumulators whose product with the multiplier is as near to a tie as integers allow."""
    ties = (np.arange(-128, 128) + 0.5) / np.float64(multiplier)
    return np.clip(np.rint(ties[:, None]) + np.arange(-2, 3), -(2**31), 2**31 - 1).astype(np.int32).ravel()


def check_requantize(function):
    """Multipliers that are powers of two reach exact ties; tiny ones show one rounding more or less, or reordered."""
    weight_scale = np.array([1, 0.5, 2.0**-9, 2.0**-20, 1 / 3, 1.7e-6, 3e-7], F32)
    for input_scale, output_scale in [(1, 1), (0.1, 0.3), (0.0123, 0.077), (1 / 255, 2.0**-7)]:
        input_scale, output_scale = F32(input_scale)[...], F32(output_scale)[...]
        acc = [np.concatenate([ACCS.astype(np.int32), near_ties(input_scale * s / output_scale)]) for s in weight_scale]
        want = [
            [requantize_scalar(a, input_scale, s, output_scale) for a in column.tolist()]
            for column, s in zip(acc, weight_scale, strict=True)
        ]
        equal(function(np.stack(acc, 1), input_scale, weight_scale, output_scale), np.array(want, np.uint8).T)


def test_requantize():
    check_requantize(requantize)
    huge = requantize(
        np.array([[2**31 - 1, -(2**31), 0]], np.int32), F32(1e19)[...], np.full(3, 1e19, F32), F32(1)[...]
    )
    assert huge.tolist() == [[255, 0, 128]]  # f32(acc) * multiplier overflows
    one, two = F32(1)[...], np.ones(2, F32)
    for wrong, error, message in [
        ((np.zeros(2), one, two, one), TypeError, "acc has dtype float64; need int32"),
        ((np.zeros(2, np.int32), 1.0, two, one), TypeError, "input_scale is float; need an ndarray of float32"),
        ((np.zeros(2, np.int32), one, -two, one), ValueError, "weight_scale has the element -1.0; need every element"),
        ((np.zeros(2, np.int32), one, two, F32(0)[...]), ValueError, "output_scale has the element 0.0; need every"),
        ((np.zeros(2, np.int32), one, one, one), ValueError, r"weight_scale has shape \(\); need \(M,\)"),
        ((np.zeros(2, np.int32), two, two, one), ValueError, r"input_scale has shape \(2,\); need \(\)"),
        ((np.zeros(2, np.int32), F32(1e30)[...], F32(1e30) * two, one), ValueError, "output_scale is inf at"),
        ((np.zeros(3, np.int32), one, two, one), ValueError, r"acc has shape \(3,\); need \(..., 2\)"),
    ]:
        with pytest.raises(error, match=message):
            requantize(*wrong)


# --- matrix products -------------------------------------------------------------------------------------------------


def operands(shape, seed=0):
    n, m, k = shape
    a = rng(seed).integers(0, 256, (n, k), dtype=np.uint8)
    w = rng(seed + 1).integers(-128, 128, (m, k), dtype=np.int8)
    a[0], w[0] = 255, 127  # saturates upwards
    w[-1] = -128  # and downwards
    return a, w


def check_gemm(function):
    """Python integers at small shapes, with tails and ones; int64 at a BERT shape."""
    for shape in SHAPES:
        a, w = operands(shape)
        dot = [[sum(x * y for x, y in zip(r, c, strict=True)) for c in w.tolist()] for r in a.tolist()]
        equal(function(a, w), np.array(dot, np.int32))
    a, w = operands(BERT_SHAPE)
    equal(function(a, w), (a.astype(np.int64) @ w.astype(np.int64).T).astype(np.int32))


def pair_saturating_scalar(a, w):
    """The formula with lists of Python integers: one element of the product."""
    a, w = [*a, 0], [*w, 0]
    total = 0
    for k in range(0, len(a) - 1, 2):
        total += max(-32768, min(32767, a[k] * w[k] + a[k + 1] * w[k + 1]))
    return total


def check_pair_saturating(function):
    for shape in SHAPES:
        a, w = operands(shape)
        want = np.array([[pair_saturating_scalar(r, c) for c in w.tolist()] for r in a.tolist()], np.int32)
        equal(function(a, w), want)
        if shape[2] > 2:
            exact = a.astype(np.int32) @ w.astype(np.int32).T
            assert (want < exact).any(), "no sum saturates upwards"
            assert (want > exact).any(), "no sum saturates downwards"


def check_unsafe_pairs(function):
    """All 65536 weight pairs against brute force over the extreme activations, which maximize a linear function."""
    w = np.array(list(itertools.product(range(-128, 128), repeat=2)), np.int8)
    brute = [
        any(not -32768 <= a0 * w0 + a1 * w1 <= 32767 for a0 in (0, 255) for a1 in (0, 255)) for w0, w1 in w.tolist()
    ]
    equal(function(w), np.array(brute)[:, None])
    odd = np.array([[0, 0, 127], [100, 29, -128], [-64, -65, 1]], np.int8)
    equal(function(odd), np.array([[False, False], [True, False], [True, False]]))


def test_gemm():
    check_gemm(gemm.gemm_u8s8s32)
    check_pair_saturating(gemm.gemm_u8s8s32_pair_saturating)
    check_unsafe_pairs(pairs.unsafe_pairs)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 9))
def test_gemm_on_any_operands(data, n, m, k):
    a = data.draw(hnp.arrays(np.uint8, (n, k), elements=st.sampled_from([0, 1, 128, 254, 255]) | st.integers(0, 255)))
    near = st.sampled_from([-128, -127, -65, -64, 64, 65, 127])
    w = data.draw(hnp.arrays(np.int8, (m, k), elements=near | st.integers(-128, 127)))
    rows, columns = a.tolist(), w.tolist()
    want = [[sum(x * y for x, y in zip(r, c, strict=True)) for c in columns] for r in rows]
    equal(gemm.gemm_u8s8s32(a, w), np.array(want, np.int32))
    want = [[pair_saturating_scalar(r, c) for c in columns] for r in rows]
    equal(gemm.gemm_u8s8s32_pair_saturating(a, w), np.array(want, np.int32))


def test_safe_weights_make_both_products_equal():
    a, w = operands((5, 9, 65))
    w = np.clip(w, -64, 64)
    assert not pairs.unsafe_pairs(w).any()
    equal(gemm.gemm_u8s8s32_pair_saturating(a, w), gemm.gemm_u8s8s32(a, w))


GOLDEN = {  # operands: (a, w), exact, saturating
    "oneDNN, doc/advanced/int8_computations.md": ([255, 255], [127, 127], 64770, 32767),
    "pytorch #44939": ([211, 171], [71, 107], 33278, 32767),
    "onnxruntime #16105, weight -81 wrong": ([210, 198, 234], [-81, -80, 127], -3132, -3050),
    "onnxruntime #16105, weight -80 right": ([210, 198, 234], [-80, -80, 127], -2922, -2922),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_published_dot_products(name):
    a, w, exact, saturating = GOLDEN[name]
    a, w = np.array([a], np.uint8), np.array([w], np.int8)
    assert gemm.gemm_u8s8s32(a, w).item() == exact
    assert gemm.gemm_u8s8s32_pair_saturating(a, w).item() == saturating


def test_published_s8s8_products():
    """oneDNN: {127, 127} . {127, 127}, the source shifted by 128: 255 instead of 32258."""
    a, w = np.array([[255, 255]], np.uint8), np.array([[127, 127]], np.int8)
    compensation = quant_linear.compensation(w)
    assert (gemm.gemm_u8s8s32(a, w) - compensation).item() == 32258
    assert (gemm.gemm_u8s8s32_pair_saturating(a, w) - compensation).item() == 255


def test_published_zero_points():
    """onnxruntime #7524: MatMulInteger, u8 with zero point 42 times s8 with zero point -26."""
    a = np.array([[238, 115, 94], [245, 111, 102], [158, 225, 48]], np.uint8)
    b = np.array([[25, 36, 125], [42, -123, 76], [-81, -86, 35]], np.int8)
    rows, columns = a.sum(1, dtype=np.int32), b.sum(0, dtype=np.int32)
    correction = 26 * rows[:, None] - 42 * columns + 3 * 42 * -26
    exact = gemm.gemm_u8s8s32(a, b.T.copy()) + correction
    saturating = gemm.gemm_u8s8s32_pair_saturating(a, b.T.copy()) + correction
    np.testing.assert_array_equal(exact, (a.astype(int) - 42) @ (b.astype(int) + 26))
    assert exact[:, 2].tolist() == [40214, 41351, 36548]
    assert saturating[:, 2].tolist() == [34491, 35057, 32465]
    np.testing.assert_array_equal(saturating[:, :2], exact[:, :2])


@pytest.mark.parametrize("function", [gemm.gemm_u8s8s32, gemm.gemm_u8s8s32_pair_saturating])
def test_gemm_rejects(function):
    a, w = operands((2, 3, 4))
    for wrong, error, message in [
        ((a.astype(np.int8), w), TypeError, "a has dtype int8; need uint8"),
        ((a, w.astype(np.uint8)), TypeError, "w has dtype uint8; need int8"),
        ((a, w[0]), ValueError, r"w has shape \(4,\); need \(M, K\)"),
        ((a[:, :3], w), ValueError, r"a has shape \(2, 3\); need \(N, 4\)"),
        ((np.zeros((1, 65794), np.uint8), np.zeros((1, 65794), np.int8)), ValueError, "w has 65794 input channels; "),
    ]:
        with pytest.raises(error, match=message):
            function(*wrong)


def test_max_k_is_the_last_that_cannot_overflow():
    assert gemm.MAX_K == 65793
    a, w = np.full((1, gemm.MAX_K), 255, np.uint8), np.full((1, gemm.MAX_K), -128, np.int8)
    assert gemm.gemm_u8s8s32(a, w).item() == -255 * 128 * gemm.MAX_K >= -(2**31)
    assert 255 * 128 * (gemm.MAX_K + 1) > 2**31 - 1


# --- the quantized linear layer --------------------------------------------------------------------------------------


def linear_case(seed=0, shape=(3, 8, 70)):
    n, m, k = shape
    x = rng(seed).normal(0, 3, (n, k)).astype(F32)
    w = rng(seed + 1).normal(0, 0.05, (m, k)).astype(F32)
    codes, scale = symmetric.quantize_weight(w)
    bias = rng(seed + 2).normal(size=m).astype(F32)
    return x, quant_linear.QuantizedLinear(codes, scale, symmetric.scale_of(calibrate.absmax(x)), bias)


def check_compensation(function):
    """What it is for: the sum of u w less the compensation is the sum of (u - 128) w."""
    for shape in SHAPES:
        a, w = operands(shape)
        signed = [[sum((x - 128) * y for x, y in zip(r, c, strict=True)) for c in w.tolist()] for r in a.tolist()]
        equal(gemm.gemm_u8s8s32(a, w) - function(w), np.array(signed, np.int32))
    _, w = operands(BERT_SHAPE)  # a row of -128 whose sum needs more than 16 bits
    equal(function(w), 128 * w.astype(np.int32).sum(1, dtype=np.int32))


def check_rescale(function):
    """f32 step by step on scalars, which shows the order of the two scales; big sums show the rounding of f32(acc)."""
    acc = np.repeat(ACCS.astype(np.int32)[:, None], 4, 1)
    weight_scale = np.array([0.001, 1 / 3, 0.0777, 1], F32)
    bias = np.array([0, -1.25, 1e-3, 5], F32)
    for input_scale in (F32(0.1)[...], F32(0.0371)[...]):
        want = [
            [F32(F32(F32(a) * F32(input_scale * s)) + b) for s, b in zip(weight_scale, bias, strict=True)]
            for a in ACCS.tolist()
        ]
        equal(function(acc, input_scale, weight_scale, bias), np.array(want, F32))


def check_quantized_linear(function):
    x, p = linear_case()
    u = [[code(v, p.input_scale, -128, 127) for v in row] for row in x]
    acc = np.array([[sum(a * b for a, b in zip(r, c, strict=True)) for c in p.codes.tolist()] for r in u], np.int32)
    want = acc.astype(F32) * (p.input_scale * p.weight_scale) + p.bias
    equal(function(x, p), want)
    equal(function(x.reshape(3, 1, -1), p), want.reshape(3, 1, -1))


def test_quantized_linear():
    check_compensation(quant_linear.compensation)
    check_rescale(quant_linear.rescale)
    check_quantized_linear(quant_linear.quantized_linear)
    x, p = linear_case()
    seen = Recorder()
    y = quant_linear.quantized_linear(x, p, seen)
    equal(seen.values["codes"], symmetric.quantize_activation(x, p.input_scale))
    equal(quant_linear.rescale(seen.values["acc"], *p[2:0:-1], p.bias), y)
    with pytest.raises(ValueError, match=r"x has shape \(3, 69\); need \(..., 70\)"):
        quant_linear.quantized_linear(x[:, 1:], p)


def test_quantized_linear_rejects():
    acc, one, two = np.zeros((1, 2), np.int32), F32(1)[...], np.ones(2, F32)
    for wrong, error, message in [
        ((acc.astype(np.int64), one, two, two), TypeError, "acc has dtype int64; need int32"),
        ((acc, np.array(1.0), two, two), TypeError, "input_scale has dtype float64; need float32"),
        ((acc, two, two, two), ValueError, r"input_scale has shape \(2,\); need \(\)"),
        ((acc, one, np.ones(3, F32), two), ValueError, r"weight_scale has shape \(3,\); need \(2,\)"),
        ((acc, one, two, np.ones(3, F32)), ValueError, r"bias has shape \(3,\); need \(2,\)"),
    ]:
        with pytest.raises(error, match=message):
            quant_linear.rescale(*wrong)
    with pytest.raises(TypeError, match="codes has dtype uint8; need int8"):
        quant_linear.compensation(np.zeros((1, 1), np.uint8))


def test_quantized_embedding():
    table = quant_linear.QuantizedTable(np.array([[1, -2], [127, 0]], np.int8), np.array([0.1, 3], F32))
    y = quant_linear.quantized_embedding(np.array([[1, 0]]), table)
    equal(y, np.array([[[381, 0], [F32(0.1), F32(-0.2)]]], F32))
    with pytest.raises(ValueError, match=r"ids is 2 at \[0, 0\]; need 0 to 1"):
        quant_linear.quantized_embedding(np.array([[2]]), table)


# --- ONNX Runtime ----------------------------------------------------------------------------------------------------


def onnxruntime_node(op, inputs, version=21, **attributes):
    """The one output of a model of one node; inputs by name, None for an omitted one."""
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    given = {name: array for name, array in inputs.items() if array is not None}
    names = [name if name in given else "" for name in inputs]
    node = onnx.helper.make_node(op, names, ["y"], **attributes)
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in given.items()
    ]
    graph = onnx.helper.make_graph([node], "one", infos, [onnx.ValueInfoProto(name="y")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, given)[0]


def need_vnni():
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    if "avx512_vnni" not in flags and "avx_vnni" not in flags:
        pytest.skip("no VNNI in /proc/cpuinfo: there ONNX Runtime's u8 x s8 products may saturate")


@pytest.mark.parametrize("shape", [*SHAPES, BERT_SHAPE])
def test_onnxruntime_matmulinteger_is_the_exact_product(shape):
    need_vnni()
    a, w = operands(shape)
    equal(gemm.gemm_u8s8s32(a, w), onnxruntime_node("MatMulInteger", {"a": a, "b": w.T.copy()}))


def test_onnxruntime_quantizelinear_is_quantize_activation():
    for scale in SCALES[3:-2]:
        x = hard_values(scale)
        got = onnxruntime_node("QuantizeLinear", {"x": x, "scale": scale[...], "zero": np.uint8(128)[...]})
        equal(symmetric.quantize_activation(x, scale[...]), got)


@pytest.mark.parametrize("k", [1, 63, 384, 4096])
def test_onnxruntime_qlinearmatmul_is_requantize(k):
    """At K = 4096 the accumulators exceed 2**24, where f32(acc) rounds."""
    need_vnni()
    n, m = 5, 12
    a, w = operands((n, m, k), k)
    acc = gemm.gemm_u8s8s32(a, w) - quant_linear.compensation(w)
    assert k < 4096 or np.abs(acc).max() > 2**24
    one = F32(1)[...]
    scales = {"a": F32(0.037)[...], "b": rng(k).uniform(1e-3, 2e-3, m).astype(F32), "y": F32(0.0011 * k**0.5)[...]}
    ties = {"a": one, "b": F32(2) ** -rng(k).integers(0, 20, m).astype(F32), "y": one}
    for s in (scales, ties):
        inputs = {"a": a, "a_scale": s["a"], "a_zero": np.uint8(128)[...]}
        inputs |= {"b": w.T.copy(), "b_scale": s["b"], "b_zero": np.zeros(m, np.int8)}
        inputs |= {"y_scale": s["y"], "y_zero": np.uint8(128)[...]}
        equal(requantize(acc, s["a"], s["b"], s["y"]), onnxruntime_node("QLinearMatMul", inputs))


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_onnxruntime_operators_on_codes(op, dtype):
    """All pairs of codes; scales equal, multiples of each other, and neither."""
    info = np.iinfo(dtype)
    a, b = (x.astype(dtype) for x in np.meshgrid(*[np.arange(info.min, info.max + 1)] * 2))
    chance, ours = rng(3), codes.add if op == "QLinearAdd" else codes.multiply
    for scales in ([0.01, 0.02, 0.02], [0.1, 0.1, 0.2], *np.exp(chance.normal(size=(6, 3)) - 4).tolist()):
        sa, sb, sy = (np.array(scale, F32) for scale in scales)
        za, zb, zy = (np.array(z, dtype) for z in chance.integers(info.min, info.max + 1, 3))
        for left, right in [(a, b), (a[:1, :1], b), (a, b[3:4])]:
            inputs = {"a": left, "sa": sa, "za": za, "b": right, "sb": sb, "zb": zb, "sy": sy, "zy": zy}
            got = onnxruntime_node(op, inputs, domain="com.microsoft")
            equal(ours(codes.Coded(left, sa, za), codes.Coded(right, sb, zb), sy, zy), got)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("length", [1, 17, 128])
def test_onnxruntime_qlinearsoftmax(dtype, length):
    """Its own sums in f32, and the inverse of a scale that it cuts to a whole number."""
    x = rng(length).integers(-128, 128, (40, length)).astype(np.int8).view(dtype)
    for scale in (1e-3, 0.07, 0.9):
        for y_scale in (1 / 256, 1 / 255, 0.003):
            zero = np.array(np.iinfo(dtype).min, dtype)
            sx, sy = np.array(scale, F32), np.array(y_scale, F32)
            inputs = {"x": x, "sx": sx, "zx": zero, "sy": sy, "zy": zero}
            got = onnxruntime_node("QLinearSoftmax", inputs, domain="com.microsoft", axis=-1, opset=13)
            equal(codes.softmax(codes.Coded(x, sx, zero), sy, zero), got)
