"""Activation panels: K x 64, so that 64 tokens of one input channel are one register.

    a (N, K) tokens by channels              panels (P, K, 64)

    token 0   k0 k1 k2 ...                   panel 0:  k0 | t0 t1 ... t63      index of (token n, channel k):
    token 1   k0 k1 k2 ...          ->                 k1 | t0 t1 ... t63      (n // 64, k, n % 64)
    ...                                      panel 1:  k0 | t64 ... t127       tokens from N on are 0

This is the "3D inference" layout of Intel Extension for Transformers with a panel width of 64.

Accumulator panels (P, M, 64) hold output channels for input channels, and their 64 tokens in the order in which
interleaving bytes inside 128-bit lanes leaves them: position 16 j + 4 l + i is token 16 l + 4 j + i (j the register,
l the lane, i the dword in it). Narrowing four such registers with the pack instructions, which also work inside lanes,
restores the order of the tokens.
"""

import numpy as np

from refimpl.kernels.layout import aligned

WIDTH = 64


def pack(a: np.ndarray) -> np.ndarray:
    """(N, K) of any dtype -> (ceil(N / 64), K, 64), padded with zeros."""
    panels = aligned.empty((-(-a.shape[0] // WIDTH), a.shape[1], WIDTH), a.dtype)
    for panel, start in zip(panels, range(0, a.shape[0], WIDTH), strict=True):
        tokens = a[start : start + WIDTH]
        panel[:, : len(tokens)] = tokens.T
        panel[:, len(tokens) :] = 0
    return panels


def unpack(panels: np.ndarray, tokens: int) -> np.ndarray:
    """The inverse: (P, K, 64) -> (tokens, K)."""
    return panels.swapaxes(1, 2).reshape(-1, panels.shape[1])[:tokens]


def unpack_accumulators(panels: np.ndarray, tokens: int) -> np.ndarray:
    """Accumulator panels s32 (P, M, 64) -> (tokens, M)."""
    count, m, _ = panels.shape
    registers = panels.reshape(count, m, 4, 4, 4)  # j, l, i
    return registers.transpose(0, 3, 2, 4, 1).reshape(-1, m)[:tokens]
