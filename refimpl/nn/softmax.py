"""Softmax over the last dimension: y_i = exp(x_i - max x) / sum_j exp(x_j - max x).

    dx_i = y_i (dy_i - sum_j dy_j y_j)

Contract. The maximum is subtracted first, so nothing overflows; masked scores (the lowest finite number added) give
exactly 0 where the row has one unmasked score. Error: ``bounds.softmax``.
"""

import numpy as np

from refimpl import check


def softmax(x: np.ndarray) -> np.ndarray:
    """x: float (..., T); returns float (..., T), each row summing to 1."""
    check.dtype("x", x, *check.FLOATS)
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def log_softmax(x: np.ndarray) -> np.ndarray:
    """x - max x - log sum exp(x - max x) over the last dimension. float (..., C).

    >>> log_softmax(np.array([0.0, 1000.0]))  # where log(softmax(x)) is -inf
    array([-1000.,     0.])
    """
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def softmax_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dy, and the result y: float (..., T) -> dx (..., T)."""
    check.same_dtype("dy", dy, y)
    check.shape("dy", dy, y.shape)
    return y * (dy - (dy * y).sum(-1, keepdims=True))
