"""Self-attention of all heads with INT8 products: a contract of its own, that of ``refimpl.quant.attention``.

    scores  = f32(sum_e (q[i, e] - 128) k[j, e]) * m + mask[j]        q: u8 code + 128, k: s8
    codes   = round(255 softmax(scores))                              u8
    context = f32(sum_j codes[i, j] v[j, e]) * n                      v: s8

Contract. Scores, given the codes of q and k, and context, given the codes of the probabilities, have the bits of the
reference. Between them stands ``rowwise.softmax``, with its bound; so a code may be one apart from that of an exact
softmax, where 255 times the probability falls next to a tie. Equal bits everywhere.

A task is 4 queries of one head. k and v lie as ``vpdpbusd`` takes them: the dword of a lane holds four consecutive e of
one key, or four consecutive keys of one e; 16 lanes are one register.

    k (T, E)  ->  (ceil(T / 16), ceil(E / 4), 16, 4)            v transposed (E, T)  ->  the same of (E, T)
"""

from typing import NamedTuple

import numba
import numpy as np

from refimpl import check
from refimpl.integer.gemm import MAX_K
from refimpl.kernels import execution
from refimpl.kernels.attention import check_mask, lowest_where_masked, rows_of, store_scores
from refimpl.kernels.layout import aligned
from refimpl.kernels.rowwise.softmax import softmax_row
from refimpl.kernels.simd.instructions.arithmetic import vpdpbusd, zero_s32
from refimpl.kernels.simd.instructions.convert import vcvtdq2ps, vcvtps2dq, vpmovusdb_store_first
from refimpl.kernels.simd.instructions.f32 import (
    broadcast_f32,
    vmovups_load_first,
    vmovups_store_first,
    vmulps,
    zero_f32,
)
from refimpl.kernels.simd.instructions.memory import vmovdqu8_load, vmovdqu32_load, vpbroadcastd
from refimpl.kernels.simd.threefold import kernel, part
from refimpl.quant.attention import PROBS_MAX, context_multiplier, scores_multiplier
from refimpl.quant.linear import compensation_of

LANES, QUAD = 16, 4
MOST = np.float32(PROBS_MAX)


