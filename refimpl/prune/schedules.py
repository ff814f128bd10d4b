"""How much is pruned at which step: sparsity as a function of the step, each under its own name.

    r = progress, 0 at the first event, 1 at the last       s0, s1 = sparsity at both
    zhu_gupta_cubic     s0 + (s1 - s0) (1 - (1 - r)^3)      fast at first     PruneOFA; Zhu and Gupta
    inc_exp             1 - (1 - s0) ((1 - s1) / (1 - s0))^r  the same share of what is left, at each event
    inc_cos             s0 + (s1 - s0) (1 - cos(r pi / 2))  slow at first
    inc_linear          s0 + (s1 - s0) r
    inc_cube            s0 + (s1 - s0) r^3                  slow at first: not the cubic above, but its opposite

One-shot pruning is one event at r = 1. Contract: f64, with ``**`` and ``cos`` of the C library; zhu_gupta_cubic takes
the step, clipping r to [0, 1], the others r itself: t / T at event t, of T = ``inc_events(...)`` after the first. The
original aims at min(s1, 0.98) where 0.98 is its limit for one layer (``inc_global.CAP``). Sources: PruneOFA's Model
Compression Research Package, schedulers/iterative_scheduler.py; Zhu and Gupta, arXiv 1710.01878, section 3; Intel
Neural Compressor v2.5, pruner/schedulers.py and pruners/base.py.
"""

import math

from refimpl import check


def zhu_gupta_cubic(step: int, start: int, end: int, initial: float, final: float) -> float:
    """Sparsity at ``step``: ``initial`` up to ``start``, ``final`` from ``end``.

    >>> zhu_gupta_cubic(500, 0, 1000, 0.0, 1.0), inc_cube(0.5, 0.0, 1.0)
    (0.875, 0.125)
    """
    check_range(start, end)
    _check(0.0, initial, final)
    left = min(max((1 - (step - start) / (end - start)) ** 3, 0.0), 1.0)
    return initial + (final - initial) * (1 - left)


def inc_exp(progress: float, initial: float, final: float) -> float:
    """Exponential decay of what is left. initial < 1."""
    _check(progress, initial, final)
    if initial == 1:
        raise ValueError("initial is 1; need less: nothing would be left to prune")
    return 1.0 - (1.0 - initial) * ((1.0 - final) / (1.0 - initial)) ** progress


def inc_cos(progress: float, initial: float, final: float) -> float:
    """A quarter of a cosine."""
    _check(progress, initial, final)
    return (final - initial) * (1.0 - math.cos(progress * (math.pi / 2))) + initial


def inc_linear(progress: float, initial: float, final: float) -> float:
    """A straight line."""
    _check(progress, initial, final)
    return (final - initial) * progress + initial


def inc_cube(progress: float, initial: float, final: float) -> float:
    """A cube: slow at first."""
    _check(progress, initial, final)
    return (final - initial) * progress**3 + initial


def inc_events(start: int, end: int, frequency: int) -> int:
    """T: how many events of Intel Neural Compressor follow the first, which prunes nothing new. 0 is one-shot.

    >>> inc_events(0, 1000, 100)
    10
    """
    if frequency < 1 or end < start:
        raise ValueError(f"start, end and frequency are {start}, {end}, {frequency}; need start <= end, frequency >= 1")
    return (end - start + frequency) // frequency - 1


def is_event(step: int, start: int, end: int, frequency: int) -> bool:
    """Whether masks change at ``step``: every ``frequency`` steps from start to end, both included."""
    inc_events(start, end, frequency)
    return start <= step <= end and (step - start) % frequency == 0


def check_range(start: int, end: int) -> None:
    """Raise ValueError unless start < end."""
    if not start < end:
        raise ValueError(f"start and end are {start} and {end}; need start < end")


def _check(progress: float, initial: float, final: float) -> None:
    for name, value in {"progress": progress, "initial": initial, "final": final}.items():
        check.fraction(name, value)
