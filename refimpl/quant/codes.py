"""Sums, products and softmax of codes that give codes.

ONNX Runtime's QLinearAdd, QLinearMul and QLinearSoftmax, and what OpenVINO makes of two dequantized tensors, added and
quantized:

    add        ra = a_s / y_s, rb = b_s / y_s
               fixed = y_z - fma(ra, a_z, rb * b_z)
               code = clip(rint(fma(a, ra, fma(b, rb, fixed))))
    multiply   r = a_s * b_s / y_s;  code = clip(rint(f32((a - a_z) (b - b_z)) * r + y_z))
    softmax    e = f32(exp((x - max x) x_s + c));  code = min(highest, rint(e / sum e * floor(1 / y_s)) + y_z)

    add_by_levels   t = (a - (a_z + b_z * b_s / a_s)) * (a_s / b_s) + b
                    l = (low - y_z) * y_s / b_s, h likewise, f = (high - low) / (h - l)
                    code = rint(clip(t, l, h) * f + -l * f) + low

Contract. u8 or s8, all of one type; scales f32, one for a tensor. f32 throughout, each operation rounds once; (a - a_z)
(b - b_z) is exact. The zero point is added *before* rint, whose ties go to even: where y_z is odd, a tie goes the other
way than in ``affine.by_division``, and ties are common where scales are multiples of each other. CPUs without FMA round
the products of ``add`` too.
``softmax``: c = max(0, log(largest f32 / length) - 5), the log in f32, exp in f64, from a table of 256; the sum runs in
order. That 1 / y_s is cut to a whole number is an error of the engine's: f32(1 / 255) has the inverse 254.99999, which
becomes 254.
``add_by_levels`` keeps one operand as it is and rescales the other; both operands with codes in the graph, or a first
that is constant.

Sources: ONNX Runtime, core/mlas/lib/intrinsics/avx2/qladd_avx2.cpp and qlmul.cpp, and
contrib_ops/cpu/quantization/qlinear_softmax.cc. Found from results of version 1.32 (tests/test_1_arithmetic.py): which
product in ``fixed`` is rounded, and in ``softmax`` the order of the quotient, the type of the log and the last clip.
OpenVINO, src/common/low_precision_transformations/src/add.cpp and fake_quantize.cpp; the roundings are found from
results of version 2026.4 (tests/test_7_oracle_large.py).
"""

import math
from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.isa.f32 import vfmadd
from refimpl.nn.softmax import softmax as softmax_of_floats
from refimpl.quant.affine import by_division, dequantize, limits

F32 = np.float32
TOP = 255
"""Of the table of exponentials: where the largest code of a row goes."""


class Coded(NamedTuple):
    """codes: u8 or s8 (...); scale: f32 (); zero_point: of the type of the codes, ()."""

    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray


