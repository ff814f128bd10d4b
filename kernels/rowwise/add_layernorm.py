"""Layer normalization of each row of a residual sum: layernorm(x + residual), the pair that every engine fuses.

Contract. x + residual is rounded to f32, kept where the result will be, and normalized in place by ``layernorm``. Equal
bits everywhere. Oracle: ``refimpl.nn.layernorm`` of the exact sum in f64, within ``bounds.add_layernorm``.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from refimpl import bounds, check
from refimpl.kernels.rowwise import layernorm, matrices
from refimpl.kernels.rowwise.layernorm import layernorm_row, wide
from refimpl.kernels.rowwise.record import RowKernel
from refimpl.kernels.simd.instructions.f32 import vaddps, vmovups_load_first, vmovups_store_first, zero_f32
from refimpl.kernels.simd.threefold import kernel, part
from refimpl.nn.layernorm import layernorm as layernorm_oracle
from refimpl.nn.params import Norm


@part
def add_row(x, y, at, d, out):
    """x + y of the d numbers at ``at``."""
    for i in range(at, at + d, 16):
        count = at + d - i
        total = vaddps(vmovups_load_first(x, i, count, zero_f32()), vmovups_load_first(y, i, count, zero_f32()))
        vmovups_store_first(out, i, total, count)


@kernel
def add_layernorm_rows(x, residual, d, length, weight, bias, eps, out):
    """x, residual, out: f32 (N d,); weight, bias: f32 (d,); length: d as f32."""
    for row in numba.prange(x.size // d):
        add_row(x, residual, row * d, d, out)
        layernorm_row(out, row * d, d, length, weight, bias, eps, out)


def validate(x: np.ndarray, residual: np.ndarray, p: Norm) -> None:
    """What ``layernorm`` needs, and residual: f32 (N, D), finite."""
    layernorm.validate(x, p)
    matrices.validate("residual", residual)
    check.shape("residual", residual, x.shape)


def call(execution: Callable[..., Any], x: np.ndarray, residual: np.ndarray, p: Norm) -> np.ndarray:
    """f32 (N, D), (N, D) -> f32 (N, D)."""

    def with_residual(flat, *rest):
        execution(flat, matrices.flat(residual), *rest)

    return layernorm.call(with_residual, x, p)


ADD_LAYERNORM = RowKernel(
    "add_layernorm",
    lambda x, residual, p: layernorm_oracle(x.astype(np.float64) + residual, wide(p)),
    bounds.add_layernorm,
    validate,
    add_layernorm_rows,
    call,
)
