"""Self-attention in f32, from panel to panel.

    scores[j, i]  = (sum_e q[e, i] k[e, j]) * f32(1 / sqrt E)            q, k, v: f32 rows
    p[j, i]       = e[j, i] * (1 / sum_j e[j, i])                        e: ``exponentials``
    context[c, i] = sum_j p[j, i] v[c, j]
    out[c, i]     = quantize(context, step)                              u8 codes + 128, or the context in f32

Contract. Sums ascend from 0, each step one fused multiply-add. Errors within ``bounds.attention_scores``,
``bounds.softmax`` and ``bounds.attention_context``; codes have the bits of ``refimpl.quant.quantize_activation``.
Lanes are queries: no key of another text and no padding is ever looked at, so there is no mask.

A text is n consecutive tokens of the panels, the first at a multiple of 4; its own lanes of ``out`` are written, and no
others, so that texts may share panels. A task is one head of one text.
"""

import numba
import numpy as np

from refimpl.kernels.encoder.exponentials import exponentials
from refimpl.kernels.encoder.lanes import text_lanes
from refimpl.kernels.encoder.rows import (
    divide,
    fused,
    load_row,
    multiply,
    place,
    spread,
    store_lanes,
    store_quantized,
    store_row,
    width,
)
from refimpl.kernels.simd.exchange import exchange
from refimpl.kernels.simd.instructions.f32 import broadcast_f32, vbroadcastss, zero_f32
from refimpl.kernels.simd.threefold import kernel, part

ONE = np.float32(1)


@part
def step_of_four(acc, row, x, at0, at1, at2, at3):
    """Add to four rows the products of one row with four numbers of x."""
    return (
        fused(row, spread(vbroadcastss(x, at0)), acc[0]),
        fused(row, spread(vbroadcastss(x, at1)), acc[1]),
        fused(row, spread(vbroadcastss(x, at2)), acc[2]),
        fused(row, spread(vbroadcastss(x, at3)), acc[3]),
    )


@part
def zero_rows():
    """Four rows of zeros."""
    return spread(zero_f32()), spread(zero_f32()), spread(zero_f32()), spread(zero_f32())


@part
def store_score(scores, at, acc, factor):
    """Scaled."""
    store_row(scores, at, multiply(acc, spread(factor)))


@part
def scores_of(x, queries, keys, skip, e, groups, panel_size, scale, scores, lines):
    """Scores of the queries at x[queries] with 4 ``groups`` keys from token ``skip``, those of the first panel at
    x[keys]."""
    w, factor = width(), broadcast_f32(scale)
    for g in range(groups):
        at, acc = keys + (skip + 4 * g) // w * panel_size + place((skip + 4 * g) % w), zero_rows()
        for i in range(e):
            k = at + i * w
            acc = step_of_four(acc, load_row(x, queries + i * w), x, k, k + 1, k + 2, k + 3)
        store_score(scores, lines + 4 * g * w, acc[0], factor)
        store_score(scores, lines + (4 * g + 1) * w, acc[1], factor)
        store_score(scores, lines + (4 * g + 2) * w, acc[2], factor)
        store_score(scores, lines + (4 * g + 3) * w, acc[3], factor)


@part
def context_of(x, values, skip, groups, panel_size, scores, lines):
    """Four channels of the context, v's rows in the first panel at x[values], from token ``skip``."""
    w, acc = width(), zero_rows()
    for g in range(groups):
        at = values + (skip + 4 * g) // w * panel_size + place((skip + 4 * g) % w)
        for i in range(4):
            v = at + i
            acc = step_of_four(acc, load_row(scores, lines + (4 * g + i) * w), x, v, v + w, v + 2 * w, v + 3 * w)
    return acc


@part
def store_context(out, at, acc, step, codes, own, mask):
    """Codes of one channel, by way of a row of their own."""
    store_quantized(codes, own, acc, step)
    store_lanes(out, at, codes, own, mask)


@part
def store_context_f32(out, at, acc, step, codes, own, mask):
    """One channel in f32, all lanes."""
    store_row(out, at, acc)


@part
def queries_of_head(x, first, n, p, h, d, e, factors, scores, lines, codes, own, out):
    """The panel p of queries of head h of the text of n tokens that begins with token ``first``."""
    w, groups, skip, panel_size = width(), (n + 3) // 4, first % width(), 3 * d * width()
    text = first // w * panel_size
    queries, keys = text + p * panel_size + h * e * w, text + (d + h * e) * w
    scores_of(x, queries, keys, skip, e, groups, panel_size, factors[0], scores, lines)
    inverse = divide(spread(broadcast_f32(ONE)), exponentials(scores, lines, n, 4 * groups))
    for j in range(4 * groups):
        store_row(scores, lines + j * w, multiply(load_row(scores, lines + j * w), inverse))
    mask, step = text_lanes(skip, n, p), spread(broadcast_f32(factors[1]))
    for c in range(0, e, 4):
        acc = context_of(x, text + (2 * d + h * e + c) * w, skip, groups, panel_size, scores, lines)
        at = ((first // w + p) * d + h * e + c) * w
        store_context(out, at, acc[0], step, codes, own, mask)
        store_context(out, at + w, acc[1], step, codes, own, mask)
        store_context(out, at + 2 * w, acc[2], step, codes, own, mask)
        store_context(out, at + 3 * w, acc[3], step, codes, own, mask)


@kernel
def attention_f32(x, first, lengths, heads, d, factors, most, scores, codes, workers, out):
    """x: f32 (P 3 D W,), rows of q, k, v; first, lengths: s64 (texts,), tokens; factors: f32 (2,), 1 / sqrt E and step;
    out: u8 (P D W,). Scratch for texts whose panels have up to ``most`` tokens, a slot for each worker: scores f32
    (workers most W,), codes u8 (workers W,)."""
    tasks = first.size * heads
    for worker in numba.prange(workers):
        for task in range(worker, tasks, workers):
            text, h = task // heads, task % heads
            for p in range((first[text] % width() + lengths[text] + width() - 1) // width()):
                queries_of_head(
                    x, first[text], lengths[text], p, h, d, d // heads, factors,
                    scores, worker * most * width(), codes, worker * width(), out,
                )  # fmt: skip


attention_f32_to_f32 = exchange(attention_f32, {store_context: store_context_f32}, "attention_f32_to_f32", __name__)
"""Where the next layer reads f32: out is f32 (P D W,), the context itself; texts must have panels of their own."""
