"""Arrays that start on a cache line.

A 64-byte load that crosses a line costs two; NumPy's own arrays start anywhere on 16 bytes.
"""

import math

import numpy as np

LINE = 64


def empty(shape: tuple[int, ...], dtype: type | np.dtype) -> np.ndarray:
    """Like ``np.empty``, C-contiguous, with the first element at a multiple of 64 bytes."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + size].view(dtype).reshape(shape)


def flat(array: np.ndarray) -> np.ndarray:
    """The elements in C order, 1-D, on a cache line: a view where the array lies so already, otherwise a copy."""
    if array.flags.c_contiguous and array.ctypes.data % LINE == 0:
        return array.reshape(-1)
    copy = empty((array.size,), array.dtype)
    copy[...] = array.reshape(-1)
    return copy
