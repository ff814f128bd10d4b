"""Affine 8- and 16-bit quantization, u8, s8, u16 or s16 with any zero point, as different engines compute it.

    by_division              code = rint(clip(x / s, low - z, high - z)) + z          ONNX, ONNX Runtime
    by_levels                l = (low - z) s, h = (high - z) s, f = (high - low) / (h - l);
                             code = rint(clip(x, l, h) * f + -l * f) + low            OpenVINO
                             code = rint(clip(x, l, h) * f), if z is 0
    requantize_in_one        m = a_s * b_s / y_s;  by_division's code of f32(acc) * m     ONNX Runtime
    requantize_wrapping      the same, but the low bits of rint(...) + z              ONNX's reference evaluator
    requantize_in_two        by_levels of f32(acc) * (a_s * b_s)                      OpenVINO

Contract. All in f32, left to right; rint rounds ties to even; f32(acc) is rounded above 2**24. A NaN becomes the lowest
code. In x = (code - z) * s the subtraction is exact and the product rounds once. Scales broadcast against x.

Sources: ONNX QuantizeLinear; ONNX Runtime, core/mlas/lib/quantize.cpp and quantize_linear_matmul.cc; onnx #6169 for
the evaluator that wrapped, in older versions; OpenVINO's FakeQuantize, and what it returns at every tie.
"""

from typing import Any

import numpy as np

from refimpl import check

F32 = np.float32
CODES = (np.uint8, np.int8, np.uint16, np.int16)


def limits(dtype: Any) -> tuple[int, int]:
    """The lowest and the highest code of a type."""
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def by_division(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """x, scale: f32; zero_point: of the type of the codes, which it decides.

    >>> by_division(np.array([-9, 0.5, 1.5], np.float32), np.float32(1)[...], np.uint8(3)[...])
    array([0, 3, 5], dtype=uint8)
    """
    _check(x, scale, zero_point)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _clipped(x / scale, zero_point)


def by_levels(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """The same arguments; another code near a tie, since limits, step and shift are rounded first."""
    _check(x, scale, zero_point)
    lowest, highest = limits(zero_point.dtype)
    z = zero_point.astype(np.int64)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        low, high = (F32(lowest) - z.astype(F32)) * scale, (F32(highest) - z.astype(F32)) * scale
        step = F32(highest - lowest) / (high - low)
        shift, base = np.where(z == 0, 0, -low * step), np.where(z == 0, 0, lowest)
        level = np.rint(np.clip(np.where(np.isnan(x), low, x), low, high) * step + shift)
    return (np.nan_to_num(level).astype(np.int64) + base).astype(zero_point.dtype)


def dequantize(codes: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """(code - zero_point) * scale in the type of scale: f32, or f64 for the exact value."""
    return (codes.astype(np.int64) - zero_point.astype(np.int64)).astype(scale.dtype) * scale


def requantize_in_one(
    acc: np.ndarray, a_scale: np.ndarray, b_scale: np.ndarray, y_scale: np.ndarray, zero_point: np.ndarray
) -> np.ndarray:
    """acc: s32, scales f32; zero_point decides the type of the codes."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _clipped(acc.astype(F32) * (a_scale * b_scale / y_scale), zero_point)


def requantize_wrapping(
    acc: np.ndarray, a_scale: np.ndarray, b_scale: np.ndarray, y_scale: np.ndarray, zero_point: np.ndarray
) -> np.ndarray:
    """As in one step, but nothing is clipped: -236 becomes 20.

    >>> one = np.float32(1)[...]
    >>> requantize_wrapping(np.array([-236]), one, one, one, np.int8(0)[...])
    array([20], dtype=int8)
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        codes = np.rint(acc.astype(F32) * (a_scale * b_scale / y_scale))
        return (codes.astype(np.int64) + zero_point).astype(zero_point.dtype)


def requantize_in_two(
    acc: np.ndarray, a_scale: np.ndarray, b_scale: np.ndarray, y_scale: np.ndarray, zero_point: np.ndarray
) -> np.ndarray:
    """First to f32, then by levels."""
    with np.errstate(over="ignore", invalid="ignore"):
        return by_levels(acc.astype(F32) * (a_scale * b_scale), y_scale, zero_point)


def dynamic_parameters(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of u8 codes for what x holds: its range, made to include 0, in 255 steps.

    x: f32 (...), not empty, or f64 for the exact values; returns the scale in its type, 1 if x is 0 throughout, and the
    zero point in that type too, not yet rounded. Source: ONNX DynamicQuantizeLinear; the 1 is ONNX Runtime's.

    >>> dynamic_parameters(np.array([-1, 254], np.float32))
    (array(1., dtype=float32), array(1., dtype=float32))
    """
    lowest, highest = np.minimum(x.min(), 0), np.maximum(x.max(), 0)
    scale = (highest - lowest) / x.dtype.type(255)
    scale = np.where(scale > 0, scale, x.dtype.type(1))
    return scale, np.clip(-lowest / scale, 0, 255)[...]


def _check(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> None:
    check.dtype("x", x, np.float32)
    check.dtype("scale", scale, np.float32)
    check.dtype("zero_point", zero_point, *CODES)


def _clipped(quotient: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    low, high = limits(zero_point.dtype)
    z = zero_point.astype(np.int64)
    codes = np.rint(np.clip(np.where(np.isnan(quotient), -np.inf, quotient), low - z, high - z))
    return (codes.astype(np.int64) + z).astype(zero_point.dtype)
