"""What the row-wise kernels share: the checks of an f32 matrix, its flat form, an f32 result."""

import numpy as np

from refimpl import check
from refimpl.kernels.layout import aligned


def validate(name: str, x: np.ndarray) -> None:
    """Raise TypeError or ValueError unless x is f32 (N, D), D >= 1, finite."""
    check.dtype(name, x, np.float32)
    check.shape(name, x, ("N", "D"))
    if x.shape[1] == 0:
        raise ValueError(f"{name} has shape {x.shape}; need at least one column")
    check.finite(name, x)


def flat(x: np.ndarray) -> np.ndarray:
    """The rows one after the other, copied only where they are not."""
    return np.ascontiguousarray(x).reshape(-1)


def result(x: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """An uninitialized array of x's shape."""
    return aligned.empty(x.shape, dtype)
