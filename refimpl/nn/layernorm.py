"""Layer normalization over the last dimension: y = (x - mean) / sqrt(var + eps) * weight + bias.

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
