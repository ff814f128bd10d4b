"""``bsgemm_4x1_shared_u8s8s32`` for up to 32 tokens at a time.

    acc[n, m] = sum_k a[n, k] w[m, k]      a: u8 (N, K), w: s8 (M, K) in 4x1 blocks, acc: s32 (N, M)

Contract. Bits of ``refimpl.integer.gemm_u8s8s32`` for every M, N, K and every pattern of zeros.

Why: a panel of 64 tokens costs the same when half of it is padding. A panel of 32 tokens halves the products, and
interleaving has to be halved too: bytes that are already spread to words (``panels.pack_words``) are combined by an
OR with a register from memory, on either unit, so a group costs 2 ORs and 2 interleaves for 8 vpdpbusd.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.kernels.bsgemm_4x1_half_u8s8s32 import dot_block_half, store_half, zero_half
from refimpl.kernels.layout import aligned, bsr4x1_shared, panels
from refimpl.kernels.layout.bsr4x1 import ROWS
from refimpl.kernels.layout.bsr4x1_shared import Shared4x1
from refimpl.kernels.record import Kernel
from refimpl.kernels.simd.instructions.interleave import vpord, vpunpckhwd, vpunpcklwd
from refimpl.kernels.simd.instructions.memory import vmovdqu8_load, vmovdqu8_store
from refimpl.kernels.simd.threefold import kernel, part

SLOT = 128


@part
def combine(x, base, columns, g):
    """The four columns of group g as dwords: ORs make the words (k0, k1) and (k2, k3), interleaving the dwords."""
    pair01 = vpord(
        vmovdqu8_load(x, base + 128 * columns[4 * g]), vmovdqu8_load(x, base + 128 * columns[4 * g + 1] + 64)
    )
    pair23 = vpord(
        vmovdqu8_load(x, base + 128 * columns[4 * g + 2]), vmovdqu8_load(x, base + 128 * columns[4 * g + 3] + 64)
    )
    return vpunpcklwd(pair01, pair23), vpunpckhwd(pair01, pair23)


@kernel
def bsgemm_4x1_shared32(slab, bounds, indices, slots, values, x, k, scratch, workers, out):
    """x: u8 (P K 128,) word panels; scratch: u8, SLOT bytes for each slot of each worker; out: s32 (P M' 32,), M' = 4
    block rows; the others as in ``Shared4x1``."""
    block_rows = bounds.size // 3
    slabs = (block_rows + slab - 1) // slab
    tasks = x.size // (128 * k) * slabs
    for worker in numba.prange(workers):
        own = worker * (scratch.size // workers)
        for task in range(worker, tasks, workers):
            panel, first = task // slabs, task % slabs * slab
            base = panel * k * 128
            for row in range(first, min(first + slab, block_rows)):
                rows = zero_half(), zero_half(), zero_half(), zero_half()
                for g in range(bounds[3 * row], bounds[3 * row + 1]):
                    quad = combine(x, base, indices, g)
                    vmovdqu8_store(scratch, own + SLOT * slots[g], quad[0])
                    vmovdqu8_store(scratch, own + SLOT * slots[g] + 64, quad[1])
                    rows = dot_block_half(rows, quad, values, g)
                for g in range(bounds[3 * row + 1], bounds[3 * row + 2]):
                    rows = dot_block_half(rows, combine(x, base, indices, g), values, g)
                for g in range(bounds[3 * row + 2], bounds[3 * row + 3]):
                    at = own + SLOT * indices[4 * g]
                    rows = dot_block_half(
                        rows, (vmovdqu8_load(scratch, at), vmovdqu8_load(scratch, at + 64)), values, g
                    )
                at = (panel * block_rows + row) * 128
                store_half(out, at, rows[0])
                store_half(out, at + 32, rows[1])
                store_half(out, at + 64, rows[2])
                store_half(out, at + 96, rows[3])


def call(execution: Callable[..., Any], a: np.ndarray, packed: Shared4x1) -> np.ndarray:
    """The product with tokens in word panels. a: u8 (N, K) -> s32 (N, M)."""
    x = panels.pack_words(a)
    out = aligned.empty((x.shape[0], ROWS * (packed.bounds.size // 3), panels.HALF), np.int32)
    execution(*bsr4x1_shared.arguments(packed, x, out, SLOT))
    return panels.unpack_word_accumulators(out, a.shape[0])[:, : packed.shape[0]]


BSGEMM_4X1_SHARED32 = Kernel(
    "bsgemm_4x1_shared32_u8s8s32",
    gemm_u8s8s32,
    bsr4x1_shared.pack,
    bsr4x1_shared.unpack,
    bsr4x1_shared.validate,
    bsgemm_4x1_shared32,
    call,
)
