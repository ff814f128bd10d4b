"""Calibration: from what an activation was observed to be, its range.

    absmax        max |x|
    percentile    the q-th percentile of |x|, linear interpolation between order statistics, computed in f64:

    place = (n - 1) (q / 100);  a, b = the two |x| around it in rising order, t = place - floor(place)
    a + (b - a) t where t < 1/2, else b - (b - a) (1 - t)

Only the ``deciding(n, q)`` largest of n values have a say, n - floor(place).

Contract. Input: the observed f32 values of one tensor, any shape, not empty; output: f32 scalar >= 0. The bits of a
percentile are those of ``numpy.percentile`` of f64.
"""

from math import floor

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
    return percentile_of_largest(np.abs(x).ravel(), x.size, q)


def deciding(count: int, q: float) -> int:
    """How many of so many values, the largest, decide the q-th percentile: never fewer if there are more values.

    >>> deciding(1000000, 99.99)
    101
    """
    if not 0.0 <= q <= 100.0:
        raise ValueError(f"q is {q}; need 0 to 100")
    return count - floor((count - 1) * (q / 100))


def percentile_of_largest(largest: np.ndarray, count: int, q: float) -> np.ndarray:
    """``percentile`` of ``count`` values. largest: f32 (n,), the n largest magnitudes, at least ``deciding(count, q)``.

    >>> float(percentile_of_largest(np.float32([100, 98, 99]), 101, 99))
    99.0
    """
    n = deciding(count, q)
    a, b = np.resize(np.sort(np.partition(largest, -n)[-n:])[:2], 2).astype(np.float64)  # b is a where n is 1
    place = (count - 1) * (q / 100)
    t = place - floor(place)
    return np.array(a + (b - a) * t if t < 0.5 else b - (b - a) * (1 - t), np.float32)


def _check(x: np.ndarray) -> None:
    check.dtype("x", x, np.float32)
    if x.size == 0:
        raise ValueError("x is empty; need at least one observed value")
    check.finite("x", x)
