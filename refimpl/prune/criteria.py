"""What a weight is worth: a score per element, the lowest of which are pruned.

    magnitude        |w|
    gradient         |g|                                   g = dL/dw of the last step
    snip             |w g|                                 how much the loss changes, to first order, if w becomes 0
    snip_momentum    score = a score + b |w g|             at every step, from zeros
    movement         score = score - w g                   at every step, from zeros: what moves away from 0 is kept

Contract. Elementwise, in the dtype of w, one rounding per operation in the order written. Scores of blocks are
reductions of these (``blocks.block_mean``, ``block_sum``, ``block_max``).

Intel Neural Compressor v2.5 says two things of a and b: its code (pruner/criteria.py) has a = 0.9 and b = 1, so an old
step is forgotten; its README has a = 1 and b = 0.9, so nothing is, and every step counts alike. Hence two functions.
Movement is the sum of Sanh et al. without its rate, which no ranking sees; their code learns the scores by AdamW, where
each step is of about one size: ``models.recipes.methods.top_scores``. Source: criteria.py there; SNIP, arXiv
1810.02340, equation 4; movement pruning, arXiv 2005.07683, section 3.
"""

import numpy as np

from refimpl import check

MOMENTUM = 0.9


def magnitude(w: np.ndarray) -> np.ndarray:
    """|w|, float (...) -> the same dtype and shape."""
    check.dtype("w", w, *check.FLOATS)
    return np.abs(w)


def gradient(dw: np.ndarray) -> np.ndarray:
    """|dw|, float (...) -> the same dtype and shape."""
    check.dtype("dw", dw, *check.FLOATS)
    return np.abs(dw)


def snip(w: np.ndarray, dw: np.ndarray) -> np.ndarray:
    """|w dw|, float (...) -> the same dtype and shape."""
    check.dtype("w", w, *check.FLOATS)
    _same("dw", dw, w)
    return np.abs(w * dw)


def snip_momentum_inc_code(scores: np.ndarray, w: np.ndarray, dw: np.ndarray) -> np.ndarray:
    """0.9 scores + |w dw|: what Intel Neural Compressor computes. float (...), all of one dtype and shape.

    >>> snip_momentum_inc_code(np.array([10.0]), np.array([-2.0]), np.array([0.5]))
    array([10.])
    """
    _same("scores", scores, w)
    return scores * w.dtype.type(MOMENTUM) + snip(w, dw)


def snip_momentum_inc_readme(scores: np.ndarray, w: np.ndarray, dw: np.ndarray) -> np.ndarray:
    """Scores + 0.9 |w dw|: what Intel Neural Compressor documents. float (...), all of one dtype and shape.

    >>> snip_momentum_inc_readme(np.array([10.0]), np.array([-2.0]), np.array([0.5]))
    array([10.9])
    """
    _same("scores", scores, w)
    return scores + snip(w, dw) * w.dtype.type(MOMENTUM)


def movement(scores: np.ndarray, w: np.ndarray, dw: np.ndarray) -> np.ndarray:
    """Scores - w dw, w and dw of all weights, pruned or not. float (...), all of one dtype and shape.

    >>> movement(np.array([1.0, 1.0]), np.array([2.0, 2.0]), np.array([0.5, -0.5]))
    array([0., 2.])
    """
    _same("scores", scores, w)
    _same("dw", dw, w)
    return scores - w * dw


def _same(name: str, array: np.ndarray, w: np.ndarray) -> None:
    check.same_dtype(name, array, w)
    check.shape(name, array, w.shape)
