"""From scores to a mask of what is kept, per layer or over all layers.

    pruned = n - round(density n)                  n scores, ties of the rounding to even
    keep   = score > the pruned-th smallest score

Contract. A score equal to the threshold is pruned, so ties can prune more than asked, never less. Density 1 keeps
everything, density 0 nothing. Rounding the kept count avoids the trap of int(sparsity * n), where 1 - 0.9 becomes
0.0999...; otherwise this is the rule of Intel's Model Compression Research Package (magnitude_method.py) and of Intel
Neural Compressor v2.5 (patterns/nxm.py).
"""

from collections.abc import Mapping

import numpy as np

from refimpl import check


def cutoff(scores: np.ndarray, density: float) -> np.float64:
    """The largest score that is pruned; -inf where nothing is. scores: float, any shape, not empty."""
    check.dtype("scores", scores, *check.FLOATS)
    check.finite("scores", scores)
    check.fraction("density", density)
    pruned = scores.size - round(density * scores.size)
    # A NumPy scalar, not a float: comparing f32 scores with a Python float would round it to f32.
    return np.float64(np.partition(scores, pruned - 1, axis=None)[pruned - 1] if pruned else -np.inf)


def topk_mask(scores: np.ndarray, density: float) -> np.ndarray:
    """Keep the share ``density`` of one layer with the highest scores. float (...) -> bool (...).

    >>> topk_mask(np.array([3.0, 1.0, 2.0, 1.0]), 0.75)  # one to prune, but two tie for last
    array([ True, False,  True, False])
    """
    return scores > cutoff(scores, density)


def global_topk_masks(scores: Mapping[str, np.ndarray], density: float) -> dict[str, np.ndarray]:
    """The same with one ranking over all layers: name -> float (...) gives name -> bool (...)."""
    threshold = cutoff(np.concatenate([layer.ravel() for layer in scores.values()]), density)
    return {name: layer > threshold for name, layer in scores.items()}
