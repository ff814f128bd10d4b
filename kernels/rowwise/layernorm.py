"""Layer normalization of each row.

    y = (x - mean) / sqrt(var + eps) * weight + bias

Contract. Two passes over the row: the mean, then the mean of the squared deviations (fused: sum + c c). Both sums go
through sixteen running sums and then by halves, as in ``softmax``. True divisions by D, and by the rounded square root;
the last multiplication and addition are fused. eps is rounded to f32.
Equal bits everywhere. Oracle: ``refimpl.nn.layernorm`` in f64, within ``bounds.layernorm``.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from refimpl import bounds, check
from refimpl.kernels.rowwise import matrices
from refimpl.kernels.rowwise.record import RowKernel
from refimpl.kernels.simd.instructions.f32 import (
    broadcast_f32,
    reduce_add,
    vaddps,
    vdivps,
    vfmadd,
    vmovups_load_first,
    vmovups_store_first,
    vsqrtps,
    vsubps,
    zero_f32,
)
from refimpl.kernels.simd.threefold import kernel, part
from refimpl.nn.layernorm import layernorm as layernorm_oracle
from refimpl.nn.params import Norm


@part
def layernorm_row(x, at, d, length, weight, bias, eps, out):
    """Normalize the d numbers at x[at] into out[at]; x and out may be the same. length: d as f32."""
    total, squares = zero_f32(), zero_f32()
    for i in range(0, d, 16):
        total = vaddps(total, vmovups_load_first(x, at + i, d - i, zero_f32()))
    mean = vdivps(broadcast_f32(reduce_add(total)), broadcast_f32(length))
    for i in range(0, d, 16):
        c = vsubps(vmovups_load_first(x, at + i, d - i, mean), mean)
        squares = vfmadd(c, c, squares)
    variance = vdivps(broadcast_f32(reduce_add(squares)), broadcast_f32(length))
    root = vsqrtps(vaddps(variance, broadcast_f32(eps)))
    for i in range(0, d, 16):
        c = vsubps(vmovups_load_first(x, at + i, d - i, mean), mean)
        w = vmovups_load_first(weight, i, d - i, zero_f32())
        b = vmovups_load_first(bias, i, d - i, zero_f32())
        vmovups_store_first(out, at + i, vfmadd(vdivps(c, root), w, b), d - i)


@kernel
def layernorm_rows(x, d, length, weight, bias, eps, out):
    """x, out: f32 (N d,); weight, bias: f32 (d,)."""
    for row in numba.prange(x.size // d):
        layernorm_row(x, row * d, d, length, weight, bias, eps, out)


def validate(x: np.ndarray, p: Norm) -> None:
    """x: f32 (N, D); weight, bias: f32 (D,); all finite; eps > 0."""
    matrices.validate("x", x)
    for name in ("weight", "bias"):
        check.dtype(name, getattr(p, name), np.float32)
        check.shape(name, getattr(p, name), x.shape[1:])
        check.finite(name, getattr(p, name))
    if not (np.isfinite(p.eps) and np.float32(p.eps) > 0):
        raise ValueError(f"eps is {p.eps}; need a finite number > 0")


def wide(p: Norm) -> Norm:
    """The parameters in f64."""
    return Norm(p.weight.astype(np.float64), p.bias.astype(np.float64), p.eps)


def call(execution: Callable[..., Any], x: np.ndarray, p: Norm) -> np.ndarray:
    """f32 (N, D) -> f32 (N, D)."""
    out, weight, bias = matrices.result(x), matrices.flat(p.weight), matrices.flat(p.bias)
    d = x.shape[1]
    execution(matrices.flat(x), d, np.float32(d), weight, bias, np.float32(p.eps), out.reshape(-1))
    return out


LAYERNORM = RowKernel(
    "layernorm",
    lambda x, p: layernorm_oracle(x.astype(np.float64), wide(p)),
    lambda x, p: bounds.layernorm(x, p.weight, p.eps, p.bias),
    validate,
    layernorm_rows,
    call,
)
