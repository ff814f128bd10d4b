"""Fake quantization: quantize and dequantize in floats, with a gradient that looks past the rounding.

    step  = (|high| + 1e-16) / highest                         high is learned: (), or (M,), one a row
    code  = rint(clip(x / step, lowest, highest))
    y     = code * step                                        f32: the bits of dequantize(quantize(x))
    low   = high lowest / highest,  width = high - low

    where               dy / dx    dy / dhigh, NNCF            dy / dhigh, of the step
    low <= x <= high    1          (y - x) / width             (y - x) / high
    x > high            0          1                           1
    x < low             0          lowest / highest            lowest / highest

Both ends belong to the inside. The gradients of ``high`` are summed over the elements that share it, and take the sign
of ``high`` (that of |high|); where high is 0 the sign is taken as +, since in NNCF, whose |0| has the gradient 0, a
range of 0 never grows again. There is no further scaling of the gradient, as in LSQ.

Which of the two: y = v s with v = rint(x / s) held still but for x / s itself has dy / ds = v - x / s, hence
dy / dhigh = (y - x) / high. NNCF divides by the whole width instead, its formula for asymmetric ranges, about half of
that. Both keep the sign.

Levels: weights -127 ... 127, activations -128 ... 127 (u8 with zero point 128 on the wire); -64 ... 63 for weights
under NNCF's ``overflow_fix``. ``initial_high`` is a row's absmax; ``initial_high_nncf`` is never below 0.1, so that
rows with smaller weights begin with a step too large, and use few of their codes until it is learned.

Contract. f32 or f64, whichever comes in; division, clip, then ties to even, as in ``symmetric``. A y of zero is +0.
Source: NNCF nncf/torch/quantization/{layers,quantize_functions,reference}.py (2.14): ``symmetric_quantize``,
``ReferenceQuantize.backward``, SCALE_LOWER_THRESHOLD, eps 1e-16. The step's: Esser et al., arXiv 1902.08153, eq. 3.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.quant.symmetric import ACTIVATION_MAX, ACTIVATION_MIN, WEIGHT_MAX

EPS = 1e-16
NNCF_SCALE_FLOOR = np.float32(0.1)


class Levels(NamedTuple):
    """The lowest and the highest code."""

    lowest: int
    highest: int


WEIGHT = Levels(-WEIGHT_MAX, WEIGHT_MAX)
ACTIVATION = Levels(ACTIVATION_MIN, ACTIVATION_MAX)
HALF_WEIGHT = Levels(-64, 63)
"""NNCF's half range, which no pair of u8 activations can saturate."""


Width = Callable[[Levels], float]
"""What the gradient of ``high`` divides the error inside by, in units of high: ``width_nncf`` or ``width_of_step``."""


class Ends(NamedTuple):
    """Of each range: its two ends, and what the error inside is divided by, float like high; ratio: low / high."""

    high: np.ndarray
    low: np.ndarray
    width: np.ndarray
    ratio: np.floating


class FakeCache(NamedTuple):
    """What the backward needs. x, y: float (...); high: as it came; levels."""

    x: np.ndarray
    y: np.ndarray
    high: np.ndarray
    levels: Levels


def step_of(high: np.ndarray, levels: Levels) -> np.ndarray:
    """float (...) -> the scale of the codes, in its dtype: ``symmetric.scale_of`` where 127 is the highest code.

    >>> step_of(np.float32([254, -127]), WEIGHT)
    array([2., 1.], dtype=float32)
    """
    check.dtype("high", high, *check.FLOATS)
    check.finite("high", high)
    return np.asarray(_magnitude(high) / high.dtype.type(levels.highest))


def codes_of(x: np.ndarray, high: np.ndarray, levels: Levels) -> np.ndarray:
    """The codes as floats. x: float (...) with high (), or float (M, ...) with high (M,)."""
    check.dtype("x", x, *check.FLOATS)
    check.same_dtype("high", high, x)
    check.finite("x", x)
    with np.errstate(over="ignore"):  # infinity clips to the limit, as it should
        return np.rint(np.clip(x / _rows(step_of(high, levels), x), levels.lowest, levels.highest)) + x.dtype.type(0)


