"""Self-attention of all heads in f32: scores, mask, softmax, context.

    scores[i, j]  = (sum_e q[i, e] k[j, e]) * f32(1 / sqrt E) + mask[j]       mask: 0, or the lowest f32
    probs         = softmax(scores)
    context[i, e] = sum_j probs[i, j] v[j, e]

Contract. Both sums start at 0 and go up in e and in j, each step one fused multiply-add; the scaling and the mask are a
multiplication and an addition; softmax is ``rowwise.softmax``. Equal bits everywhere. Oracle: ``refimpl.nn.attention``
in f64; errors within ``bounds.attention_scores``, ``rowwise.softmax.bound`` and ``bounds.attention_context``.

A task is 4 queries of one head. Scores have 16 keys in the lanes, so k comes transposed (E, T); context has 16 of v's
columns. Each load then serves four multiply-adds. The last queries of a head that fills no block are done again.
"""

from typing import NamedTuple

import numba
import numpy as np

from refimpl import check
from refimpl.kernels import execution
from refimpl.kernels.layout import aligned
from refimpl.kernels.rowwise.softmax import softmax_row
from refimpl.kernels.simd.instructions.f32 import (
    broadcast_f32,
    vaddps,
    vbroadcastss,
    vfmadd,
    vmovups_load_first,
    vmovups_store_first,
    vmulps,
    zero_f32,
)
from refimpl.kernels.simd.threefold import kernel, part

LOWEST = np.finfo(np.float32).min


class Attention(NamedTuple):
    """scores, probs: f32 (B, H, T, T); context: f32 (B, H, T, E)."""

    scores: np.ndarray
    probs: np.ndarray
    context: np.ndarray


@part
def rows_of(task, t):
    """The four queries of a task, as rows of all heads together; beyond the last of the head, the last again."""
    blocks = (t + 3) // 4
    first, i = task // blocks * t, task % blocks * 4
    return first + i, first + min(i + 1, t - 1), first + min(i + 2, t - 1), first + min(i + 3, t - 1)


@part
def products(x, at, step, w, base, stride, steps, count):
    """sum_s x[at + s] w[base + stride s ...] for four ``at``, ``step`` elements of x each; sixteen lanes."""
    acc0, acc1, acc2, acc3 = zero_f32(), zero_f32(), zero_f32(), zero_f32()
    for s in range(steps):
        row = vmovups_load_first(w, base + stride * s, count, zero_f32())
        acc0 = vfmadd(vbroadcastss(x, at[0] * step + s), row, acc0)
        acc1 = vfmadd(vbroadcastss(x, at[1] * step + s), row, acc1)
        acc2 = vfmadd(vbroadcastss(x, at[2] * step + s), row, acc2)
        acc3 = vfmadd(vbroadcastss(x, at[3] * step + s), row, acc3)
    return acc0, acc1, acc2, acc3


@part
def store_scores(scores, at, acc, scale, masks, count):
    """Scale, mask, store."""
    vmovups_store_first(scores, at, vaddps(vmulps(acc, scale), masks), count)


@kernel
def attention(q, kt, v, mask, scale, heads, t, e, scores, probs, context):
    """q, v, context: f32 (B H T E,); kt: f32 (B H E T,); mask: f32 (B T,); scores, probs: f32 (B H T T,)."""
    blocks = (t + 3) // 4
    for task in numba.prange(q.size // (t * e) * blocks):
        head, rows = task // blocks, rows_of(task, t)
        for j in range(0, t, 16):
            acc = products(q, rows, e, kt, head * e * t + j, t, e, t - j)
            masks = vmovups_load_first(mask, head // heads * t + j, t - j, zero_f32())
            for i in range(4):
                store_scores(scores, rows[i] * t + j, acc[i], broadcast_f32(scale), masks, t - j)
        for i in range(4):
            softmax_row(scores, rows[i] * t, t, probs, rows[i] * t)
        for c in range(0, e, 16):
            acc = products(probs, rows, t, v, head * t * e + c, e, t, e - c)
            for i in range(4):
                vmovups_store_first(context, rows[i] * e + c, acc[i], e - c)


def validate(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> None:
    """q, k, v: f32 (B, H, T, E), finite; mask: integer or bool (B, T), 0 where a key is padding."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        check.dtype(name, x, np.float32)
        check.shape(name, x, ("B", "H", "T", "E") if name == "q" else q.shape)
        check.finite(name, x)
    check_mask(mask, q.shape)


def check_mask(mask: np.ndarray, shape: tuple[int, ...]) -> None:
    """The mask of heads of that shape; an empty head has no softmax."""
    if mask.dtype.kind not in "biu":
        raise TypeError(f"mask has dtype {mask.dtype}; need an integer dtype or bool")
    check.shape("mask", mask, (shape[0], shape[2]))
    if 0 in shape[1:]:
        raise ValueError(f"q has shape {shape}; need at least one head, token and number")


def lowest_where_masked(mask: np.ndarray) -> np.ndarray:
    """What the scores of each key add: f32 (B T,)."""
    return np.where(mask != 0, np.float32(0), LOWEST).reshape(-1)


def call(compiled, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> Attention:
    """All heads of all sequences."""
    validate(q, k, v, mask)
    b, h, t, e = q.shape
    scores, probs = (aligned.empty((b, h, t, t), np.float32) for _ in range(2))
    context = aligned.empty(q.shape, np.float32)
    flat = [np.ascontiguousarray(x).reshape(-1) for x in (q, k.swapaxes(2, 3), v)]
    outputs = [x.reshape(-1) for x in (scores, probs, context)]
    compiled(*flat, lowest_where_masked(mask), np.float32(1 / e**0.5), h, t, e, *outputs)
    return Attention(scores, probs, context)


def run(target: str, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray, threads: int = 1) -> Attention:
    """``call``, ``portable`` or ``native``. Threads beyond the first share out the queries; the bits are the same."""
    with execution.compiled(attention, target, threads) as compiled:
        return call(compiled, q, k, v, mask)