def add(a: Coded, b: Coded, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """Codes of a + b with that scale and zero point, of the broadcast shape.

    >>> one, zero = np.float32(1)[...], np.uint8(1)[...]
    >>> a, b = (Coded(np.array([code], np.uint8), np.float32(0.5)[...], zero) for code in (3, 4))
    >>> add(a, b, one, zero)  # 1 + 1.5, and 1: 3.5 becomes 4
    array([4], dtype=uint8)
    """
    _check(a, b, scale, zero_point)
    with np.errstate(all="ignore"):
        left, right = (np.asarray(each.scale / scale) for each in (a, b))
        shift = _fma(left, a.zero_point.astype(F32), right * b.zero_point.astype(F32))
        fixed = zero_point.astype(F32) - shift
        total = _fma(a.codes.astype(F32), left, _fma(b.codes.astype(F32), right, fixed))
    return _narrow(total, zero_point)


def add_by_levels(a: Coded, b: Coded, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """As ``add``, for what OpenVINO makes of it.

    >>> one, zero = np.float32(1)[...], np.uint8(1)[...]
    >>> a, b = (Coded(np.array([code], np.uint8), np.float32(0.5)[...], zero) for code in (3, 4))
    >>> add_by_levels(a, b, one, zero)
    array([4], dtype=uint8)
    """
    _check(a, b, scale, zero_point)
    lowest, highest = limits(zero_point.dtype)
    z, za, zb = (each.astype(F32) for each in (zero_point, a.zero_point, b.zero_point))
    with np.errstate(all="ignore"):
        shifted = a.codes.astype(F32) - (za + zb * b.scale / a.scale)
        total = shifted * (a.scale / b.scale) + b.codes.astype(F32)
        low, high = (F32(lowest) - z) * scale / b.scale, (F32(highest) - z) * scale / b.scale
        step = F32(highest - lowest) / (high - low)
        levels = np.rint(np.clip(total, low, high) * step + -low * step)
    return (np.nan_to_num(levels).astype(np.int64) + lowest).astype(zero_point.dtype)


def multiply(a: Coded, b: Coded, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """Codes of a b, likewise.

    >>> one, zero = np.float32(1)[...], np.int8(0)[...]
    >>> a, b = (Coded(np.array([code], np.int8), one, zero) for code in (-3, 50))
    >>> multiply(a, b, one, zero)
    array([-128], dtype=int8)
    """
    _check(a, b, scale, zero_point)
    x, y = (each.codes.astype(np.int32) - each.zero_point.astype(np.int32) for each in (a, b))
    with np.errstate(all="ignore"):
        return _narrow((x * y).astype(F32) * (a.scale * b.scale / scale) + zero_point.astype(F32), zero_point)


def softmax_as_defined(x: Coded, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """Codes of the softmax over the last axis, in f32: dequantized, and quantized by division."""
    _check(x, x, scale, zero_point)
    return by_division(softmax_of_floats(dequantize(x.codes, x.scale, x.zero_point)), scale, zero_point)


def softmax(x: Coded, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """Codes of the softmax over the last axis. x.scale above 0.

    >>> x = Coded(np.array([3, 3], np.uint8), np.float32(1)[...], np.uint8(0)[...])
    >>> softmax(x, np.float32(1 / 255)[...], np.uint8(0)[...])  # 127.5 by the definition
    array([127, 127], dtype=uint8)
    """
    _check(x, x, scale, zero_point)
    if not x.codes.size:
        return x.codes.copy()
    step, length = float(x.scale), x.codes.shape[-1]
    raised = max(0.0, float(np.log(np.finfo(F32).max / F32(length))) - 5) / step
    table = np.array([math.exp((i - TOP + raised) * step) for i in range(TOP + 1)], F32)
    codes = x.codes.astype(np.int64)
    exponentials = table[codes - codes.max(-1, keepdims=True) + TOP]
    total = np.cumsum(exponentials, -1, dtype=F32)[..., -1:]
    levels = np.rint(exponentials / total * np.floor(F32(1) / scale)).astype(np.int64)
    return np.minimum(levels + zero_point.astype(np.int64), limits(zero_point.dtype)[1]).astype(zero_point.dtype)


def _fma(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return vfmadd(*np.broadcast_arrays(x, y, z))


def _check(a: Coded, b: Coded, scale: np.ndarray, zero_point: np.ndarray) -> None:
    check.dtype("zero_point", zero_point, np.uint8, np.int8)
    check.dtype("scale", scale, F32)
    check.shape("scale", scale, ())
    check.shape("zero_point", zero_point, ())
    for name, each in (("a", a), ("b", b)):
        for field in ("codes", "zero_point"):
            check.dtype(f"{name}.{field}", getattr(each, field), zero_point.dtype.type)
        check.dtype(f"{name}.scale", each.scale, F32)
        check.shape(f"{name}.scale", each.scale, ())
        check.shape(f"{name}.zero_point", each.zero_point, ())


def _narrow(y: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """cvtps2dq and saturating packs: NaN becomes the lowest code, as do numbers beyond s32, of either sign."""
    whole = np.rint(y)
    lowest, highest = limits(zero_point.dtype)
    there = np.abs(whole) < 2**31
    return np.where(there, np.clip(whole, lowest, highest), lowest).astype(zero_point.dtype)
