"""Integer matrix products of any 8-bit types, as different machines compute them: acc[n, m] from a (N, K), w (M, K).

    exact             sum_k a[k] w[k], the low 32 bits                              every CPU with VNNI or SDOT; ONNX
    pair_saturating   u8 a, s8 w: sum over pairs (2j, 2j+1) of sat16(a w + a w)     AVX2, AVX-512 without VNNI
    s8s8_shifted      s8 a, s8 w: pair_saturating(a + 128, w) - 128 sum_k w[k]      oneDNN there
    acc16             u8 a, s8 w: s16 += sat16(pair), saturating, spilled to s32 after every 256 channels    FBGEMM
    neon_wrap         s8 a, s8 w: k and k + 8 of each 16 added in s16, wrapping     MLAS on ARM without SDOT

Contract. No zero points: who has them corrects the sum, exactly. Integers only, no rounding; s32 sums keep their low 32
bits. K is padded with zeros to whole pairs or sixteens. For other types of operands than those named, each is
``exact``: engines widen those before they multiply.

Sources: oneDNN, doc/advanced/int8_computations.md (pairs; shift and compensation). FBGEMM,
src/GenerateKernelU8S8S32ACC16.cc (vpmaddubsw, vpaddsw) and PackingTraits (KCB 256). ONNX Runtime #31573 (smull, smlal,
sadalp in blocks of 16; no longer so since August 2026).
"""

from collections.abc import Callable

import numpy as np

from refimpl import check
from refimpl.integer.gemm import gemm_u8s8s32_pair_saturating
from refimpl.integer.narrow import saturate_s16, wrap_s32
from refimpl.isa import vpmaddubsw

Product = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""a: u8 or s8 (N, K), w: u8 or s8 (M, K) -> s32 (N, M)."""

CODES = (np.uint8, np.int8)
SHIFT = 128
SPILL = 256  # input channels that acc16 adds up in 16 bits
HALF = 8  # neon_wrap adds products of channels this far apart in 16 bits


def _check(a: np.ndarray, w: np.ndarray) -> None:
    check.dtype("a", a, *CODES)
    check.dtype("w", w, *CODES)
    check.shape("w", w, ("M", "K"))
    check.shape("a", a, ("N", w.shape[1]))


def _types(a: np.ndarray, w: np.ndarray) -> tuple[type, type]:
    return a.dtype.type, w.dtype.type


def exact(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The sum, its low 32 bits.

    >>> exact(np.array([[-128, -128]], np.int8), np.array([[-128, -128]], np.int8))
    array([[32768]], dtype=int32)
    """
    _check(a, w)
    return wrap_s32((a.astype(np.float64) @ w.astype(np.float64).T).astype(np.int64))


def pair_saturating(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """u8 by s8 with ``vpmaddubsw``.

    >>> pair_saturating(np.array([[211, 171]], np.uint8), np.array([[71, 107]], np.int8))
    array([[32767]], dtype=int32)
    """
    _check(a, w)
    return gemm_u8s8s32_pair_saturating(a, w) if _types(a, w) == (np.uint8, np.int8) else exact(a, w)


def s8s8_shifted(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """s8 by s8 as u8 by s8: ``a`` is shifted, the sum corrected. Exact but for the saturation of pairs.

    >>> s8s8_shifted(np.array([[127, 127]], np.int8), np.array([[127, 127]], np.int8))  # exactly 32258
    array([[255]], dtype=int32)
    """
    _check(a, w)
    if _types(a, w) != (np.int8, np.int8):
        return pair_saturating(a, w)
    shifted = (a.astype(np.int16) + SHIFT).astype(np.uint8)
    return wrap_s32(pair_saturating(shifted, w).astype(np.int64) - SHIFT * w.sum(1, dtype=np.int64))


def acc16(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """u8 by s8 added up in 16 bits.

    >>> acc16(np.full((1, 8), 255, np.uint8), np.full((1, 8), 32, np.int8))  # exactly 65280
    array([[32767]], dtype=int32)
    """
    _check(a, w)
    if _types(a, w) != (np.uint8, np.int8):
        return exact(a, w)
    a_NP, w_MP = _blocks(a, 2), _blocks(w, 2)
    total = np.zeros((len(a), len(w)), np.int64)
    for start in range(0, a_NP.shape[1], SPILL // 2):
        acc = np.zeros(total.shape, np.int16)
        for pair in range(start, min(start + SPILL // 2, a_NP.shape[1])):
            few, weights = np.broadcast_arrays(a_NP[:, None, pair], w_MP[None, :, pair])
            acc = saturate_s16(acc.astype(np.int32) + vpmaddubsw(few, weights)[..., 0])
        total += acc
    return wrap_s32(total)


def neon_wrap(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """s8 by s8 with ``smull`` and ``smlal``: wrong only where -128 meets -128 twice, eight channels apart.

    >>> neon_wrap(np.full((1, 16), -128, np.int8), np.full((1, 16), -128, np.int8))  # exactly 262144
    array([[-262144]], dtype=int32)
    """
    _check(a, w)
    acc = exact(a, w)
    if _types(a, w) != (np.int8, np.int8):
        return acc
    # each such pair of products wraps from 32768 to -32768
    a_NP, w_MP = (_blocks(x == -SHIFT, 2 * HALF).reshape(len(x), -1, 2, HALF).all(2) for x in (a, w))
    wraps = a_NP.reshape(len(a), -1).astype(np.float64) @ w_MP.reshape(len(w), -1).astype(np.float64).T
    return wrap_s32(acc.astype(np.int64) - 2**16 * wraps.astype(np.int64))


def _blocks(x: np.ndarray, size: int) -> np.ndarray:
    """(R, K) -> (R, ceil(K / size), size), padded with zeros."""
    rows, k = x.shape
    return np.pad(x, ((0, 0), (0, -k % size))).reshape(rows, -(-k // size), size)
