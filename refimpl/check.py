"""Argument checks with one wording: the argument, what came, what is needed.

``TypeError`` for a dtype, ``ValueError`` for the rest; public functions check dtype, then shape, then values.
"""

import numpy as np

FLOATS = (np.float32, np.float64)


def dtype(name: str, array: np.ndarray, *allowed: type) -> None:
    """Raise TypeError unless ``array`` is an ndarray of one of the ``allowed`` dtypes.

    >>> dtype("x", np.zeros(2), np.float32)
    Traceback (most recent call last):
    TypeError: x has dtype float64; need float32
    """
    need = " or ".join(np.dtype(t).name for t in allowed)
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} is {type(array).__name__}; need an ndarray of {need}")
    if array.dtype not in allowed:
        raise TypeError(f"{name} has dtype {array.dtype}; need {need}")


def same_dtype(name: str, array: np.ndarray, other: np.ndarray) -> None:
    """Raise TypeError unless ``array`` has the dtype of ``other``: no operator mixes f32 and f64."""
    dtype(name, array, other.dtype.type)


def mask(value: np.uint64) -> None:
    """Raise TypeError unless ``value`` is a scalar of 64 mask bits."""
    if not isinstance(value, np.uint64):
        raise TypeError(f"mask is {type(value).__name__}; need uint64")


def shape(name: str, array: np.ndarray, need: tuple[int | str, ...]) -> None:
    """Raise ValueError unless the shape is ``need``; a letter in ``need`` stands for any length.

    >>> shape("scale", np.zeros(2), (3,))
    Traceback (most recent call last):
    ValueError: scale has shape (2,); need (3,)
    """
    lengths = zip(array.shape, need, strict=False)
    if array.ndim != len(need) or any(not isinstance(n, str) and n != have for have, n in lengths):
        wanted = ", ".join(map(str, need)) + ("," if len(need) == 1 else "")
        raise ValueError(f"{name} has shape {array.shape}; need ({wanted})")


def last_dim(name: str, array: np.ndarray, need: int) -> None:
    """Raise ValueError unless the last dimension has length ``need``."""
    if array.ndim == 0 or array.shape[-1] != need:
        raise ValueError(f"{name} has shape {array.shape}; need (..., {need})")


def finite(name: str, array: np.ndarray) -> None:
    """Raise ValueError naming the first NaN or infinity."""
    good = np.isfinite(array)
    if not good.all():
        at = tuple(int(i) for i in np.argwhere(~good)[0])
        raise ValueError(f"{name} is {array[at]} at {list(at)}; need finite numbers")


def positive(name: str, array: np.ndarray) -> None:
    """Raise ValueError unless every element is finite and > 0."""
    finite(name, array)
    if not (array > 0).all():
        raise ValueError(f"{name} has the element {array.min()}; need every element > 0")


def fraction(name: str, value: float) -> None:
    """Raise ValueError unless 0 <= value <= 1 (NaN fails)."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value}; need 0 to 1")
