"""Products of the matrices of all heads, for attention and its gradients.

    out[n, h, r, c] = scale * (sum over s of a[n, h, r, s] b[n, h, s, c]) + added[n, c]

Contract. The sum starts at 0 and goes up in s, each step one fused multiply-add; then a multiplication and an addition.
Within ``bounds.matmul`` of the exact product where scale is 1 and added 0. Equal bits everywhere, on any number of
threads.

Each operand lies anywhere, with one distance between neighbours in each dimension (``*_by``, in elements): heads are
taken from and put into rows of all heads without a copy, and a transposed matrix is another order of distances. Only
b's columns and out's must be neighbours. A block is 4 rows and 32 columns: 8 accumulators.
"""

import numba

from refimpl.kernels.simd.instructions.f32 import (
    broadcast_f32,
    vaddps,
    vbroadcastss,
    vfmadd,
    vmovups_load_first,
    vmovups_store_first,
    vmulps,
    zero_f32,
)
from refimpl.kernels.simd.threefold import kernel, part


@part
def load_pair(x, at, left):
    """32 columns, zeros from ``left`` on."""
    zero = zero_f32()
    high = zero if left <= 16 else vmovups_load_first(x, at + 16, left - 16, zero)
    return vmovups_load_first(x, at, left, zero), high


@part
def fused_pair(x, at, pair, acc):
    """One number times 32 columns, added."""
    one = vbroadcastss(x, at)
    return vfmadd(one, pair[0], acc[0]), vfmadd(one, pair[1], acc[1])


@part
def block(a, at, step, b, base, stride, steps, left):
    """Accumulators of four rows."""
    acc0, acc1 = (zero_f32(), zero_f32()), (zero_f32(), zero_f32())
    acc2, acc3 = (zero_f32(), zero_f32()), (zero_f32(), zero_f32())
    for s in range(steps):
        pair, here = load_pair(b, base + stride * s, left), step * s
        acc0 = fused_pair(a, at[0] + here, pair, acc0)
        acc1 = fused_pair(a, at[1] + here, pair, acc1)
        acc2 = fused_pair(a, at[2] + here, pair, acc2)
        acc3 = fused_pair(a, at[3] + here, pair, acc3)
    return acc0, acc1, acc2, acc3


@part
def store_pair(out, at, pair, scale, added, left):
    """Scaled, added to, the first ``left`` columns."""
    vmovups_store_first(out, at, vaddps(vmulps(pair[0], scale), added[0]), left)
    if left > 16:
        vmovups_store_first(out, at + 16, vaddps(vmulps(pair[1], scale), added[1]), left - 16)


@kernel
def multiply_heads(a, a_by, b, b_by, out, out_by, size, scale, added):
    """a, b, out: f32, flat; ``*_by``: s64 (4,); size: s64 (5,): N, H, R, S, C; added: f32 (N C,)."""
    heads, rows, steps, columns = size[1], size[2], size[3], size[4]
    for task in numba.prange(size[0] * heads):
        n, h = task // heads, task % heads
        a0, b0 = n * a_by[0] + h * a_by[1], n * b_by[0] + h * b_by[1]
        out0, apart = n * out_by[0] + h * out_by[1], a_by[2]
        for c in range(0, columns, 32):
            more = load_pair(added, n * columns + c, columns - c)
            for r in range(0, rows, 4):
                at, last = a0 + r * apart, min(rows - r, 4) - 1
                starts = at, at + apart * min(1, last), at + apart * min(2, last), at + apart * min(3, last)
                acc = block(a, starts, a_by[3], b, b0 + c, b_by[2], steps, columns - c)
                for i in range(last + 1):
                    to = out0 + (r + i) * out_by[2] + c
                    store_pair(out, to, acc[i], broadcast_f32(scale), more, columns - c)


@kernel
def copy_heads(x, by, out, size):
    """x: f32, flat, (N, H, S, C) with distances ``by``: s64 (4,); out: f32 (N H S C,); size: s64 (4,)."""
    heads, steps, columns = size[1], size[2], size[3]
    for task in numba.prange(size[0] * heads):
        start = task // heads * by[0] + task % heads * by[1]
        for s in range(steps):
            for c in range(columns):
                out[(task * steps + s) * columns + c] = x[start + s * by[2] + c * by[3]]
