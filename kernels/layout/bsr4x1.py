"""bsr4x1: weights pruned in blocks of 4 output channels x 1 input channel, stored for a 4-wide dot product.

    w (M, K)                 block row r is the rows 4r ... 4r+3; its live columns, ascending, are cut into groups of 4.

         k0 k1 k2 k3 k4 k5 k6          indptr   [0, 2]          groups of block row r: indptr[r] ... indptr[r+1]-1
    4r   a  .  b  c  .  d  e           indices  [0, 2, 3, 5,    4 columns a group; the last group repeats its last
    4r+1 f  .  g  h  .  i  j                     6, 6, 6, 6]    column, with zeros as weights
    4r+2 k  .  l  m  .  n  o           values   a b c d  f g h i  k l m n  p q r s
    4r+3 p  .  q  r  .  s  t                    e 0 0 0  j 0 0 0  o 0 0 0  t 0 0 0

    values[16 g + 4 i + j] = w[4r + i, indices[4 g + j]]       one row of a group is one dword: a ``vpdpbusd`` operand

``pack`` stores a block if any of its four weights is nonzero. M is padded with zero rows to a multiple of 4. Source:
the "BSR group" of Intel Extension for Transformers (4x1, groups of 4); ``indptr`` counts groups, not blocks.

A reader takes more than ``pack`` makes: columns of a block row in any order, a column more than once (its weights add
up), zeros anywhere. No exact product sees a difference; which columns meet in a 16-bit sum on CPUs without VNNI is the
order's alone (``bsr4x1_slots``).
"""

from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.integer.gemm import MAX_K
from refimpl.prune.blocks import live_blocks

ROWS = GROUP = 4


class Bsr4x1(NamedTuple):
    """shape: (M, K); indptr: s32 (ceil(M/4) + 1,); indices: s32 (4 G,); values: s8 (16 G,) for G groups."""

    shape: tuple[int, int]
    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray


def pack(w: np.ndarray) -> Bsr4x1:
    """Store the live blocks of w, s8 (M, K)."""
    check.dtype("w", w, np.int8)
    check.shape("w", w, ("M", "K"))
    check_shape(w.shape)
    padded = np.pad(w, ((0, -w.shape[0] % ROWS), (0, 0)))
    live = live_blocks(padded, (ROWS, 1))
    groups = -(-live.sum(1) // GROUP)
    indptr = np.concatenate([[0], groups.cumsum()]).astype(np.int32)
    indices = np.zeros(GROUP * indptr[-1], np.int32)
    values = np.zeros((indptr[-1], ROWS, GROUP), np.int8)
    for row, alive in enumerate(live):
        columns = np.flatnonzero(alive)
        if columns.size:
            start, stop = indptr[row], indptr[row + 1]
            count = GROUP * (stop - start)
            indices[GROUP * start : GROUP * stop] = np.pad(columns, (0, count - columns.size), mode="edge")
            block = np.zeros((ROWS, count), np.int8)
            block[:, : columns.size] = padded[ROWS * row : ROWS * (row + 1), columns]
            values[start:stop] = block.reshape(ROWS, -1, GROUP).swapaxes(0, 1)
    return Bsr4x1(w.shape, indptr, indices, values.reshape(-1))


def unpack(packed: Bsr4x1) -> np.ndarray:
    """The weight that was packed: s8 (M, K). Raises what ``validate`` raises."""
    validate(packed)
    return _sums(packed)[: packed.shape[0]].astype(np.int8)


def block_row_of_groups(packed: Bsr4x1) -> np.ndarray:
    """Which block row each group belongs to: s64 (G,)."""
    return np.repeat(np.arange(len(packed.indptr) - 1), np.diff(packed.indptr))


def _sums(packed: Bsr4x1) -> np.ndarray:
    """s32 (4 ceil(M / 4), K); repeated columns add up."""
    m, k = packed.shape
    w = np.zeros((-(-m // ROWS) * ROWS, k), np.int32)
    rows = ROWS * block_row_of_groups(packed)[:, None, None] + np.arange(ROWS)[:, None]
    np.add.at(w, (rows, packed.indices.reshape(-1, 1, GROUP)), packed.values.reshape(-1, ROWS, GROUP))
    return w


def _is_plain(packed: Bsr4x1) -> bool:
    """Whether nothing adds up, as ``pack`` leaves it: columns ascend in each block row, and one that comes again, to
    fill a group, comes with zeros."""
    if not packed.indices.size:
        return True
    places = np.repeat(block_row_of_groups(packed), GROUP) * packed.shape[1] + packed.indices
    steps = np.diff(places)
    again = np.flatnonzero(steps == 0) + 1
    filling = packed.values.reshape(-1, ROWS, GROUP)[again // GROUP, :, again % GROUP]
    return bool(steps.min() >= 0) and not filling.any()


def row_sums(packed: Bsr4x1) -> np.ndarray:
    """sum_k w[m, k], s32 (M,), without unpacking."""
    blocks = packed.values.reshape(-1, ROWS, GROUP).sum(2, dtype=np.int32)
    before = np.concatenate([np.zeros((1, ROWS), np.int32), blocks.cumsum(0, dtype=np.int32)])
    return np.diff(before[packed.indptr], axis=0).reshape(-1)[: packed.shape[0]]


def count_live(values: np.ndarray) -> int:
    """How many blocks are stored, without those that fill a group. values: s8 (16 G,)."""
    return int(values.reshape(-1, ROWS, GROUP).any(1).sum())


def check_shape(shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the shape is (M, K), positive, with K <= MAX_K."""
    if len(shape) != 2 or not all(isinstance(n, int) and n >= 1 for n in shape) or shape[1] > MAX_K:
        raise ValueError(f"shape is {shape}; need integers (M, K) with M >= 1 and 1 <= K <= {MAX_K}")


def validate(packed: Bsr4x1) -> None:
    """Raise TypeError or ValueError unless a kernel can run on this without reading or writing outside its arrays.

    The weights of a column that comes more than once must add up to an s8, so that there is a weight to unpack.
    """
    for name, dtype in (("indptr", np.int32), ("indices", np.int32), ("values", np.int8)):
        check.dtype(name, getattr(packed, name), dtype)
    check_shape(packed.shape)
    m, k = packed.shape
    check.shape("indptr", packed.indptr, (-(-m // ROWS) + 1,))
    groups = np.diff(packed.indptr.astype(np.int64))
    if packed.indptr[0] != 0 or (groups < 0).any():
        raise ValueError("indptr does not ascend from 0")
    check.shape("indices", packed.indices, (GROUP * int(packed.indptr[-1]),))
    check.shape("values", packed.values, (ROWS * packed.indices.size,))
    if packed.indices.size and not 0 <= packed.indices.min() <= packed.indices.max() < k:
        outside = packed.indices[(packed.indices < 0) | (packed.indices >= k)][0]
        raise ValueError(f"indices has the column {outside}; need 0 to {k - 1}")
    if packed.values.reshape(-1, ROWS, GROUP)[packed.indptr[-2] :, ROWS - -m % ROWS :].any():
        raise ValueError(f"values has weights in rows beyond M = {m}")
    if _is_plain(packed):
        return
    sums = _sums(packed)
    if not -128 <= sums.min() <= sums.max() <= 127:
        outside = sums[(sums < -128) | (sums > 127)][0]
        raise ValueError(f"values of one row and column add up to {outside}; need -128 to 127")
