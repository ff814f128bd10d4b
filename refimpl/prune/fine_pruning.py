"""Fine-pruning as nn_pruning composes it: scores per row and column, schedule, regularization, and heads filled again.

Scores of a weight are, besides one a block ("default"), a vector of rows and a vector of columns, "1d": S = row
columnᵀ, straight through to both. "1d_alt" has one of them, ones for the other: in the feed-forward block the F rows of
``intermediate`` and the F columns of ``output`` share ONE vector, so a neuron is kept or goes as a whole and its score
gets the sum of both gradients. The recipe "hybrid" is that, and 32x32 blocks with a sigmoid threshold in attention
(threshold 0 to 0.1, l1). "Hybrid filled" trains once more, with the heads that the first run kept whole: mask or kept.

    threshold(t)   initial up to t = w1;  final after T - w2;  between  final + (initial - final) (1 - p)^3
                   p = (t - w1) / (T - w1 - w2),  w1 = initial_warmup W,  w2 = final_warmup W
    lambda(t)      final_lambda threshold(t) / final_threshold
    l1             mean sigmoid(S)                            per layer; a group adds lambda times its layers' mean
    l0             mean sigmoid(S - 2/3 log(0.1 / 1.1))       the chance that a hard concrete mask is not 0

Contract. f64 for schedule and regularization, whose gradients are in the dtype of the scores. With topK and magnitude
the threshold is the density, falling from 1. Source: nn_pruning, modules/masked_nn.py, patch_coordinator.py,
sparse_trainer.py; Lagunas et al., arXiv 2109.04838, section 3.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from refimpl import check
from refimpl.prune.binarizers import BETA, HIGH, LOW

L0_SHIFT = BETA * math.log(-LOW / HIGH)


class FinePruning(NamedTuple):
    """steps: T; warmup_steps: W; warm-ups in units of W; thresholds at both ends; lambda at the end."""

    steps: int
    warmup_steps: int
    initial_threshold: float = 1.0
    final_threshold: float = 0.5
    initial_warmup: float = 1.0
    final_warmup: float = 2.0
    final_lambda: float = 0.0


def fine_pruning_threshold(schedule: FinePruning, step: int) -> float:
    """The threshold, or density, at ``step``. Raises ValueError if the two warm-ups leave no step between them.

    >>> plan = FinePruning(steps=7, warmup_steps=1)
    >>> [fine_pruning_threshold(plan, step) for step in (0, 1, 3, 5, 6)]
    [1.0, 1.0, 0.5625, 0.5, 0.5]
    """
    first, last = (share * schedule.warmup_steps for share in (schedule.initial_warmup, schedule.final_warmup))
    between = schedule.steps - (first + last)
    if not between > 0:
        raise ValueError(f"steps is {schedule.steps}; need more than the {first + last:g} of both warm-ups")
    if step <= first:
        return schedule.initial_threshold
    if step > schedule.steps - last:
        return schedule.final_threshold
    left = 1 - (step - first) / between
    return schedule.final_threshold + (schedule.initial_threshold - schedule.final_threshold) * left**3


def regu_lambda(schedule: FinePruning, step: int) -> float:
    """lambda at ``step``: it follows the threshold. Raises ValueError if final_threshold is 0."""
    if schedule.final_threshold == 0:
        raise ValueError("final_threshold is 0; need another: lambda is in proportion to threshold / final_threshold")
    return schedule.final_lambda * fine_pruning_threshold(schedule, step) / schedule.final_threshold


def row_column_scores(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """S = row columnᵀ, float (m,) and (k,) -> (m, k). "1d_alt": ones for the one that a layer has not."""
    check.dtype("row", row, *check.FLOATS)
    check.same_dtype("column", column, row)
    check.shape("row", row, ("m",))
    check.shape("column", column, ("k",))
    return np.outer(row, column)


def row_column_scores_backward(
    dscores: np.ndarray, row: np.ndarray, column: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of both vectors: (m, k) -> (m,), (k,)."""
    check.same_dtype("dscores", dscores, row)
    check.shape("dscores", dscores, (row.size, column.size))
    return dscores @ column, row @ dscores


def bias_mask(mask: np.ndarray) -> np.ndarray:
    """A bias lives with any weight of its row. bool (M, K) -> bool (M,)."""
    check.dtype("mask", mask, np.bool_)
    check.shape("mask", mask, ("M", "K"))
    return np.any(mask, axis=1)


def filled_heads(mask: np.ndarray, live: np.ndarray, by_rows: bool) -> np.ndarray:
    """The mask with the kept heads whole: "hybrid filled".

    mask: bool (M, K); live: bool (H,); heads are rows (q, k, v) or columns (attention_output). Returns bool (M, K).
    """
    check.dtype("mask", mask, np.bool_)
    check.dtype("live", live, np.bool_)
    check.shape("mask", mask, ("M", "K"))
    size = mask.shape[0 if by_rows else 1]
    if size % live.size:
        raise ValueError(f"live has {live.size} heads; need a divisor of the mask's {size} channels")
    channels = live.repeat(size // live.size)
    return mask | (channels[:, None] if by_rows else channels)


def l1(scores: np.ndarray) -> float:
    """Mean sigmoid(S), f64. scores: float (...)."""
    return _mean_sigmoid(scores, 0.0)


def l0(scores: np.ndarray) -> float:
    """Mean sigmoid(S - 2/3 log(0.1 / 1.1)), f64. scores: float (...)."""
    return _mean_sigmoid(scores, L0_SHIFT)


def l1_backward(scores: np.ndarray) -> np.ndarray:
    """dl1 / dS, float (...)."""
    return _mean_sigmoid_backward(scores, 0.0)


def l0_backward(scores: np.ndarray) -> np.ndarray:
    """dl0 / dS, float (...)."""
    return _mean_sigmoid_backward(scores, L0_SHIFT)


def _mean_sigmoid(scores: np.ndarray, shift: float) -> float:
    check.dtype("scores", scores, *check.FLOATS)
    return float(expit(scores.astype(np.float64) - shift).mean())


def _mean_sigmoid_backward(scores: np.ndarray, shift: float) -> np.ndarray:
    check.dtype("scores", scores, *check.FLOATS)
    s = expit(scores.astype(np.float64) - shift)
    return (s * (1 - s) / scores.size).astype(scores.dtype)
