"""Expansion: consecutive bytes of memory spread over the places that a bit mask names.

Contract. Moves bytes; no arithmetic. Only the bytes that are used are read, so the last ones of an array may be loaded
(a masked load suppresses faults). Bit j of a mask, lowest first, stands for byte j of the register.
"""

import numpy as np

from refimpl import check


def kmovq_load(array: np.ndarray, at: int) -> np.uint64:
    """One mask. array: u64 (N,)."""
    check.dtype("array", array, np.uint64)
    return array[_inside(array, at, 1)][0]


def popcnt(mask: np.uint64) -> int:
    """The number of set bits, 0 ... 64.

    >>> popcnt(np.uint64(0b1011))
    3
    """
    check.mask(mask)
    return int(mask).bit_count()


def vpexpandb(array: np.ndarray, at: int, mask: np.uint64) -> np.ndarray:
    """``popcnt(mask)`` consecutive bytes from ``array[at]``, one for each set bit, in order; 0 where a bit is clear.

    The zero-masked form with a memory operand (AVX-512 VBMI2).

    Parameters
    ----------
    array : s8 (N,)
    at : index of the first byte
    mask : u64

    Returns
    -------
    s8 (64,)

    >>> vpexpandb(np.array([7, 8, 9], np.int8), 1, np.uint64(0b1010))[:5]
    array([0, 8, 0, 9, 0], dtype=int8)
    """
    check.dtype("array", array, np.int8)
    register = np.zeros(64, np.int8)
    register[[bool(int(mask) >> j & 1) for j in range(64)]] = array[_inside(array, at, popcnt(mask))]
    return register


def _inside(array: np.ndarray, at: int, count: int) -> slice:
    check.shape("array", array, ("N",))
    if at < 0 or at + count > array.size:
        raise IndexError(f"elements {at} to {at + count - 1} of an array of {array.size}")
    return slice(at, at + count)
