"""AdamW in place, in one pass over a parameter; see ``refimpl.nn.adamw`` for the equations.

Contract. The operations of ``refimpl.nn.adamw`` in its order, each rounded to f32, no two fused: its very bits.
"""

from collections.abc import Callable
from math import sqrt

import numba
import numpy as np

from refimpl import check
from refimpl.kernels import execution
from refimpl.kernels.simd.threefold import kernel
from refimpl.nn.adamw import AdamW

BLOCK = 4096
Updated = tuple[np.ndarray, np.ndarray, np.ndarray]


@kernel
def adamw_elements(w, g, m, v, scalars):
    """w, m, v: f32 (n,), changed; g: f32 (n,); scalars: f32 (8,), in the order of ``in_place``."""
    old_m, new_m, old_v, new_v, step, root, eps, decay = scalars
    for block in numba.prange((w.size + BLOCK - 1) // BLOCK):
        first, last = block * BLOCK, min(block * BLOCK + BLOCK, w.size)
        # Views, and stores at the end: so LLVM makes vectors of it, and the pass is six times as fast.
        ws, gs, ms, vs = w[first:last], g[first:last], m[first:last], v[first:last]
        for i in range(ws.size):
            mean = old_m * ms[i] + new_m * gs[i]
            square = old_v * vs[i] + new_v * (gs[i] * gs[i])
            size = np.sqrt(square) / root + eps
            ws[i] = ws[i] - decay * ws[i] - step * mean / size
            ms[i], vs[i] = mean, square


def in_place(threads: int) -> Callable[..., Updated]:
    """``adamw`` with its arguments, f32, on so many threads: the arrays are changed, and given back."""
    execution.check_threads(threads)

    def adamw(
        w: np.ndarray, g: np.ndarray, moments: tuple[np.ndarray, np.ndarray], t: int, rate: float, p: AdamW
    ) -> Updated:
        m, v = moments
        for name, array in (("w", w), ("g", g), ("m", m), ("v", v)):
            check.dtype(name, array, np.float32)
            check.shape(name, array, w.shape)
        if not all(array.flags.c_contiguous for array in (w, m, v)):
            raise ValueError("w, m or v is not contiguous; need arrays to change in place")
        terms = p.beta1, 1 - p.beta1, p.beta2, 1 - p.beta2, rate / (1 - p.beta1**t), sqrt(1 - p.beta2**t), p.eps
        scalars = tuple(np.float32(term) for term in (*terms, rate * p.decay))
        with execution.compiled(adamw_elements, execution.fastest(adamw_elements), threads) as run:
            run(w.reshape(-1), np.ascontiguousarray(g).reshape(-1), m.reshape(-1), v.reshape(-1), scalars)
        return w, m, v

    return adamw
