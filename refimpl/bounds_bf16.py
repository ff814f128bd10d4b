"""How far a linear layer with bf16 operands may be from the exact result: a bound as those of ``bounds``."""

import numpy as np

from refimpl.bounds import add, gemm_bf16
from refimpl.isa.bf16 import from_bf16


def linear_bf16(a: np.ndarray, w: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """a wᵀ + bias of operands that are bf16 already: ``bounds.gemm_bf16``, and one addition in f32."""
    error = gemm_bf16(a, w)
    total = from_bf16(a).astype(np.float64) @ from_bf16(w).T.astype(np.float64) + bias.astype(np.float64)
    return error + add(np.abs(total) + error, np.zeros(()))
