"""Products of f32 matrices for linear layers and their gradients: rows times packed panels of 64 columns.

    out[r, c] = fma(a[r, s], b[s, c], out[r, c])   s = 0, 1, ..., S - 1, from +0;   then + bias[c]

    panels of b:  (ceil(C / 64), S, 64)      panels[c // 64, s, c % 64] = b[s, c]           columns from C on are +0
    tiles of a:   (ceil(R / 6), S, 6)        tiles[r // 6, s, r % 6] = a[r, s]              rows from R on are +0

Contract. The bits depend on the order, and this is the order: s ascending, each step one fused multiply-add, the bias
last. So they depend on no number of threads. Within ``bounds.linear`` of the exact result. Equal bits everywhere.

A tile is 6 rows and 64 columns: 24 accumulators. A step takes 4 loads, 6 broadcasts and 24 multiply-adds. A panel stays
in the second-level cache while the rows pass by. a is read where it lies if s is its last dimension (y = x Wᵀ, dx =
dy W); if it is the first (dW = dyᵀ x), it is copied to tiles.
"""

import numba

from refimpl.kernels.encoder.rows import add, fused, load_row, spread, store_row
from refimpl.kernels.simd.instructions.f32 import (
    vaddps,
    vbroadcastss,
    vmovups_load_first,
    vmovups_store_first,
    zero_f32,
)
from refimpl.kernels.simd.threefold import kernel, part

TILE, PANEL = 6, 64
CHUNK = 32
"""Tiles in a task."""
STRIPE, BLOCK = 16, 16
"""Tiles and steps that are copied together, from 6 cache lines of each of 16 rows."""


@part
def product(a, at, step, b, base, steps):
    """Accumulators of six rows that begin at a[at], for the panel at b[base]."""
    row0, row1, row2 = spread(zero_f32()), spread(zero_f32()), spread(zero_f32())
    row3, row4, row5 = spread(zero_f32()), spread(zero_f32()), spread(zero_f32())
    for s in range(steps):
        row, here = load_row(b, base + 64 * s), step * s
        row0 = fused(spread(vbroadcastss(a, at[0] + here)), row, row0)
        row1 = fused(spread(vbroadcastss(a, at[1] + here)), row, row1)
        row2 = fused(spread(vbroadcastss(a, at[2] + here)), row, row2)
        row3 = fused(spread(vbroadcastss(a, at[3] + here)), row, row3)
        row4 = fused(spread(vbroadcastss(a, at[4] + here)), row, row4)
        row5 = fused(spread(vbroadcastss(a, at[5] + here)), row, row5)
    return row0, row1, row2, row3, row4, row5


@part
def starts(at, apart, last):
    """Of six rows, so far apart; beyond the last, the last again."""
    return (
        at,
        at + apart * min(1, last),
        at + apart * min(2, last),
        at + apart * min(3, last),
        at + apart * min(4, last),
        at + apart * min(5, last),
    )


@part
def store(out, at, row, left):
    """The first ``left`` columns."""
    if left >= 64:
        store_row(out, at, row)
    else:
        for j in range((left + 15) // 16):
            vmovups_store_first(out, at + 16 * j, row[j], left - 16 * j)


@part
def load_first_row(x, at, left):
    """64 columns, zeros from ``left`` on."""
    zero = zero_f32()
    return (
        vmovups_load_first(x, at, left, zero),
        zero if left <= 16 else vmovups_load_first(x, at + 16, left - 16, zero),
        zero if left <= 32 else vmovups_load_first(x, at + 32, left - 32, zero),
        zero if left <= 48 else vmovups_load_first(x, at + 48, left - 48, zero),
    )


@kernel
def multiply_rows(a, tile, apart, step, b, bias, rows, out):
    """out: f32 (R C,); bias: f32 (C,); b: panels. a[tile (r // 6) + apart (r % 6) + step s] is a[r, s]."""
    columns = bias.size
    panels, tiles = (columns + 63) // 64, (rows + 5) // 6
    steps, chunks = b.size // (panels * 64), (tiles + CHUNK - 1) // CHUNK
    for task in numba.prange(panels * chunks):
        panel, chunk = task // chunks, task % chunks
        c, base = panel * 64, panel * 64 * steps
        added = load_first_row(bias, c, columns - c)
        for t in range(chunk * CHUNK, min(chunk * CHUNK + CHUNK, tiles)):
            last = min(rows - 6 * t, 6) - 1
            acc = product(a, starts(t * tile, apart, last), step, b, base, steps)
            for i in range(last + 1):
                store(out, (6 * t + i) * columns + c, add(acc[i], added), columns - c)


@kernel
def panels_of_rows(x, rows, columns, out):
    """x: f32 (S C,), b itself -> panels."""
    for panel in numba.prange((columns + 63) // 64):
        c = panel * 64
        for s in range(rows):
            store_row(out, (panel * rows + s) * 64, load_first_row(x, s * columns + c, columns - c))


@kernel
def panels_of_columns(x, columns, steps, out):
    """x: f32 (C S,), b transposed -> panels."""
    for panel in numba.prange((columns + 63) // 64):
        for s in range(steps):
            at = (panel * steps + s) * 64
            for j in range(64):
                out[at + j] = x[min(panel * 64 + j, columns - 1) * steps + s]


@kernel
def tiles_of_columns(x, steps, rows, out, sums):
    """x: f32 (S R,), a transposed -> tiles; and the sum of each row of a, s ascending, into ``sums``: (6 tiles,)."""
    tiles = (rows + 5) // 6
    for stripe in numba.prange((tiles + STRIPE - 1) // STRIPE):
        first, last = stripe * STRIPE, min(stripe * STRIPE + STRIPE, tiles)
        for start in range(0, steps, BLOCK):
            for t in range(first, last):
                total = zero_f32() if start == 0 else vmovups_load_first(sums, 6 * t, 6, zero_f32())
                for s in range(start, min(start + BLOCK, steps)):
                    lanes = vmovups_load_first(x, s * rows + 6 * t, min(rows - 6 * t, 6), zero_f32())
                    total = vaddps(total, lanes)
                    vmovups_store_first(out, (t * steps + s) * 6, lanes, 6)
                vmovups_store_first(sums, 6 * t, total, 6)