def fake_quantize(x: np.ndarray, high: np.ndarray, levels: Levels) -> tuple[np.ndarray, FakeCache]:
    """y of the shape of x. x: float (...) with high (), one range a tensor, or float (M, ...) with high (M,).

    >>> fake_quantize(np.float32([-9, -0.5, 1.5, 200]), np.float32(127)[...], ACTIVATION)[0]  # ties to even
    array([ -9.,   0.,   2., 127.], dtype=float32)
    """
    y = codes_of(x, high, levels) * _rows(step_of(high, levels), x)
    return y, FakeCache(x, y, high, levels)


def fake_quantize_backward(dy: np.ndarray, cache: FakeCache) -> tuple[np.ndarray, np.ndarray]:
    """NNCF's gradients: dx of the shape of x, dhigh of that of high."""
    return _backward(dy, cache, width_nncf)


def fake_quantize_backward_of_step(dy: np.ndarray, cache: FakeCache) -> tuple[np.ndarray, np.ndarray]:
    """The same, but inside the derivative of the step."""
    return _backward(dy, cache, width_of_step)


def width_nncf(levels: Levels) -> float:
    """The whole range: 1 - low / high."""
    return 1 - levels.lowest / levels.highest


def width_of_step(levels: Levels) -> float:
    """1, whatever the levels."""
    return 1.0


def ends(high: np.ndarray, levels: Levels, width: Width) -> Ends:
    """Of ranges float (...), in their dtype."""
    most, ratio = _magnitude(high), high.dtype.type(levels.lowest / levels.highest)
    return Ends(most, most * ratio, most * high.dtype.type(width(levels)), ratio)


def slopes(cache: FakeCache, width: Width) -> tuple[np.ndarray, np.ndarray]:
    """dy / d|high| of each element, and which are outside, bool; both of the shape of x."""
    x, y, high, levels = cache
    found = ends(high, levels, width)
    above, below = x > _rows(found.high, x), x < _rows(found.low, x)
    inside = (y - x) / _rows(found.width, x)
    return np.where(above, x.dtype.type(1), np.where(below, found.ratio, inside)), above | below


def sign_of(high: np.ndarray) -> np.ndarray:
    """d|high| / dhigh, + where high is 0."""
    return np.where(high < 0, high.dtype.type(-1), high.dtype.type(1))


def initial_high(w: np.ndarray) -> np.ndarray:
    """Largest magnitude of each row: what ``quantize_weight`` uses. float (M, K) -> (M,)."""
    check.shape("w", w, ("M", "K"))
    return np.abs(w).max(1, initial=0)


def initial_high_nncf(w: np.ndarray) -> np.ndarray:
    """The same, at least 0.1.

    >>> initial_high_nncf(np.float32([[0.01, -0.02], [0, 3]]))
    array([0.1, 3. ], dtype=float32)
    """
    return np.maximum(initial_high(w), w.dtype.type(NNCF_SCALE_FLOOR))


def _backward(dy: np.ndarray, cache: FakeCache, width: Width) -> tuple[np.ndarray, np.ndarray]:
    x, high = cache.x, cache.high
    check.same_dtype("dy", dy, x)
    check.shape("dy", dy, x.shape)
    slope, outside = slopes(cache, width)
    dhigh = (dy * slope).sum(tuple(range(high.ndim, x.ndim))) * sign_of(high)
    return np.where(outside, x.dtype.type(0), dy), np.asarray(dhigh)


def _magnitude(high: np.ndarray) -> np.ndarray:
    return np.abs(high) + high.dtype.type(EPS)


def _rows(high: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One of a tensor, or one a row of x."""
    if high.ndim:
        check.shape("high", high, (x.shape[0] if x.ndim else "M",))
        return high.reshape(-1, *(1,) * (x.ndim - 1))
    return high
