"""nn_pruning's masks from learned scores, "binarizers", each under its own name.

    topK                 the int(density n) highest scores, exactly that many
    threshold            S > t
    sigmoid threshold    sigmoid(S) > t                       its option is spelled "sigmoied_threshold"
    magnitude            the int(density n) largest |w|, per element; nothing is learned
    L0, in training      s = sigmoid((log u - log(1 - u) + S) / beta);  mask = clip(s (r - l) + l, 0, 1)
    L0, evaluated        s = sigmoid(S), the same mask

All but L0 pass the gradient of the mask on to the scores as it is: ``masked.straight_through``. L0 (hard
concrete) masks are not binary; ``l0_mask_backward`` takes that gradient through them, 0 where the clip holds.
l = -0.1, r = 1.1, beta = 2/3.

In the two threshold rules at least int(0.005 n) + 1 scores shall live: if fewer do, the threshold becomes the
(n - that)-th smallest score S; ties with it go, so equal scores prune everything all the same.

Contract. Scores f32 or f64, one a block; t is compared in f64, sigmoids are computed in f64 (torch's, in f32, may
differ for scores within an ulp of the threshold). Of equal scores topK keeps the first (torch's sort leaves it open).
Source: nn_pruning, modules/binarizer.py and masked_nn.py; Louizos et al., arXiv 1712.01312, equations 10 to 12; Sanh et
al., arXiv 2005.07683.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit

from refimpl import check
from refimpl.prune.masks import kth_smallest

LEAST = 0.005
"""The share of scores that live at least, of which one more is kept: linear_min_parameters."""
LOW, HIGH, BETA = -0.1, 1.1, 2 / 3
"""l, r and beta of the hard concrete distribution."""


def topk_exact_mask(scores: np.ndarray, density: float) -> np.ndarray:
    """Exactly int(density n) live. scores: float (...) -> bool (...).

    >>> topk_exact_mask(np.array([1.0, 3.0, 1.0, 1.0]), 0.5)
    array([ True,  True, False, False])
    """
    check.dtype("scores", scores, *check.FLOATS)
    check.finite("scores", scores)
    check.fraction("density", density)
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores, axis=None, kind="stable")[: int(density * scores.size)]] = True
    return mask.reshape(scores.shape)


def magnitude_exact_mask(w: np.ndarray, density: float) -> np.ndarray:
    """Exactly int(density n) weights live. w: float (M, K) -> bool (M, K)."""
    check.dtype("w", w, *check.FLOATS)
    return topk_exact_mask(np.abs(w), density)


def threshold_mask(scores: np.ndarray, threshold: float) -> np.ndarray:
    """S > threshold, or what the least count allows. scores: float (...) -> bool (...)."""
    check.dtype("scores", scores, *check.FLOATS)
    check.finite("scores", scores)
    return _not_too_few(scores > np.float64(threshold), scores)


def sigmoid_threshold_mask(scores: np.ndarray, threshold: float) -> np.ndarray:
    """sigmoid(S) > threshold, or what the least count allows. scores: float (...) -> bool (...)."""
    check.dtype("scores", scores, *check.FLOATS)
    check.finite("scores", scores)
    return _not_too_few(expit(scores.astype(np.float64)) > threshold, scores)


def _not_too_few(mask: np.ndarray, scores: np.ndarray) -> np.ndarray:
    least = int(LEAST * scores.size) + 1
    if mask.sum() >= least:
        return mask
    return scores > kth_smallest(scores, max(scores.size - least, 1))


class HardConcrete(NamedTuple):
    """What the backward needs: s before the stretch, f64 (...), and 1 / beta, or 1 in evaluation."""

    s: np.ndarray
    slope: float


def l0_mask(scores: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, HardConcrete]:
    """A sample of the hard concrete mask. scores, u: float (...), 0 < u < 1 uniform (the original clips to 1e-4 from
    both ends). Returns the mask in the dtype of the scores, 0 to 1, and the cache."""
    check.dtype("scores", scores, *check.FLOATS)
    check.same_dtype("u", u, scores)
    check.shape("u", u, scores.shape)
    if not ((u > 0) & (u < 1)).all():
        raise ValueError(f"u has elements from {u.min()} to {u.max()}; need 0 < u < 1")
    wide = u.astype(np.float64)
    return _stretched(expit((np.log(wide) - np.log1p(-wide) + scores) / BETA), 1 / BETA, scores)


def l0_mask_evaluated(scores: np.ndarray) -> tuple[np.ndarray, HardConcrete]:
    """The mask without noise. scores: float (...) -> the mask, and the cache."""
    check.dtype("scores", scores, *check.FLOATS)
    return _stretched(expit(scores.astype(np.float64)), 1.0, scores)


def _stretched(s: np.ndarray, slope: float, scores: np.ndarray) -> tuple[np.ndarray, HardConcrete]:
    return np.clip(s * (HIGH - LOW) + LOW, 0, 1).astype(scores.dtype), HardConcrete(s, slope)


def l0_mask_backward(dmask: np.ndarray, cache: HardConcrete) -> np.ndarray:
    """The gradient of the scores, float (...); torch's clamp passes it on at its two ends as well."""
    stretched = cache.s * (HIGH - LOW) + LOW
    inside = (stretched >= 0) & (stretched <= 1)
    slope = np.where(inside, (HIGH - LOW) * cache.slope * cache.s * (1 - cache.s), 0.0)
    return (dmask * slope).astype(dmask.dtype)
