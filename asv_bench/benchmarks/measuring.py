"""How everything here is timed: against its oracle first, then in turns with the yardstick, the best sample counting.

A contestant is a function without arguments that runs once and returns the seconds that it took.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from refimpl.kernels import peak
from refimpl.kernels.execution import compiled
from refimpl.kernels.layout import aligned
from refimpl.kernels.record import Kernel
from refimpl.prune import expand, topk_mask

Contestant = Callable[[], float]

PEAK_STEPS = 5_000
PEAK_MACS = peak.MACS_PER_STEP * PEAK_STEPS
PEAK = "peak"
TURN = 0.01


class Samples(NamedTuple):
    """Seconds of one run: the best and the median of ``count``."""

    best: float
    median: float
    count: int


def operands(m: int, k: int, tokens: int, density: float) -> tuple[np.ndarray, np.ndarray]:
    """a: u8 (tokens, k) and w: s8 (m, k), of whose 4x1 blocks a share ``density``, at random places, has no zero."""
    rng = np.random.default_rng(0)
    w = rng.integers(-127, 128, (m, k)).astype(np.int8)
    w[w == 0] = 1
    w *= expand(topk_mask(rng.random((m // 4, k)), density))
    return rng.integers(0, 256, (tokens, k)).astype(np.uint8), w


def arguments(
    execution: Callable[..., Any], call: Callable[[Callable[..., Any]], Any], judge: Callable[[Any], None]
) -> list:
    """What ``call`` passes to the execution, its arrays copied to cache lines of their own. ``judge`` is given what
    ``call`` returns when the execution has run on these copies; it raises AssertionError unless that is right."""
    kept: list = []

    def run_copies(*given: Any) -> None:
        kept.extend(copied(value) if isinstance(value, np.ndarray) else value for value in given)
        execution(*kept)
        for value, copy in zip(given, kept, strict=True):
            if isinstance(value, np.ndarray):
                value[...] = copy

    judge(call(run_copies))
    return kept


def copied(array: np.ndarray) -> np.ndarray:
    """The same numbers on cache lines of their own."""
    copy = aligned.empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def array_bytes(values: Iterable[Any]) -> int:
    """Of the arrays among the values."""
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray))


def product_arguments(kernel: Kernel, execution: Callable[..., Any], a: np.ndarray, w: np.ndarray, packed: Any) -> list:
    """``arguments`` of a product. packed: from w. Raises AssertionError unless the product is the oracle's."""

    def judge(product: np.ndarray) -> None:
        if not np.array_equal(product, kernel.oracle(a, w)):
            raise AssertionError(f"{kernel.name} and its oracle differ")

    return arguments(execution, lambda run: kernel.call(run, a, packed), judge)


@contextmanager
def prepared(kernel: Kernel, a: np.ndarray, w: np.ndarray, threads: int = 1) -> Iterator[Contestant]:
    """The compiled kernel on packed operands, packing and unpacking left out. Raises AssertionError unless the product
    is the oracle's. Inside, numba runs with ``threads`` threads."""
    with compiled(kernel.source, kernel.fastest(), threads) as execution:
        given = product_arguments(kernel, execution, a, w, kernel.pack(w))
        yield timed(lambda: execution(*given))


def timed(run: Callable[[], Any]) -> Contestant:
    """One run of anything."""

    def once() -> float:
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin

    return once


def peak_second() -> float:
    """The yardstick as a contestant: seconds for PEAK_MACS."""
    return PEAK_MACS / peak.measure(rounds=1, steps=PEAK_STEPS)


def in_turns(contestants: Mapping[str, Contestant], seconds: float) -> dict[str, Samples]:
    """Short turns, round after round, until each has had ``seconds``: all see the same clock and the same neighbours.

    The first run of a turn, which finds the caches full of what another left there, counts only if it is the only one.
    """
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(max(1, round(seconds / TURN))):
        for name, contestant in contestants.items():
            samples[name] += turn(contestant)
    return {name: Samples(min(s), float(np.median(s)), len(s)) for name, s in samples.items()}


def turn(contestant: Contestant) -> list[float]:
    """Samples of about TURN seconds."""
    begin = time.perf_counter()
    first, samples = contestant(), []
    while time.perf_counter() - begin < TURN:
        samples.append(contestant())
    return samples or [first]


def share_of_peak(contestant: Contestant, macs: int, threads: int = 1, seconds: float = 1.0) -> float:
    """Multiply-accumulates a second over those of ``threads`` cores' VNNI units, measured in turns."""
    found = in_turns({PEAK: peak_second, "kernel": contestant}, seconds)
    return macs / found["kernel"].best / (threads * PEAK_MACS / found[PEAK].best)
