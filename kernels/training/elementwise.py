"""Element by element: sums, and dropout.

Contract. The bits of ``refimpl.nn``: each operation rounds to f32, none is fused.
"""

import numba
import numpy as np

from refimpl.kernels.simd.threefold import kernel

BLOCK = 1 << 14


@kernel
def add(x, y, out):
    """x, y, out: f32 (n,)."""
    for start in numba.prange((x.size + BLOCK - 1) // BLOCK):
        first, last = start * BLOCK, min(start * BLOCK + BLOCK, x.size)
        xs, ys, outs = x[first:last], y[first:last], out[first:last]
        for i in range(xs.size):
            outs[i] = xs[i] + ys[i]


@kernel
def drop(x, keep, scale, out):
    """x, out: f32 (n,); keep: u8 (n,), 1 or 0; scale: f32."""
    for start in numba.prange((x.size + BLOCK - 1) // BLOCK):
        first, last = start * BLOCK, min(start * BLOCK + BLOCK, x.size)
        xs, keeps, outs = x[first:last], keep[first:last], out[first:last]
        for i in range(xs.size):
            outs[i] = xs[i] * np.float32(keeps[i]) * scale
