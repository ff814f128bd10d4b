"""Calibration: from what an activation was observed to be, its range.

    absmax        max |x|
    percentile    the q-th percentile of |x|, linear interpolation between order statistics, computed in f64

Contract. Input: the observed f32 values of one tensor, any shape, not empty; output: f32 scalar >= 0.
"""

import numpy as np

from refimpl import check


def absmax(x: np.ndarray) -> np.ndarray:
    """Largest magnitude.

    >>> float(absmax(np.array([1, -3], np.float32)))
    3.0
    """
    _check(x)
    return np.abs(x).max()[...]


def percentile(x: np.ndarray, q: float) -> np.ndarray:
    """q-th percentile of |x|, 0 <= q <= 100; q = 100 is ``absmax``.

    >>> float(percentile(np.arange(-100, 1, dtype=np.float32), 99))
    99.0
    """
    _check(x)
    if not 0.0 <= q <= 100.0:
        raise ValueError(f"q is {q}; need 0 to 100")
    return np.array(np.percentile(np.abs(x).astype(np.float64), q), np.float32)


def _check(x: np.ndarray) -> None:
    check.dtype("x", x, np.float32)
    if x.size == 0:
        raise ValueError("x is empty; need at least one observed value")
    check.finite("x", x)
