"""Bitmask weights against dense ones: bytes, time, and the density below which they are faster.

Three places where the weights may be: a cache, since one layer runs again and again; memory, since so many copies of
the layer take turns that none is left in a cache when its turn comes again; memory of which two threads, each with
copies of its own, share the bandwidth. Copies of one form take CACHE_FOLD times the last-level cache, within MOST_BYTES
for both forms. The product itself runs on one thread.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import numba
import numpy as np

from benchmarks.measuring import Contestant, array_bytes, copied, in_turns, product_arguments, timed
from refimpl.kernels import cpu
from refimpl.kernels.gemm_u8s8s32 import GEMM
from refimpl.kernels.record import Kernel
from refimpl.kernels.spgemm_bitmask_u8s8s32 import SPGEMM_BITMASK

M, K = 3072, 768
TOKENS, DENSITIES = (1, 4, 16), (0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
PLACES = {"cache": 1, "memory": 1, "memory, two at once": 2}
"""Place -> how many threads run a layer each."""
CACHE_FOLD, MOST_BYTES = 4, 1_500_000_000
SECONDS = 1.0


def operands(tokens: int, density: float) -> tuple[np.ndarray, np.ndarray]:
    """a: u8 (tokens, K); w: s8 (M, K), nonzero in a share ``density`` of random places."""
    rng = np.random.default_rng(0)
    w = rng.integers(1, 128, (M, K)).astype(np.int8) * rng.choice(np.array([-1, 1], np.int8), (M, K))
    return rng.integers(0, 256, (tokens, K), np.uint8), w * (rng.random((M, K)) < density)


def streamed_bytes() -> int:
    """What the copies of one form take, to the next whole copy."""
    return min(CACHE_FOLD * cpu.cache_bytes().get(3, MOST_BYTES), MOST_BYTES // 2)


def layers(kernel: Kernel, a: np.ndarray, w: np.ndarray, packed: Any, count: int) -> list[Callable[[], None]]:
    """The run of one layer for each of ``count`` copies of its weights. Raises AssertionError unless the product is
    the oracle's."""
    execution = kernel.source.compiled(kernel.fastest())
    given = product_arguments(kernel, execution, a, w, packed)
    weights = len(packed) - 1  # the arrays of the weights come first
    return [partial(execution, *map(copied, given[:weights]), *given[weights:]) for _ in range(count)]


def run_all(runs: Sequence[Callable[[], None]]) -> None:
    """One after the other."""
    for run in runs:
        run()


def passes(
    kernel: Kernel, a: np.ndarray, w: np.ndarray, packed: Any, place: str, open_: ExitStack
) -> tuple[Contestant, int]:
    """One pass over all copies of a layer, and how many there are."""
    threads = PLACES[place]
    each = 1 if place == "cache" else -(-streamed_bytes() // (threads * array_bytes(packed)))
    runs = [layers(kernel, a, w, packed, each) for _ in range(threads)]
    if threads == 1:
        return timed(lambda: run_all(runs[0])), each
    pool = open_.enter_context(ThreadPoolExecutor(threads))
    return timed(lambda: list(pool.map(run_all, runs))), threads * each


class Bitmask:
    """3072 x 768 weights with random zeros."""

    params = (tuple(PLACES), TOKENS, DENSITIES)
    param_names = ("place", "tokens", "density")
    unit = "ratio to dense"
    timeout = 300

    def setup(self, place: str, tokens: int, density: float) -> None:
        self.open = ExitStack()
        if PLACES[place] > numba.config.NUMBA_NUM_THREADS:
            raise NotImplementedError(f"this machine has fewer than {PLACES[place]} CPUs")
        a, w = operands(tokens, density)
        self.passes, self.layers, self.bytes = {}, {}, {}
        for kernel in (GEMM, SPGEMM_BITMASK):
            packed = kernel.pack(w)
            self.passes[kernel.name], self.layers[kernel.name] = passes(kernel, a, w, packed, place, self.open)
            self.bytes[kernel.name] = array_bytes(packed)

    def teardown(self, place: str, tokens: int, density: float) -> None:
        self.open.close()

    def seconds(self, total: float) -> dict[str, float]:
        """Of one layer by each kernel, measured in turns for ``total`` seconds."""
        found = in_turns(self.passes, total / len(self.passes))
        return {name: samples.best / self.layers[name] for name, samples in found.items()}

    def track_time_ratio(self, place: str, tokens: int, density: float) -> float:
        seconds = self.seconds(SECONDS)
        return seconds[SPGEMM_BITMASK.name] / seconds[GEMM.name]


class Traffic:
    """Bytes of packed weights of the same shape."""

    params = DENSITIES
    param_names = ("density",)
    unit = "ratio to dense"

    def track_ratio(self, density: float) -> float:
        _, w = operands(1, density)
        return array_bytes(SPGEMM_BITMASK.pack(w)) / array_bytes(GEMM.pack(w))
