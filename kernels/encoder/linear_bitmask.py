"""INT8 linear layers with unstructured weights as bitmask and nonzero bytes, from panel to panel: the contract of
``linear_4x1``, the product of ``linear_dense``.

Each tile of six channels is expanded once, into memory of the thread that does it, and multiplied as if it were dense
for all panels: zeros too. What is saved is memory, for weights and for their traffic, never a multiplication.

Measured on a Zen 5 (3072 x 768, densities of 0.1 to 0.5): 1.27, 1.14 and 1.07 times the time of ``linear_dense`` for
32, 64 and 128 tokens with weights in a cache; with weights from memory, on one thread or on two at once, 1.24 to 1.26
times for 32 tokens and 1.07 to 1.15 for 64, since from 32 tokens on a dense product hides that traffic. So the engine,
whose panels have 32 tokens and more, never chooses this form; it is for who has more weights than memory.
"""

import numba

from refimpl.kernels.encoder.linear_dense import interleave_rows, layers, product
from refimpl.kernels.encoder.rows import width
from refimpl.kernels.encoder.stores import store_six, stores
from refimpl.kernels.simd.instructions.expand import kmovq_load, popcnt, vpexpandb
from refimpl.kernels.simd.instructions.memory import prefetcht0, vmovdqu8_store
from refimpl.kernels.simd.threefold import kernel, part
from refimpl.kernels.spgemm_bitmask_u8s8s32 import AHEAD, MASK_BYTES


@part
def expand(values, at, masks, first, count, tile, to):
    """The bytes of ``count`` masks from masks[first], whose values begin at values[at], into tile[to]."""
    for i in range(first, first + count):
        mask = kmovq_load(masks, i)
        prefetcht0(masks, i + AHEAD // MASK_BYTES)
        prefetcht0(values, at + AHEAD)
        vmovdqu8_store(tile, to + 64 * (i - first), vpexpandb(values, at, mask))
        at = at + popcnt(mask)


@kernel
def linear_bitmask_to_codes(starts, masks, values, start, scale, bias, step, x, k, quads, tile, out):
    """As ``linear_dense``; starts, masks, values: of ``bitmask_rows``; tile: s8, scratch for 64 bytes a mask of one
    tile, as often as there are threads."""
    w, tiles = width(), start.size // 6
    panels, count = x.size // (w * k), masks.size // tiles
    channels, workers = out.size // (w * panels), tile.size // (64 * count)
    for panel in numba.prange(panels):
        interleave_rows(x, panel * k * w, quads, panel * k * w, k)
    for worker in numba.prange(workers):
        here = 64 * count * worker
        for t in range(worker, tiles, workers):
            expand(values, starts[t], masks, t * count, count, tile, here)
            for panel in range(panels):
                acc = product(tile, here, k // 4, start, 6 * t, quads, panel * k * w)
                at = (panel * channels + 6 * t) * w
                store_six(out, at, layers(acc, scale, bias, 6 * t), channels, step, 6 * t)


STORES = stores(linear_bitmask_to_codes)
