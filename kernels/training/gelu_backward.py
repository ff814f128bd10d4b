"""The gradient of GELU: dx = dy (Phi(x) + x phi(x)); see ``refimpl.nn.gelu``.

Contract. Phi as half + half erf, fused; exp of -x²/2, rounded once; a multiplication by x / sqrt(2 pi), fused into the
sum. Equal bits everywhere. Oracle: ``refimpl.nn.gelu.gelu_backward`` in f64, within ``bound``.
"""

import numba
import numpy as np

from refimpl.bounds import F32
from refimpl.kernels.rowwise.erf import ERF_ULPS, erf_sqrt_half
from refimpl.kernels.rowwise.exp import EXP_ULPS, exp
from refimpl.kernels.simd.instructions.f32 import (
    broadcast_f32,
    vfmadd,
    vmovups_load_first,
    vmovups_store_first,
    vmulps,
    zero_f32,
)
from refimpl.kernels.simd.threefold import kernel, part
from refimpl.nn.gelu import DENSITY_0

HALF, MINUS_HALF, DENSITY = np.float32(0.5), np.float32(-0.5), np.float32(DENSITY_0)


@part
def slope(x):
    """The derivative of GELU, of sixteen lanes."""
    half = broadcast_f32(HALF)
    below = vfmadd(half, erf_sqrt_half(x), half)
    density = exp(vmulps(vmulps(broadcast_f32(MINUS_HALF), x), x))
    return vfmadd(vmulps(broadcast_f32(DENSITY), x), density, below)


@kernel
def gelu_backward_rows(dy, x, d, out):
    """dy, x, out: f32 (N d,)."""
    for row in numba.prange(x.size // d):
        for i in range(0, d, 16):
            at, count = row * d + i, d - i
            lanes = slope(vmovups_load_first(x, at, count, zero_f32()))
            vmovups_store_first(out, at, vmulps(vmovups_load_first(dy, at, count, zero_f32()), lanes), count)


def bound(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Of Phi: erf's error and two roundings of at most 1. Of x phi: -x²/2 is rounded once, which moves phi by u x²/2
    of itself, exp and the three products and constants by 2 EXP_ULPS + 4 units. The last product rounds once. 2**-140
    is for subnormal numbers.
    """
    wide = x.astype(np.float64)
    term = np.abs(wide) * np.exp(-wide * wide / 2) * DENSITY_0
    lanes = F32 * (ERF_ULPS + 2 + term * (wide * wide / 2 + 2 * EXP_ULPS + 4) + 1.2)
    return np.abs(dy.astype(np.float64)) * (lanes * (1 + F32) + F32 * 1.2) + 2.0**-140 * (1 + np.abs(dy))
