"""GELU: y = x / 2 (1 + erf(x / sqrt 2)).

Contract. h + h * erf(x / sqrt 2), h = 0.5 x, the last two operations fused. Exactly x from x = 4 sqrt 2 on, exactly 0
below -4 sqrt 2. |error| <= GELU_UNITS u |x|, u = 2**-24 (absolute: 1 + erf cancels at negative x), and what subnormal
numbers lose. Equal bits everywhere. Oracle: ``refimpl.nn.gelu`` in f64.

Derivation, for the factor 1 + erf in [0, 2]: erf 16 u; the one rounding of the result, 2 u. 18 u times |x| / 2.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from refimpl.bounds import F32
from refimpl.kernels.rowwise import matrices
from refimpl.kernels.rowwise.erf import erf_sqrt_half
from refimpl.kernels.rowwise.record import RowKernel
from refimpl.kernels.simd.instructions.f32 import (
    broadcast_f32,
    vfmadd,
    vmovups_load_first,
    vmovups_store_first,
    vmulps,
    zero_f32,
)
from refimpl.kernels.simd.threefold import kernel, part
from refimpl.nn.gelu import gelu as gelu_oracle

GELU_UNITS = 9
HALF = np.float32(0.5)


@part
def gelu(x):
    """GELU of sixteen lanes."""
    half = vmulps(broadcast_f32(HALF), x)
    return vfmadd(half, erf_sqrt_half(x), half)


@kernel
def gelu_rows(x, d, out):
    """x, out: f32 (N D,)."""
    for row in numba.prange(x.size // d):
        for i in range(0, d, 16):
            at, count = row * d + i, d - i
            vmovups_store_first(out, at, gelu(vmovups_load_first(x, at, count, zero_f32())), count)


def bound(x: np.ndarray) -> np.ndarray:
    """GELU_UNITS u |x|; subnormal roundings of x P, of 0.5 x, doubled by the factor, and the last."""
    return GELU_UNITS * F32 * np.abs(x.astype(np.float64)) + 4 * 2.0**-149


def oracle(x: np.ndarray) -> np.ndarray:
    """In f64."""
    return gelu_oracle(x.astype(np.float64))


def validate(x: np.ndarray) -> None:
    """x: f32 (N, D), finite."""
    matrices.validate("x", x)


def call(execution: Callable[..., Any], x: np.ndarray) -> np.ndarray:
    """f32 (N, D) -> f32 (N, D)."""
    out = matrices.result(x)
    execution(matrices.flat(x), x.shape[1], out.reshape(-1))
    return out


GELU = RowKernel("gelu", oracle, bound, validate, gelu_rows, call)
