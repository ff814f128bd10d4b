"""VNNI-4: dense weights cut into tiles of 64 output channels, four input channels of one output channel in a dword.

    w (M, K)            (ceil(M/64), ceil(K/4), 64, 4)

                        tile m0, step k0:   m0   | k0 k1 k2 k3 |  m1   | k0 k1 k2 k3 |  ...  m63 | k0 k1 k2 k3 |
                        tile m0, step k1:   m0   | k4 k5 k6 k7 |  ...

    values[m // 64, k // 4, m % 64, k % 4] = w[m, k]            rows from M and columns from K on are 0

One step of a tile is 256 bytes: four registers of 16 output channels, each dword a ``vpdpbusd`` operand.
"""

from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.integer.gemm import MAX_K
from refimpl.kernels.layout import aligned

TILE, QUAD = 64, 4


class Vnni4(NamedTuple):
    """shape: (M, K); values: s8 (ceil(M/64) * ceil(K/4) * 256,)."""

    shape: tuple[int, int]
    values: np.ndarray


def pack(w: np.ndarray) -> Vnni4:
    """w: s8 (M, K)."""
    return pack_tiles(w, TILE)


def pack_tiles(w: np.ndarray, tile: int) -> Vnni4:
    """The same with ``tile`` output channels in a tile."""
    check.dtype("w", w, np.int8)
    check.shape("w", w, ("M", "K"))
    check_shape(w.shape)
    padded = np.pad(w, ((0, -w.shape[0] % tile), (0, -w.shape[1] % QUAD)))
    tiles = padded.reshape(padded.shape[0] // tile, tile, -1, QUAD).swapaxes(1, 2)
    values = aligned.empty(tiles.shape, np.int8)
    values[...] = tiles
    return Vnni4(w.shape, values.reshape(-1))


def unpack(packed: Vnni4) -> np.ndarray:
    """The exact inverse: s8 (M, K). Raises what ``validate`` raises."""
    validate(packed)
    return _untile(packed)[: packed.shape[0], : packed.shape[1]]


def validate(packed: Vnni4) -> None:
    """Raise TypeError or ValueError unless a kernel can run on this: sizes fit, and the padding is zero."""
    check.dtype("values", packed.values, np.int8)
    check_shape(packed.shape)
    m, k = packed.shape
    check.shape("values", packed.values, (-(-m // TILE) * -(-k // QUAD) * TILE * QUAD,))
    padded = _untile(packed)
    if padded[m:].any() or padded[:, k:].any():
        raise ValueError(f"values has weights outside the shape {packed.shape}")


def _untile(packed: Vnni4) -> np.ndarray:
    m, k = packed.shape
    tiles = packed.values.reshape(-(-m // TILE), -(-k // QUAD), TILE, QUAD).swapaxes(1, 2)
    return tiles.reshape(tiles.shape[0] * TILE, -1)


def check_shape(shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the shape is (M, K), positive, with K <= MAX_K."""
    if len(shape) != 2 or not all(isinstance(n, int) and n >= 1 for n in shape) or shape[1] > MAX_K:
        raise ValueError(f"shape is {shape}; need integers (M, K) with M >= 1 and 1 <= K <= {MAX_K}")
