"""Sums and products of two tensors of codes, to the bit as ONNX Runtime's QLinearAdd and QLinearMul compute them.

    r_a = a_s / y_s, r_b = b_s / y_s, fixed = y_z - fma(r_a, a_z, r_b b_z)
    add         code = sat(rint(fma(a, r_a, fma(b, r_b, fixed))))
    multiply    code = sat(rint((a - a_z)(b - b_z) r + y_z)),  r = a_s b_s / y_s

Contract. f32, left to right; fma rounds once; rint rounds ties to even; sat clips to the type of the codes. So the zero
points stay in the numbers that are rounded: where a quotient is next to a tie, the code is often another one than that
of the dequantized sum, quantized. Where a is one number for each innermost row of b, the roles of a and b in the sum
are exchanged. This is x86 with AVX2 and FMA; the contraction of fixed, which the source leaves to the compiler, is that
of ONNX Runtime 1.32's wheel for Linux, measured. On ARM the sum is in integers and differs.

Source: ONNX Runtime, core/mlas/lib/intrinsics/avx2/qladd_avx2.cpp and qlmul.cpp.
"""

from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.isa.f32 import vfmadd
from refimpl.quant.affine import limits

F32 = np.float32


class Coded(NamedTuple):
    """codes: u8 or s8 of any shape; scale: f32 (); zero_point: of the type of the codes, ()."""

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray


def add(a: Coded, b: Coded, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """Codes of a + b with that scale and zero point, all of one type; a and b broadcast.

    >>> two, one = (np.array(n, np.float32) for n in (2, 1))
    >>> zero, code = np.array(0, np.uint8), np.array([101], np.uint8)
    >>> add(Coded(code, one, zero), Coded(code, two, zero), two, zero)  # 151.5: a tie
    array([152], dtype=uint8)
    """
    _check(a, b, scale, zero_point)
    if _one_for_each_row(a.codes.shape, b.codes.shape):
        a, b = b, a
    with np.errstate(all="ignore"):
        ratio_a, ratio_b = a.scale / scale, b.scale / scale
        zeros = _fma(ratio_a, a.zero_point, ratio_b * b.zero_point.astype(F32))
        inner = _fma(ratio_b, b.codes, zero_point.astype(F32) - zeros)
        return _saturated(_fma(ratio_a, a.codes, inner), zero_point)


def multiply(a: Coded, b: Coded, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """The same of a b.

    >>> one, most = (np.array(n, np.float32) for n in (1, 16))
    >>> zero, code = np.array(128, np.uint8), np.array([100], np.uint8)
    >>> multiply(Coded(code, one, zero), Coded(code, one, zero), most, zero)  # 49 + 128
    array([177], dtype=uint8)
    """
    _check(a, b, scale, zero_point)
    left, right = (x.codes.astype(np.int32) - x.zero_point.astype(np.int32) for x in (a, b))
    with np.errstate(all="ignore"):
        product = (left * right).astype(F32) * (a.scale * b.scale / scale) + zero_point.astype(F32)
        return _saturated(product, zero_point)


def _fma(ratio: np.ndarray, codes: np.ndarray, addend: np.ndarray) -> np.ndarray:
    return vfmadd(*(np.asarray(x, F32) for x in (ratio, codes, addend)))


def _one_for_each_row(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether a is broadcast along the innermost axis that is longer than 1 in either; so if there is none."""
    rank = max(len(a), len(b))
    long = [(n, m) for n, m in zip(_padded(a, rank), _padded(b, rank), strict=True) if max(n, m) > 1]
    return not long or long[-1][0] == 1


def _padded(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (1,) * (rank - len(shape)) + shape


def _check(a: Coded, b: Coded, scale: np.ndarray, zero_point: np.ndarray) -> None:
    check.dtype("zero_point", zero_point, np.uint8, np.int8)
    kind = zero_point.dtype.type
    for name, x in (("a", a), ("b", b)):
        check.dtype(f"{name}.codes", x.codes, kind)
        check.dtype(f"{name}.zero_point", x.zero_point, kind)
        check.shape(f"{name}.zero_point", x.zero_point, ())
        check.dtype(f"{name}.scale", x.scale, np.float32)
        check.shape(f"{name}.scale", x.scale, ())
    check.dtype("scale", scale, np.float32)
    check.shape("scale", scale, ())
    check.shape("zero_point", zero_point, ())


def _saturated(y: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    low, high = limits(zero_point.dtype)
    return np.asarray(np.clip(np.rint(np.nan_to_num(y, nan=low)), low, high)).astype(zero_point.dtype)
