"""INT8 linear layers in 4x1 blocks, from panel to panel, with what follows fused into the store.

    acc[m, n] = sum_k (x[k, n] - 128) w[m, k]      x: u8 codes (P, K, W), w: s8 in 4x1 blocks
    y         = f32(acc) * scale[m] + bias[m]      scale: the input's times the weight's; then ``stores``

Contract. Bits of ``bsgemm_4x1_u8s8s32``, ``refimpl.quant.rescale`` and ``stores`` one after the other, for every shape
and pattern of zeros.

The tile of ``bsgemm_4x1``: 4 output channels of a panel. Accumulators start from minus the compensation and leave the
registers only as what the next step reads.
"""

import numba

from refimpl.kernels.encoder.rows import dot_row, load_quad, rescale, spread, start_row, width
from refimpl.kernels.encoder.stores import store_as_codes, stores
from refimpl.kernels.simd.instructions.f32 import vbroadcastss
from refimpl.kernels.simd.instructions.memory import prefetcht0, vpbroadcastd
from refimpl.kernels.simd.threefold import kernel, part

AHEAD = 2048
"""Bytes: weights that come from memory are asked for this much before their turn."""


@part
def product(indptr, indices, values, start, x, base, row):
    """The accumulators of block row ``row`` for the panel at x[base]."""
    m = 4 * row
    row0, row1, row2, row3 = (
        start_row(start[m]),
        start_row(start[m + 1]),
        start_row(start[m + 2]),
        start_row(start[m + 3]),
    )
    for g in range(indptr[row], indptr[row + 1]):
        quad = load_quad(
            x,
            base + width() * indices[4 * g],
            base + width() * indices[4 * g + 1],
            base + width() * indices[4 * g + 2],
            base + width() * indices[4 * g + 3],
        )
        prefetcht0(indices, 4 * g + AHEAD // indices.itemsize)
        prefetcht0(values, 16 * g + AHEAD)
        row0 = dot_row(row0, quad, vpbroadcastd(values, 16 * g))
        row1 = dot_row(row1, quad, vpbroadcastd(values, 16 * g + 4))
        row2 = dot_row(row2, quad, vpbroadcastd(values, 16 * g + 8))
        row3 = dot_row(row3, quad, vpbroadcastd(values, 16 * g + 12))
    return row0, row1, row2, row3


@part
def layer(acc, scale, bias, m):
    """The layer's output at channel m, f32."""
    return rescale(acc, spread(vbroadcastss(scale, m)), spread(vbroadcastss(bias, m)))


@kernel
def linear_4x1_to_codes(indptr, indices, values, start, scale, bias, step, x, k, out):
    """x: u8 (P K W,); start: s32 (M,), minus the compensation; scale, bias, step: f32 (M,); M = 4 block rows; out:
    (P M W,); indices: u16 or s32; the others as in ``Bsr4x1``."""
    block_rows = indptr.size - 1
    for task in numba.prange(x.size // (width() * k) * block_rows):
        panel, row = task // block_rows, task % block_rows
        acc = product(indptr, indices, values, start, x, panel * k * width(), row)
        m, at = 4 * row, 4 * width() * task
        store_as_codes(out, at, layer(acc[0], scale, bias, m), step, m)
        store_as_codes(out, at + width(), layer(acc[1], scale, bias, m + 1), step, m + 1)
        store_as_codes(out, at + 2 * width(), layer(acc[2], scale, bias, m + 2), step, m + 2)
        store_as_codes(out, at + 3 * width(), layer(acc[3], scale, bias, m + 3), step, m + 3)


STORES = stores(linear_4x1_to_codes)
