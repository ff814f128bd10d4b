"""bsr4x1_shared: the 4x1 weights of ``bsr4x1``, with groups of columns that several block rows share.

Block rows are cut into slabs. Within a slab a shared group of four columns is interleaved once, by the first block row
that has it, which saves it in a slot of a scratch buffer; the other block rows load it from there.

    block row r     saved groups    bounds[3 r]     ... bounds[3 r + 1] - 1
                    groups alone    bounds[3 r + 1] ... bounds[3 r + 2] - 1
                    loaded groups   bounds[3 r + 2] ... bounds[3 r + 3] - 1

    group g         indices[4 g ... 4 g + 3]    its columns; of a loaded group, four times its slot
                    slots[g]                    where a saved group goes; 0 of the others
                    values[16 g + 4 i + j]      row i, column j of the group, as in bsr4x1

A slot is written once in a slab, and read by later block rows only. A group alone may be short: it repeats its last
column, with zero weights.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

from refimpl import check
from refimpl.kernels.layout import aligned
from refimpl.kernels.layout.bsr4x1 import GROUP, ROWS, check_shape
from refimpl.kernels.layout.sharing import find_shared
from refimpl.prune.blocks import live_blocks

SLAB = 16
"""Block rows a slab. More rows share more, but their slots compete with the activations for the first-level cache."""


class Shared4x1(NamedTuple):
    """shape: (M, K); slab: block rows each; slots: of the fullest slab; bounds: s32 (3 ceil(M/4) + 1,);
    indices: s32 (4 G,); group_slots: s32 (G,); values: s8 (16 G,) for G groups."""

    shape: tuple[int, int]
    slab: int
    slots: int
    bounds: np.ndarray
    indices: np.ndarray
    group_slots: np.ndarray
    values: np.ndarray


class _Group(NamedTuple):
    indices: np.ndarray
    slot: int
    values: np.ndarray


def pack(w: np.ndarray, slab: int = SLAB) -> Shared4x1:
    """Store the live blocks of w, s8 (M, K)."""
    check.dtype("w", w, np.int8)
    check.shape("w", w, ("M", "K"))
    check_shape(w.shape)
    padded = np.pad(w, ((0, -w.shape[0] % ROWS), (0, 0)))
    live = live_blocks(padded, (ROWS, 1))
    blocks = padded.reshape(-1, ROWS, w.shape[1])
    kinds: list[list[_Group]] = []
    slots = 0
    for start in range(0, len(live), slab):
        rows, columns, left = find_shared(live[start : start + slab])
        kinds += _distribute(blocks[start : start + slab], rows, columns, left)
        slots = max(slots, len(rows))
    groups = [group for kind in kinds for group in kind]
    return Shared4x1(
        w.shape,
        slab,
        slots,
        np.cumsum([0, *map(len, kinds)]).astype(np.int32),
        _array([group.indices for group in groups], np.int32),
        _array([group.slot for group in groups], np.int32),
        _array([group.values for group in groups], np.int8),
    )


def _distribute(
    blocks: np.ndarray, rows: list[np.ndarray], columns: np.ndarray, left: np.ndarray
) -> list[list[_Group]]:
    """Three lists for each block row of a slab: its saved, its own and its loaded groups."""
    kinds: list[list[_Group]] = [[] for _ in range(3 * len(blocks))]
    for slot, (sharers, quad) in enumerate(zip(rows, columns, strict=True)):
        first, *others = sharers
        kinds[3 * first].append(_Group(quad, slot, blocks[first][:, quad]))
        for row in others:
            kinds[3 * row + 2].append(_Group(np.full(GROUP, slot), 0, blocks[row][:, quad]))
    for row, (block, alive) in enumerate(zip(blocks, left, strict=True)):
        alone = np.flatnonzero(alive)
        for start in range(0, alone.size, GROUP):
            few = alone[start : start + GROUP]
            missing = GROUP - few.size
            values = np.pad(block[:, few], ((0, 0), (0, missing)))
            kinds[3 * row + 1].append(_Group(np.pad(few, (0, missing), mode="edge"), 0, values))
    return kinds


def _array(parts: list, dtype: type) -> np.ndarray:
    """The parts behind each other, on a cache line."""
    flat = np.concatenate([np.ravel(part) for part in parts]) if parts else np.zeros(0)
    array = aligned.empty(flat.shape, dtype)
    array[...] = flat
    return array


def arguments(packed: Shared4x1, x: np.ndarray, out: np.ndarray, slot: int) -> tuple[Any, ...]:
    """What the kernels of this layout take: slabs are dealt out to as many workers as numba has threads, each with
    scratch of ``slot`` bytes a slot."""
    workers = numba.get_num_threads()
    scratch = aligned.empty((workers * packed.slots * slot,), np.uint8)
    weights = (packed.slab, packed.bounds, packed.indices, packed.group_slots, packed.values)
    return *weights, x.reshape(-1), packed.shape[1], scratch, workers, out.reshape(-1)


def _block_rows(packed: Shared4x1) -> int:
    return -(-packed.shape[0] // ROWS)


def unpack(packed: Shared4x1) -> np.ndarray:
    """The exact inverse of ``pack``: s8 (M, K). Raises what ``validate`` raises."""
    validate(packed)
    m, k = packed.shape
    w = np.zeros((_block_rows(packed), ROWS, k), np.int8)
    columns, values = packed.indices.reshape(-1, GROUP), packed.values.reshape(-1, ROWS, GROUP)
    saved: dict[int, np.ndarray] = {}
    for row in range(len(w)):
        own, alone, loaded, end = packed.bounds[3 * row : 3 * row + 4]
        for g in range(own, end):
            here = saved[int(columns[g][0])] if g >= loaded else columns[g]
            live = 1 + np.count_nonzero(np.diff(here))  # padding repeats the last column
            w[row][:, here[:live]] = values[g][:, :live]
        saved |= {int(packed.group_slots[g]): columns[g] for g in range(own, alone)}
    return w.reshape(-1, k)[:m]


def validate(packed: Shared4x1) -> None:
    """Raise TypeError or ValueError unless a kernel can run on this inside its arrays, loading only full slots."""
    check_shape(packed.shape)
    for name, dtype in (("bounds", np.int32), ("indices", np.int32), ("group_slots", np.int32), ("values", np.int8)):
        check.dtype(name, getattr(packed, name), dtype)
    check.shape("bounds", packed.bounds, (3 * _block_rows(packed) + 1,))
    if packed.bounds[0] != 0 or (np.diff(packed.bounds.astype(np.int64)) < 0).any():
        raise ValueError("bounds does not ascend from 0")
    groups = int(packed.bounds[-1])
    check.shape("group_slots", packed.group_slots, (groups,))
    check.shape("indices", packed.indices, (GROUP * groups,))
    check.shape("values", packed.values, (ROWS * GROUP * groups,))
    if packed.slab < 1 or packed.slots < 0:
        raise ValueError(f"slab is {packed.slab} and slots is {packed.slots}; need at least 1 and 0")
    for row in range(_block_rows(packed)):
        if row % packed.slab == 0:
            full: set[int] = set()
        full |= _check_row(packed, row, full)


def _check_row(packed: Shared4x1, row: int, full: set[int]) -> set[int]:
    """The slots that a block row fills, its columns and slots in range."""
    own, alone, loaded, end = packed.bounds[3 * row : 3 * row + 4]
    columns, read = packed.indices[GROUP * own : GROUP * loaded], packed.indices[GROUP * loaded : GROUP * end]
    if columns.size and not 0 <= columns.min() <= columns.max() < packed.shape[1]:
        raise ValueError(f"indices has a column outside 0 to {packed.shape[1] - 1} in block row {row}")
    if not full.issuperset(read.tolist()):
        raise ValueError(f"indices loads a slot that no earlier block row of the slab saved, in block row {row}")
    written = packed.group_slots[own:alone].tolist()
    if any(not 0 <= slot < packed.slots for slot in written):
        raise ValueError(f"group_slots has a slot outside 0 to {packed.slots - 1} in block row {row}")
    if len(set(written)) < len(written) or full.intersection(written):
        raise ValueError(f"group_slots saves to a slot twice, in block row {row}")
    return set(written)
