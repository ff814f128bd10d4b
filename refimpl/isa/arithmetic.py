"""Integer multiplication and addition.

Contract. Nothing rounds. ``vpmaddubsw`` saturates each pair sum to s16; ``vpmaddwd``, ``vpaddd`` and ``vpdpbusd`` wrap
to s32. The functions work along the last axis, so they also take narrower registers (the AVX2 and SSE forms) and a
stack of registers in leading dimensions.
"""

import numpy as np

from refimpl import check
from refimpl.integer.narrow import saturate_s16, wrap_s32


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


def vpsubd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Subtract b from a, s32, wrapping."""
    check.dtype("a", a, np.int32)
    check.dtype("b", b, np.int32)
    return wrap_s32(a.astype(np.int64) - b.astype(np.int64))


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


def ones_s16() -> np.ndarray:
    """Thirty-two words of 1: with them ``vpmaddwd`` adds neighbours."""
    return np.ones(32, np.int16)
