"""From scores to a mask of what is kept, per layer or over all layers.

    keep = score > the pruned-th smallest score                            n scores
    pruned = n - round(density n)                                          topk_mask: ties of the rounding to even
    pruned = int(sparsity n)                                               kth_mask: what others count

Contract. A score equal to the threshold is pruned, so ties can prune more than asked, never less. Density 1 keeps
everything, density 0 nothing. ``kth_mask`` counts as Intel's Model Compression Research Package (magnitude_method.py)
and Intel Neural Compressor v2.5 (patterns/nxm.py) do; rounding the kept count instead avoids its trap: 1 - 0.9 is
0.0999..., and of 10 scores int(0.0999... 10) prunes none. The ranking of Intel Neural Compressor over all layers, with
its limit per layer, is ``inc_global``.
"""

from collections.abc import Mapping

import numpy as np

from refimpl import check


def cutoff(scores: np.ndarray, density: float) -> np.float64:
    """The largest score that is pruned; -inf where nothing is. scores: float, any shape, not empty."""
    check.dtype("scores", scores, *check.FLOATS)
    check.finite("scores", scores)
    check.fraction("density", density)
    return kth_smallest(scores, scores.size - round(density * scores.size))


def kth_smallest(scores: np.ndarray, k: int) -> np.float64:
    """The k-th smallest score, from 1; -inf for k = 0. scores: float, any shape, at least k of them."""
    # A NumPy scalar, not a float: comparing f32 scores with a Python float would round it to f32.
    return np.float64(np.partition(scores, k - 1, axis=None)[k - 1] if k else -np.inf)


def topk_mask(scores: np.ndarray, density: float) -> np.ndarray:
    """Keep the share ``density`` of one layer with the highest scores. float (...) -> bool (...).

    >>> topk_mask(np.array([3.0, 1.0, 2.0, 1.0]), 0.75)  # one to prune, but two tie for last
    array([ True, False,  True, False])
    """
    return scores > cutoff(scores, density)


def kth_mask(scores: np.ndarray, sparsity: float) -> np.ndarray:
    """Prune int(sparsity n) scores and what ties with the last of them. float (...) -> bool (...).

    >>> kth_mask(np.arange(10.0), 1 - 0.9).sum(), topk_mask(np.arange(10.0), 0.9).sum()
    (np.int64(10), np.int64(9))
    """
    check.dtype("scores", scores, *check.FLOATS)
    check.finite("scores", scores)
    check.fraction("sparsity", sparsity)
    return scores > kth_smallest(scores, int(sparsity * scores.size))


def global_topk_masks(scores: Mapping[str, np.ndarray], density: float) -> dict[str, np.ndarray]:
    """The same with one ranking over all layers: name -> float (...) gives name -> bool (...)."""
    threshold = cutoff(np.concatenate([layer.ravel() for layer in scores.values()]), density)
    return {name: layer > threshold for name, layer in scores.items()}
