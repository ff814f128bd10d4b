"""Which rows make a batch: shuffled, and of about the same length, so that little is padded.

The rows are shuffled, cut into pools of POOL batches, sorted by length within each pool (equal lengths stay shuffled)
and cut into batches; the batches are shuffled. The last batch of the last pool may be smaller; none is dropped.

Contract. The order is a function of lengths, size, seed and epoch alone, so that a run that goes on after an
interruption sees the batches that it would have seen. Every random number of a run comes from ``stream``.
Source: Hugging Face's LengthGroupedSampler (pools of 50 batches).
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np

POOL = 50


class Purpose(IntEnum):
    """What a stream of random numbers is for: streams of two purposes are independent."""

    HEAD = 0
    ORDER = 1
    UPDATE = 2
    EVALUATION = 3
    CALIBRATION = 4


def stream(seed: int, purpose: Purpose, number: int = 0) -> np.random.Generator:
    """The generator of an epoch's order, of an update, and so on: a function of its arguments alone."""
    return np.random.default_rng([seed, int(purpose), number])


def batches(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """The numbers of the rows of each batch of an epoch."""
    if size < 1:
        raise ValueError(f"size is {size}; need 1 or more")
    generator = stream(seed, Purpose.ORDER, epoch)
    shuffled = generator.permutation(len(lengths))
    keys, pool = np.asarray(lengths), size * POOL
    pools = [shuffled[i : i + pool] for i in range(0, len(shuffled), pool)]
    ordered = [rows[np.argsort(-keys[rows], kind="stable")] for rows in pools]
    cut = [rows[i : i + size].tolist() for rows in ordered for i in range(0, len(rows), size)]
    return [cut[i] for i in generator.permutation(len(cut))]
