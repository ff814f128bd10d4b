"""Softmax over the last dimension: y_i = exp(x_i - max x) / sum_j exp(x_j - max x).

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
