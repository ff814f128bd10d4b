"""Dense INT8 product on AMX tiles. Only the emulated execution exists here: no portable and no native form.

    acc[n, m] = sum_k a[n, k] w[m, k]      a: u8 (N, K), w: s8 (M, K), acc: s32 (N, M)

Contract. Bits of ``refimpl.integer.gemm_u8s8s32`` for every M, N, K.

A block is up to 32 tokens x 32 output channels: all eight tiles. Per step of 64 input channels: 4 loads and 4 tdpbusd,
16 384 multiply-accumulates each.

                              weights     6         7
                              channels  0 ... 15  16 ... 31
    activations  4  tokens 0 ... 15       0         1          accumulators
                 5  tokens 16 ... 31      2         3

Tails of tokens and channels are tiles configured with fewer rows or shorter rows, or left out; the input channels are
padded to 64 with zeros, because a new configuration would clear the accumulators.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.isa.amx import Amx, configuration, ldtilecfg, tdpbusd, tileloadd, tilestored
from refimpl.kernels.layout import aligned, amx
from refimpl.kernels.layout.amx import CHANNELS, DEPTH, AmxWeights

TOKENS = 16


def halves(count: int, size: int) -> tuple[int, int]:
    """How much of a block's ``count`` rows or columns its first and its second tile of ``size`` get."""
    return min(count, size), min(max(count - size, 0), size)


def configure(tokens: int, channels: int) -> Amx:
    """All tiles of one block; zero accumulators. Tiles with nothing to do are not in use."""
    t, c = halves(tokens, TOKENS), halves(channels, CHANNELS)
    shapes = [(t[i], 4 * c[j]) for i in (0, 1) for j in (0, 1)]  # accumulators: s32
    shapes += [(t[0], DEPTH), (t[1], DEPTH)]  # activations
    shapes += [(DEPTH // 4, 4 * c[0]), (DEPTH // 4, 4 * c[1])]  # weights
    used = [(rows, colsb) if rows and colsb else (0, 0) for rows, colsb in shapes]
    rows, colsb = zip(*used, strict=True)
    return ldtilecfg(configuration(rows, colsb))


def block(values, x, k, out, m, token, tokens, channel, channels):
    """``tokens`` x ``channels`` of the product from (token, channel) on."""
    state = configure(tokens, channels)
    token_tiles, channel_tiles = range(-(-tokens // TOKENS)), range(-(-channels // CHANNELS))
    for step in range(k // DEPTH):
        for i in token_tiles:
            state = tileloadd(state, 4 + i, x, (token + TOKENS * i) * k + DEPTH * step, k)
        for j in channel_tiles:
            state = tileloadd(state, 6 + j, values, (channel + CHANNELS * j) * k + CHANNELS * DEPTH * step, DEPTH)
        for i in token_tiles:
            for j in channel_tiles:
                state = tdpbusd(state, 2 * i + j, 4 + i, 6 + j)
    for i in token_tiles:
        for j in channel_tiles:
            state = tilestored(state, 2 * i + j, out, (token + TOKENS * i) * m + channel + CHANNELS * j, m)


def gemm(values, x, k, out, m):
    """x: u8 (N k,), k a multiple of 64; out: s32 (N m,); values as in ``AmxWeights``."""
    n = x.size // k
    for channel in range(0, m, 2 * CHANNELS):
        for token in range(0, n, 2 * TOKENS):
            tokens, channels = min(n - token, 2 * TOKENS), min(m - channel, 2 * CHANNELS)
            block(values, x, k, out, m, token, tokens, channel, channels)


def call(execution: Callable[..., None], a: np.ndarray, packed: AmxWeights) -> np.ndarray:
    """The product with input channels padded to 64; nothing else is. a: u8 (N, K) -> s32 (N, M)."""
    (n, k), m = a.shape, packed.shape[0]
    x = aligned.empty((n, -(-k // DEPTH) * DEPTH), np.uint8)
    x[:, :k], x[:, k:] = a, 0
    out = aligned.empty((n, m), np.int32)
    execution(packed.values, x.reshape(-1), x.shape[1], out.reshape(-1), m)
    return out


class EmulatedKernel(NamedTuple):
    """What ``record.Kernel`` is, for a kernel with its emulated execution alone."""

    name: str
    oracle: Callable[[np.ndarray, np.ndarray], np.ndarray]
    pack: Callable[[np.ndarray], AmxWeights]
    unpack: Callable[[AmxWeights], np.ndarray]
    validate: Callable[[AmxWeights], None]
    source: Callable[..., None]
    call: Callable[[Callable[..., None], np.ndarray, AmxWeights], np.ndarray]

    def emulated(self, a: np.ndarray, packed: AmxWeights) -> np.ndarray:
        """Instruction by instruction on tiles. a: u8 (N, K) -> s32 (N, M)."""
        check.dtype("a", a, np.uint8)
        check.shape("a", a, ("N", packed.shape[1]))
        return self.call(self.source, a, packed)


GEMM_AMX = EmulatedKernel("gemm_u8s8s32_amx", gemm_u8s8s32, amx.pack, amx.unpack, amx.validate, gemm, call)
