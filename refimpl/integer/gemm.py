"""Integer matrix products u8 x s8 -> s32: the oracles of the kernels.

    exact             acc[n, m] = sum_k a[n, k] w[m, k]
    pair-saturating   acc[n, m] = sum_(k even) clip(a[n, k] w[m, k] + a[n, k+1] w[m, k+1], -32768, 32767)

The second is what AVX2 and AVX-512 without VNNI compute (``vpmaddubsw``, ``vpmaddwd``, ``vpaddd``): oneDNN,
doc/advanced/int8_computations.md; real engines forced to those instruction sets return it to the bit.

Contract. a: u8 0 ... 255, w: s8 -128 ... 127, K <= MAX_K so that no s32 sum can overflow; the result is then
independent of the order of summation. No rounding anywhere. An odd K is padded with a zero.

M output channels, N tokens, K input channels.
"""

import numpy as np

from refimpl import check
from refimpl.integer.pairs import add_excess, dense_pairs

MAX_K = (2**31 - 1) // (255 * 128)  # 65 793


def _check(a: np.ndarray, w: np.ndarray) -> None:
    check.dtype("a", a, np.uint8)
    check.dtype("w", w, np.int8)
    check.shape("w", w, ("M", "K"))
    check.shape("a", a, ("N", w.shape[1]))
    if w.shape[1] > MAX_K:
        raise ValueError(f"w has {w.shape[1]} input channels; need at most {MAX_K}, or an s32 sum may overflow")


def gemm_u8s8s32(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Exact product.

    Parameters
    ----------
    a : u8 (N, K)
    w : s8 (M, K)

    Returns
    -------
    s32 (N, M)
    """
    _check(a, w)
    # Every partial sum is an integer below 2**31 < 2**53, so f64 arithmetic is exact in any order, and BLAS is fast.
    return (a.astype(np.float64) @ w.astype(np.float64).T).astype(np.int32)


def gemm_u8s8s32_pair_saturating(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The product as CPUs without VNNI compute it; same arguments and result type as ``gemm_u8s8s32``.

    Computed as the exact product plus, for each pair that can saturate at all, what saturation adds.

    >>> gemm_u8s8s32_pair_saturating(np.full((1, 2), 255, np.uint8), np.full((1, 2), 127, np.int8))
    array([[32767]], dtype=int32)
    """
    acc = gemm_u8s8s32(a, w)
    add_excess(acc, a, dense_pairs(w))
    return acc
