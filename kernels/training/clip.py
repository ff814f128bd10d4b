"""The global norm of gradients, and their scaling, on so many threads; see ``refimpl.models.training.clip``.

Contract. The sum of squares is in f64: of each chunk of CHUNK elements in LANES sums, then these by NumPy, then the
arrays' by fsum; so the bits depend on no number of threads. The n terms are exact in f64 or rounded once, and sums have
the bound of n - 1 additions. The scaling rounds once: the bits of NumPy's.
"""

from collections.abc import Callable, Mapping
from math import fsum, sqrt

import numba
import numpy as np

from refimpl import check
from refimpl.kernels import execution
from refimpl.kernels.simd.threefold import kernel

CHUNK, LANES = 1 << 14, 8


@kernel
def squares(x, sums):
    """x: f32 (n,); sums: f64 (chunks, LANES), zeros before."""
    for chunk in numba.prange(sums.shape[0]):
        first, last = chunk * CHUNK, min(chunk * CHUNK + CHUNK, x.size)
        whole = first + (last - first) // LANES * LANES
        for i in range(first, whole, LANES):
            for lane in range(LANES):
                sums[chunk, lane] += np.float64(x[i + lane]) * np.float64(x[i + lane])
        for i in range(whole, last):
            sums[chunk, i - whole] += np.float64(x[i]) * np.float64(x[i])


@kernel
def multiply_elements(x, factor):
    """x: f32 (n,), changed; factor: f32."""
    for chunk in numba.prange((x.size + CHUNK - 1) // CHUNK):
        xs = x[chunk * CHUNK : chunk * CHUNK + CHUNK]
        for i in range(xs.size):
            xs[i] = xs[i] * factor


def global_norm(threads: int) -> Callable[[Mapping[str, np.ndarray]], float]:
    """The norm of f32 arrays, each C-contiguous: NaN or infinite if an element is, or a square of f64."""
    execution.check_threads(threads)

    def norm(gradients: Mapping[str, np.ndarray]) -> float:
        totals: list[float] = []
        for name, g in gradients.items():
            check.dtype(name, g, np.float32)
            sums = np.zeros((-(-g.size // CHUNK), LANES))
            with execution.compiled(squares, execution.fastest(squares), threads) as run:
                run(np.ascontiguousarray(g).reshape(-1), sums)
            totals.append(float(sums.sum()))
        return sqrt(fsum(totals)) if np.isfinite(totals).all() else float("nan")

    return norm


def multiply(threads: int) -> Callable[[Mapping[str, np.ndarray], float], None]:
    """Arrays in place, times a factor that is rounded to f32 first."""
    execution.check_threads(threads)

    def times(gradients: Mapping[str, np.ndarray], factor: float) -> None:
        for name, g in gradients.items():
            check.dtype(name, g, np.float32)
            if not g.flags.c_contiguous:
                g *= factor
                continue
            with execution.compiled(multiply_elements, execution.fastest(multiply_elements), threads) as run:
                run(g.reshape(-1), np.float32(factor))

    return times
