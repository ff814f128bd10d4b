"""How the learning rate changes: factors of the peak, by update, 0 for the first.

    linear      s / W while s < W, then (S - s) / (S - W)        W updates of warm-up, S in all
    constant    s / W while s < W, then 1

A ``Schedule`` is any function from the update's number to a factor. The first update of a warm-up has factor 0, as in
Hugging Face's get_linear_schedule_with_warmup.
Source: BERT, arXiv 1810.04805, appendix A.2.
"""

from collections.abc import Callable

Schedule = Callable[[int], float]


def constant(warmup: int = 0) -> Schedule:
    """1 after the warm-up."""
    if warmup < 0:
        raise ValueError(f"warmup is {warmup}; need 0 or more updates")
    return lambda s: s / warmup if s < warmup else 1.0


def linear(total: int, warmup: int = 0) -> Schedule:
    """Down to 0 after update ``total`` - 1.

    >>> [linear(4, 2)(s) for s in range(5)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if not 0 <= warmup <= total:
        raise ValueError(f"warmup is {warmup}; need 0 to {total}, the updates in all")
    return lambda s: s / warmup if s < warmup else max(0.0, (total - s) / max(1, total - warmup))
