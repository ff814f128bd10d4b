"""Splits of a machine's cores among instances, and the best of those that were measured.

All cores work in every split: C cores are C instances with 1 thread each, C/2 with 2, C/4 with 4, ..., 1 with C; where
there is more than one, as threads and as processes. A batch is within a bound on latency if 90 % of its kind are.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

from refimpl.models.bench.measuring import Samples


class Split(NamedTuple):
    """What ``Instances`` is given."""

    instances: int
    threads: int
    processes: bool = False

    def python(self) -> str:
        """The call."""
        return f"Instances(packed, {self.instances}, threads={self.threads}{', processes=True' * self.processes})"


class Row(NamedTuple):
    """A split with batches of one size. rate: texts a second, all instances together; samples: seconds of a batch."""

    split: Split
    batch: int
    rate: float
    samples: Samples


def splits(cores: int, most_threads: int) -> list[Split]:
    """Of so many cores; an instance can have at most ``most_threads``.

    >>> [(split.instances, split.threads) for split in splits(6, 6) if not split.processes]
    [(6, 1), (3, 2), (1, 4), (1, 6)]
    """
    powers = {2**i for i in range(cores.bit_length())}
    found = []
    for threads in sorted(number for number in {*powers, cores} if number <= min(cores, most_threads)):
        count = cores // threads
        found += [Split(count, threads, processes) for processes in (False, True) if not processes or count > 1]
    return [split for split in found if not split.processes or hasattr(os, "fork")]


def fastest(rows: Sequence[Row], limit: float | None = None) -> Row | None:
    """The most texts a second among the rows within a limit in seconds; None if there is none."""
    within = [row for row in rows if limit is None or row.samples.p90 <= limit]
    return max(within, key=lambda row: row.rate, default=None)


def quickest(rows: Sequence[Row]) -> Row:
    """The least that 90 % of the batches take."""
    return min(rows, key=lambda row: row.samples.p90)
