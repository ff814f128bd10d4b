"""Times of several runs, taken in turns within one run of the program: all see the same clock and the same neighbours.

A turn is one run that is not counted, since it finds the caches full of what another left there (but is, if it takes so
LONG that they do not matter), and then as many as fit into TURN, at least one. Rounds of turns go on until the time is
spent, and three at least.
"""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

TURN, LONG, ROUNDS = 0.03, 0.25, 3


class Samples(NamedTuple):
    """Seconds of one run: the median and the 10th and 90th percentile of so many ``runs``."""

    median: float
    p10: float
    p90: float
    runs: int


Name = TypeVar("Name", bound=Hashable)


def in_turns(runs: Mapping[Name, Callable[[], object]], seconds: float, threads: int) -> dict[Name, Samples]:
    """Take turns for so many seconds in all. threads: of NumPy's BLAS, in case an engine uses it."""
    taken: dict[Name, list[float]] = {name: [] for name in runs}
    begin, rounds = time.perf_counter(), 0
    with threadpool_limits(threads):
        while runs and (rounds < ROUNDS or time.perf_counter() - begin < seconds):
            rounds += 1
            for name, run in runs.items():
                taken[name] += turn(run)
    return {name: summary(samples) for name, samples in taken.items()}


def turn(run: Callable[[], object]) -> list[float]:
    """Samples of about TURN seconds."""
    first = timed(run)
    if first > LONG:
        return [first]
    samples: list[float] = []
    begin = time.perf_counter()
    while not samples or time.perf_counter() - begin < TURN:
        samples.append(timed(run))
    return samples


def timed(run: Callable[[], object]) -> float:
    """Seconds of one run."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def summary(samples: list[float]) -> Samples:
    """Of one or more."""
    p10, median, p90 = np.percentile(samples, (10, 50, 90)).tolist()
    return Samples(median, p10, p90, len(samples))
