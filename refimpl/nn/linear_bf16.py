"""Linear layer with bf16 operands: y = bf16(x) Wᵀ + b.

Contract. x is rounded to bf16 by ``vcvtneps2bf16``, W is stored so; the product is ``gemm_bf16``, to the bit; then one
addition in f32. ``bounds_bf16.linear_bf16`` bounds the distance from the exact layer of the rounded operands.
"""

from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.isa.bf16 import vcvtneps2bf16
from refimpl.nn.gemm_bf16 import gemm_bf16
from refimpl.nn.params import Linear


class Bf16Linear(NamedTuple):
    """weight: u16 (M, K), bf16; bias: f32 (M,)."""

    weight: np.ndarray
    bias: np.ndarray


def round_weight(p: Linear) -> Bf16Linear:
    """A layer's f32 weight to the nearest bf16, ties to even; the bias stays f32."""
    return Bf16Linear(vcvtneps2bf16(p.weight), p.bias)


def linear_bf16(x: np.ndarray, p: Bf16Linear) -> np.ndarray:
    """x: f32 (..., K) -> f32 (..., M)."""
    check.dtype("x", x, np.float32)
    check.dtype("bias", p.bias, np.float32)
    check.shape("weight", p.weight, ("M", "K"))
    check.shape("bias", p.bias, (p.weight.shape[0],))
    check.last_dim("x", x, p.weight.shape[1])
    rows = vcvtneps2bf16(x.reshape(-1, x.shape[-1]))
    return (gemm_bf16(rows, p.weight) + p.bias).reshape(*x.shape[:-1], -1)
