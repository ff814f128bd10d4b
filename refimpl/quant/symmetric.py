"""Symmetric INT8 quantization: code = round(x / scale), zero point 0.

Contract.
* weights      s8, -127 ... 127, one scale per output channel: absmax / 127
* activations  s8, -128 ... 127, one scale per tensor: absmax / 127 of what was observed
* on the wire an activation travels as u8 = code + 128, because u8 x s8 is the pair that CPUs multiply
  (a u8 tensor with zero point 128)
* one f32 division x / scale, clamped, then rounded to the nearest integer, ties to even; clamping in f32 before
  rounding and after it are the same function, since the limits are integers
* dequantize is one f32 multiplication, code * scale
* a scale is never 0 or denormal: where absmax / 127 is below the smallest normal f32 the scale is 1 (all codes are 0)

Source: ONNX QuantizeLinear and DequantizeLinear; ONNX Runtime divides in f32 and rounds half to even. NNCF's
symmetric ranges: narrow for weights, full for activations.
"""

import numpy as np

from refimpl import check

WEIGHT_MAX = 127
ACTIVATION_MIN, ACTIVATION_MAX = -128, 127
ZERO_POINT = 128
"""What is added to an s8 code to carry it as u8."""

SMALLEST_NORMAL = np.finfo(np.float32).smallest_normal


def scale_of(absmax: np.ndarray) -> np.ndarray:
    """absmax / 127 as f32, or 1 where that would not be a normal number. absmax: f32, any shape, >= 0.

    >>> float(scale_of(np.float32(254.0))), float(scale_of(np.float32(0.0)))
    (2.0, 1.0)
    """
    absmax = np.asarray(absmax)
    check.dtype("absmax", absmax, np.float32)
    check.finite("absmax", absmax)
    if (absmax < 0).any():
        raise ValueError(f"absmax has the element {absmax.min()}; need every element >= 0")
    scale = absmax / np.float32(WEIGHT_MAX)
    return np.where(scale >= SMALLEST_NORMAL, scale, np.float32(1))


def _codes(x: np.ndarray, scale: np.ndarray, low: int, high: int) -> np.ndarray:
    check.dtype("x", x, np.float32)
    check.dtype("scale", scale, np.float32)
    check.positive("scale", scale)
    check.finite("x", x)
    with np.errstate(over="ignore"):  # x / scale may overflow to infinity, which clips to the limit as it should
        return np.rint(np.clip(x / scale, low, high)).astype(np.int32)


def quantize_weight(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales of a weight, one scale per row.

    Parameters
    ----------
    w : f32 (M, K)

    Returns
    -------
    codes : s8 (M, K), -127 ... 127
    scale : f32 (M,)
    """
    check.dtype("w", w, np.float32)
    check.shape("w", w, ("M", "K"))
    check.finite("w", w)
    scale = scale_of(np.abs(w).max(1, initial=0))
    return _codes(w, scale[:, None], -WEIGHT_MAX, WEIGHT_MAX).astype(np.int8), scale


def quantize_activation(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """f32 (...), scalar f32 scale -> u8 (...), the s8 code plus 128.

    >>> quantize_activation(np.array([-9, -0.5, 0.5, 1.5, 200], np.float32), np.float32(1)[...])  # ties to even
    array([119, 128, 128, 130, 255], dtype=uint8)
    """
    check.shape("scale", scale, ())
    return (_codes(x, scale, ACTIVATION_MIN, ACTIVATION_MAX) + ZERO_POINT).astype(np.uint8)


def signed(codes: np.ndarray) -> np.ndarray:
    """u8 (...), code + 128 -> the code itself, s8 (...).

    >>> signed(np.array([0, 128, 255], np.uint8))
    array([-128,    0,  127], dtype=int8)
    """
    check.dtype("codes", codes, np.uint8)
    return (codes ^ np.uint8(ZERO_POINT)).view(np.int8)


def dequantize_weight(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """s8 (M, K) codes and f32 (M,) scales -> f32 (M, K)."""
    check.dtype("codes", codes, np.int8)
    check.dtype("scale", scale, np.float32)
    check.shape("codes", codes, ("M", "K"))
    check.shape("scale", scale, (codes.shape[0],))
    return codes.astype(np.float32) * scale[:, None]


def dequantize_activation(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """u8 (...) codes and a scalar f32 scale -> f32 (...)."""
    check.dtype("codes", codes, np.uint8)
    check.dtype("scale", scale, np.float32)
    check.shape("scale", scale, ())
    return (codes.astype(np.int32) - ZERO_POINT).astype(np.float32) * scale
