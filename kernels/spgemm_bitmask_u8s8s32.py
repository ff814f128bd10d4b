"""INT8 product on weights stored as bitmask and nonzero bytes, expanded in registers right before the dot product.

    acc[n, m] = sum_k a[n, k] w[m, k]      a: u8 (N, K), w: s8 (M, K) with any pattern of zeros, acc: s32 (N, M)

Contract. Bits of ``refimpl.integer.gemm_u8s8s32`` for every M, N, K and every pattern of zeros.

The tile of the dense kernel, 6 tokens x 64 output channels, and its arithmetic: zeros are multiplied too. What is saved
is memory traffic, so it pays where weights come from memory and are used for few tokens. Per step: 4 masks, 4
``vpexpandb`` from memory (each advances by the number of bits in its mask), 6 broadcasts, 24 vpdpbusd; an expanded
register serves the six tokens. Beyond six tokens a tile of weights is expanded again, from a cache. Where a step's
bytes begin depends on the masks, too late for memory: what will be read AHEAD bytes further on is asked for beforehand.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np

from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.kernels.gemm_u8s8s32 import dot_token, on_tiles, store_token, zero_token
from refimpl.kernels.layout import bitmask
from refimpl.kernels.layout.bitmask import Bitmask
from refimpl.kernels.record import Kernel
from refimpl.kernels.simd.instructions.expand import kmovq_load, popcnt, vpexpandb
from refimpl.kernels.simd.instructions.memory import prefetcht0, vpbroadcastd
from refimpl.kernels.simd.threefold import kernel, part

AHEAD = 2048
MASK_BYTES = 8


@part
def expand(values, at, masks, i):
    """One step's weights, whose masks begin at masks[i] and values at values[at], and where the next step's begin."""
    mask0, mask1 = kmovq_load(masks, i), kmovq_load(masks, i + 1)
    mask2, mask3 = kmovq_load(masks, i + 2), kmovq_load(masks, i + 3)
    at1 = at + popcnt(mask0)
    at2 = at1 + popcnt(mask1)
    at3 = at2 + popcnt(mask2)
    prefetcht0(masks, i + AHEAD // MASK_BYTES)
    prefetcht0(values, at + AHEAD)
    prefetcht0(values, at2 + AHEAD)
    w = (
        vpexpandb(values, at, mask0),
        vpexpandb(values, at1, mask1),
        vpexpandb(values, at2, mask2),
        vpexpandb(values, at3, mask3),
    )
    return w, at3 + popcnt(mask3)


@part
def tile(values, at, masks, start, steps, x, base, k, out, into, m):
    """``steps`` steps of the weights at masks[start] times 6 tokens at x[base], k apart; into out[into], m apart."""
    token0, token1, token2 = zero_token(), zero_token(), zero_token()
    token3, token4, token5 = zero_token(), zero_token(), zero_token()
    for step in range(steps):
        w, at = expand(values, at, masks, start + 4 * step)
        quad = base + 4 * step
        token0 = dot_token(token0, vpbroadcastd(x, quad), w)
        token1 = dot_token(token1, vpbroadcastd(x, quad + k), w)
        token2 = dot_token(token2, vpbroadcastd(x, quad + 2 * k), w)
        token3 = dot_token(token3, vpbroadcastd(x, quad + 3 * k), w)
        token4 = dot_token(token4, vpbroadcastd(x, quad + 4 * k), w)
        token5 = dot_token(token5, vpbroadcastd(x, quad + 5 * k), w)
    store_token(out, into, token0)
    store_token(out, into + m, token1)
    store_token(out, into + 2 * m, token2)
    store_token(out, into + 3 * m, token3)
    store_token(out, into + 4 * m, token4)
    store_token(out, into + 5 * m, token5)


@kernel
def spgemm_bitmask(starts, masks, values, x, k, out, m):
    """As ``gemm``: x: u8 (N' k,), N' a multiple of 6 and k of 4; out: s32 (N' m,); the rest as in ``Bitmask``."""
    token_tiles = x.size // (6 * k)
    for task in numba.prange(m // 64 * token_tiles):
        channels, token = task // token_tiles, 6 * (task % token_tiles)
        tile(values, starts[channels], masks, channels * k, k // 4, x, token * k, k, out, token * m + channels * 64, m)


def call(execution: Callable[..., Any], a: np.ndarray, packed: Bitmask) -> np.ndarray:
    """The product. a: u8 (N, K) -> s32 (N, M)."""
    return on_tiles(partial(execution, *packed[1:]), a, packed.shape[0])


SPGEMM_BITMASK = Kernel(
    "spgemm_bitmask_u8s8s32", gemm_u8s8s32, bitmask.pack, bitmask.unpack, bitmask.validate, spgemm_bitmask, call
)
