"""BF16 linear layers, from panel to panel: f32 in, rounded to bf16 on the way into the product, f32 sums.

    acc[m, n] = ``refimpl.nn.gemm_bf16`` of bf16(x[k, n]) and w[m, k]      x: f32 (P, K, W), w: bf16
    y         = acc + bias[m]                                              then ``stores``

Contract. Bits of ``refimpl.nn.linear_bf16`` and ``stores`` one after the other: pairs of input channels ascending, in
each pair the upper one first, the bias last. Equal bits everywhere, and in every lane.

The tile of ``linear_f32``. First every panel's rows are rounded and brought together two by two, once for all tiles;
then a step of a tile takes two input channels: 4 loads, 6 broadcasts, 24 vdpbf16ps.
"""

import numba

from refimpl.kernels.encoder.linear_f32 import biased
from refimpl.kernels.encoder.rows import dot_pairs, load_pairs, load_row, paired, save_pairs, spread, width
from refimpl.kernels.encoder.stores import store_six, stores
from refimpl.kernels.simd.instructions.bf16 import vpbroadcastd_pair
from refimpl.kernels.simd.instructions.f32 import zero_f32
from refimpl.kernels.simd.instructions.memory import prefetcht0
from refimpl.kernels.simd.threefold import kernel, part

AHEAD = 2048
"""Elements: weights that come from memory are asked for this much before their turn."""


@part
def product(values, at, k, pairs, base):
    """Accumulators of six channels, whose weights begin at values[at], for the panel at pairs[base]."""
    row0, row1, row2 = spread(zero_f32()), spread(zero_f32()), spread(zero_f32())
    row3, row4, row5 = spread(zero_f32()), spread(zero_f32()), spread(zero_f32())
    for c in range(0, k, 2):
        pair, here = load_pairs(pairs, base + c * width()), at + 6 * c
        prefetcht0(values, here + AHEAD)
        row0 = dot_pairs(row0, pair, spread(vpbroadcastd_pair(values, here)))
        row1 = dot_pairs(row1, pair, spread(vpbroadcastd_pair(values, here + 2)))
        row2 = dot_pairs(row2, pair, spread(vpbroadcastd_pair(values, here + 4)))
        row3 = dot_pairs(row3, pair, spread(vpbroadcastd_pair(values, here + 6)))
        row4 = dot_pairs(row4, pair, spread(vpbroadcastd_pair(values, here + 8)))
        row5 = dot_pairs(row5, pair, spread(vpbroadcastd_pair(values, here + 10)))
    return row0, row1, row2, row3, row4, row5


@kernel
def linear_bf16_to_codes(values, bias, step, x, k, pairs, out):
    """As ``linear_f32``, k even; values: u16, of ``broadcast_rows.pack_pairs``; pairs: u16, scratch as large as x."""
    w, tiles = width(), bias.size // 6
    panels = x.size // (w * k)
    channels = out.size // (w * panels)
    for panel in numba.prange(panels):
        for c in range(0, k, 2):
            at = (panel * k + c) * w
            save_pairs(pairs, at, paired(load_row(x, at), load_row(x, at + w)))
    for task in numba.prange(panels * tiles):
        panel, m = task // tiles, 6 * (task % tiles)
        acc = product(values, m * k, k, pairs, panel * k * w)
        store_six(out, (panel * channels + m) * w, biased(acc, bias, m), channels, step, m)


STORES = stores(linear_bf16_to_codes)
