"""Block-sparse INT8 product with blocks of 32 x 32.

    acc[n, m] = sum_k a[n, k] w[m, k]      a: u8 (N, K), w: s8 (M, K) in 32x32 blocks, acc: s32 (N, M)

Contract. Bits of ``refimpl.integer.gemm_u8s8s32`` for every M, N, K and every pattern of zeros.

A tile is 12 tokens x 32 output channels: 24 accumulators. Columns of a live block are neighbours, so nothing has to be
interleaved: it is the dense kernel that skips. Per step of 4 channels: 2 loads of weights, 12 broadcasts of
activations, 24 vpdpbusd.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.kernels.layout import aligned, bsr32x32
from refimpl.kernels.layout.bsr32x32 import SIDE, Bsr32x32
from refimpl.kernels.record import Kernel
from refimpl.kernels.simd.instructions.arithmetic import vpdpbusd, zero_s32
from refimpl.kernels.simd.instructions.memory import vmovdqu8_load, vmovdqu32_store, vpbroadcastd
from refimpl.kernels.simd.threefold import kernel, part

TOKENS = 12


@part
def zero_tokens():
    """Accumulators of three tokens for 32 output channels."""
    return zero_s32(), zero_s32(), zero_s32(), zero_s32(), zero_s32(), zero_s32()


@part
def dot_tokens(acc, x, at, k, w0, w1):
    """Add one step's products of three tokens, k apart from x[at] on."""
    x0, x1, x2 = vpbroadcastd(x, at), vpbroadcastd(x, at + k), vpbroadcastd(x, at + 2 * k)
    return (
        vpdpbusd(acc[0], x0, w0),
        vpdpbusd(acc[1], x0, w1),
        vpdpbusd(acc[2], x1, w0),
        vpdpbusd(acc[3], x1, w1),
        vpdpbusd(acc[4], x2, w0),
        vpdpbusd(acc[5], x2, w1),
    )


@part
def store_tokens(out, at, m, acc):
    """Store three tokens, m apart from out[at] on."""
    vmovdqu32_store(out, at, acc[0])
    vmovdqu32_store(out, at + 16, acc[1])
    vmovdqu32_store(out, at + m, acc[2])
    vmovdqu32_store(out, at + m + 16, acc[3])
    vmovdqu32_store(out, at + 2 * m, acc[4])
    vmovdqu32_store(out, at + 2 * m + 16, acc[5])


@kernel
def bsgemm_32x32(indptr, indices, values, x, k, out, m):
    """x: u8 (N' k,), N' a multiple of 12 and k of 32; out: s32 (N' m,), m = 32 block rows; the rest: ``Bsr32x32``."""
    tiles = x.size // (12 * k)
    for task in numba.prange((indptr.size - 1) * tiles):
        row, token = task // tiles, 12 * (task % tiles)
        acc0, acc1, acc2, acc3 = zero_tokens(), zero_tokens(), zero_tokens(), zero_tokens()
        for block in range(indptr[row], indptr[row + 1]):
            for step in range(8):
                w = 1024 * block + 128 * step
                w0, w1 = vmovdqu8_load(values, w), vmovdqu8_load(values, w + 64)
                at = token * k + 32 * indices[block] + 4 * step
                acc0 = dot_tokens(acc0, x, at, k, w0, w1)
                acc1 = dot_tokens(acc1, x, at + 3 * k, k, w0, w1)
                acc2 = dot_tokens(acc2, x, at + 6 * k, k, w0, w1)
                acc3 = dot_tokens(acc3, x, at + 9 * k, k, w0, w1)
        at = token * m + 32 * row
        store_tokens(out, at, m, acc0)
        store_tokens(out, at + 3 * m, m, acc1)
        store_tokens(out, at + 6 * m, m, acc2)
        store_tokens(out, at + 9 * m, m, acc3)


def call(execution: Callable[..., Any], a: np.ndarray, packed: Bsr32x32) -> np.ndarray:
    """The product with tokens and channels padded to whole tiles. a: u8 (N, K) -> s32 (N, M)."""
    (n, k), m = a.shape, packed.shape[0]
    x = aligned.empty((-(-n // TOKENS) * TOKENS, -(-k // SIDE) * SIDE), np.uint8)
    x[:n, :k] = a
    x[n:], x[:, k:] = 0, 0
    out = aligned.empty((x.shape[0], -(-m // SIDE) * SIDE), np.int32)
    weights = (packed.indptr, packed.indices, packed.values)
    execution(*weights, x.reshape(-1), x.shape[1], out.reshape(-1), out.shape[1])
    return out[:n, :m]


BSGEMM_32X32 = Kernel(
    "bsgemm_32x32_u8s8s32",
    gemm_u8s8s32,
    bsr32x32.pack,
    bsr32x32.unpack,
    bsr32x32.validate,
    bsgemm_32x32,
    call,
)
