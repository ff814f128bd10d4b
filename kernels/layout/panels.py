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

Word panels (P, K, 2, 64) hold 32 tokens, each code twice: in the low byte of a 16-bit word, and in the high byte of
another, so that two channels are interleaved by an OR:

    channel k    | t0  0  t1  0  ... t31  0  |  0 t0   0 t1  ...  0 t31 |

Their accumulators (P, M, 32) have token 8 l + 4 j + i at position 16 j + 4 l + i.
"""

import numpy as np

from refimpl.kernels.layout import aligned

WIDTH = 64
HALF = 32


def pack(a: np.ndarray) -> np.ndarray:
    """(N, K) of any dtype -> (ceil(N / 64), K, 64), padded with zeros."""
    return pack_to(a, WIDTH)


def pack_to(a: np.ndarray, width: int) -> np.ndarray:
    """The same with panels of ``width`` tokens."""
    panels = aligned.empty((-(-a.shape[0] // width), a.shape[1], width), a.dtype)
    for panel, start in zip(panels, range(0, a.shape[0], width), strict=True):
        tokens = a[start : start + width]
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


def pack_words(a: np.ndarray) -> np.ndarray:
    """u8 (N, K) -> word panels u8 (ceil(N / 32), K, 2, 64)."""
    halves = pack_to(a, HALF)
    words = aligned.empty((*halves.shape[:2], 2, WIDTH), np.uint8)
    words[:, :, 0, 0::2] = words[:, :, 1, 1::2] = halves
    words[:, :, 0, 1::2] = words[:, :, 1, 0::2] = 0
    return words


def unpack_word_accumulators(panels: np.ndarray, tokens: int) -> np.ndarray:
    """Accumulators of word panels, s32 (P, M, 32) -> (tokens, M)."""
    count, m, _ = panels.shape
    registers = panels.reshape(count, m, 2, 4, 4)  # j, l, i
    return registers.transpose(0, 3, 2, 4, 1).reshape(-1, m)[:tokens]
