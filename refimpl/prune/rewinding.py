"""Learning-rate rewinding: while masks change, the rate goes back to where it was at every event.

    P  = end - start, T' = T - P            the schedule is as long as if pruning took no time
    t < W               t / W                                     warm-up
    start <= t < end    (T' - t + r) / (T' - W)                   r = floor((t - start) / interval) interval
    otherwise           (T' - t) / (T' - W) before start, (T - t) / (T' - W) from end

Within an interval the rate falls in a line, at its end it jumps back: a saw. Contract: f64; never below 0; max(1, .)
in both denominators. Source: Model Compression Research Package, api_utils.py,
get_linear_rewinding_schedule_with_warmup; rewinding the rate alone is Renda et al., arXiv 2003.02389.
"""

from typing import NamedTuple

from refimpl.prune.schedules import check_range


class Rewinding(NamedTuple):
    """steps: T of the whole training; warmup: W; start, end: the steps of pruning; interval: between two events."""

    steps: int
    warmup: int
    start: int
    end: int
    interval: int


def linear_rewinding(step: int, schedule: Rewinding) -> float:
    """What the learning rate is multiplied by at ``step``. Raises ValueError unless start < end and interval >= 1.

    >>> saw = Rewinding(steps=12, warmup=0, start=2, end=6, interval=2)
    >>> [linear_rewinding(step, saw) for step in range(12)]
    [1.0, 0.875, 0.75, 0.625, 0.75, 0.625, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    """
    steps, warmup, start, end, interval = schedule
    check_range(start, end)
    if interval < 1:
        raise ValueError(f"interval is {interval}; need at least 1")
    if step < warmup:
        return step / max(1, warmup)
    shorter = steps - (end - start)
    if step < start:
        left = shorter - step
    elif step < end:
        left = shorter - step + (step - start) // interval * interval
    else:
        left = steps - step
    return max(0.0, left / max(1, shorter - warmup))
