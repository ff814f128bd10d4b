"""Self-attention with INT8 products, from panel to panel: the contract of ``refimpl.quant.attention``.

    scores[j, i]  = f32(sum_e (q[e, i] - 128) (k[e, j] - 128)) * m            q, k, v: rows of u8 codes + 128
    e[j, i]       = exp(scores[j, i] - max_j scores[j, i])
    p[j, i]       = round(e[j, i] * (255 / sum_j e[j, i]))                    u8
    context[c, i] = f32(sum_j p[j, i] (v[c, j] - 128)) * n
    out[c, i]     = quantize(context, step)                                   u8 codes + 128, or the context in f32

A text is n consecutive tokens of the panels, the first at a multiple of 4; its own lanes of ``out`` are written, and no
others, so that texts may share panels.

Contract. Scores and context have the bits of the reference, given the codes that they are made of. The sum over the
keys ascends from 0. p is within 1/2 + 255 (softmax's error + 3 u) of 255 times the exact probability. Lanes are
queries: no key of another text and no padding is ever looked at, so there is no mask.

A task is one head of one text. Its keys are interleaved, so that four consecutive e of a key are the dword that
``vpdpbusd`` broadcasts; a row of v is four consecutive keys a dword as it is. Then, for each panel of queries, scores,
softmax down the keys, and context are three passes over scratch memory.
"""

import numba
import numpy as np

from refimpl.kernels.encoder.exponentials import exponentials
from refimpl.kernels.encoder.lanes import text_lanes
from refimpl.kernels.encoder.rows import (
    TOP_BITS,
    divide,
    dot,
    dot_row,
    flipped,
    load_quad,
    load_row,
    minus,
    multiply,
    place,
    save_quad,
    saved_quad,
    spread,
    start_row,
    store_codes,
    store_flipped,
    store_lanes,
    store_quantized,
    store_row,
    store_sums,
    to_f32,
    to_s32,
    width,
    zero_row,
)
from refimpl.kernels.simd.exchange import exchange
from refimpl.kernels.simd.instructions.f32 import broadcast_f32
from refimpl.kernels.simd.instructions.memory import vpbroadcastd
from refimpl.kernels.simd.threefold import kernel, part
from refimpl.quant.attention import PROBS_MAX

MOST = np.float32(PROBS_MAX)
FLIP = TOP_BITS.view(np.int8)
"""Flipping the top bit turns a u8 code + 128 into the s8 code; as a number it is the 128 of the compensation."""


