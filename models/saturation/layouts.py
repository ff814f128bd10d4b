"""The layouts whose pairs are examined: dense, as engines run any weight, and our blocks of 4x1; or a sum of the two.

A layout stores a weight in slots (``refimpl.saturation.slots``): dense ones in one list for all output channels, 4x1
blocks in one for each block row. A repair is a function of slots, so it serves both.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.integer.pairs import FULL, Pairs
from refimpl.kernels.layout import bsr4x1
from refimpl.kernels.layout.bsr4x1 import ROWS, Bsr4x1
from refimpl.kernels.layout.bsr4x1_slots import block_rows, from_block_rows, saturable_pairs
from refimpl.saturation.repairs import split
from refimpl.saturation.slots import WHOLE, Slots, as_stored, slot_pairs, weight_of

Change = Callable[[Slots], Slots]


class Layout(NamedTuple):
    """store: s8 (M, K) -> stored; change: (stored, change of slots) -> stored; weight: (stored, K) -> s8 (M, K);
    pairs: (stored, most) -> those that could saturate; macs: products a token; size: bytes of the weight."""

    name: str
    store: Callable[[np.ndarray], Any]
    change: Callable[[Any, Change], Any]
    weight: Callable[[Any, int], np.ndarray]
    pairs: Callable[[Any, Any], Pairs]
    macs: Callable[[Any], int]
    size: Callable[[Any], int]


def in_place(slots: Slots) -> bool:
    """Whether the slots are every column once, in its place."""
    return np.array_equal(slots.columns, np.arange(slots.columns.size))


def _change_blocks(packed: Bsr4x1, change: Change) -> Bsr4x1:
    return from_block_rows(packed.shape, [change(row) if row.columns.size else row for row in block_rows(packed)])


DENSE = Layout(
    "dense",
    as_stored,
    lambda slots, change: change(slots),
    weight_of,
    slot_pairs,
    lambda slots: slots.codes.size,
    lambda slots: slots.codes.nbytes,
)
BLOCKS = Layout(
    "4x1",
    bsr4x1.pack,
    _change_blocks,
    lambda packed, k: bsr4x1.unpack(packed),
    saturable_pairs,
    lambda packed: ROWS * packed.indices.size,
    lambda packed: packed.values.nbytes + packed.indices.nbytes + packed.indptr.nbytes,
)


class Sum(NamedTuple):
    """A weight in two products that add up: first, dense, every column in place; rest, the little that it leaves."""

    first: Slots
    rest: Bsr4x1


def split_in_two(w: np.ndarray, most: np.ndarray | int = FULL) -> Sum:
    """What ``repairs.split`` cuts off, as blocks of 4x1 instead of more columns: few rows have any. w: s8 (M, K)."""
    slots = split(as_stored(w), most)
    kept = -(-w.shape[1] // WHOLE) * WHOLE
    first = Slots(slots.columns[:kept], slots.codes[:, :kept])
    rest = w.astype(np.int16) - weight_of(first, w.shape[1])
    return Sum(first, bsr4x1.pack(rest.astype(np.int8)))


def _sum_weight(stored: Sum, k: int) -> np.ndarray:
    return (weight_of(stored.first, k).astype(np.int16) + bsr4x1.unpack(stored.rest)).astype(np.int8)


def _sum_pairs(stored: Sum, most: Any) -> Pairs:
    parts = slot_pairs(stored.first, most), saturable_pairs(stored.rest, most)
    row, columns, weights = (np.concatenate(both) for both in zip(*parts, strict=True))
    order = np.argsort(row, kind="stable")
    return Pairs(row[order], columns[order], weights[order])


DENSE_AND_BLOCKS = Layout(
    "dense and 4x1",
    split_in_two,
    lambda stored, change: stored._replace(first=change(stored.first)),
    _sum_weight,
    _sum_pairs,
    lambda stored: DENSE.macs(stored.first) + BLOCKS.macs(stored.rest),
    lambda stored: DENSE.size(stored.first) + BLOCKS.size(stored.rest),
)
LAYOUTS = {layout.name: layout for layout in (DENSE, BLOCKS)}
