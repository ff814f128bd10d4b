"""Block-sparse INT8 product: Algorithm 1 of Fast DistilBERT on CPUs (arXiv 2211.07715, appendix A.3.4).

    acc[n, m] = sum_k a[n, k] w[m, k]      a: u8 (N, K), w: s8 (M, K) in 4x1 blocks, acc: s32 (N, M)

Contract. Bits of ``refimpl.integer.gemm_u8s8s32`` for every M, N, K and every pattern of zeros.

A tile is 4 output channels x 64 tokens: 16 accumulators. For each group of 4 live columns, the 64 tokens of each
column are one register; interleaving the four gives the dwords (k0, k1, k2, k3) of 64 tokens, and each of the 4 rows
multiplies them by its own broadcast dword of weights. Per group: 4 loads, 8 interleaves, 4 broadcasts, 16 vpdpbusd.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.kernels.layout import aligned, bsr4x1, panels
from refimpl.kernels.layout.bsr4x1 import ROWS, Bsr4x1
from refimpl.kernels.record import Kernel
from refimpl.kernels.simd.instructions.arithmetic import vpdpbusd, zero_s32
from refimpl.kernels.simd.instructions.interleave import vpunpckhbw, vpunpckhwd, vpunpcklbw, vpunpcklwd
from refimpl.kernels.simd.instructions.memory import vmovdqu8_load, vmovdqu32_store, vpbroadcastd
from refimpl.kernels.simd.threefold import kernel, part


@part
def zero_row():
    """Accumulators of one output channel for 64 tokens."""
    return zero_s32(), zero_s32(), zero_s32(), zero_s32()


@part
def interleave(k0, k1, k2, k3):
    """Four columns of 64 tokens -> four registers of dwords (k0, k1, k2, k3).

    Interleaving works inside 128-bit lanes, so lane l of register j holds the tokens 16 l + 4 j ... 16 l + 4 j + 3.
    """
    low01, high01 = vpunpcklbw(k0, k1), vpunpckhbw(k0, k1)
    low23, high23 = vpunpcklbw(k2, k3), vpunpckhbw(k2, k3)
    return (
        vpunpcklwd(low01, low23),
        vpunpckhwd(low01, low23),
        vpunpcklwd(high01, high23),
        vpunpckhwd(high01, high23),
    )


@part
def dot_row(row, x, w):
    """Add the products of one output channel's dword w with the 64 tokens x to its accumulators."""
    return vpdpbusd(row[0], x[0], w), vpdpbusd(row[1], x[1], w), vpdpbusd(row[2], x[2], w), vpdpbusd(row[3], x[3], w)


@part
def store_row(out, at, row):
    """Store 64 accumulators, in the lane order of ``interleave``."""
    vmovdqu32_store(out, at, row[0])
    vmovdqu32_store(out, at + 16, row[1])
    vmovdqu32_store(out, at + 32, row[2])
    vmovdqu32_store(out, at + 48, row[3])


@part
def tile(values, indices, start, stop, x, base, out, at):
    """Groups start ... stop-1 of one block row times the panel at x[base], into out[at] (4 rows of 64)."""
    row0, row1, row2, row3 = zero_row(), zero_row(), zero_row(), zero_row()
    for g in range(start, stop):
        quad = interleave(
            vmovdqu8_load(x, base + 64 * indices[4 * g]),
            vmovdqu8_load(x, base + 64 * indices[4 * g + 1]),
            vmovdqu8_load(x, base + 64 * indices[4 * g + 2]),
            vmovdqu8_load(x, base + 64 * indices[4 * g + 3]),
        )
        row0 = dot_row(row0, quad, vpbroadcastd(values, 16 * g))
        row1 = dot_row(row1, quad, vpbroadcastd(values, 16 * g + 4))
        row2 = dot_row(row2, quad, vpbroadcastd(values, 16 * g + 8))
        row3 = dot_row(row3, quad, vpbroadcastd(values, 16 * g + 12))
    store_row(out, at, row0)
    store_row(out, at + 64, row1)
    store_row(out, at + 128, row2)
    store_row(out, at + 192, row3)


@kernel
def bsgemm_4x1(indptr, indices, values, x, k, out):
    """x: u8 (P K 64,) panels; out: s32 (P M' 64,) accumulator panels, M' = 4 block rows; the rest as in ``Bsr4x1``."""
    block_rows = indptr.size - 1
    for task in numba.prange(x.size // (64 * k) * block_rows):
        panel, row = task // block_rows, task % block_rows
        tile(values, indices, indptr[row], indptr[row + 1], x, panel * k * 64, out, task * 256)


def call(execution: Callable[..., Any], a: np.ndarray, packed: Bsr4x1) -> np.ndarray:
    """The product with tokens in panels. a: u8 (N, K) -> s32 (N, M)."""
    x = panels.pack(a)
    m = ROWS * (packed.indptr.size - 1)
    out = aligned.empty((x.shape[0], m, panels.WIDTH), np.int32)
    execution(packed.indptr, packed.indices, packed.values, x.reshape(-1), packed.shape[1], out.reshape(-1))
    return panels.unpack_accumulators(out, a.shape[0])[:, : packed.shape[0]]


BSGEMM_4X1 = Kernel("bsgemm_4x1_u8s8s32", gemm_u8s8s32, bsr4x1.pack, bsr4x1.unpack, bsr4x1.validate, bsgemm_4x1, call)
