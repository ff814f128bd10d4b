"""The meaning of every SIMD instruction that the kernels use, on NumPy registers.

A register is a 1-D array: ``u8`` (64,), ``s8`` (64,), ``s16`` (32,), ``s32`` (16,). Byte 0 is the lowest. Names are
Intel's; the operation of each is the one in the Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2.
The arithmetic functions also take narrower registers (the AVX2 and SSE forms) and a stack of registers in leading
dimensions, since they work along the last axis.

Contract. Nothing here rounds. ``vpmaddubsw`` saturates each pair sum to s16; ``vpmaddwd``, ``vpaddd`` and ``vpdpbusd``
wrap to s32. Memory instructions take a 1-D array and the index of the first element; going outside the array is an
error here and undefined in the jitted forms, so a kernel must never do it.
"""

import numpy as np

from refimpl import check
from refimpl.integer.narrow import saturate_s16, wrap_s32

LANE_BYTES = 16  # "unpack" and "shuf" instructions work inside, or on whole, 128-bit lanes


# --- arithmetic ------------------------------------------------------------------------------------------------------


def vpmaddubsw(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Multiply u8 by s8, add neighbours, saturate to s16: the step that loses bits on CPUs without VNNI.

    >>> vpmaddubsw(np.array([211, 171], np.uint8), np.array([71, 107], np.int8))  # the exact sum is 33278
    array([32767], dtype=int16)
    """
    check.dtype("a", a, np.uint8)
    check.dtype("b", b, np.int8)
    products = a.astype(np.int32) * b.astype(np.int32)
    return saturate_s16(products[..., 0::2] + products[..., 1::2])


def vpmaddwd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Multiply s16 by s16, add neighbours, s32. Wraps in one case only: four times -32768 gives -2**31.

    >>> vpmaddwd(np.array([32767, -3], np.int16), np.array([1, 1], np.int16))
    array([32764], dtype=int32)
    """
    check.dtype("a", a, np.int16)
    check.dtype("b", b, np.int16)
    products = a.astype(np.int64) * b.astype(np.int64)
    return wrap_s32(products[..., 0::2] + products[..., 1::2])


def vpaddd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Add s32, wrapping."""
    check.dtype("a", a, np.int32)
    check.dtype("b", b, np.int32)
    return wrap_s32(a.astype(np.int64) + b.astype(np.int64))


def vpdpbusd(acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """acc + the dot product of each u8 quad with its s8 quad, s32, exact but for the final wrap (AVX-512 VNNI).

    >>> vpdpbusd(np.array([10], np.int32), np.array([255, 255, 1, 0], np.uint8), np.array([127, 127, -1, 5], np.int8))
    array([64779], dtype=int32)
    """
    check.dtype("acc", acc, np.int32)
    check.dtype("a", a, np.uint8)
    check.dtype("b", b, np.int8)
    products = a.astype(np.int64) * b.astype(np.int64)
    quads = products.reshape(*products.shape[:-1], -1, 4)
    return wrap_s32(acc.astype(np.int64) + quads.sum(-1))


def zero_s32() -> np.ndarray:
    """Sixteen zero accumulators (``vpxord`` of a register with itself)."""
    return np.zeros(16, np.int32)


# --- interleaving ----------------------------------------------------------------------------------------------------


def _unpack(a: np.ndarray, b: np.ndarray, item: int, high: bool) -> np.ndarray:
    """Interleave the low or high halves of each 128-bit lane, ``item`` bytes at a time."""
    check.same_dtype("b", b, a)
    half = LANE_BYTES // 2
    lanes = [r.view(np.uint8).reshape(-1, LANE_BYTES)[:, half * high : half * (high + 1)] for r in (a, b)]
    pairs = np.stack([lane.reshape(-1, half // item, item) for lane in lanes], axis=2)
    return pairs.reshape(-1).view(a.dtype)


def vpunpcklbw(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bytes a0 b0 a1 b1 ... a7 b7 of each 128-bit lane."""
    return _unpack(a, b, 1, False)


def vpunpckhbw(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bytes a8 b8 a9 b9 ... a15 b15 of each 128-bit lane."""
    return _unpack(a, b, 1, True)


def vpunpcklwd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """16-bit words a0 b0 ... a3 b3 of each 128-bit lane."""
    return _unpack(a, b, 2, False)


def vpunpckhwd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """16-bit words a4 b4 ... a7 b7 of each 128-bit lane."""
    return _unpack(a, b, 2, True)


# --- memory ----------------------------------------------------------------------------------------------------------


def _inside(array: np.ndarray, at: int, count: int, *dtypes: type) -> slice:
    check.dtype("array", array, *dtypes)
    check.shape("array", array, ("N",))
    if at < 0 or at + count > array.size:
        raise IndexError(f"elements {at} to {at + count - 1} of an array of {array.size}")
    return slice(at, at + count)


def vmovdqu8(array: np.ndarray, at: int) -> np.ndarray:
    """Load 64 consecutive bytes, u8 or s8."""
    return array[_inside(array, at, 64, np.uint8, np.int8)].copy()


def vpbroadcastd(array: np.ndarray, at: int) -> np.ndarray:
    """Load four consecutive bytes and repeat them in all sixteen dwords."""
    return np.tile(array[_inside(array, at, 4, np.uint8, np.int8)], 16)


def vmovdqu32(array: np.ndarray, at: int, register: np.ndarray) -> None:
    """Store sixteen s32."""
    array[_inside(array, at, 16, np.int32)] = register
