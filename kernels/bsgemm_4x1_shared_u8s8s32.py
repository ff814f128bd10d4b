"""Block-sparse INT8 product whose block rows share interleaved activations.

    acc[n, m] = sum_k a[n, k] w[m, k]      a: u8 (N, K), w: s8 (M, K) in 4x1 blocks, acc: s32 (N, M)

Contract. Bits of ``refimpl.integer.gemm_u8s8s32`` for every M, N, K and every pattern of zeros.

Why it is faster than Algorithm 1: of its 24 register instructions per group 8 interleave, and the two units that run
the 16 vpdpbusd are the ones that interleave, so it cannot pass 2/3 of the peak. Here a group of columns is interleaved
once for all block rows of a slab that have it (layout ``bsr4x1_shared``); the others load it.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.kernels.bsgemm_4x1_u8s8s32 import dot_row, interleave, store_row, zero_row
from refimpl.kernels.layout import aligned, bsr4x1_shared, panels
from refimpl.kernels.layout.bsr4x1 import ROWS
from refimpl.kernels.layout.bsr4x1_shared import Shared4x1
from refimpl.kernels.record import Kernel
from refimpl.kernels.simd.instructions.memory import vmovdqu8_load, vmovdqu8_store, vpbroadcastd
from refimpl.kernels.simd.threefold import kernel, part

SLOT = 256


@part
def load_quad(x, base, columns, g):
    """The four columns of group g, interleaved."""
    return interleave(
        vmovdqu8_load(x, base + 64 * columns[4 * g]),
        vmovdqu8_load(x, base + 64 * columns[4 * g + 1]),
        vmovdqu8_load(x, base + 64 * columns[4 * g + 2]),
        vmovdqu8_load(x, base + 64 * columns[4 * g + 3]),
    )


@part
def save_quad(scratch, at, quad):
    """Keep a quad for later block rows."""
    vmovdqu8_store(scratch, at, quad[0])
    vmovdqu8_store(scratch, at + 64, quad[1])
    vmovdqu8_store(scratch, at + 128, quad[2])
    vmovdqu8_store(scratch, at + 192, quad[3])


@part
def reload_quad(scratch, at):
    """Get a saved quad."""
    return (
        vmovdqu8_load(scratch, at),
        vmovdqu8_load(scratch, at + 64),
        vmovdqu8_load(scratch, at + 128),
        vmovdqu8_load(scratch, at + 192),
    )


@part
def dot_block(rows, quad, values, g):
    """Four output channels, 64 tokens, four input channels."""
    return (
        dot_row(rows[0], quad, vpbroadcastd(values, 16 * g)),
        dot_row(rows[1], quad, vpbroadcastd(values, 16 * g + 4)),
        dot_row(rows[2], quad, vpbroadcastd(values, 16 * g + 8)),
        dot_row(rows[3], quad, vpbroadcastd(values, 16 * g + 12)),
    )


@kernel
def bsgemm_4x1_shared(slab, bounds, indices, slots, values, x, k, scratch, workers, out):
    """x: u8 (P K 64,) panels; scratch: u8, SLOT bytes for each slot of each worker; out: s32 (P M' 64,) accumulator
    panels, M' = 4 block rows; the others as in ``Shared4x1``."""
    block_rows = bounds.size // 3
    slabs = (block_rows + slab - 1) // slab
    tasks = x.size // (64 * k) * slabs
    for worker in numba.prange(workers):
        own = worker * (scratch.size // workers)
        for task in range(worker, tasks, workers):
            panel, first = task // slabs, task % slabs * slab
            base = panel * k * 64
            for row in range(first, min(first + slab, block_rows)):
                rows = zero_row(), zero_row(), zero_row(), zero_row()
                for g in range(bounds[3 * row], bounds[3 * row + 1]):
                    quad = load_quad(x, base, indices, g)
                    save_quad(scratch, own + SLOT * slots[g], quad)
                    rows = dot_block(rows, quad, values, g)
                for g in range(bounds[3 * row + 1], bounds[3 * row + 2]):
                    rows = dot_block(rows, load_quad(x, base, indices, g), values, g)
                for g in range(bounds[3 * row + 2], bounds[3 * row + 3]):
                    rows = dot_block(rows, reload_quad(scratch, own + SLOT * indices[4 * g]), values, g)
                at = (panel * block_rows + row) * 256
                store_row(out, at, rows[0])
                store_row(out, at + 64, rows[1])
                store_row(out, at + 128, rows[2])
                store_row(out, at + 192, rows[3])


def call(execution: Callable[..., Any], a: np.ndarray, packed: Shared4x1) -> np.ndarray:
    """The product with tokens in panels. a: u8 (N, K) -> s32 (N, M)."""
    x = panels.pack(a)
    out = aligned.empty((x.shape[0], ROWS * (packed.bounds.size // 3), panels.WIDTH), np.int32)
    execution(*bsr4x1_shared.arguments(packed, x, out, SLOT))
    return panels.unpack_accumulators(out, a.shape[0])[:, : packed.shape[0]]


BSGEMM_4X1_SHARED = Kernel(
    "bsgemm_4x1_shared_u8s8s32",
    gemm_u8s8s32,
    bsr4x1_shared.pack,
    bsr4x1_shared.unpack,
    bsr4x1_shared.validate,
    bsgemm_4x1_shared,
    call,
)
