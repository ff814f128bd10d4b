"""The sum of the three embeddings, from ids into f32 panels; and f32 panels back into rows of tokens.

    x[m, n] = (f32(codes[id n, m]) * scale[id n] + position[place of n, m]) + token_type[type of n, m]

Contract. Bits of ``refimpl.quant.quantized_embedding`` and the additions, left to right, of ``models.bert.embed``. No
instruction of its own: a panel turns tokens into lanes, which is a transpose, and the compiler's loops do that well.
The order of the lanes is that of ``rows``.
"""

import numba
import numpy as np

from refimpl.kernels.simd.threefold import kernel

HALF_ORDER = np.arange(32)
WIDE_ORDER = np.arange(64).reshape(4, 4, 4).swapaxes(0, 1).reshape(-1)
"""Position 16 j + 4 l + i of a wide row is token 16 l + 4 j + i."""


BLOCK = 64
"""Channels at a time: their rows stay in a first-level cache while lane after lane is filled."""


@kernel
def embed(ids, places, types, codes, scale, position, token_type, lanes, d, out):
    """ids, places, types: s64 (P W,), padding has any in range; codes: s8 (V d,); scale: f32 (V,); position: f32
    (S d,); token_type: f32 (C d,), or (0,) for none; lanes: s64 (W,); out: f32 (P d W,)."""
    w, blocks = lanes.size, (d + BLOCK - 1) // BLOCK
    for task in numba.prange(ids.size // w * blocks):
        panel, start = task // blocks, task % blocks * BLOCK
        for i in range(w):
            n = panel * w + lanes[i]
            word, place, kind, factor = ids[n] * d, places[n] * d, types[n] * d, scale[ids[n]]
            for m in range(start, min(start + BLOCK, d)):
                total = np.float32(codes[word + m]) * factor + position[place + m]
                if token_type.size:
                    total += token_type[kind + m]
                out[(panel * d + m) * w + i] = total


@kernel
def unpack(x, sources, places, d, out):
    """x: f32 (P d W,); sources: s64 (R,), the token that each row of out wants, below 0 for zeros; places: s64 (W,),
    where in a row of a panel each token is; out: f32 (R d,)."""
    w, blocks = places.size, (d + BLOCK - 1) // BLOCK
    for block in numba.prange(blocks):
        start, stop = block * BLOCK, min((block + 1) * BLOCK, d)
        for row in range(sources.size):
            n = sources[row]
            at = n // w * d * w + places[n % w]
            for m in range(start, stop):
                out[row * d + m] = x[at + m * w] if n >= 0 else np.float32(0)
