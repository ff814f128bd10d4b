"""Conversion between s32 and f32, and narrowing to bytes.

Contract. f32 of an s32 rounds to nearest even; s32 of an f32 too, and gives -2**31 for NaN and for what s32 cannot
hold. The packs saturate; they work inside 128-bit lanes.
"""

import numpy as np

from refimpl import check
from refimpl.integer.narrow import saturate_s8, saturate_s16, saturate_u8
from refimpl.isa.memory import _inside


def broadcast_s32(value: int) -> np.ndarray:
    """A scalar s32 in all lanes (``vpbroadcastd`` from a register)."""
    return np.full(16, value, np.int32)


def vcvtdq2ps(a: np.ndarray) -> np.ndarray:
    """s32 -> f32.

    >>> vcvtdq2ps(np.array([2**24 + 1, 2**24 + 3], np.int32)).astype(int)
    array([16777216, 16777220])
    """
    check.dtype("a", a, np.int32)
    return a.astype(np.float32)


def vcvtps2dq(a: np.ndarray) -> np.ndarray:
    """f32 -> s32.

    >>> vcvtps2dq(np.array([2.5, 2**31, np.nan], np.float32))
    array([          2, -2147483648, -2147483648], dtype=int32)
    """
    check.dtype("a", a, np.float32)
    with np.errstate(invalid="ignore"):
        rounded = np.rint(a)
        inside = (rounded >= -(2.0**31)) & (rounded < 2.0**31)
    return np.where(inside, rounded, np.float32(-(2.0**31))).astype(np.int32)


def vpackssdw(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """s32 -> s16, saturating: in each 128-bit lane the four of a, then the four of b."""
    check.dtype("a", a, np.int32)
    check.dtype("b", b, np.int32)
    return saturate_s16(np.concatenate([a.reshape(4, 4), b.reshape(4, 4)], axis=1)).ravel()


def vpackuswb(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """s16 -> u8, saturating: in each 128-bit lane the eight of a, then the eight of b."""
    check.dtype("a", a, np.int16)
    check.dtype("b", b, np.int16)
    return saturate_u8(np.concatenate([a.reshape(4, 8), b.reshape(4, 8)], axis=1)).ravel()


def vpacksswb(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """s16 -> s8, saturating, as bytes: in each 128-bit lane the eight of a, then the eight of b."""
    check.dtype("a", a, np.int16)
    check.dtype("b", b, np.int16)
    return saturate_s8(np.concatenate([a.reshape(4, 8), b.reshape(4, 8)], axis=1)).ravel().view(np.uint8)


def vpmovusdb_store_first(array: np.ndarray, at: int, register: np.ndarray, count: int) -> None:
    """The first ``count`` dwords (all sixteen from 16 on), read as unsigned, saturated to u8: a store under a mask."""
    count = min(count, 16)
    check.dtype("register", register, np.int32)
    array[_inside(array, at, count, np.uint8)] = saturate_u8(register.view(np.uint32)[:count])
