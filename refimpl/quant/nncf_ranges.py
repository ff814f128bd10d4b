"""Ranges as NNCF's post-training quantization makes them of observed extremes. Ours are plainer: ``calibrate``.

    symmetric_high      high = max(absmax, 0.01 max over channels, 8e-5)
    symmetric_range     weights: -high ... high;  activations: -128 / 127 high ... high (L / (L - 2), L = 256)
    asymmetric_range    where high - low <= 8e-4 both ends go out by 8e-4 (so the width grows by 1.6e-3);
                        low = min(low, 0), high = max(high, 0); then ``tune_range``
    tune_range          s = 255 / (high - low), z = rint(-low s);  a = z / (z - 255) high,  b = (z - 255) / z low:
                        0 lies on a level for (a, high) and for (low, b); the wider of the two is taken

The other of the two is narrower than what was observed, so the wider one loses nothing; the end moves by up to half a
step times 255 over the number of steps on the other side of 0. An end that is less than half a step from 0 (z = 0 or
255) is not moved: a = low there and b = high, which is wider, so 0 stays beside a level, off by up to half a step.
Zeros, and so padding and what ReLU leaves, are then no longer exact.

A channel of zeros, pruned, thus has a step of 0.01 max / 127 rather than none; it matters only if anything is ever
stored there. Ours gives it the scale 1.

Contract. f32 in, f32 out, computed in f32; rint: ties to even.
Source: NNCF nncf/quantization/fake_quantize.py (``fix_zero_filters_symmetric``, ``fix_zero_filters_asymmetric``,
``symmetric_range``, ``asymmetric_range``, ``tune_range``).
"""

import numpy as np

from refimpl import check
from refimpl.quant.symmetric import ACTIVATION_MIN, WEIGHT_MAX

F32 = np.float32
FLOOR, SMALLEST = F32(0.01), F32(8e-5)
LEAST_WIDTH = F32(8e-4)
STEPS = F32(255)


def symmetric_high(absmax: np.ndarray) -> np.ndarray:
    """absmax: f32 (M,) of each channel, or f32 () -> the same shape.

    >>> symmetric_high(np.array([2, 0], np.float32))
    array([2.  , 0.02], dtype=float32)
    """
    check.dtype("absmax", absmax, F32)
    return np.maximum(absmax, np.maximum(absmax.max(initial=0) * FLOOR, SMALLEST))


def symmetric_weight_range(absmax: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f32 (M,) -> low and high, f32 (M,): 255 levels."""
    high = symmetric_high(absmax)
    return -high, high


def symmetric_activation_range(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Observed extremes f32 () -> low and high of 256 signed levels, f32 ()."""
    check.dtype("low", low, F32)
    check.dtype("high", high, F32)
    most = symmetric_high(np.asarray(np.maximum(np.abs(low), np.abs(high))))
    return most * F32(ACTIVATION_MIN / WEIGHT_MAX), most


def asymmetric_range(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Observed extremes, f32 of any one shape -> low and high of 256 levels, one of which is 0.

    >>> [float(end) for end in asymmetric_range(np.float32(-1)[...], np.float32(254.4)[...])]
    [-1.0015747547149658, 254.39999389648438]
    """
    check.dtype("low", low, F32)
    check.dtype("high", high, F32)
    check.shape("high", high, low.shape)
    if (low > high).any():
        raise ValueError(f"low is {low} and high {high}; need low <= high")
    move = np.where(high - low > LEAST_WIDTH, F32(0), LEAST_WIDTH)
    return tune_range(np.minimum(low - move, F32(0)), np.maximum(high + move, F32(0)))


def tune_range(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """That end is moved which makes the wider range; f32, low <= 0 <= high, low < high."""
    zero = np.rint(-low * (STEPS / (high - low)))
    with np.errstate(divide="ignore", invalid="ignore"):
        other_low = np.where(zero < STEPS, zero / (zero - STEPS) * high, low)
        other_high = np.where(zero > 0, (zero - STEPS) / zero * low, high)
    move_low = high - other_low > other_high - low
    return np.where(move_low, other_low, low), np.where(move_low, high, other_high)
