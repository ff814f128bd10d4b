"""Dense bf16 product on VNNI-2 weights.

    acc[n, m] = sum_k a[n, k] w[m, k]      a: bf16 (N, K), w: bf16 (M, K), both held as u16; acc: f32 (N, M)

Contract. Bits of ``refimpl.nn.gemm_bf16`` for every M, N, K: pairs of input channels ascending, in each pair the upper
one first, one rounding each, subnormal operands and results flushed. The tiling does not show in the bits.

A tile is 6 tokens x 64 output channels: 24 accumulators. Each step takes 2 input channels: 4 registers of weights
(16 output channels each) and, for each token, its 2 activations broadcast as one dword. Per step: 4 loads, 6
broadcasts, 24 vdpbf16ps, in 29 of the 32 registers.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from refimpl.kernels.layout import aligned, vnni2
from refimpl.kernels.layout.vnni2 import PAIR, TILE, Vnni2
from refimpl.kernels.record import Kernel
from refimpl.kernels.simd.instructions.bf16 import vdpbf16ps, vmovdqu16_load, vpbroadcastd_pair
from refimpl.kernels.simd.instructions.f32 import vmovups_store, zero_f32
from refimpl.kernels.simd.threefold import kernel, part
from refimpl.nn import gemm_bf16 as oracle

TOKENS = 6


@part
def zero_token():
    """Accumulators of one token for 64 output channels."""
    return zero_f32(), zero_f32(), zero_f32(), zero_f32()


@part
def dot_token(token, x, w):
    """Add the products of one token's pair x with 64 output channels' pairs w to its accumulators."""
    return (
        vdpbf16ps(token[0], x, w[0]),
        vdpbf16ps(token[1], x, w[1]),
        vdpbf16ps(token[2], x, w[2]),
        vdpbf16ps(token[3], x, w[3]),
    )


@part
def store_token(out, at, token):
    """Store 64 consecutive output channels."""
    vmovups_store(out, at, token[0])
    vmovups_store(out, at + 16, token[1])
    vmovups_store(out, at + 32, token[2])
    vmovups_store(out, at + 48, token[3])


@part
def tile(values, start, steps, x, base, k, out, at, m):
    """``steps`` steps of the weights at values[start] times 6 tokens at x[base], k apart; into out[at], m apart."""
    token0, token1, token2 = zero_token(), zero_token(), zero_token()
    token3, token4, token5 = zero_token(), zero_token(), zero_token()
    for step in range(steps):
        here = start + 128 * step
        w = (
            vmovdqu16_load(values, here),
            vmovdqu16_load(values, here + 32),
            vmovdqu16_load(values, here + 64),
            vmovdqu16_load(values, here + 96),
        )
        pair = base + 2 * step
        token0 = dot_token(token0, vpbroadcastd_pair(x, pair), w)
        token1 = dot_token(token1, vpbroadcastd_pair(x, pair + k), w)
        token2 = dot_token(token2, vpbroadcastd_pair(x, pair + 2 * k), w)
        token3 = dot_token(token3, vpbroadcastd_pair(x, pair + 3 * k), w)
        token4 = dot_token(token4, vpbroadcastd_pair(x, pair + 4 * k), w)
        token5 = dot_token(token5, vpbroadcastd_pair(x, pair + 5 * k), w)
    store_token(out, at, token0)
    store_token(out, at + m, token1)
    store_token(out, at + 2 * m, token2)
    store_token(out, at + 3 * m, token3)
    store_token(out, at + 4 * m, token4)
    store_token(out, at + 5 * m, token5)


@kernel
def gemm_bf16(values, x, k, out, m):
    """x: u16 (N' k,), N' a multiple of 6 and k of 2; out: f32 (N' m,), m a multiple of 64; values as in ``Vnni2``."""
    steps = k // 2
    token_tiles = x.size // (6 * k)
    for task in numba.prange(m // 64 * token_tiles):
        channel, token = 64 * (task // token_tiles), 6 * (task % token_tiles)
        tile(values, channel * k, steps, x, token * k, k, out, token * m + channel, m)


def call(execution: Callable[..., Any], a: np.ndarray, packed: Vnni2) -> np.ndarray:
    """The product with tokens and channels padded to whole tiles. a: u16 (N, K) -> f32 (N, M)."""
    (n, k), m = a.shape, packed.shape[0]
    x = aligned.empty((-(-n // TOKENS) * TOKENS, -(-k // PAIR) * PAIR), np.uint16)
    x[:n, :k] = a
    x[n:], x[:, k:] = 0, 0
    out = aligned.empty((x.shape[0], -(-m // TILE) * TILE), np.float32)
    execution(packed.values, x.reshape(-1), x.shape[1], out.reshape(-1), out.shape[1])
    return out[:n, :m]


GEMM_BF16 = Kernel(
    "gemm_bf16",
    oracle.gemm_bf16,
    vnni2.pack,
    vnni2.unpack,
    vnni2.validate,
    gemm_bf16,
    call,
    activation=np.uint16,
)
