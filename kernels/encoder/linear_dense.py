"""INT8 linear layers with dense weights, from panel to panel: the contract and the stores of ``linear_4x1``.

A tile is 6 output channels of a panel: 24 accumulators. First every panel's rows are interleaved, once for all tiles;
then a step of a tile takes the dwords of four input channels: 4 loads, 6 broadcasts, 24 vpdpbusd.
"""

import numba

from refimpl.kernels.encoder.linear_4x1 import layer
from refimpl.kernels.encoder.rows import dot_row, load_quad, save_quad, saved_quad, start_row, width
from refimpl.kernels.encoder.stores import store_six, stores
from refimpl.kernels.simd.instructions.memory import prefetcht0, vpbroadcastd
from refimpl.kernels.simd.threefold import kernel, part

AHEAD = 4096
"""Bytes: weights that come from memory are asked for this much before their turn."""


@part
def product(values, at, steps, start, m, quads, base):
    """Accumulators of channels m ... m + 5, whose weights begin at values[at], for the panel at quads[base]."""
    row0, row1, row2 = start_row(start[m]), start_row(start[m + 1]), start_row(start[m + 2])
    row3, row4, row5 = start_row(start[m + 3]), start_row(start[m + 4]), start_row(start[m + 5])
    for s in range(steps):
        quad, here = saved_quad(quads, base + 4 * s * width()), at + 24 * s
        prefetcht0(values, here + AHEAD)
        row0 = dot_row(row0, quad, vpbroadcastd(values, here))
        row1 = dot_row(row1, quad, vpbroadcastd(values, here + 4))
        row2 = dot_row(row2, quad, vpbroadcastd(values, here + 8))
        row3 = dot_row(row3, quad, vpbroadcastd(values, here + 12))
        row4 = dot_row(row4, quad, vpbroadcastd(values, here + 16))
        row5 = dot_row(row5, quad, vpbroadcastd(values, here + 20))
    return row0, row1, row2, row3, row4, row5


@part
def interleave_rows(x, at, quads, to, k):
    """k rows of a panel, at x[at], as dwords of four, at quads[to]."""
    w = width()
    for c in range(0, k, 4):
        row = at + c * w
        save_quad(quads, to + c * w, load_quad(x, row, row + w, row + 2 * w, row + 3 * w))


@part
def layers(acc, scale, bias, m):
    """The layer's output at channels m ... m + 5."""
    return (
        layer(acc[0], scale, bias, m),
        layer(acc[1], scale, bias, m + 1),
        layer(acc[2], scale, bias, m + 2),
        layer(acc[3], scale, bias, m + 3),
        layer(acc[4], scale, bias, m + 4),
        layer(acc[5], scale, bias, m + 5),
    )


@kernel
def linear_dense_to_codes(values, start, scale, bias, step, x, k, quads, out):
    """x: u8 (P k W,), k a multiple of 4; values: of ``vnni4_rows``; start: s32 (M',), minus the compensation; scale,
    bias, step: f32 (M',), M' = M up to a multiple of 6; quads: u8, scratch of the size of x; out: (P M W,), M even."""
    w, steps, tiles = width(), k // 4, start.size // 6
    panels = x.size // (w * k)
    channels = out.size // (w * panels)
    for panel in numba.prange(panels):
        interleave_rows(x, panel * k * w, quads, panel * k * w, k)
    for task in numba.prange(panels * tiles):
        panel, m = task // tiles, 6 * (task % tiles)
        acc = product(values, m * k, steps, start, m, quads, panel * k * w)
        store_six(out, (panel * channels + m) * w, layers(acc, scale, bias, m), channels, step, m)


STORES = stores(linear_dense_to_codes)
