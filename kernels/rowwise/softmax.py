"""Softmax of each row: y_i = e_i / sum_j e_j, e_i = exp(x_i - max x).

Contract. The maximum is exact. The sum goes through sixteen running sums, lane l of columns l, l + 16, ..., ascending,
then by halves (lane i takes i + 8, i + 4, i + 2, i + 1); then one true division. A score 104 or more below the maximum
gives exactly 0. Equal bits everywhere. Oracle: ``refimpl.nn.softmax`` in f64, within ``bound``.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from refimpl.bounds import F32, gamma
from refimpl.kernels.rowwise import matrices
from refimpl.kernels.rowwise.exp import EXP_ULPS, exp
from refimpl.kernels.rowwise.record import RowKernel
from refimpl.kernels.simd.instructions.f32 import (
    broadcast_f32,
    reduce_add,
    reduce_max,
    vaddps,
    vdivps,
    vmaxps,
    vmovups_load_first,
    vmovups_store_first,
    vsubps,
    zero_f32,
)
from refimpl.kernels.simd.threefold import kernel, part
from refimpl.nn.softmax import softmax as softmax_oracle

MINUS_INFINITY = np.float32(-np.inf)


@part
def softmax_row(x, at, d, out, to):
    """The d scores at x[at] into out[to]; x and out may be the same."""
    absent = broadcast_f32(MINUS_INFINITY)
    most, total = absent, zero_f32()
    for i in range(0, d, 16):
        most = vmaxps(vmovups_load_first(x, at + i, d - i, absent), most)
    most = broadcast_f32(reduce_max(most))
    for i in range(0, d, 16):
        e = exp(vsubps(vmovups_load_first(x, at + i, d - i, absent), most))
        total = vaddps(total, e)
        vmovups_store_first(out, to + i, e, d - i)
    total = broadcast_f32(reduce_add(total))
    for i in range(0, d, 16):
        e = vmovups_load_first(out, to + i, d - i, total)
        vmovups_store_first(out, to + i, vdivps(e, total), d - i)


@kernel
def softmax_rows(x, d, out):
    """x, out: f32 (N D,)."""
    for row in numba.prange(x.size // d):
        softmax_row(x, row * d, d, out, row * d)


def bound(x: np.ndarray) -> np.ndarray:
    """|error|: u |d_i| of the subtraction and exp's own error move e_i, their weighted mean and the additions the sum.

    A sum passes ceil(D / 16) additions and four by halves; the first, to 0, is exact. 2**-148 is for subnormal numbers.
    """
    distance = np.minimum(x.max(-1, keepdims=True).astype(np.float64) - x, 1000)
    e = np.exp(-distance)
    moved = np.expm1(F32 * distance + 2 * EXP_ULPS * F32)
    total = e.sum(-1, keepdims=True)
    summed = (e * moved).sum(-1, keepdims=True) / total
    relative = (1 + moved) * (1 + F32) / (1 - summed - gamma(-(-x.shape[-1] // 16) + 4)) - 1
    return e / total * relative + 2.0**-148


def oracle(x: np.ndarray) -> np.ndarray:
    """In f64."""
    return softmax_oracle(x.astype(np.float64))


def validate(x: np.ndarray) -> None:
    """x: f32 (N, D), finite, at least one column."""
    matrices.validate("x", x)


def call(execution: Callable[..., Any], x: np.ndarray) -> np.ndarray:
    """f32 (N, D) -> f32 (N, D), rows that sum to 1."""
    out = matrices.result(x)
    execution(matrices.flat(x), x.shape[1], out.reshape(-1))
    return out


SOFTMAX = RowKernel("softmax", oracle, bound, validate, softmax_rows, call)
