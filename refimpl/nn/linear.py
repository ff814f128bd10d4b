"""Linear layer: y = x Wᵀ + b.

    dx = dy W      dW = sum over tokens of dyᵀ x      db = sum over tokens of dy

Contract. Accumulates in the dtype of x, in any order, with or without fused multiply-add:
|error| <= gamma(K + 1) (|x| |W|ᵀ + |b|), ``bounds.linear``.
"""

import numpy as np

from refimpl import check
from refimpl.nn.params import Linear
from refimpl.nn.taps import NO_TAP, Tap


def linear(x: np.ndarray, p: Linear, tap: Tap = NO_TAP) -> np.ndarray:
    """x: float (..., K); weight (M, K), bias (M,) of the same dtype; returns float (..., M).

    A plain linear layer has no inner values, so ``tap`` sees nothing.
    """
    check.dtype("x", x, *check.FLOATS)
    check.same_dtype("weight", p.weight, x)
    check.same_dtype("bias", p.bias, x)
    check.shape("weight", p.weight, ("M", "K"))
    check.shape("bias", p.bias, (p.weight.shape[0],))
    check.last_dim("x", x, p.weight.shape[1])
    return x @ p.weight.T + p.bias


def linear_backward(dy: np.ndarray, x: np.ndarray, p: Linear) -> tuple[np.ndarray, Linear]:
    """dy: float (..., M) -> dx (..., K), and dW (M, K), db (M,)."""
    check.same_dtype("dy", dy, x)
    check.shape("dy", dy, (*x.shape[:-1], p.weight.shape[0]))
    rows = dy.reshape(-1, dy.shape[-1])
    dx = (rows @ p.weight).reshape(x.shape)
    return dx, Linear(rows.T @ x.reshape(-1, x.shape[-1]), rows.sum(0))
