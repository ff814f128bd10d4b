"""Element by element: sums, dropout, AdamW, and the sum of squares of a gradient.

Contract. ``add``, ``drop`` and ``adamw_step`` have the bits of ``refimpl.nn``: each operation rounds to f32, none is
fused. ``squares`` sums in f64: element i goes to sum i mod 16 of its block of BLOCK elements, in order; the sixteen sums
are added in order by the kernel, and those of the blocks by the caller. Equal bits on any number of threads.
"""

from math import sqrt

import numba
import numpy as np

from refimpl.kernels.simd.threefold import kernel

BLOCK = 1 << 14


@kernel
def add(x, y, out):
    """x, y, out: f32 (n,)."""
    for start in numba.prange((x.size + BLOCK - 1) // BLOCK):
        for i in range(start * BLOCK, min(start * BLOCK + BLOCK, x.size)):
            out[i] = x[i] + y[i]


@kernel
def drop(x, keep, scale, out):
    """x, out: f32 (n,); keep: u8 (n,), 1 or 0; scale: f32."""
    for start in numba.prange((x.size + BLOCK - 1) // BLOCK):
        for i in range(start * BLOCK, min(start * BLOCK + BLOCK, x.size)):
            out[i] = x[i] * np.float32(keep[i]) * scale


@kernel
def adamw_step(w, g, m, v, scalars):
    """w, m, v: f32 (n,), changed; g: f32 (n,); scalars: f32 (8,), the order of ``adamw_scalars``."""
    beta1, rest1, beta2, rest2 = scalars[0], scalars[1], scalars[2], scalars[3]
    decay, step, root, eps = scalars[4], scalars[5], scalars[6], scalars[7]
    for start in numba.prange((w.size + BLOCK - 1) // BLOCK):
        for i in range(start * BLOCK, min(start * BLOCK + BLOCK, w.size)):
            first = beta1 * m[i] + rest1 * g[i]
            second = beta2 * v[i] + rest2 * (g[i] * g[i])
            m[i], v[i] = first, second
            w[i] = w[i] - decay * w[i] - step * first / (np.sqrt(second) / root + eps)


@kernel
def squares(x, out):
    """x: f32 (n,); out: f64 (ceil(n / BLOCK),)."""
    for start in numba.prange(out.size):
        sums = np.zeros(16)
        first, last = start * BLOCK, min(start * BLOCK + BLOCK, x.size)
        whole = first + (last - first) // 16 * 16
        for i in range(first, whole, 16):
            for lane in range(16):
                sums[lane] += np.float64(x[i + lane]) * np.float64(x[i + lane])
        for i in range(whole, last):
            sums[i - whole] += np.float64(x[i]) * np.float64(x[i])
        total = 0.0
        for lane in range(16):
            total += sums[lane]
        out[start] = total


def adamw_scalars(t: int, rate: float, beta1: float, beta2: float, eps: float, decay: float) -> np.ndarray:
    """What ``refimpl.nn.adamw`` multiplies, divides and adds arrays with: each computed in f64, rounded once. f32 (8,)."""
    step, root = rate / (1 - beta1**t), sqrt(1 - beta2**t)
    return np.array([beta1, 1 - beta1, beta2, 1 - beta2, rate * decay, step, root, eps], np.float32)
