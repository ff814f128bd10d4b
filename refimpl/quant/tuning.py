"""Accuracy-aware tuning: which layers to keep in f32 so that a metric drops no further than it may.

``evaluate(kept)`` is the metric of the model with the layers in ``kept`` in f32 and the others quantized; larger is
better. A search calls it as few times as its rule says, and returns every call as a record.

NNCF, ``restore_accuracy``:
    rank the quantized layers by the score of the model with only that layer more in f32; then, best first,
    keep one more:
        drop <= max_drop                                        done
        drop no larger than before                              go on
        larger, in the first step or the one after a return     go on all the same: one worsening step is tolerated
        larger otherwise                                        return: take it back, rank the rest again
    After a return the next drop is compared with that of the step taken back, as in NNCF. When no layer is left NNCF
    reports failure before it asks whether the goal is reached; ``Tuned.reached`` says which.
    The score is the metric itself, or -NMSE of the outputs (``nmse``), as the caller's ``score`` says; the largest
    goes first. NNCF's own score is NMSE without the minus, and it too takes the largest: by its source it begins with
    the layer that leaves the largest error when it is kept. Pass NMSE as ``score`` for that order.

INC, ``fall_back``:
    each layer alone in f32, the last first, the metric written down; the first that reaches the goal ends the search;
    then, best single metric first, layers are added up until the goal is reached or ``max_trials`` calls are made.

Goals: NNCF max_drop 0.01 absolute, INC 1 % relative (``relative_goal``).
Sources: NNCF nncf/quantization/algorithms/accuracy_control/{algorithm,ranker,rank_functions}.py; Intel Neural
Compressor 2.5 strategy/{basic,utils/tuning_sampler}.py.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

MAX_DROP, RELATIVE_DROP, MAX_TRIALS = 0.01, 0.01, 100

Evaluate = Callable[[frozenset[str]], float]


class Trial(NamedTuple):
    """One call. kept: the layers in f32; value: the metric, or the score while ranking; step: why; good: whether the
    goal is reached."""

    step: str
    kept: frozenset[str]
    value: float
    good: bool


class Tuned(NamedTuple):
    """kept: the layers to keep in f32; reached: whether the goal is; trials: every call, in order."""

    kept: frozenset[str]
    reached: bool
    trials: tuple[Trial, ...]


def nmse(reference: np.ndarray, approximate: np.ndarray) -> float:
    """|reference - approximate|**2 / |reference|**2, in f64.

    >>> nmse(np.array([3.0, 4.0]), np.array([3.0, 3.0]))
    0.04
    """
    wide = reference.astype(np.float64).ravel()
    error = wide - approximate.astype(np.float64).ravel()
    return float(error @ error / (wide @ wide))


def absolute_goal(reference: float, max_drop: float = MAX_DROP) -> float:
    """The least metric that is good enough."""
    return reference - max_drop


def relative_goal(reference: float, drop: float = RELATIVE_DROP) -> float:
    """The same, the drop a share of the reference, which must not be negative."""
    if reference < 0:
        raise ValueError(f"reference is {reference}; need >= 0, or an absolute goal")
    return reference * (1 - drop)


def restore_accuracy(names: Sequence[str], evaluate: Evaluate, goal: float, score: Evaluate | None = None) -> Tuned:
    """NNCF's search. names: the quantized layers; score: what ranks, ``evaluate`` if None."""
    log = _Log(evaluate, goal)
    kept: frozenset[str] = frozenset()
    before = log.metric("all quantized", kept)
    if before >= goal:
        return log.done(kept)
    ranked = log.ranked(names, kept, score or evaluate)
    previous, tolerant = kept, True
    while ranked:
        name = ranked.pop()
        previous, kept = kept, kept | {name}
        value = log.metric(f"keep {name}", kept)
        if not ranked or value >= goal:
            break
        if value >= before or tolerant:
            tolerant = False
        else:
            kept, tolerant = previous, True
            ranked = log.ranked([*ranked, name], kept, score or evaluate)
        before = value
    return log.done(kept)


def fall_back(names: Sequence[str], evaluate: Evaluate, goal: float, max_trials: int = MAX_TRIALS) -> Tuned:
    """INC's search. names: the quantized layers, in the order of computation."""
    log = _Log(evaluate, goal)
    kept: frozenset[str] = frozenset()
    if log.metric("all quantized", kept) >= goal:
        return log.done(kept)
    alone: dict[str, float] = {}
    for name in reversed(names):
        if len(log.trials) >= max_trials:
            return log.best()
        alone[name] = log.metric(f"{name} alone", frozenset([name]))
        if alone[name] >= goal:
            return log.done(frozenset([name]))
    for name in sorted(alone, key=lambda name: -alone[name]):
        kept = kept | {name}
        if len(kept) == 1:
            continue  # tried already
        if len(log.trials) >= max_trials:
            return log.best()
        if log.metric(f"and {name}", kept) >= goal:
            return log.done(kept)
    return log.best()


class _Log:
    """Calls, and remembers."""

    def __init__(self, evaluate: Evaluate, goal: float):
        self.evaluate, self.goal = evaluate, goal
        self.trials: list[Trial] = []

    def metric(self, step: str, kept: frozenset[str]) -> float:
        value = self.evaluate(kept)
        self.trials.append(Trial(step, kept, value, value >= self.goal))
        return value

    def ranked(self, names: Sequence[str], kept: frozenset[str], score: Evaluate) -> list[str]:
        """The best last; of equals the later name."""
        scores = {}
        for name in names:
            scores[name] = score(kept | {name})
            self.trials.append(Trial(f"rank {name}", kept | {name}, scores[name], False))
        return sorted(names, key=scores.__getitem__)

    def done(self, kept: frozenset[str]) -> Tuned:
        reached = any(trial.good for trial in self.trials if trial.kept == kept)
        return Tuned(kept, reached, tuple(self.trials))

    def best(self) -> Tuned:
        """The trial with the best metric, the earliest of equals."""
        return self.done(max(self.trials, key=lambda trial: trial.value).kept)
