"""Layer normalization over the last dimension: y = (x - mean) / sqrt(var + eps) * weight + bias.

    x^ = (x - mean) / sqrt(var + eps)      g = dy weight
    dx = (g - mean g - x^ mean(g x^)) / sqrt(var + eps)      dweight = sum dy x^      dbias = sum dy

Contract. Two passes: the mean first, then the mean of the squared deviations (biased variance). eps is rounded to
the dtype of x. Error: ``bounds.layernorm``. Source: Ba, Kiros, Hinton, arXiv 1607.06450, equation 3.
"""

import numpy as np

from refimpl import check
from refimpl.nn.params import Norm


def layernorm(x: np.ndarray, p: Norm) -> np.ndarray:
    """x: float (..., D); weight, bias (D,) of the same dtype; returns float (..., D)."""
    check.dtype("x", x, *check.FLOATS)
    check.same_dtype("weight", p.weight, x)
    check.same_dtype("bias", p.bias, x)
    check.shape("weight", p.weight, ("D",))
    check.shape("bias", p.bias, p.weight.shape)
    check.last_dim("x", x, p.weight.shape[0])
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + x.dtype.type(p.eps)) * p.weight + p.bias


def layernorm_backward(dy: np.ndarray, x: np.ndarray, p: Norm) -> tuple[np.ndarray, Norm]:
    """dy: float (..., D) -> dx (..., D), and dweight, dbias (D,) with the eps of ``p``. The means are over D, the sums
    over tokens."""
    check.same_dtype("dy", dy, x)
    check.shape("dy", dy, x.shape)
    centred = x - x.mean(-1, keepdims=True)
    root = np.sqrt((centred * centred).mean(-1, keepdims=True) + x.dtype.type(p.eps))
    normalized, g = centred / root, dy * p.weight
    dx = (g - g.mean(-1, keepdims=True) - normalized * (g * normalized).mean(-1, keepdims=True)) / root
    tokens = tuple(range(x.ndim - 1))
    return dx, Norm((dy * normalized).sum(tokens), dy.sum(tokens), p.eps)
