"""Movement sparsity as NNCF trains it: an importance score per block, learned with the weight.

    S0 = 0                                                one score a block of ``factors``; the bias has its own
    t  = min(threshold, q(0.98))                          q: quantile of the scores, each counted once an element
    W' = W mask,   mask = expand(S) > t                   strict
    dW = dW' mask                                         a pruned weight gets no gradient ...
    dS = sum over the block of dW' W                      ... but its score does: as if d mask / d S were 1
    R  = lambda / 2 (|block| mean sigmoid(S) + rows mean sigmoid(S_bias))          the mean over layers is added

The quantile keeps 2 % of a layer, but not where scores tie with it or a block is larger than that: with the top block
on both sides of the quantile, everything goes. A score grows while its weights move away from zero (dW' and W have
opposite signs). Blocks, by NNCF's names: "fine" (1, 1); "block" (r, c); "per_dim" along an axis: ``per_dim``. A bias is
divided by the rows of a block alone: factors (r,). Weight and bias are two arrays with the same functions.

Contract. dtype of the weight, but for the threshold: the quantile is linear between the two scores around position
0.98 (n - 1) of the n elements, in f64, and compared in f64 (torch has it in f32: of f32 scores the same mask, unless
the two are neighbours among the floats). Products and sums of a block in any order, in the dtype of the weight:
|error| <= gamma(|block|) sum |dW' W|. Evaluation, and training once scores are frozen: the last mask, with
``masked_weight``. Source: NNCF v2.4 to v2.19, experimental/torch/sparsity/movement/layers.py, functions.py, loss.py;
Sanh et al., arXiv 2005.07683, sections 3 and 4; Lagunas et al., arXiv 2109.04838.
"""

import numpy as np
from scipy.special import expit

from refimpl import check
from refimpl.prune.blocks import block_count, expand
from refimpl.prune.masked import masked_weight, masked_weight_backward, straight_through

MAX_SPARSITY = 0.98
"""The quantile of the scores above which no threshold rises."""
FINE = (1, 1)
LAYER_FACTOR = 0.5
"""layerwise_loss_lambda."""


def per_dim(shape: tuple[int, int], axis: int) -> tuple[int, int]:
    """The block that makes one score per row (axis 0) or per column (axis 1) of a weight.

    >>> per_dim((3072, 768), 0), per_dim((768, 3072), 1)
    ((1, 768), (768, 1))
    """
    if axis not in (0, 1):
        raise ValueError(f"axis is {axis}; need 0 or 1")
    return (1, shape[1]) if axis == 0 else (shape[0], 1)


def zero_scores(weight: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
    """The scores that training starts from, one a block, in the dtype of the weight or bias."""
    check.dtype("weight", weight, *check.FLOATS)
    return np.zeros(block_count(weight, factors), weight.dtype)


def guarded_threshold(scores: np.ndarray, factors: tuple[int, ...], threshold: float) -> float:
    """min(threshold, 0.98 quantile of the expanded scores). scores: float (m, k)."""
    check.dtype("scores", scores, *check.FLOATS)
    check.finite("scores", scores)
    size = int(np.prod(factors))
    place = MAX_SPARSITY * (scores.size * size - 1)
    low, part = int(place), place - int(place)
    # Element j of the sorted expanded scores is element j // size of the sorted ones.
    ends = [low // size, min((low + 1) // size, scores.size - 1)]
    below, above = np.partition(scores, ends, axis=None)[ends].astype(np.float64)
    return min(threshold, float(below + part * (above - below)))


def movement_mask(scores: np.ndarray, factors: tuple[int, ...], threshold: float) -> np.ndarray:
    """Which elements live. scores: float (m, k) of blocks -> bool (M, K); or (m,) -> (M,) of a bias.

    >>> movement_mask(np.array([[0.5], [0.0], [-1.0]]), (1, 2), 0.0)
    array([[ True,  True],
           [False, False],
           [False, False]])
    """
    return expand(scores > np.float64(guarded_threshold(scores, factors, threshold)), factors)


def movement_weight(
    weight: np.ndarray, scores: np.ndarray, factors: tuple[int, ...], threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The weight, or bias, that the product sees, and its mask.

    Parameters
    ----------
    weight : float (M, K), or (M,) for a bias
    scores : of the same dtype, one a block
    factors : the block's rows and columns, or (rows,)
    threshold : -inf prunes nothing

    Returns
    -------
    float and bool (M, K) or (M,)
    """
    check.dtype("weight", weight, *check.FLOATS)
    check.same_dtype("scores", scores, weight)
    check.shape("scores", scores, block_count(weight, factors))
    mask = movement_mask(scores, factors, threshold)
    return masked_weight(weight, mask), mask


def movement_weight_backward(
    dweight: np.ndarray, weight: np.ndarray, mask: np.ndarray, factors: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of the weight and of the scores, from that of the masked weight. float (M, K) -> (M, K), (m, k)."""
    return masked_weight_backward(dweight, mask), straight_through(dweight, weight, factors)


def regularization(scores: np.ndarray, factors: tuple[int, ...], factor: float) -> float:
    """R of one weight or bias, in f64: factor / 2 |block| mean sigmoid(S). A layer's is the sum of its two."""
    check.dtype("scores", scores, *check.FLOATS)
    return float(factor * LAYER_FACTOR * np.prod(factors) * expit(scores.astype(np.float64)).mean())


def regularization_backward(scores: np.ndarray, factors: tuple[int, ...], factor: float) -> np.ndarray:
    """dR / dS, in the dtype of the scores: factor / 2 |block| sigmoid'(S) / n. float (m, k) -> (m, k).

    The derivative of the mean over layers is this, divided by their number.
    """
    check.dtype("scores", scores, *check.FLOATS)
    s = expit(scores.astype(np.float64))
    return (factor * LAYER_FACTOR * np.prod(factors) / scores.size * s * (1 - s)).astype(scores.dtype)
