"""When NNCF's movement sparsity prunes how hard: threshold and regularization as functions of the step.

    stage       steps                       threshold                  factor     scores
    before      t < a                       -inf                       0          get gradients, prune nothing
    warm-up     a <= t < b                  rising from init to final  0 to full  get gradients, prune
    after       t >= b                      final                      0          frozen, with the last masks

    a, b  = int(epoch of start, of end, times steps per epoch)
    p     = (t - a) / steps per epoch / (end - start)
    value = first + (1 - (1 - p)^power) (last - first)        power 3: fast at first

At the first step of "after" masks are resolved to whole heads and neurons, if that is asked for, and frozen. Where init
is not given it is the threshold that prunes 1 of 1000 weights at the first step of the warm-up: ``initial_threshold``.

Contract. Step t counts from 0. f64. The first warm-up step has exactly init and 0. Where NNCF is not told the
steps per epoch it counts those of the first epoch, which then must be before the warm-up; the values are the same.
NNCF's factor stays full after the warm-up, but a frozen score has no loss; here it is 0. Source: NNCF v2.4 to v2.19,
experimental/torch/sparsity/movement/scheduler.py; common/schedulers.py (PolynomialDecaySchedule).
"""

import math
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.prune.masks import kth_smallest

INITIAL_SPARSITY = 0.001


class Stage(Enum):
    """Where in the schedule a step lies."""

    BEFORE = "before"
    WARMUP = "warm-up"
    AFTER = "after"


class MovementSchedule(NamedTuple):
    """Epochs of the warm-up, steps per epoch, the full regularization factor, the final threshold and the power."""

    start_epoch: float
    end_epoch: float
    steps_per_epoch: int
    factor: float
    final_threshold: float = 0.0
    power: float = 3.0


def stage(schedule: MovementSchedule, step: int) -> Stage:
    """Raises ValueError unless 0 <= start_epoch < end_epoch, steps_per_epoch >= 1, factor >= 0 and step >= 0."""
    start, end, steps, factor, _, _ = schedule
    if not 0 <= start < end or steps < 1 or not factor >= 0:
        need = "0 <= start_epoch < end_epoch, steps_per_epoch >= 1, factor >= 0"
        raise ValueError(f"schedule is {tuple(schedule)}; need {need}")
    if step < 0:
        raise ValueError(f"step is {step}; need at least 0")
    if step < int(start * steps):
        return Stage.BEFORE
    return Stage.WARMUP if step < int(end * steps) else Stage.AFTER


def threshold(schedule: MovementSchedule, step: int, initial: float) -> float:
    """The importance threshold at ``step``; ``initial`` is used in the warm-up alone.

    >>> plan = MovementSchedule(start_epoch=1, end_epoch=3, steps_per_epoch=2, factor=0.05)
    >>> [threshold(plan, step, -1.0) for step in range(7)]
    [-inf, -inf, -1.0, -0.421875, -0.125, -0.015625, 0.0]
    """
    at = stage(schedule, step)
    if at is Stage.BEFORE:
        return -math.inf
    if at is Stage.AFTER:
        return schedule.final_threshold
    return initial + _share(schedule, step) * (schedule.final_threshold - initial)


def regularization_factor(schedule: MovementSchedule, step: int) -> float:
    """lambda at ``step``."""
    return schedule.factor * _share(schedule, step) if stage(schedule, step) is Stage.WARMUP else 0.0


def _share(schedule: MovementSchedule, step: int) -> float:
    """Of the way through the warm-up, bent by the power."""
    start, end, steps, *_ = schedule
    epochs = (step - int(start * steps)) / steps
    return 1.0 - (1.0 - min(1.0, epochs / (end - start))) ** schedule.power


def initial_threshold(scores: Sequence[tuple[np.ndarray, int]]) -> float:
    """The k-th smallest score of all layers, weights and biases, k = int(n / 1000) + 1 of n elements.

    Parameters
    ----------
    scores : pairs of float (...), one score a block, and how many elements a block has
    """
    if not scores:
        raise ValueError("scores is empty; need those of at least one layer")
    for i, (layer, _) in enumerate(scores):
        check.dtype(f"scores[{i}]", layer, *check.FLOATS)
        check.finite(f"scores[{i}]", layer)
    expanded = np.concatenate([layer.ravel().repeat(size) for layer, size in scores])
    return float(kth_smallest(expanded, min(expanded.size, int(expanded.size * INITIAL_SPARSITY) + 1)))
