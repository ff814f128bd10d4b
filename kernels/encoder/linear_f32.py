"""f32 linear layers, from panel to panel, with what follows fused into the store.

    acc[m, n] = fma(w[m, k], x[k, n], acc[m, n])   k = 0, 1, ..., from +0       x: f32 (P, K, W), w: f32
    y         = acc + bias[m]                      then ``stores``

Contract. The bits depend on the order, and this is the order: input channels ascending, each step one fused
multiply-add, the bias last. Within ``bounds.linear`` of the exact result. Equal bits everywhere, and in every lane.

A tile is 6 output channels of a panel: 24 accumulators. A step takes one input channel: 4 loads, 6 broadcasts, 24
multiply-adds.
"""

import numba

from refimpl.kernels.encoder.rows import add, fused, load_row, spread, width
from refimpl.kernels.encoder.stores import store_six, stores
from refimpl.kernels.simd.instructions.f32 import vbroadcastss, zero_f32
from refimpl.kernels.simd.instructions.memory import prefetcht0
from refimpl.kernels.simd.threefold import kernel, part

AHEAD = 2048
"""Elements: weights that come from memory are asked for this much before their turn."""


@part
def product(values, at, k, x, base):
    """Accumulators of six channels, whose weights begin at values[at], for the panel at x[base]."""
    row0, row1, row2 = spread(zero_f32()), spread(zero_f32()), spread(zero_f32())
    row3, row4, row5 = spread(zero_f32()), spread(zero_f32()), spread(zero_f32())
    for c in range(k):
        row, here = load_row(x, base + c * width()), at + 6 * c
        prefetcht0(values, here + AHEAD)
        row0 = fused(row, spread(vbroadcastss(values, here)), row0)
        row1 = fused(row, spread(vbroadcastss(values, here + 1)), row1)
        row2 = fused(row, spread(vbroadcastss(values, here + 2)), row2)
        row3 = fused(row, spread(vbroadcastss(values, here + 3)), row3)
        row4 = fused(row, spread(vbroadcastss(values, here + 4)), row4)
        row5 = fused(row, spread(vbroadcastss(values, here + 5)), row5)
    return row0, row1, row2, row3, row4, row5


@part
def biased(acc, bias, m):
    """The layer's output at channels m ... m + 5."""
    return (
        add(acc[0], spread(vbroadcastss(bias, m))),
        add(acc[1], spread(vbroadcastss(bias, m + 1))),
        add(acc[2], spread(vbroadcastss(bias, m + 2))),
        add(acc[3], spread(vbroadcastss(bias, m + 3))),
        add(acc[4], spread(vbroadcastss(bias, m + 4))),
        add(acc[5], spread(vbroadcastss(bias, m + 5))),
    )


@kernel
def linear_f32_to_codes(values, bias, step, x, k, out):
    """x: f32 (P k W,); values: of ``broadcast_rows``; bias, step: f32 (M',), M' = M up to a multiple of 6; out: (P M
    W,), M even."""
    w, tiles = width(), bias.size // 6
    panels = x.size // (w * k)
    channels = out.size // (w * panels)
    for task in numba.prange(panels * tiles):
        panel, m = task // tiles, 6 * (task % tiles)
        acc = product(values, m * k, k, x, panel * k * w)
        store_six(out, (panel * channels + m) * w, biased(acc, bias, m), channels, step, m)


STORES = stores(linear_f32_to_codes)
