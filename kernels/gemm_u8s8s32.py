"""Dense INT8 product on VNNI-4 weights.

    acc[n, m] = sum_k a[n, k] w[m, k]      a: u8 (N, K), w: s8 (M, K), acc: s32 (N, M)

Contract. Bits of ``refimpl.integer.gemm_u8s8s32`` for every M, N, K.

A tile is 6 tokens x 64 output channels: 24 accumulators. Each step takes 4 input channels: 4 registers of weights
(16 output channels each) and, for each token, its 4 activations broadcast as one dword. Per step: 4 loads, 6
broadcasts, 24 vpdpbusd, in 29 of the 32 registers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np

from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.kernels.layout import aligned, vnni4
from refimpl.kernels.layout.vnni4 import QUAD, TILE, Vnni4
from refimpl.kernels.record import Kernel
from refimpl.kernels.simd.instructions.arithmetic import vpdpbusd, zero_s32
from refimpl.kernels.simd.instructions.memory import vmovdqu8_load, vmovdqu32_store, vpbroadcastd
from refimpl.kernels.simd.threefold import kernel, part

TOKENS = 6


@part
def zero_token():
    """Accumulators of one token for 64 output channels."""
    return zero_s32(), zero_s32(), zero_s32(), zero_s32()


@part
def dot_token(token, x, w):
    """Add the products of one token's dword x with 64 output channels' dwords w to its accumulators."""
    return (
        vpdpbusd(token[0], x, w[0]),
        vpdpbusd(token[1], x, w[1]),
        vpdpbusd(token[2], x, w[2]),
        vpdpbusd(token[3], x, w[3]),
    )


@part
def store_token(out, at, token):
    """Store 64 consecutive output channels."""
    vmovdqu32_store(out, at, token[0])
    vmovdqu32_store(out, at + 16, token[1])
    vmovdqu32_store(out, at + 32, token[2])
    vmovdqu32_store(out, at + 48, token[3])


@part
def tile(values, start, steps, x, base, k, out, at, m):
    """``steps`` steps of the weights at values[start] times 6 tokens at x[base], k apart; into out[at], m apart."""
    token0, token1, token2 = zero_token(), zero_token(), zero_token()
    token3, token4, token5 = zero_token(), zero_token(), zero_token()
    for step in range(steps):
        here = start + 256 * step
        w = (
            vmovdqu8_load(values, here),
            vmovdqu8_load(values, here + 64),
            vmovdqu8_load(values, here + 128),
            vmovdqu8_load(values, here + 192),
        )
        quad = base + 4 * step
        token0 = dot_token(token0, vpbroadcastd(x, quad), w)
        token1 = dot_token(token1, vpbroadcastd(x, quad + k), w)
        token2 = dot_token(token2, vpbroadcastd(x, quad + 2 * k), w)
        token3 = dot_token(token3, vpbroadcastd(x, quad + 3 * k), w)
        token4 = dot_token(token4, vpbroadcastd(x, quad + 4 * k), w)
        token5 = dot_token(token5, vpbroadcastd(x, quad + 5 * k), w)
    store_token(out, at, token0)
    store_token(out, at + m, token1)
    store_token(out, at + 2 * m, token2)
    store_token(out, at + 3 * m, token3)
    store_token(out, at + 4 * m, token4)
    store_token(out, at + 5 * m, token5)


@kernel
def gemm(values, x, k, out, m):
    """x: u8 (N' k,), N' a multiple of 6 and k of 4; out: s32 (N' m,), m a multiple of 64; values as in ``Vnni4``."""
    steps = k // 4
    token_tiles = x.size // (6 * k)
    for task in numba.prange(m // 64 * token_tiles):
        channel, token = 64 * (task // token_tiles), 6 * (task % token_tiles)
        tile(values, channel * k, steps, x, token * k, k, out, token * m + channel, m)


def on_tiles(execution: Callable[..., Any], a: np.ndarray, m: int) -> np.ndarray:
    """``execution(x, k, out, m)`` with tokens and channels padded to whole tiles. a: u8 (N, K) -> s32 (N, m)."""
    n, k = a.shape
    x = aligned.empty((-(-n // TOKENS) * TOKENS, -(-k // QUAD) * QUAD), np.uint8)
    x[:n, :k] = a
    x[n:], x[:, k:] = 0, 0
    out = aligned.empty((x.shape[0], -(-m // TILE) * TILE), np.int32)
    execution(x.reshape(-1), x.shape[1], out.reshape(-1), out.shape[1])
    return out[:n, :m]


def call(execution: Callable[..., Any], a: np.ndarray, packed: Vnni4) -> np.ndarray:
    """The product. a: u8 (N, K) -> s32 (N, M)."""
    return on_tiles(partial(execution, packed.values), a, packed.shape[0])


GEMM = Kernel("gemm_u8s8s32", gemm_u8s8s32, vnni4.pack, vnni4.unpack, vnni4.validate, gemm, call)
