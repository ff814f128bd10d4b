"""A bsr4x1 weight as slots, block row by block row: where its pairs meet, and how it is stored in another order.

    block row r:  slots 4 indptr[r] ... 4 indptr[r+1] - 1        columns = indices, codes[i, s] = values[16 g + 4 i + j]
                                                                 with s = 4 g + j

On CPUs without VNNI the slots (0, 1), (2, 3), ... of a block row share a 16-bit sum: see ``refimpl.saturation.slots``.
Each block row has an order of its own, at no cost: the indices move with the values.
"""

from collections.abc import Sequence

import numpy as np

from refimpl.integer.pairs import FULL, Pairs, dense_pairs
from refimpl.kernels.layout import bsr4x1
from refimpl.kernels.layout.bsr4x1 import GROUP, ROWS, Bsr4x1
from refimpl.saturation.slots import Slots


def block_rows(packed: Bsr4x1) -> list[Slots]:
    """The slots of each block row; codes: s8 (4, S)."""
    rows = []
    for start, stop in zip(packed.indptr[:-1], packed.indptr[1:], strict=True):
        blocks = packed.values.reshape(-1, ROWS, GROUP)[start:stop]
        rows.append(Slots(packed.indices[GROUP * start : GROUP * stop], blocks.swapaxes(0, 1).reshape(ROWS, -1)))
    return rows


def from_block_rows(shape: tuple[int, int], rows: Sequence[Slots]) -> Bsr4x1:
    """The inverse; each block row has a multiple of four slots. Raises what ``bsr4x1.validate`` raises."""
    sizes = [slots.columns.size for slots in rows]
    if any(size % GROUP for size in sizes):
        raise ValueError(f"rows has a block row of {next(s for s in sizes if s % GROUP)} slots; need a multiple of 4")
    blocks = [slots.codes.reshape(ROWS, -1, GROUP).swapaxes(0, 1).reshape(-1) for slots in rows]
    packed = Bsr4x1(
        shape,
        np.cumsum([0, *(size // GROUP for size in sizes)]).astype(np.int32),
        np.concatenate([slots.columns for slots in rows]).astype(np.int32),
        np.concatenate(blocks).astype(np.int8),
    )
    bsr4x1.validate(packed)
    return packed


def saturable_pairs(packed: Bsr4x1, most: np.ndarray | int = FULL) -> Pairs:
    """The pairs that could saturate. most: integer () or (K,), the largest code of each input channel."""
    quads = packed.values.reshape(-1, GROUP)  # a row for each group and output channel of it
    columns = packed.indices.reshape(-1, GROUP).repeat(ROWS, 0)
    most = np.asarray(most)
    few = dense_pairs(quads, most[columns] if most.ndim else most)
    channel = ROWS * bsr4x1.block_row_of_groups(packed)[few.row // ROWS] + few.row % ROWS
    order = np.argsort(channel, kind="stable")
    at = columns[few.row[:, None], few.columns]
    return Pairs(channel[order], at[order], few.weights[order])
