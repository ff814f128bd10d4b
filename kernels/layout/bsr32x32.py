"""bsr32x32: weights whose live blocks are 32 output x 32 input channels, as movement pruning leaves them.

    w (M, K)              block row r is the rows 32 r ... 32 r + 31; indptr[r] ... indptr[r+1]-1 are its live blocks,
                          indices[b] the block column of block b

    block b, step s       m0 | k0 k1 k2 k3 |  m1 | k0 k1 k2 k3 |  ...  m31 | k0 k1 k2 k3 |     k = 4 s ... 4 s + 3
                          128 bytes: two registers of 16 output channels, each dword a ``vpdpbusd`` operand

    values[1024 b + 128 s + 4 i + j] = w[32 r + i, 32 indices[b] + 4 s + j]

A block is stored if any of its weights is nonzero. M and K are padded with zeros to multiples of 32. Source: Lagunas
et al., Block Pruning For Faster Transformers, arXiv 2109.04838 (32 x 32 blocks).
"""

from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.kernels.layout import aligned
from refimpl.kernels.layout.bsr4x1 import check_shape
from refimpl.prune.blocks import live_blocks

SIDE, QUAD = 32, 4
STEPS = SIDE // QUAD


class Bsr32x32(NamedTuple):
    """shape: (M, K); indptr: s32 (ceil(M/32) + 1,); indices: s32 (G,); values: s8 (1024 G,) for G blocks."""

    shape: tuple[int, int]
    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray


def pack(w: np.ndarray) -> Bsr32x32:
    """Store the live blocks of w, s8 (M, K)."""
    check.dtype("w", w, np.int8)
    check.shape("w", w, ("M", "K"))
    check_shape(w.shape)
    padded = np.pad(w, ((0, -w.shape[0] % SIDE), (0, -w.shape[1] % SIDE)))
    live = live_blocks(padded, (SIDE, SIDE))
    rows, columns = np.nonzero(live)
    blocks = padded.reshape(live.shape[0], SIDE, live.shape[1], STEPS, QUAD)[rows, :, columns].swapaxes(1, 2)
    values = aligned.empty((blocks.size,), np.int8)
    values[...] = blocks.reshape(-1)
    return Bsr32x32(w.shape, np.cumsum([0, *live.sum(1)]).astype(np.int32), columns.astype(np.int32), values)


def unpack(packed: Bsr32x32) -> np.ndarray:
    """The exact inverse: s8 (M, K). Raises what ``validate`` raises."""
    validate(packed)
    m, k = packed.shape
    w = np.zeros((-(-m // SIDE), SIDE, -(-k // SIDE), STEPS, QUAD), np.int8)
    rows = np.repeat(np.arange(len(w)), np.diff(packed.indptr))
    w[rows, :, packed.indices] = packed.values.reshape(-1, STEPS, SIDE, QUAD).swapaxes(1, 2)
    return w.reshape(len(w) * SIDE, -1)[:m, :k]


def validate(packed: Bsr32x32) -> None:
    """Raise TypeError or ValueError unless a kernel can run on this inside its arrays and the form is canonical."""
    for name, dtype in (("indptr", np.int32), ("indices", np.int32), ("values", np.int8)):
        check.dtype(name, getattr(packed, name), dtype)
    check_shape(packed.shape)
    m, k = packed.shape
    check.shape("indptr", packed.indptr, (-(-m // SIDE) + 1,))
    counts: np.ndarray = np.diff(packed.indptr.astype(np.int64))
    if packed.indptr[0] != 0 or (counts < 0).any():
        raise ValueError("indptr does not ascend from 0")
    check.shape("indices", packed.indices, (int(packed.indptr[-1]),))
    check.shape("values", packed.values, (SIDE * SIDE * packed.indices.size,))
    columns = -(-k // SIDE)
    if packed.indices.size and not 0 <= packed.indices.min() <= packed.indices.max() < columns:
        raise ValueError(f"indices has a block column outside 0 to {columns - 1}")
    row = np.repeat(np.arange(counts.size), counts)
    if ((np.diff(row) == 0) & (np.diff(packed.indices.astype(np.int64)) <= 0)).any():
        raise ValueError("indices of a block row do not ascend")
    blocks = packed.values.reshape(-1, STEPS, SIDE, QUAD)
    if not blocks.any((1, 2, 3)).all():
        raise ValueError("values has a block of zeros")
    channels = packed.indices[:, None, None] * SIDE + np.arange(SIDE).reshape(STEPS, QUAD)
    outside = (row[:, None, None, None] * SIDE + np.arange(SIDE)[:, None] >= m) | (channels[:, :, None] >= k)
    if (blocks * outside).any():
        raise ValueError(f"values has weights outside the shape {packed.shape}")
