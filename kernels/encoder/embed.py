"""Tokens of a batch laid side by side, the sum of their three embeddings, the way into panels and back, and between.

    sources[r]      = n, the place of row r of the batch, or -1 where it is masked; n ascends within a text
    rows[n, m]      = (f32(codes[id n, m]) * scale[id n] + position[place n, m]) + token_type[type n, m]
                      an f32 table has itself for codes, and the scale 1
    panels[p, m, i] = rows[W p + lanes[i], m]
    picked tokens   = the first of each text, one after the other, then zeros

Contract. Each text begins at the first multiple of ``align`` after the text before it; places that no token takes have
the ids 0. Bits of ``refimpl.quant.quantized_embedding`` and the additions, left to right, of ``models.bert.embed``; the
others move bits. The order of the lanes is that of ``rows``.

Plain loops, since the compiler does these well, with unsigned indices: a signed one may be negative, which costs
NumPy's rule for those at every element. A transpose goes by squares of BLOCK x BLOCK, whose lines fit the first-level
cache.
"""

import numba
import numpy as np

from refimpl.kernels.simd.threefold import kernel

HALF_ORDER = np.arange(32, dtype=np.uint64)
WIDE_ORDER = np.arange(64, dtype=np.uint64).reshape(4, 4, 4).swapaxes(0, 1).reshape(-1)
"""Position 16 j + 4 l + i of a wide row is token 16 l + 4 j + i."""

BLOCK = np.uint64(16)


@kernel
def side_by_side(ids, mask, types, align, first, lengths, token_ids, token_places, token_types, sources):
    """ids, mask (0: no token), types: s64 (R,), rows of all texts; align: tokens. Out: first, lengths: s64 (texts,), of
    each text, tokens; token_ids, token_places, token_types: u64 (N,); sources: s64 (R,)."""
    rows, end = ids.size // first.size, 0
    for text in range(first.size):
        count = 0
        for row in range(text * rows, (text + 1) * rows):
            count += mask[row] != 0
        first[text], lengths[text] = end, count
        end += (count + align - 1) // align * align
    for text in numba.prange(first.size):
        n = first[text]
        for place in range(rows):
            row = text * rows + place
            sources[row] = -1
            if mask[row] != 0:
                token_ids[n], token_places[n], token_types[n] = ids[row], place, types[row]
                sources[row] = n
                n += 1
        for spare in range(n, first[text + 1] if text + 1 < first.size else token_ids.size):
            token_ids[spare], token_places[spare], token_types[spare] = 0, 0, 0


@kernel
def embed(ids, places, types, codes, scale, position, token_type, d, out):
    """ids, places, types: u64 (N,); codes: s8 or f32 (V d,); scale: f32 (V,); position: f32 (S d,); token_type: f32
    (C d,), or (0,) for none; d: u64; out: f32 (N d,)."""
    for n in numba.prange(ids.size):
        word, place, kind, to = ids[n] * d, places[n] * d, types[n] * d, np.uint64(n) * d
        factor = scale[ids[n]]
        for m in range(d):
            out[to + m] = np.float32(codes[word + m]) * factor + position[place + m]
        if token_type.size:
            for m in range(d):
                out[to + m] += token_type[kind + m]


@kernel
def to_panels(x, lanes, d, out):
    """x: f32 (P W d,), rows; lanes: u64 (W,), which token is at each position of a row of a panel; d: u64; out: f32
    (P d W,)."""
    w = np.uint64(lanes.size)
    blocks = (d + BLOCK - np.uint64(1)) // BLOCK
    for task in numba.prange(np.uint64(x.size) // (w * d) * blocks):
        panel, start = np.uint64(task) // blocks, np.uint64(task) % blocks * BLOCK
        for i in range(np.uint64(0), w, BLOCK):
            for m in range(start, min(start + BLOCK, d)):
                for j in range(i, i + BLOCK):
                    out[(panel * d + m) * w + j] = x[(panel * w + lanes[j]) * d + m]


@kernel
def to_rows(x, sources, places, d, out):
    """x: f32 (P d W,); sources: s64 (R,), the token that each row of out wants, below 0 for zeros; places: u64 (W,),
    where in a row of a panel each token is; d: u64; out: f32 (R d,)."""
    w = np.uint64(places.size)
    for block in numba.prange((d + BLOCK - np.uint64(1)) // BLOCK):
        start = np.uint64(block) * BLOCK
        for row in range(sources.size):
            n, to = np.uint64(max(sources[row], 0)), np.uint64(row) * d
            at = n // w * d * w + places[n % w]
            for m in range(start, min(start + BLOCK, d)):
                out[to + m] = x[at + m * w] if sources[row] >= 0 else np.float32(0)


@kernel
def pick_first(x, first, places, lanes, d, out):
    """x: f32 or u8 (P d W,); first: s64 (texts,), tokens; places: u64 (W,), where in a row of a panel of x each token
    is; lanes: u64 (V,), the same of out; d: u64; out: as x (Q d V,), with V Q >= texts."""
    w, v = np.uint64(places.size), np.uint64(lanes.size)
    for m in numba.prange(d):
        row = np.uint64(m)
        for panel in range(np.uint64(0), np.uint64(out.size) // (d * v)):
            start = (panel * d + row) * v
            for i in range(v):
                out[start + i] = 0
        for text in range(first.size):
            n, to = np.uint64(first[text]), np.uint64(text)
            out[(to // v * d + row) * v + lanes[to % v]] = x[(n // w * d + row) * w + places[n % w]]
