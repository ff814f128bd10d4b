"""Weights of ``tdpbusd``: tiles of 16 output channels x 64 input channels, VNNI-4 inside.

    w (M, K)            (ceil(M/16), ceil(K/64), 16, 16, 4)         one tile: 16 rows of 64 bytes, 1024 bytes

                        row 0:   m0 | k0 k1 k2 k3 |     m1 | k0 k1 k2 k3 |     ...  m15 | k0 k1 k2 k3 |
                        row 1:   m0 | k4 k5 k6 k7 |     m1 | k4 k5 k6 k7 |     ...
                        ...
                        row 15:  m0 | k60 ... k63 |     ...

    values[m // 16, k // 64, k % 64 // 4, m % 16, k % 4] = w[m, k]          rows from M and columns from K on are 0

Row q of a tile meets dword q of every row of activations, which are read as they lie: 64 input channels of a token are
one row. A tile of fewer output channels is read with shorter rows at the same stride of 64.
"""

from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.integer.gemm import MAX_K
from refimpl.kernels.layout import aligned

CHANNELS, DEPTH, QUAD = 16, 64, 4


class AmxWeights(NamedTuple):
    """shape: (M, K); values: s8 (ceil(M/16) * ceil(K/64) * 1024,)."""

    shape: tuple[int, int]
    values: np.ndarray


def pack(w: np.ndarray) -> AmxWeights:
    """w: s8 (M, K)."""
    check.dtype("w", w, np.int8)
    check.shape("w", w, ("M", "K"))
    _check_shape(w.shape)
    padded = np.pad(w, ((0, -w.shape[0] % CHANNELS), (0, -w.shape[1] % DEPTH)))
    tiles = padded.reshape(len(padded) // CHANNELS, CHANNELS, -1, DEPTH // QUAD, QUAD).transpose(0, 2, 3, 1, 4)
    values = aligned.empty(tiles.shape, np.int8)
    values[...] = tiles
    return AmxWeights(w.shape, values.reshape(-1))


def unpack(packed: AmxWeights) -> np.ndarray:
    """The exact inverse: s8 (M, K). Raises what ``validate`` raises."""
    validate(packed)
    return _untile(packed)[: packed.shape[0], : packed.shape[1]]


def validate(packed: AmxWeights) -> None:
    """Raise TypeError or ValueError unless a kernel can run on this: sizes fit, and the padding is zero."""
    check.dtype("values", packed.values, np.int8)
    _check_shape(packed.shape)
    m, k = packed.shape
    check.shape("values", packed.values, (-(-m // CHANNELS) * -(-k // DEPTH) * CHANNELS * DEPTH,))
    padded = _untile(packed)
    if padded[m:].any() or padded[:, k:].any():
        raise ValueError(f"values has weights outside the shape {packed.shape}")


def _untile(packed: AmxWeights) -> np.ndarray:
    m, k = packed.shape
    tiles = packed.values.reshape(-(-m // CHANNELS), -(-k // DEPTH), DEPTH // QUAD, CHANNELS, QUAD)
    return tiles.transpose(0, 3, 1, 2, 4).reshape(len(tiles) * CHANNELS, -1)


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or not all(isinstance(n, int) and n >= 1 for n in shape) or shape[1] > MAX_K:
        raise ValueError(f"shape is {shape}; need integers (M, K) with M >= 1 and 1 <= K <= {MAX_K}")
