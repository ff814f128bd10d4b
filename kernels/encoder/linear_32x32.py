"""INT8 linear layers in 32x32 blocks, from panel to panel: the contract of ``linear_4x1``.

Columns of a live block are neighbours, and so the same for all tiles of a block row: as in ``linear_dense`` every
panel's rows are interleaved once, and a step of a tile takes the dwords of four input channels. A tile is as many
output channels as keep 16 accumulators busy: 4 of a wide panel, 8 of a half one.
"""

import numba

from refimpl.kernels.encoder.linear_4x1 import layer
from refimpl.kernels.encoder.linear_dense import interleave_rows
from refimpl.kernels.encoder.rows import dot_row, saved_quad, start_row, width
from refimpl.kernels.encoder.stores import store_as_codes, stores
from refimpl.kernels.simd.instructions.memory import prefetcht0, vpbroadcastd
from refimpl.kernels.simd.threefold import kernel, part

AHEAD = 2048
"""Bytes: weights that come from memory are asked for this much before their turn."""


@part
def tile():
    """Output channels in a tile."""
    return 4


@part
def product(indptr, indices, values, start, m, quads, base):
    """Accumulators of channels m ... m + 3 for the panel at quads[base], in the first four of eight rows."""
    row0, row1 = start_row(start[m]), start_row(start[m + 1])
    row2, row3 = start_row(start[m + 2]), start_row(start[m + 3])
    first, last = indptr[m // 32], indptr[m // 32 + 1]
    weights = 1024 * first + 256 * (last - first) * (m % 32 // 8) + 4 * (m % 8)
    for b in range(last - first):
        channels = base + 32 * indices[first + b] * width()
        for s in range(8):
            quad, here = saved_quad(quads, channels + 4 * s * width()), weights + 256 * b + 32 * s
            prefetcht0(values, here + AHEAD)
            row0 = dot_row(row0, quad, vpbroadcastd(values, here))
            row1 = dot_row(row1, quad, vpbroadcastd(values, here + 4))
            row2 = dot_row(row2, quad, vpbroadcastd(values, here + 8))
            row3 = dot_row(row3, quad, vpbroadcastd(values, here + 12))
    return row0, row1, row2, row3, row0, row1, row2, row3


@part
def half_tile():
    """``tile`` of a half panel."""
    return 8


@part
def product_of_eight(indptr, indices, values, start, m, quads, base):
    """Accumulators of channels m ... m + 7 for the panel at quads[base]."""
    row0, row1 = start_row(start[m]), start_row(start[m + 1])
    row2, row3 = start_row(start[m + 2]), start_row(start[m + 3])
    row4, row5 = start_row(start[m + 4]), start_row(start[m + 5])
    row6, row7 = start_row(start[m + 6]), start_row(start[m + 7])
    first, last = indptr[m // 32], indptr[m // 32 + 1]
    weights = 1024 * first + 256 * (last - first) * (m % 32 // 8)
    for b in range(last - first):
        channels = base + 32 * indices[first + b] * width()
        for s in range(8):
            quad, here = saved_quad(quads, channels + 4 * s * width()), weights + 256 * b + 32 * s
            prefetcht0(values, here + AHEAD)
            row0 = dot_row(row0, quad, vpbroadcastd(values, here))
            row1 = dot_row(row1, quad, vpbroadcastd(values, here + 4))
            row2 = dot_row(row2, quad, vpbroadcastd(values, here + 8))
            row3 = dot_row(row3, quad, vpbroadcastd(values, here + 12))
            row4 = dot_row(row4, quad, vpbroadcastd(values, here + 16))
            row5 = dot_row(row5, quad, vpbroadcastd(values, here + 20))
            row6 = dot_row(row6, quad, vpbroadcastd(values, here + 24))
            row7 = dot_row(row7, quad, vpbroadcastd(values, here + 28))
    return row0, row1, row2, row3, row4, row5, row6, row7


@kernel
def linear_32x32_to_codes(indptr, indices, values, start, scale, bias, step, x, k, quads, out):
    """x: u8 (P k W,), k a multiple of 4; indptr, indices, values: of ``bsr32x32_rows``; start: s32 (M',), minus the
    compensation; scale, bias, step: f32 (M',), M' = M up to a multiple of 8; quads: u8 (P k' W,), scratch, k' = k up to
    a multiple of 32; out: (P M W,), M a multiple of 4."""
    w, deep, tiles = width(), (k + 31) // 32 * 32, start.size // tile()
    panels = x.size // (w * k)
    channels = out.size // (w * panels)
    for panel in numba.prange(panels):
        interleave_rows(x, panel * k * w, quads, panel * deep * w, k)
    for task in numba.prange(panels * tiles):
        panel, m = task // tiles, tile() * (task % tiles)
        if m < channels:
            acc, at = product(indptr, indices, values, start, m, quads, panel * deep * w), (panel * channels + m) * w
            store_as_codes(out, at, layer(acc[0], scale, bias, m), step, m)
            store_as_codes(out, at + w, layer(acc[1], scale, bias, m + 1), step, m + 1)
            store_as_codes(out, at + 2 * w, layer(acc[2], scale, bias, m + 2), step, m + 2)
            store_as_codes(out, at + 3 * w, layer(acc[3], scale, bias, m + 3), step, m + 3)
            if tile() == 8 and m + 4 < channels:
                store_as_codes(out, at + 4 * w, layer(acc[4], scale, bias, m + 4), step, m + 4)
                store_as_codes(out, at + 5 * w, layer(acc[5], scale, bias, m + 5), step, m + 5)
                store_as_codes(out, at + 6 * w, layer(acc[6], scale, bias, m + 6), step, m + 6)
                store_as_codes(out, at + 7 * w, layer(acc[7], scale, bias, m + 7), step, m + 7)


STORES = stores(linear_32x32_to_codes)
