"""Bitmask weights against dense ones: time, memory traffic, and the density below which they are faster.

Run as a script for a table: ``python asv_bench/benchmarks/bitmask.py``, on an otherwise idle machine.

LAYERS different layers take turns, so that none is left in a cache when its turn comes again: first dense, then bitmask
ones, several rounds, of which the fastest counts. One thread.
"""

import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from refimpl.kernels import cpu
from refimpl.kernels.gemm_u8s8s32 import GEMM
from refimpl.kernels.layout import aligned, bitmask
from refimpl.kernels.layout.bitmask import break_even_density
from refimpl.kernels.record import Kernel
from refimpl.kernels.spgemm_bitmask_u8s8s32 import SPGEMM_BITMASK

M, K = 3072, 768
LAYERS = 128  # 302 MB of dense weights
ROUNDS = 7
TOKENS, DENSITIES = (1, 4, 16), (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0)


def sparse_weights(density: float) -> np.ndarray:
    """s8 (M, K), nonzero in a share ``density`` of random places."""
    rng = np.random.default_rng(0)
    w = rng.integers(1, 128, (M, K)).astype(np.int8) * rng.choice(np.array([-1, 1], np.int8), (M, K))
    return w * (rng.random((M, K)) < density)


def checked_runs(kernel: Kernel, a: np.ndarray, w: np.ndarray) -> list[Callable[[], None]]:
    """One layer's run for each of LAYERS copies of the weights, after a comparison with the oracle."""
    execution, packed = kernel.source.compiled(kernel.fastest()), kernel.pack(w)
    arguments: list = []
    got = kernel.call(lambda *given: (arguments.extend(given), execution(*given)), a, packed)
    if not np.array_equal(got, kernel.oracle(a, w)):
        raise AssertionError(f"{kernel.name} and its oracle differ")
    weights = len(packed) - 1  # the arrays of the weights come first
    return [_bound(execution, [*map(_copy, arguments[:weights]), *arguments[weights:]]) for _ in range(LAYERS)]


def _copy(array: np.ndarray) -> np.ndarray:
    copy = aligned.empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def _bound(execution: Callable[..., None], arguments: list) -> Callable[[], None]:
    return lambda: execution(*arguments)


def seconds(runs: list[Callable[[], None]]) -> float:
    """One pass over all layers."""
    begin = time.perf_counter()
    for run in runs:
        run()
    return time.perf_counter() - begin


def break_even(densities: tuple[float, ...], ratios: list[float]) -> float:
    """The lowest density at which the ratio reaches 1, in a straight line between measured ones; at most the last."""
    for i, ratio in enumerate(ratios):
        if ratio >= 1:
            return float(np.interp(1, ratios[max(i - 1, 0) : i + 1], densities[max(i - 1, 0) : i + 1]))
    return densities[-1]


class Bitmask:
    """3072 x 768 weights with random zeros, streamed from memory."""

    params = (TOKENS, DENSITIES)
    param_names = ("tokens", "density")
    unit = "ratio to dense"

    def setup(self, tokens: int, density: float) -> None:
        w = sparse_weights(density)
        a = np.random.default_rng(1).integers(0, 256, (tokens, K), np.uint8)
        self.dense, self.sparse = checked_runs(GEMM, a, w), checked_runs(SPGEMM_BITMASK, a, w)
        self.traffic = bitmask.size(bitmask.pack(w)) / GEMM.pack(w).values.nbytes

    def track_time_ratio(self, tokens: int, density: float) -> float:
        rounds = [(seconds(self.dense), seconds(self.sparse)) for _ in range(ROUNDS)]
        dense, sparse = np.min(rounds, axis=0)
        return sparse / dense

    def track_traffic_ratio(self, tokens: int, density: float) -> float:
        """Bytes of weights read from memory, each once."""
        return self.traffic


def measure() -> Table:
    """All parameters, and the break-even densities."""
    table = Table("density", "bytes", *(f"time, {n} token{'s' * (n > 1)}" for n in TOKENS))
    table.title = f"bitmask : dense, {M} x {K}, {LAYERS} layers in turn, one thread, {cpu.name()}"
    times: dict[int, list[float]] = {tokens: [] for tokens in TOKENS}
    for density in DENSITIES:
        for tokens in TOKENS:
            benchmark = Bitmask()
            benchmark.setup(tokens, density)
            times[tokens].append(benchmark.track_time_ratio(tokens, density))
        cells = [benchmark.traffic, *(times[tokens][-1] for tokens in TOKENS)]
        table.add_row(f"{density:.2f}", *(f"{cell:.2f}" for cell in cells))
    even = [break_even_density((M, K)), *(break_even(DENSITIES, times[tokens]) for tokens in TOKENS)]
    table.add_section()
    table.add_row("break-even", *(f"{density:.2f}" for density in even))
    return table


if __name__ == "__main__":
    Console().print(measure())
