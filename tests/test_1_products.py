"""The named integer products against plain Python, published vectors, and the rescaling of codes of any zero point."""

import itertools

import numpy as np
import pytest

from refimpl.integer.products import acc16, exact, neon_wrap, pair_saturating, s8s8_shifted
from refimpl.quant import affine, blocks, codes
from refimpl.quant.blocks import Blocks
from refimpl.quant.codes import Coded

U8, S8 = np.uint8, np.int8
RNG = np.random.default_rng(0)


def sat16(x):
    return max(-32768, min(32767, x))


def wrapped(x, bits):
    return (x + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def plain(a, w):
    return sum(x * y for x, y in zip(a, w, strict=True))


def pairs(a, w):
    return [a[i] * w[i] + (a[i + 1] * w[i + 1] if i + 1 < len(a) else 0) for i in range(0, len(a), 2)]


def of_pairs(a, w):
    return sum(map(sat16, pairs(a, w)))


def shifted(a, w):
    return of_pairs([x + 128 for x in a], w) - 128 * sum(w)


def in_16_bits(a, w):
    total = 0
    for start in range(0, len(a), 256):
        acc = 0
        for pair in pairs(a[start : start + 256], w[start : start + 256]):
            acc = sat16(acc + sat16(pair))
        total += acc
    return total


def by_lanes(a, w):
    total = 0
    for start in range(0, len(a), 16):
        x, y = ([*v[start : start + 16], *[0] * 16][:16] for v in (a, w))
        total += sum(wrapped(x[i] * y[i] + x[i + 8] * y[i + 8], 16) for i in range(8))
    return total


def rows(dtype, n, k, extreme):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if extreme:  # the ends of the range, and numbers of one sign, so that sums grow
        return RNG.choice(np.array([low, low, high, high, 1], dtype), (n, k))
    return RNG.integers(low, high + 1, (n, k)).astype(dtype)


def check(product, scalar, a_type, w_type):
    for k, extreme in itertools.product((1, 2, 15, 16, 17, 33, 257, 600), (False, True)):
        a, w = rows(a_type, 3, k, extreme), rows(w_type, 5, k, extreme)
        if extreme:
            a[0], w[0] = np.iinfo(a_type).max, np.iinfo(w_type).max
            a[1], w[1] = np.iinfo(a_type).max, np.iinfo(w_type).min
            a[2], w[2] = np.iinfo(a_type).min, np.iinfo(w_type).min
        want = [[scalar(x.tolist(), y.tolist()) for y in w] for x in a]
        got = product(a, w)
        assert got.dtype == np.int32
        assert got.tolist() == want


def check_exact(product):
    for types in itertools.product((U8, S8), repeat=2):
        check(product, plain, *types)


def check_pair_saturating(product):
    check(product, of_pairs, U8, S8)


def check_s8s8_shifted(product):
    check(product, shifted, S8, S8)
    lhs = np.array([[-47, -123, -10, 92], [-96, -38, 82, 40], [70, -60, -66, -127], [-46, -91, 109, 101]], S8)
    rhs = np.array([[124, 8, -74, 32], [-40, 4, -50, -84], [103, -84, 88, -66], [24, 115, 123, 54]], S8)
    right, got = lhs.astype(int) @ rhs.astype(int), product(lhs, rhs.T.copy())  # oneDNN #476
    wrong = {(0, 2): (20064, 15387), (1, 2): (21140, 14763), (3, 2): (29969, 13713)}
    assert {(int(i), int(j)): (int(right[i, j]), int(got[i, j])) for i, j in np.argwhere(right != got)} == wrong


def check_acc16(product):
    check(product, in_16_bits, U8, S8)


def check_neon_wrap(product):
    check(product, by_lanes, S8, S8)
    a = np.zeros((1, 16), S8)
    a[0, [3, 11]] = -128
    assert exact(a, a).item() - product(a, a).item() == 65536  # ONNX Runtime #31573


CHECKS = [
    (check_exact, exact),
    (check_pair_saturating, pair_saturating),
    (check_s8s8_shifted, s8s8_shifted),
    (check_acc16, acc16),
    (check_neon_wrap, neon_wrap),
]


@pytest.mark.parametrize(("verify", "product"), CHECKS, ids=[product.__name__ for _, product in CHECKS])
def test_product(verify, product):
    verify(product)


@pytest.mark.parametrize("product", [pair_saturating, s8s8_shifted, acc16, neon_wrap])
def test_other_types_of_operands_are_exact(product):
    same = (S8, U8) if product is not neon_wrap else (U8, S8)
    check(product, plain, *same)
    check(product, plain, U8, U8)


def test_exact_keeps_the_low_bits():
    a = np.full((1, 40_000), 255, U8)
    assert exact(a, a).item() == wrapped(40_000 * 255 * 255, 32)


def test_products_reject():
    a, w = rows(U8, 2, 4, False), rows(S8, 3, 4, False)
    for wrong, error, message in [
        ((a.astype(np.int32), w), TypeError, "a has dtype int32; need uint8 or int8"),
        ((a, w.astype(np.float32)), TypeError, "w has dtype float32; need uint8 or int8"),
        ((a[:, :3], w), ValueError, r"a has shape \(2, 3\); need \(N, 4\)"),
    ]:
        with pytest.raises(error, match=message):
            exact(*wrong)


# --- codes -----------------------------------------------------------------------------------------------------------

F32 = np.float32
TYPES = [np.uint8, np.int8, np.uint16, np.int16]


def check_by_division(quantize):
    """Every tie and its neighbours, in f64 from the f32 quotient."""
    for dtype in TYPES:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        for zero in {low, 3, high}:
            steps = np.arange(low - zero - 3, high - zero + 4, max(1, (high - low) // 400))
            x = np.concatenate([steps, steps + 0.5, np.nextafter(steps + 0.5, 0)]).astype(F32) * F32(0.1)
            want = np.clip(np.rint((x / F32(0.1)).astype(np.float64)) + zero, low, high).astype(dtype)
            np.testing.assert_array_equal(quantize(x, np.array(0.1, F32), np.array(zero, dtype)), want)
    extreme = np.array([np.inf, -np.inf, 3e38, np.nan], F32)
    assert quantize(extreme, np.array(1e-30, F32), np.array(7, U8)).tolist() == [255, 0, 255, 0]


LEVELS = {  # scale, zero point, x as hexadecimal f32: OpenVINO 2026.4's code, ONNX Runtime 1.32's
    (0.0123, U8(128), "-0x1.27fcb6p-2"): (104, 105),
    (0.0123, U8(128), "0x1.a5f06cp-2"): (162, 161),
    (0.1, U8(3), "0x1.dp+2"): (76, 75),
    (0.1, U8(3), "0x1.e4ccccp+3"): (154, 155),
    (1 / 3, U8(200), "-0x1.e8p+4"): (109, 108),
    (1 / 3, U8(200), "-0x1.355558p+2"): (186, 185),
    (0.7, U8(0), "0x1.b1fffep+5"): (78, 77),
    (0.0123, S8(0), "-0x1.e1c432p-1"): (-77, -76),
    (0.0123, S8(0), "0x1.867380p-3"): (16, 15),
    (1 / 3, S8(-5), "-0x1.caaaacp+2"): (-26, -27),
    (1 / 3, S8(-5), "0x1.faaaacp+3"): (42, 43),
    (0.1, S8(17), "-0x1.e00002p+1"): (-20, -21),
    (0.1, S8(17), "0x1.acccce0p+1"): (50, 51),
}
"""Where the two differ."""


def check_by_levels(quantize):
    for (scale, zero, x), (theirs, divided) in LEVELS.items():
        arguments = (np.array([float.fromhex(x)], F32), np.array(scale, F32), np.asarray(zero))
        assert quantize(*arguments).item() == theirs
        assert affine.by_division(*arguments).item() == divided
    extreme = np.array([np.inf, -np.inf, 3e38, np.nan], F32)
    assert quantize(extreme, np.array(0.1, F32), np.array(7, U8)).tolist() == [255, 0, 255, 0]
    assert quantize(extreme, np.array(0.1, F32), np.array(7, S8)).tolist() == [127, -128, 127, -128]


@pytest.mark.parametrize("verify", [check_by_division, check_by_levels])
def test_quantize(verify):
    verify(getattr(affine, verify.__name__.removeprefix("check_")))


def test_requantize():
    acc, one, two = np.array([-236, 5, 300, 1_000_001], np.int32), np.array(1, F32), np.array(2, F32)
    assert affine.requantize_in_one(acc, one, one, two, np.array(0, S8)).tolist() == [-118, 2, 127, 127]
    assert affine.requantize_wrapping(acc[:2], one, one, one, np.array(0, S8)).tolist() == [20, 5]
    assert affine.requantize_in_two(acc, one, one, two, np.array(1, U8)).tolist() == [0, 4, 151, 255]
    assert affine.requantize_in_one(acc, one, one, two, np.array(1, U8)).tolist() == [0, 3, 151, 255]


def test_dynamic_parameters():
    scale, zero = affine.dynamic_parameters(np.array([[0.0, 2.0], [-1.0, 1.55]], F32))
    assert (scale, np.rint(zero)) == (F32(3) / F32(255), 85)
    assert [float(p) for p in affine.dynamic_parameters(np.zeros(3, F32))] == [1.0, 0.0]
    assert [float(p) for p in affine.dynamic_parameters(np.full(3, 255, F32))] == [1.0, 0.0]


# --- operators on codes ----------------------------------------------------------------------------------------------

SUMS = {  # codes, the three scales as hexadecimal f32, zero points: ONNX Runtime 1.32's code
    (242, 76, "0x1.3ecd04p-5", "0x1.16fe3ep-9", "0x1.82f0fap-6", 186, 129, 156): 243,
    (216, 232, "0x1.f92182p-7", "0x1.f02f16p-9", "0x1.8604a8p-9", 237, 95, 63): 129,
    (124, 107, "0x1.be0a28p-9", "0x1.eca298p-8", "0x1.22a16ap-9", 46, 187, 152): 0,
    (180, 25, "0x1.8cc060p-8", "0x1.62d8b8p-7", "0x1.61ff8ap-10", 139, 41, 123): 178,
    (131, 131, "0x1.9bdb78p-8", "0x1.1af8e8p-8", "0x1.66f678p-6", 143, 248, 79): 53,
    (3, 4, "0x1p-1", "0x1p-1", "0x1p+0", 1, 1, 1): 4,  # a tie before the zero point is added
    (255, 255, "0x1p+0", "0x1p+0", "0x1p+0", 0, 0, 7): 255,
    (0, 0, "0x1p+0", "0x1p+0", "0x1p+0", 255, 9, 7): 0,
}


def coded(code, scale, zero):
    return Coded(np.array([code], U8), np.array(scale, F32), np.array(zero, U8))


def check_add(add):
    for (a, b, *scales, za, zb, zy), want in SUMS.items():
        sa, sb, sy = map(float.fromhex, scales)
        assert add(coded(a, sa, za), coded(b, sb, zb), np.array(sy, F32), np.array(zy, U8)).tolist() == [want]


def check_multiply(multiply):
    """Ties go to even codes, after the zero point; and a product that two roundings change."""
    for zero, want in [(0, [0, 2, 2]), (1, [2, 2, 4]), (200, [200, 202, 202])]:
        made = [
            multiply(coded(a, 0.5, 0), coded(1, 1, 0), np.array(1, F32), np.array(zero, U8)).item() for a in (1, 3, 5)
        ]
        assert made == want
    assert multiply(coded(0, 1, 9), coded(255, 1, 0), np.array(1, F32), np.array(7, U8)).item() == 0


def check_softmax(softmax):
    """255 p is 127.5 and 191.25; ONNX Runtime 1.32 has 254 p. With a scale whose inverse is whole, all is well."""
    x = np.array([[7, 7], [250, 9]], U8)
    for scale, want in [(np.float32(1 / 255), [[127, 127], [254, 0]]), (np.float32(1 / 128), [[64, 64], [128, 0]])]:
        made = softmax(Coded(x, np.array(1, F32), np.array(3, U8)), np.array(scale), np.array(0, U8))
        np.testing.assert_array_equal(made, np.array(want, U8))


def check_by_step(quantize, tie=64):
    """Half of the largest lies at 63.5: which way the tie falls is the inverse's last bit. The last block is short."""
    row = [10, 5, -5, 1, 0, 0, 0, 0, -2.5, 1.25]
    made = quantize(np.array([row], F32) * F32(0.0231), 4)
    assert made.codes.tolist() == [[[127, tie, -tie, 13], [0, 0, 0, 0], [-127, tie, 0, 0]]]
    np.testing.assert_array_equal(made.step[0, :, 0], np.abs(np.array(row, F32) * F32(0.0231))[[0, 4, 8]] / F32(127))


def check_by_level(quantize):
    check_by_step(quantize, 63)


def check_in_blocks(product):
    """Two equal terms of either sign leave what the first one's rounding lost, of 3 f32(0.1)."""
    x = Blocks(np.array([[[1, 0], [-1, 0], [0, 5]]], S8), np.array([[[1], [1], [0.5]]], F32))
    weight = np.array([[3, 0], [9, 9], [3, 1], [9, 9], [9, 9], [0, 2]], np.int32)
    lost = float(F32(0.3)) - 3 * float(F32(0.1))
    assert product(x, weight, np.array([0.1, 4], F32)).tolist() == [[lost, 16]]
    assert product(x, weight[:5], np.array(0.1, F32)).tolist() == [[lost, -F32(0.1)]]


@pytest.mark.parametrize("verify", [check_by_step, check_by_level])
def test_activations_in_blocks(verify):
    verify(getattr(blocks, verify.__name__.removeprefix("check_")))


def test_products_in_blocks():
    check_in_blocks(blocks.product)
    with pytest.raises(ValueError, match=r"weight has shape \(5, 1\); need as many channels as 2 blocks of 2 have"):
        blocks.product(blocks.by_step(np.ones(4, F32), 2), np.ones((5, 1), int), np.array(1, F32))
    with pytest.raises(ValueError, match=r"x has shape \(4,\) and blocks of 0; need \(..., K\) and 1 or more"):
        blocks.by_step(np.ones(4, F32), 0)
    with pytest.raises(TypeError, match="x has dtype float64; need float32"):
        blocks.by_level(np.ones(4), 2)


@pytest.mark.parametrize("verify", [check_add, check_multiply, check_softmax])
def test_operators_on_codes(verify):
    verify(getattr(codes, verify.__name__.removeprefix("check_")))


def test_operators_on_codes_reject():
    a, one, zero = coded(1, 1, 0), np.array(1, F32), np.array(0, U8)
    for wrong, error, message in [
        ((a, a, one, np.array(0, np.uint16)), TypeError, "zero_point has dtype uint16; need uint8 or int8"),
        ((a, a._replace(codes=np.zeros(1, S8)), one, zero), TypeError, "b.codes has dtype int8; need uint8"),
        ((a, a, one[None], zero), ValueError, r"scale has shape \(1,\); need \(\)"),
    ]:
        with pytest.raises(error, match=message):
            codes.add(*wrong)
