"""Throughput and latency of instances that always have work: as many callers as instances, each giving a batch, waiting
for its output and giving the next. Latency is what such a caller sees.

Splits take turns, ROUNDS in all, so that none has the machine's quiet minute for its own; no larger batch is tried
after one that took longer than LONGEST. What instances return is compared with one session's, to the bit, before they
are timed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

import numpy as np

from refimpl.models.bench.measuring import summary
from refimpl.models.bench.synthetic import random_batch
from refimpl.models.bert import Batch
from refimpl.models.runtime.instances import Instances
from refimpl.models.runtime.session import Session
from refimpl.models.runtime.weights import Weights
from refimpl.models.tune.splits import Row, Split

BATCHES = (1, 2, 4, 8, 16, 32)
ROUNDS = 2
LONGEST = 0.5
TEXTS = 4
"""Different batches of a size."""


def measure(
    weights: Weights,
    splits: Sequence[Split],
    tokens: int,
    seconds: float,
    tell: Callable[[Split, int], None] = lambda split, batch: None,
) -> list[Row]:
    """A row for each split and batch size. seconds: of a row; tell: what is measured next."""
    rng, alone = np.random.default_rng(0), Session(weights)
    given = {size: [random_batch(rng, weights.config, size, tokens) for _ in range(TEXTS)] for size in BATCHES}
    expected = {size: alone(*batches[0]) for size, batches in given.items()}
    latencies: dict[tuple[Split, int], list[float]] = {}
    elapsed: dict[tuple[Split, int], float] = {}
    for split in [*splits] * ROUNDS:
        with Instances(weights, *split) as instances:
            taken: list[float] = [0]
            for size, batches in given.items():
                tell(split, size)
                if np.median(taken) > LONGEST:
                    continue
                check(instances, batches[0], expected[size])
                taken, whole = saturate(instances, batches, seconds / ROUNDS)
                latencies[split, size] = latencies.get((split, size), []) + taken
                elapsed[split, size] = elapsed.get((split, size), 0.0) + whole
    return [Row(*key, key[1] * len(taken) / elapsed[key], summary(taken)) for key, taken in latencies.items()]


def check(instances: Instances, batch: Batch, expected: np.ndarray) -> None:
    """Every instance once. Raises RuntimeError if one returns other bits than a session alone."""
    for output in instances.run([tuple(batch)] * instances.count):
        if not np.array_equal(output, expected):
            raise RuntimeError("an instance and a session alone disagree about a batch: nothing is timed")


def saturate(instances: Instances, batches: Sequence[Batch], seconds: float) -> tuple[list[float], float]:
    """Seconds of each batch, and of all together."""
    begin = time.perf_counter()

    def caller(own: Iterator[Batch]) -> list[float]:
        taken: list[float] = []
        while not taken or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            instances.submit(*next(own)).result()
            taken.append(time.perf_counter() - start)
        return taken

    with ThreadPoolExecutor(instances.count) as callers:
        streams = [islice(cycle(batches), i, None) for i in range(instances.count)]
        found = [latency for taken in callers.map(caller, streams) for latency in taken]
        return found, time.perf_counter() - begin
