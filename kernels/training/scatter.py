"""The gradient of an embedding table: rows added up where their ids say.

Contract. The bits of ``refimpl.nn.embedding.embedding_backward``: a row of the table adds its tokens in their order.
Threads share out the columns, so no two of them write to one number.
"""

import numba

from refimpl.kernels.simd.instructions.f32 import vaddps, vmovups_load_first, vmovups_store_first, zero_f32
from refimpl.kernels.simd.threefold import kernel

STRIP = 64


@kernel
def scatter_add(dy, ids, d, table):
    """dy: f32 (N d,); ids: s64 (N,), rows of the table; table: f32 (rows d,), added to."""
    for strip in numba.prange((d + STRIP - 1) // STRIP):
        for token in range(ids.size):
            for c in range(strip * STRIP, min(strip * STRIP + STRIP, d), 16):
                at, zero = ids[token] * d + c, zero_f32()
                total = vaddps(
                    vmovups_load_first(table, at, d - c, zero), vmovups_load_first(dy, token * d + c, d - c, zero)
                )
                vmovups_store_first(table, at, total, d - c)
