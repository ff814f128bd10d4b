"""The gradient of softmax, row by row: dx = y (dy - sum of dy y), y the softmax.

Contract. The sum goes through sixteen running sums, fused, and then by halves, as in ``rowwise.softmax``. Equal bits
everywhere. Oracle: ``refimpl.nn.softmax.softmax_backward`` in f64, within ``bound``.
"""

import numba
import numpy as np

from refimpl.bounds import gamma
from refimpl.kernels.simd.instructions.f32 import (
    broadcast_f32,
    reduce_add,
    vfmadd,
    vmovups_load_first,
    vmovups_store_first,
    vmulps,
    vsubps,
    zero_f32,
)
from refimpl.kernels.simd.threefold import kernel


@kernel
def softmax_backward_rows(dy, y, d, out):
    """dy, y, out: f32 (N d,)."""
    for row in numba.prange(y.size // d):
        at, total = row * d, zero_f32()
        for i in range(0, d, 16):
            g = vmovups_load_first(dy, at + i, d - i, zero_f32())
            total = vfmadd(g, vmovups_load_first(y, at + i, d - i, zero_f32()), total)
        total = broadcast_f32(reduce_add(total))
        for i in range(0, d, 16):
            rest = vsubps(vmovups_load_first(dy, at + i, d - i, zero_f32()), total)
            vmovups_store_first(out, at + i, vmulps(vmovups_load_first(y, at + i, d - i, zero_f32()), rest), d - i)


def bound(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The sum passes ceil(D / 16) fused additions and four by halves; difference and product round once each."""
    wide, y = dy.astype(np.float64), y.astype(np.float64)
    size = np.abs(wide * y).sum(-1, keepdims=True)
    summed = gamma(-(-y.shape[-1] // 16) + 4) * size
    rest = np.abs(wide - (wide * y).sum(-1, keepdims=True))
    return y * (summed + (rest + summed) * gamma(2)) + 2.0**-140
