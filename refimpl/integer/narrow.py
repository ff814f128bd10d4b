"""Narrowing, by name: wider integers to 8, 16 or 32 bits, by saturation or by wrapping.

Contract. Input: any integer array whose values fit int64. ``saturate_*`` clamps to the range of the type;
``wrap_*`` keeps the low bits (two's complement). Neither ever rounds.
"""

import numpy as np


def _saturate(x: np.ndarray, dtype: type) -> np.ndarray:
    x = np.asarray(x)
    if x.dtype.kind not in "iu":
        raise TypeError(f"x has dtype {x.dtype}; need an integer dtype")
    limits = np.iinfo(dtype)
    return np.clip(x.astype(np.int64), limits.min, limits.max).astype(dtype)


def saturate_s8(x: np.ndarray) -> np.ndarray:
    """Clamp to -128 ... 127, int8."""
    return _saturate(x, np.int8)


def saturate_u8(x: np.ndarray) -> np.ndarray:
    """Clamp to 0 ... 255, uint8."""
    return _saturate(x, np.uint8)


def saturate_s16(x: np.ndarray) -> np.ndarray:
    """Clamp to -32768 ... 32767, int16.

    >>> saturate_s16(np.array([33278, -40000, 5]))
    array([ 32767, -32768,      5], dtype=int16)
    """
    return _saturate(x, np.int16)


def wrap_s32(x: np.ndarray) -> np.ndarray:
    """Keep the low 32 bits, as int32.

    >>> wrap_s32(np.array([2**31]))
    array([-2147483648], dtype=int32)
    """
    x = np.asarray(x)
    if x.dtype.kind not in "iu":
        raise TypeError(f"x has dtype {x.dtype}; need an integer dtype")
    return x.astype(np.int64).astype(np.uint32).view(np.int32)
