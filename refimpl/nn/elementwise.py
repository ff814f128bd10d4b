"""Element-wise operators with one line each: addition, tanh, ReLU.

    d(x + y) = dy for both, summed over what was broadcast      dtanh = dy (1 - y²)      drelu = dy where x > 0

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


def unbroadcast(dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of something of ``shape`` that was broadcast to dy's: the sum over its copies."""
    summed = dy.sum(tuple(range(dy.ndim - len(shape))))
    ones = tuple(i for i, size in enumerate(shape) if size == 1 and summed.shape[i] != 1)
    return summed.sum(ones, keepdims=True)


def tanh_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dy, and the result y: float (...) -> dx (...)."""
    return dy * (1 - y * y)


def relu_backward(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dy, x: float (...) -> dx (...); 0 at 0, as torch has it."""
    return dy * (x > 0)
