"""A weight under a mask, in training: what the product sees, and what comes back.

    W' = W mask                              dW = dW' mask
    learned masks                            dmask = sum over the block of dW' W, taken as the gradient of the scores

The mask is bool, or of the dtype of W where it is soft (L0). Contract. Exact, but for the sum: in the dtype of W, in
any order, |error| <= gamma(|block|) sum |dW' W|. A pruned weight keeps its value but gets no gradient: plain pruning
has no straight-through estimator, so a weight comes back only if a mask made anew from |W| keeps it, because others
shrank below it. With learned masks the score, and so the mask, can come back by itself. Source: Model Compression
Research Package, pruning/methods/method.py; Intel Neural Compressor v2.5, pruner/pruners/base.py (mask_weights), which
overwrites what is pruned with zeros; Sanh et al., arXiv 2005.07683, section 3.
"""

import numpy as np

from refimpl import check
from refimpl.prune.blocks import block_total


def masked_weight(weight: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """weight: float (...); mask: bool, or of the weight's dtype, of that shape. Returns float (...)."""
    _check("weight", weight, mask)
    return weight * mask


def masked_weight_backward(dweight: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The gradient of the weight, float (...), from that of the masked weight."""
    _check("dweight", dweight, mask)
    return dweight * mask


def straight_through(dweight: np.ndarray, weight: np.ndarray, block: tuple[int, ...]) -> np.ndarray:
    """The gradient of a learned mask, and of its scores as if the mask were they: float (M, K) -> (m, k) of blocks.

    dweight is the gradient of the masked weight; weight is not masked.
    """
    check.dtype("weight", weight, *check.FLOATS)
    check.same_dtype("dweight", dweight, weight)
    check.shape("dweight", dweight, weight.shape)
    return block_total(dweight * weight, block)


def _check(name: str, array: np.ndarray, mask: np.ndarray) -> None:
    check.dtype(name, array, *check.FLOATS)
    check.dtype("mask", mask, np.bool_, array.dtype.type)
    check.shape("mask", mask, array.shape)
