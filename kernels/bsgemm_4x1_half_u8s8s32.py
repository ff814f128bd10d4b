"""``bsgemm_4x1_u8s8s32`` for up to 32 tokens at a time.

    acc[n, m] = sum_k a[n, k] w[m, k]      a: u8 (N, K), w: s8 (M, K) in 4x1 blocks, acc: s32 (N, M)

Contract. Bits of ``refimpl.integer.gemm_u8s8s32`` for every M, N, K and every pattern of zeros.

Why: a panel of 64 tokens costs the same when half of it is padding. Here a register holds two columns of 32 tokens, so
a group is two registers, and one byte permutation of both makes 16 dwords (k0, k1, k2, k3): 2 permutations for 8
vpdpbusd, where interleaving step by step would take 6. The tokens keep their order. Per group: 2 loads, 2 vinserti64x4
from memory, 2 vpermi2b, 4 broadcasts, 8 vpdpbusd.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.kernels.layout import aligned, bsr4x1, panels
from refimpl.kernels.layout.bsr4x1 import GROUP, ROWS, Bsr4x1
from refimpl.kernels.record import Kernel
from refimpl.kernels.simd.instructions.arithmetic import vpdpbusd, zero_s32
from refimpl.kernels.simd.instructions.lookup import vpermi2b
from refimpl.kernels.simd.instructions.memory import (
    vinserti64x4,
    vmovdqu8_load,
    vmovdqu8_load_low,
    vmovdqu32_store,
    vpbroadcastd,
)
from refimpl.kernels.simd.threefold import kernel, part

TOKENS = panels.HALF


def quad_index() -> np.ndarray:
    """Which byte of the registers (k0 | k1) and (k2 | k3) goes where, u8 (128,): 64 for each register that is made."""
    index = aligned.empty((TOKENS, GROUP), np.uint8)
    index[...] = np.arange(TOKENS)[:, None] + TOKENS * np.arange(GROUP)
    return index.reshape(-1)


QUAD_INDEX = quad_index()


@part
def zero_half():
    """Accumulators of one output channel for 32 tokens."""
    return zero_s32(), zero_s32()


@part
def half_quad(index, x, base, columns, g):
    """The four columns of group g for 32 tokens -> two registers of dwords (k0, k1, k2, k3)."""
    k0 = vmovdqu8_load_low(x, base + 32 * columns[4 * g])
    k2 = vmovdqu8_load_low(x, base + 32 * columns[4 * g + 2])
    first = vinserti64x4(k0, x, base + 32 * columns[4 * g + 1])
    second = vinserti64x4(k2, x, base + 32 * columns[4 * g + 3])
    return vpermi2b(index[0], first, second), vpermi2b(index[1], first, second)


@part
def dot_half(row, quad, w):
    """Add the products of one output channel's dword w with 32 tokens to its accumulators."""
    return vpdpbusd(row[0], quad[0], w), vpdpbusd(row[1], quad[1], w)


@part
def dot_block_half(rows, quad, values, g):
    """Four output channels, 32 tokens, four input channels."""
    return (
        dot_half(rows[0], quad, vpbroadcastd(values, 16 * g)),
        dot_half(rows[1], quad, vpbroadcastd(values, 16 * g + 4)),
        dot_half(rows[2], quad, vpbroadcastd(values, 16 * g + 8)),
        dot_half(rows[3], quad, vpbroadcastd(values, 16 * g + 12)),
    )


@part
def store_half(out, at, row):
    """Store 32 accumulators."""
    vmovdqu32_store(out, at, row[0])
    vmovdqu32_store(out, at + 16, row[1])


@kernel
def bsgemm_4x1_half(quads, indptr, indices, values, x, k, out):
    """quads: ``quad_index``; x: u8 (P K 32,) panels; out: s32 (P M' 32,), M' = 4 block rows; the rest as in
    ``Bsr4x1``."""
    block_rows = indptr.size - 1
    index = vmovdqu8_load(quads, 0), vmovdqu8_load(quads, 64)
    for task in numba.prange(x.size // (32 * k) * block_rows):
        base, row = task // block_rows * k * 32, task % block_rows
        rows = zero_half(), zero_half(), zero_half(), zero_half()
        for g in range(indptr[row], indptr[row + 1]):
            rows = dot_block_half(rows, half_quad(index, x, base, indices, g), values, g)
        store_half(out, task * 128, rows[0])
        store_half(out, task * 128 + 32, rows[1])
        store_half(out, task * 128 + 64, rows[2])
        store_half(out, task * 128 + 96, rows[3])


def call(execution: Callable[..., Any], a: np.ndarray, packed: Bsr4x1) -> np.ndarray:
    """The product with tokens in panels of 32. a: u8 (N, K) -> s32 (N, M)."""
    x = panels.pack_to(a, TOKENS)
    out = aligned.empty((x.shape[0], ROWS * (packed.indptr.size - 1), TOKENS), np.int32)
    weights = packed.indptr, packed.indices, packed.values
    execution(QUAD_INDEX, *weights, x.reshape(-1), packed.shape[1], out.reshape(-1))
    return panels.unpack(out, a.shape[0])[:, : packed.shape[0]]


BSGEMM_4X1_HALF = Kernel(
    "bsgemm_4x1_half_u8s8s32",
    gemm_u8s8s32,
    bsr4x1.pack,
    bsr4x1.unpack,
    bsr4x1.validate,
    bsgemm_4x1_half,
    call,
)