class Heads(NamedTuple):
    """q: u8 (B, H, T, E), code + 128; k, v: s8 (B, H, T, E); their scales: f32 ()."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    q_scale: np.ndarray
    k_scale: np.ndarray
    v_scale: np.ndarray


class IntegerAttention(NamedTuple):
    """scores, probs: f32 (B, H, T, T); codes: u8 (B, H, T, T); context: f32 (B, H, T, E)."""

    scores: np.ndarray
    probs: np.ndarray
    codes: np.ndarray
    context: np.ndarray


@part
def products(x, at, stride, w, base, steps, start):
    """start + the dot products of four rows of x, ``stride`` apart, with sixteen lanes of w."""
    acc0, acc1, acc2, acc3 = start, start, start, start
    for s in range(steps):
        quads = vmovdqu8_load(w, base + 64 * s)
        acc0 = vpdpbusd(acc0, vpbroadcastd(x, at[0] * stride + 4 * s), quads)
        acc1 = vpdpbusd(acc1, vpbroadcastd(x, at[1] * stride + 4 * s), quads)
        acc2 = vpdpbusd(acc2, vpbroadcastd(x, at[2] * stride + 4 * s), quads)
        acc3 = vpdpbusd(acc3, vpbroadcastd(x, at[3] * stride + 4 * s), quads)
    return acc0, acc1, acc2, acc3


@part
def quantize_row(probs, at, t, codes, to):
    """round(255 p): no clamp, since 0 <= p <= 1."""
    for j in range(0, t, 16):
        p = vmovups_load_first(probs, at + j, t - j, zero_f32())
        vpmovusdb_store_first(codes, to + j, vcvtps2dq(vmulps(p, broadcast_f32(MOST))), t - j)


@kernel
def attention_u8s8(q, k, start, v, mask, factors, heads, t, e, scores, probs, codes, context):
    """q: u8 (B H T E4,); k, v: s8, as drawn; start: s32 (B H T16,); mask: f32 (B T,); factors: f32 (2,).

    scores, probs: f32 (B H T T,); codes: u8 (B H T T4,), zeros; context: f32 (B H T E,). E4 is E up to the next
    multiple of 4, T16 is T up to the next of 16.
    """
    blocks, e4, t4 = (t + 3) // 4, (e + 3) // 4, (t + 3) // 4
    tiles, columns = (t + 15) // 16, (e + 15) // 16
    for task in numba.prange(mask.size // t * heads * blocks):
        head, rows = task // blocks, rows_of(task, t)
        for j in range(tiles):
            begin, at, count = vmovdqu32_load(start, 16 * (head * tiles + j)), 16 * j, t - 16 * j
            acc = products(q, rows, 4 * e4, k, 64 * e4 * (head * tiles + j), e4, begin)
            masks = vmovups_load_first(mask, head // heads * t + at, count, zero_f32())
            for i in range(4):
                store_scores(scores, rows[i] * t + at, vcvtdq2ps(acc[i]), broadcast_f32(factors[0]), masks, count)
        for i in range(4):
            softmax_row(scores, rows[i] * t, t, probs, rows[i] * t)
            quantize_row(probs, rows[i] * t, t, codes, rows[i] * 4 * t4)
        for c in range(columns):
            acc = products(codes, rows, 4 * t4, v, 64 * t4 * (head * columns + c), t4, zero_s32())
            for i in range(4):
                y = vmulps(vcvtdq2ps(acc[i]), broadcast_f32(factors[1]))
                vmovups_store_first(context, rows[i] * e + 16 * c, y, e - 16 * c)


def validate(x: Heads, mask: np.ndarray) -> None:
    """Types and shapes of ``Heads``, scales > 0; mask: integer or bool (B, T)."""
    for name, dtype in (("q", np.uint8), ("k", np.int8), ("v", np.int8)):
        check.dtype(name, getattr(x, name), dtype)
        check.shape(name, getattr(x, name), ("B", "H", "T", "E") if name == "q" else x.q.shape)
    check_mask(mask, x.q.shape)
    if max(x.q.shape[2:]) > MAX_K:
        raise ValueError(
            f"q has shape {x.q.shape}; need at most {MAX_K} tokens and numbers, or an s32 sum may overflow"
        )


def _padded(x: np.ndarray, rows: int) -> np.ndarray:
    """The last dimension up to a multiple of 4, the one before up to one of ``rows``, with zeros."""
    return np.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % rows), (0, -x.shape[3] % QUAD)))


def _lanes(w: np.ndarray) -> np.ndarray:
    """s8 (B, H, R, C) -> flat, sixteen rows in the lanes and four columns in a dword."""
    padded = _padded(w, LANES)
    b, h, r, c = padded.shape
    tiles = padded.reshape(b, h, r // LANES, LANES, c // QUAD, QUAD).swapaxes(3, 4)
    out = aligned.empty(tiles.shape, np.int8)
    out[...] = tiles
    return out.reshape(-1)


def call(compiled, x: Heads, mask: np.ndarray) -> IntegerAttention:
    """All heads of all sequences."""
    validate(x, mask)
    b, h, t, e = x.q.shape
    factors = np.array([scores_multiplier(x.q_scale, x.k_scale, e), context_multiplier(x.v_scale)])
    start = np.pad(-compensation_of(x.k.sum(3, dtype=np.int32)), ((0, 0), (0, 0), (0, -t % LANES)))
    scores, probs = (aligned.empty((b, h, t, t), np.float32) for _ in range(2))
    codes, context = np.zeros((b, h, t, -(-t // QUAD) * QUAD), np.uint8), aligned.empty(x.q.shape, np.float32)
    operands = _padded(x.q, 1).reshape(-1), _lanes(x.k), start.reshape(-1), _lanes(x.v.swapaxes(2, 3))
    outputs = [y.reshape(-1) for y in (scores, probs, codes, context)]
    compiled(*operands, lowest_where_masked(mask), factors, h, t, e, *outputs)
    return IntegerAttention(scores, probs, codes[..., :t], context)


def run(target: str, x: Heads, mask: np.ndarray, threads: int = 1) -> IntegerAttention:
    """``call``, ``portable`` or ``native``. Threads beyond the first share out the queries; the bits are the same."""
    with execution.compiled(attention_u8s8, target, threads) as compiled:
        return call(compiled, x, mask)