@part
def split_keys(s8, at, e, small, to, sums, where):
    """One panel of k at s8[at]: dwords of four e into small[to]; -128 sum_e k into sums[where]."""
    flip, total = spread(vpbroadcastd(FLIP, 0)), zero_row()
    for s in range(e // 4):
        row = at + 4 * s * width()
        quad = flipped(load_quad(s8, row, row + width(), row + 2 * width(), row + 3 * width()), flip)
        save_quad(small, to + 4 * s * width(), quad)
        total = dot(total, spread(vpbroadcastd(TOP_BITS, 0)), quad)
    store_sums(sums, where, minus(zero_row(), total))


@part
def score(queries, own, keys, at, e, offsets, o):
    """Accumulators of four keys, whose dwords begin at keys[at], with the queries of a panel."""
    acc0, acc1 = start_row(offsets[o]), start_row(offsets[o + 1])
    acc2, acc3 = start_row(offsets[o + 2]), start_row(offsets[o + 3])
    for s in range(e // 4):
        quad, here = saved_quad(queries, own + 4 * s * width()), at + 4 * s * width()
        acc0 = dot_row(acc0, quad, vpbroadcastd(keys, here))
        acc1 = dot_row(acc1, quad, vpbroadcastd(keys, here + 4))
        acc2 = dot_row(acc2, quad, vpbroadcastd(keys, here + 8))
        acc3 = dot_row(acc3, quad, vpbroadcastd(keys, here + 12))
    return acc0, acc1, acc2, acc3


@part
def codes_of(scores, at, rows, factor, probs, to):
    """Exponentials to rows of codes."""
    for j in range(rows):
        store_codes(probs, to + j * width(), to_s32(multiply(load_row(scores, at + j * width()), factor)))


@part
def context(quads, own, groups, values, at, stride):
    """Accumulators of four channels of v, at values[at], with the probabilities of a panel."""
    acc0, acc1, acc2, acc3 = zero_row(), zero_row(), zero_row(), zero_row()
    for g in range(groups):
        quad, here = saved_quad(quads, own + 4 * g * width()), at + 4 * g
        acc0 = dot_row(acc0, quad, vpbroadcastd(values, here))
        acc1 = dot_row(acc1, quad, vpbroadcastd(values, here + stride))
        acc2 = dot_row(acc2, quad, vpbroadcastd(values, here + 2 * stride))
        acc3 = dot_row(acc3, quad, vpbroadcastd(values, here + 3 * stride))
    return acc0, acc1, acc2, acc3


@part
def store_context(out, at, acc, factor, step, codes, own, mask):
    """Codes of one channel, by way of a row of their own."""
    store_quantized(codes, own, multiply(to_f32(acc), spread(factor)), spread(step))
    store_lanes(out, at, codes, own, mask)


@part
def store_context_f32(out, at, acc, factor, step, codes, own, mask):
    """One channel in f32, all lanes."""
    store_row(out, at, multiply(to_f32(acc), spread(factor)))


@part
def one_head(u8, s8, first, n, h, d, e, factors, most, bytes_, small, sums, scores, slot, out):
    """Head h of the text of n tokens that begins with token ``first``."""
    w, groups, panel, skip = width(), (n + 3) // 4, first // width(), first % width()
    panels = (skip + n + w - 1) // w
    keys, values, queries = slot * 2 * e * most, slot * 2 * e * most + e * most, slot * (e + 2 * most) * w
    probs, quads, lines = queries + e * w, queries + (e + most) * w, slot * most * w
    flip = vpbroadcastd(FLIP, 0)
    for p in range(panels):
        at = ((panel + p) * 3 * d + d + h * e) * w
        split_keys(s8, at, e, small, keys + p * e * w, sums, slot * most + p * w)
        for c in range(e):
            store_flipped(small, values + c * most + p * w, s8, at + (d + c) * w, flip)
    for p in range(panels):
        at = ((panel + p) * 3 * d + h * e) * w
        for s in range(e // 4):
            row = at + 4 * s * w
            save_quad(bytes_, queries + 4 * s * w, load_quad(u8, row, row + w, row + 2 * w, row + 3 * w))
        for g in range(groups):
            into, within = (skip + 4 * g) // w, place((skip + 4 * g) % w)
            acc = score(
                bytes_, queries, small, keys + into * e * w + 4 * within, e, sums, slot * most + into * w + within
            )
            factor = spread(broadcast_f32(factors[0]))
            store_row(scores, lines + 4 * g * w, multiply(to_f32(acc[0]), factor))
            store_row(scores, lines + (4 * g + 1) * w, multiply(to_f32(acc[1]), factor))
            store_row(scores, lines + (4 * g + 2) * w, multiply(to_f32(acc[2]), factor))
            store_row(scores, lines + (4 * g + 3) * w, multiply(to_f32(acc[3]), factor))
        factor = divide(spread(broadcast_f32(MOST)), exponentials(scores, lines, n, 4 * groups))
        codes_of(scores, lines, 4 * groups, factor, bytes_, probs)
        for g in range(groups):
            row = probs + 4 * g * w
            save_quad(bytes_, quads + 4 * g * w, load_quad(bytes_, row, row + w, row + 2 * w, row + 3 * w))
        mask, factor, step = text_lanes(skip, n, p), broadcast_f32(factors[1]), broadcast_f32(factors[2])
        for c in range(0, e, 4):
            acc = context(bytes_, quads, groups, small, values + c * most + skip, most)
            at = ((panel + p) * d + h * e + c) * w
            store_context(out, at, acc[0], factor, step, bytes_, probs, mask)
            store_context(out, at + w, acc[1], factor, step, bytes_, probs, mask)
            store_context(out, at + 2 * w, acc[2], factor, step, bytes_, probs, mask)
            store_context(out, at + 3 * w, acc[3], factor, step, bytes_, probs, mask)


@kernel
def attention_u8s8(u8, s8, first, lengths, heads, d, factors, most, bytes_, small, sums, scores, workers, out):
    """u8, and s8, the same memory: (P 3 D W,), rows of q, k, v; first, lengths: s64 (texts,), tokens; factors: f32
    (3,), m, n and step; out: u8 (P D W,).

    Scratch for texts whose panels have up to ``most`` tokens, a slot for each worker: bytes_ u8 (workers (E + 2 most)
    W,); small s8 (workers 2 E most,); sums s32 (workers most,); scores f32 (workers most W,). What is written is seen
    through one array only: numba's parallel code takes arrays for distinct.
    """
    tasks = first.size * heads
    for worker in numba.prange(workers):
        for task in range(worker, tasks, workers):
            text, h = task // heads, task % heads
            one_head(
                u8, s8, first[text], lengths[text], h, d, d // heads, factors, most,
                bytes_, small, sums, scores, worker, out,
            )  # fmt: skip


attention_u8s8_to_f32 = exchange(attention_u8s8, {store_context: store_context_f32}, "attention_u8s8_to_f32", __name__)
"""Where the next layer reads f32: out is f32 (P D W,), the context itself."""
