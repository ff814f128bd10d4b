"""Loads and stores between registers and 1-D arrays.

Contract. ``at`` is the index of the first element; no alignment is needed. Going outside the array is an IndexError
here and undefined in the jitted forms, so a kernel must never do it.
"""

import numpy as np

from refimpl import check


def _inside(array: np.ndarray, at: int, count: int, *dtypes: type) -> slice:
    check.dtype("array", array, *dtypes)
    check.shape("array", array, ("N",))
    if at < 0 or at + count > array.size:
        raise IndexError(f"elements {at} to {at + count - 1} of an array of {array.size}")
    return slice(at, at + count)


def vmovdqu8_load(array: np.ndarray, at: int) -> np.ndarray:
    """64 consecutive bytes, u8 or s8."""
    return array[_inside(array, at, 64, np.uint8, np.int8)].copy()


def vmovdqu8_load_low(array: np.ndarray, at: int) -> np.ndarray:
    """32 consecutive bytes, u8 or s8, and zeros above: a load of 256 bits."""
    low = array[_inside(array, at, 32, np.uint8, np.int8)]
    return np.concatenate([low, np.zeros(32, low.dtype)])


def vinserti64x4(register: np.ndarray, array: np.ndarray, at: int) -> np.ndarray:
    """The lower 32 bytes of a register, and above them 32 consecutive bytes of memory; u8 or s8."""
    check.same_dtype("register", register, array)
    return np.concatenate([register[:32], array[_inside(array, at, 32, np.uint8, np.int8)]])


def vmovdqu8_store(array: np.ndarray, at: int, register: np.ndarray) -> None:
    """64 consecutive bytes, u8 or s8."""
    check.same_dtype("register", register, array)
    array[_inside(array, at, 64, np.uint8, np.int8)] = register


def vmovdqu8_store_low(array: np.ndarray, at: int, register: np.ndarray) -> None:
    """32 consecutive bytes, the lower half of a register; u8 or s8."""
    check.same_dtype("register", register, array)
    array[_inside(array, at, 32, np.uint8, np.int8)] = register[:32]


def vmovdqu8_store_masked(array: np.ndarray, at: int, register: np.ndarray, mask: np.uint64) -> None:
    """Byte j of a register to ``array[at + j]`` where bit j of the mask, lowest first, is set; nothing else is touched,
    inside the array or not.

    >>> array = np.zeros(4, np.uint8)
    >>> vmovdqu8_store_masked(array, 1, np.arange(7, 71, dtype=np.uint8), np.uint64(0b101))
    >>> array
    array([0, 7, 0, 9], dtype=uint8)
    """
    check.same_dtype("register", register, array)
    check.mask(mask)
    places = np.flatnonzero([int(mask) >> j & 1 for j in range(64)])
    if places.size:
        _inside(array, at + int(places[0]), int(places[-1] - places[0]) + 1, np.uint8, np.int8)
        array[at + places] = register[places]


def prefetcht0(array: np.ndarray, at: int) -> None:
    """Asks for the cache line of ``array[at]``, inside the array or not: changes no value and never faults."""
    check.dtype("array", array, np.int8, np.uint16, np.int32, np.float32, np.uint64)
    check.shape("array", array, ("N",))


def vpbroadcastd(array: np.ndarray, at: int) -> np.ndarray:
    """Four consecutive bytes, repeated in all sixteen dwords."""
    return np.tile(array[_inside(array, at, 4, np.uint8, np.int8)], 16)


def vmovdqu32_load(array: np.ndarray, at: int) -> np.ndarray:
    """Sixteen s32."""
    return array[_inside(array, at, 16, np.int32)].copy()


def vmovdqu32_store(array: np.ndarray, at: int, register: np.ndarray) -> None:
    """Sixteen s32."""
    check.same_dtype("register", register, array)
    array[_inside(array, at, 16, np.int32)] = register
