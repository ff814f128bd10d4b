"""bf16, the upper half of an f32, and the two instructions of AVX-512 BF16, to the bit.

    bf16    sign 1 bit, exponent 8 bits, fraction 7 bits; held as u16

Contract. No instruction here reads or writes MXCSR. Every operand that is subnormal counts as a zero of its sign.
``vdpbf16ps`` is two fused multiply-adds one after the other, **the upper element of each pair first**:

    acc = fma(acc, a[2 i + 1], b[2 i + 1])        one rounding to f32, to nearest, ties to even
    acc = fma(acc, a[2 i], b[2 i])                once more

Flushing comes after rounding: a result becomes a zero of its sign where x y + acc, rounded to 24 bits as if there were
no smallest exponent, is below 2**-126; so from 2**-126 - 2**-151 on, the tie included, it is 2**-126. NaN: the first
NaN among a, b and acc, made quiet; else, for inf * 0 and inf - inf, 0xFFC00000. So a NaN in the lower elements hides
one in the upper elements, and that one hides acc's.

Source: Intel SDM volume 2, VDPBF16PS (operation and table of NaN priorities) and VCVTNEPS2BF16. It does not say that
flushing comes after rounding; an Emerald Rapids CPU does it, and agrees in every bit with what stands here. Arm's BFDOT
rounds to odd and gives other bits.
"""

import numpy as np

from refimpl import check
from refimpl.isa.f32 import fma_to_odd
from refimpl.isa.memory import _inside

EXPONENT, SIGN, QUIET, INDEFINITE = (np.uint32(bits) for bits in (0x7F800000, 0x80000000, 0x00400000, 0xFFC00000))
FLUSHED_BELOW = 2.0**-126 - 2.0**-151
"""Results of a smaller size round, to 24 bits, below the smallest normal f32."""


def from_bf16(a: np.ndarray) -> np.ndarray:
    """u16 -> f32, exact: the same bits with sixteen zeros below (the manual's ``make_fp32``).

    >>> from_bf16(np.array([0x3F80, 0xC049], np.uint16))
    array([ 1.      , -3.140625], dtype=float32)
    """
    check.dtype("a", a, np.uint16)
    return (a.astype(np.uint32) << 16).view(np.float32)


def vcvtneps2bf16(x: np.ndarray) -> np.ndarray:
    """f32 (..., L) -> u16 (..., L): nearest, ties to even; overflow to infinity.

    Subnormal numbers become zeros of their sign, although bf16 could hold the larger ones; a NaN is cut off and made
    quiet.

    >>> vcvtneps2bf16(np.array([1 + 2**-8, 1 + 3 * 2**-8, 1e-39], np.float32))  # two ties and a subnormal
    array([16256, 16258,     0], dtype=uint16)
    """
    check.dtype("x", x, np.float32)
    bits = _flush(x).view(np.uint32)
    ties_to_even = np.uint32(0x7FFF) + (bits >> 16 & 1)
    rounded = np.where(np.isnan(x), bits | QUIET, bits + ties_to_even * ~np.isnan(x))
    return (rounded >> 16).astype(np.uint16)


def vcvtne2ps2bf16(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """f32 (L,) twice -> u16 (2 L,): ``vcvtneps2bf16`` of b in the lower half, of a in the upper one.

    >>> vcvtne2ps2bf16(np.float32([1]), np.float32([-1])).tolist() == [0xBF80, 0x3F80]
    True
    """
    return np.concatenate([vcvtneps2bf16(b), vcvtneps2bf16(a)])


def vpermw(index: np.ndarray, a: np.ndarray) -> np.ndarray:
    """u16 (32,) twice -> u16 (32,): element i is a[index[i] mod 32]."""
    check.dtype("index", index, np.uint16)
    check.dtype("a", a, np.uint16)
    return a[index % 32]


def vdpbf16ps(acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """acc + the dot product of each pair of bf16, f32 (..., L) and u16 (..., 2 L) twice: two ``fma_daz_ftz``.

    >>> one, pair = np.float32([1]), np.array([0x3F80, 0x3380], np.uint16)  # 1 and 2**-24
    >>> vdpbf16ps(one, pair[::-1], np.array([0x3F80, 0xBF80], np.uint16))  # 1 - 1, then + 2**-24
    array([5.9604645e-08], dtype=float32)
    >>> vdpbf16ps(one, pair, np.array([0xBF80, 0x3F80], np.uint16))  # 1 + 2**-24 is a tie, then - 1
    array([0.], dtype=float32)
    """
    check.dtype("acc", acc, np.float32)
    a, b = from_bf16(a), from_bf16(b)
    acc = fma_daz_ftz(acc, a[..., 1::2], b[..., 1::2])
    return fma_daz_ftz(acc, a[..., 0::2], b[..., 0::2])


def fma_daz_ftz(acc: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x y + acc of f32 with one rounding, subnormal operands and results flushed; NaN as the module says.

    Rounding to odd in f64 also keeps the exact sum's side of the flushing limit.
    """
    x, y, acc = _flush(x), _flush(y), _flush(acc)
    total = fma_to_odd(x, y, acc)
    with np.errstate(all="ignore"):
        bits = total.astype(np.float32).view(np.uint32)
    bits = np.where(np.abs(total) < FLUSHED_BELOW, bits & SIGN, bits)
    bits = np.where(np.isnan(total), INDEFINITE, bits)
    for operand in (acc, y, x):
        bits = np.where(np.isnan(operand), operand.view(np.uint32) | QUIET, bits)
    return bits.view(np.float32)


def _flush(x: np.ndarray) -> np.ndarray:
    """Subnormal numbers become zeros of their sign."""
    bits = x.view(np.uint32)
    return np.where(bits & EXPONENT == 0, bits & SIGN, bits).view(np.float32)


# --- memory ----------------------------------------------------------------------------------------------------------


def vmovdqu16_load(array: np.ndarray, at: int) -> np.ndarray:
    """32 consecutive u16."""
    return array[_inside(array, at, 32, np.uint16)].copy()


def vmovdqu16_store(array: np.ndarray, at: int, register: np.ndarray) -> None:
    """32 or 16 consecutive u16: as many as the register holds."""
    check.same_dtype("register", register, array)
    array[_inside(array, at, register.size, np.uint16)] = register


def vpbroadcastd_pair(array: np.ndarray, at: int) -> np.ndarray:
    """Two consecutive u16, repeated in all sixteen dwords (``vpbroadcastd``)."""
    return np.tile(array[_inside(array, at, 2, np.uint16)], 16)
