"""Element-wise operators with one line each: addition, tanh, ReLU.

Contract. ``add`` and ``relu`` round correctly; ``tanh`` is NumPy's (``bounds.tanh``).
"""

import numpy as np

from refimpl import check


def add(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x + y of one dtype, float (...), broadcast as NumPy does."""
    check.dtype("x", x, *check.FLOATS)
    check.same_dtype("y", y, x)
    return x + y


def tanh(x: np.ndarray) -> np.ndarray:
    """Hyperbolic tangent, float (...)."""
    check.dtype("x", x, *check.FLOATS)
    return np.tanh(x)


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0), float (...)."""
    check.dtype("x", x, *check.FLOATS)
    return np.maximum(x, 0)
