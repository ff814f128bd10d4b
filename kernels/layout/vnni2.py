"""VNNI-2: dense bf16 weights in tiles of 64 output channels, two input channels of one output channel in a dword.

    w (M, K)            (ceil(M/64), ceil(K/2), 64, 2)

                        tile m0, step k0:   m0 | k0 k1 |  m1 | k0 k1 |  ...  m63 | k0 k1 |
                        tile m0, step k1:   m0 | k2 k3 |  ...

    values[m // 64, k // 2, m % 64, k % 2] = w[m, k]            rows from M and columns from K on are +0

One step of a tile is 256 bytes: four registers of 16 output channels, each dword a ``vdpbf16ps`` operand.
"""

from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.kernels.layout import aligned

TILE, PAIR = 64, 2


class Vnni2(NamedTuple):
    """shape: (M, K); values: u16 (ceil(M/64) * ceil(K/2) * 128,), bf16."""

    shape: tuple[int, int]
    values: np.ndarray


def pack(w: np.ndarray) -> Vnni2:
    """w: u16 (M, K), bf16."""
    check.dtype("w", w, np.uint16)
    check.shape("w", w, ("M", "K"))
    _check_shape(w.shape)
    padded = np.pad(w, ((0, -w.shape[0] % TILE), (0, -w.shape[1] % PAIR)))
    tiles = padded.reshape(padded.shape[0] // TILE, TILE, -1, PAIR).swapaxes(1, 2)
    values = aligned.empty(tiles.shape, np.uint16)
    values[...] = tiles
    return Vnni2(w.shape, values.reshape(-1))


def unpack(packed: Vnni2) -> np.ndarray:
    """The exact inverse: u16 (M, K). Raises what ``validate`` raises."""
    validate(packed)
    return _untile(packed)[: packed.shape[0], : packed.shape[1]]


def validate(packed: Vnni2) -> None:
    """Raise TypeError or ValueError unless a kernel can run on this: sizes fit, and the padding is +0."""
    check.dtype("values", packed.values, np.uint16)
    _check_shape(packed.shape)
    m, k = packed.shape
    check.shape("values", packed.values, (-(-m // TILE) * -(-k // PAIR) * TILE * PAIR,))
    padded = _untile(packed)
    if padded[m:].any() or padded[:, k:].any():
        raise ValueError(f"values has weights outside the shape {packed.shape}")


def _untile(packed: Vnni2) -> np.ndarray:
    m, k = packed.shape
    tiles = packed.values.reshape(-(-m // TILE), -(-k // PAIR), TILE, PAIR).swapaxes(1, 2)
    return tiles.reshape(tiles.shape[0] * TILE, -1)


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or not all(isinstance(n, int) and n >= 1 for n in shape):
        raise ValueError(f"shape is {shape}; need integers (M, K), both at least 1")
