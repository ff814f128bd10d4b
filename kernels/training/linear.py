"""Linear layers and attention's products with the kernels of ``products`` and ``heads``: arrays in, arrays out."""

from collections.abc import Callable

import numpy as np

from refimpl.kernels.layout import aligned
from refimpl.kernels.simd.threefold import KernelSource
from refimpl.kernels.training.heads import copy_heads, multiply_heads
from refimpl.kernels.training.products import (
    PANEL,
    TILE,
    multiply_rows,
    panels_of_columns,
    panels_of_rows,
    tiles_of_columns,
)
from refimpl.nn.params import Linear

Run = Callable[..., None]
"""Runs a kernel source on arguments, on so many threads."""


def linear(run: Run, x: np.ndarray, p: Linear) -> np.ndarray:
    """f32 (..., K), (M, K) -> (..., M)."""
    m, k = p.weight.shape
    panels = _pack(run, panels_of_columns, p.weight, m, k)
    return _rows(run, flat(x), panels, flat(p.bias), k).reshape(*x.shape[:-1], m)


def linear_backward(run: Run, dy: np.ndarray, x: np.ndarray, p: Linear) -> tuple[np.ndarray, Linear]:
    """dx (..., K), and dW (M, K), db (M,)."""
    m, k = p.weight.shape
    given, rows = flat(dy), dy.size // m
    dx = _rows(run, given, _pack(run, panels_of_rows, p.weight, k, m), np.zeros(k, np.float32), m)
    count = -(-m // TILE)
    tiles, sums = aligned.empty((count * rows * TILE,), np.float32), np.empty(count * TILE, np.float32)
    run(tiles_of_columns, given, rows, m, tiles, sums)
    panels, dweight = _pack(run, panels_of_rows, x, k, rows), aligned.empty((m, k), np.float32)
    zeros = np.zeros(k, np.float32)
    run(multiply_rows, tiles, TILE * rows, 1, TILE, panels, zeros, m, dweight.reshape(-1))
    return dx.reshape(x.shape), Linear(dweight, sums[:m])


def _rows(run: Run, a: np.ndarray, panels: np.ndarray, bias: np.ndarray, k: int) -> np.ndarray:
    out = aligned.empty((a.size // k, bias.size), np.float32)
    run(multiply_rows, a, TILE * k, k, 1, panels, bias, len(out), out.reshape(-1))
    return out


def _pack(run: Run, source: KernelSource, x: np.ndarray, columns: int, steps: int) -> np.ndarray:
    out = aligned.empty((-(-columns // PANEL) * steps * PANEL,), np.float32)
    first, second = (columns, steps) if source is panels_of_columns else (steps, columns)
    run(source, flat(x), first, second, out)
    return out


def multiply(
    run: Run, a: np.ndarray, b: np.ndarray, out: np.ndarray, scale: float = 1.0, added: np.ndarray | None = None
) -> np.ndarray:
    """out (N, H, R, C) = scale a b + added: a (N, H, R, S), b (N, H, S, C), added (N, C), f32, of any strides."""
    if b.strides[-1] != b.itemsize:
        copy = aligned.empty(b.shape, np.float32)
        run(copy_heads, *_spread(b), copy.reshape(-1), np.array(b.shape))
        b = copy
    size = np.array([*a.shape, b.shape[-1]])
    more = np.zeros((len(a), b.shape[-1]), np.float32) if added is None else added
    run(multiply_heads, *_spread(a), *_spread(b), *_spread(out), size, np.float32(scale), more.reshape(-1))
    return out


def rows_of_heads(shape: tuple[int, ...]) -> np.ndarray:
    """f32 (B, H, T, E), unwritten, that ``merge_heads`` need not copy."""
    b, h, t, e = shape
    return aligned.empty((b, t, h, e), np.float32).transpose(0, 2, 1, 3)


def _spread(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The memory that x covers, flat, and its strides in elements."""
    by = np.array([stride // x.itemsize for stride in x.strides])
    if (by < 0).any():
        x = np.ascontiguousarray(x)
        by = np.array(x.strides) // x.itemsize
    covers = 1 + int(((np.array(x.shape) - 1) * by).sum())
    return np.lib.stride_tricks.as_strided(x, (covers,), (x.itemsize,)), by


def flat(x: np.ndarray) -> np.ndarray:
    """The elements in C order, a view where that is possible."""
    return np.ascontiguousarray(x).reshape(-1)
