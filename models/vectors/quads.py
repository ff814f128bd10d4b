"""Packed weights as a kernel meets them: a stream of quads, and right and wrong ways to read and to multiply one.

    quad q: four weights w_0 ... w_3 of one output channel row[q], for the input channels column[q, 0 ... 3]
    acc[n, row[q]] += dot(a[n, column[q]], w[q])

Every layout here is an order in which quads are stored; the dot product is exact, or that of CPUs without VNNI, which
saturates the pairs (0, 1) and (2, 3). Wrong versions read a quad wrongly or multiply it wrongly.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refimpl.integer.narrow import saturate_s16
from refimpl.kernels.layout import bitmask, bsr4x1, bsr32x32, vnni4
from refimpl.models.vectors.case import Arrays


class Quads(NamedTuple):
    """row: integer (Q,); column: integer (Q, 4); weight: s8 (Q, 4)."""

    row: np.ndarray
    column: np.ndarray
    weight: np.ndarray


Reader = Callable[[Arrays], Quads]
Dot = Callable[[np.ndarray], np.ndarray]
"""Four products, s32 (..., 4) -> their contribution to the sum, s32 (...)."""


def product(inputs: Arrays, quads: Quads, dot: Dot, unsigned: bool = True) -> np.ndarray:
    """s32 (N, M). ``unsigned`` is False for a version that takes the activations for s8 and the weights for u8."""
    a, (m, k) = inputs["a"], inputs["w"].shape
    beyond = max(0, int(quads.column.max(initial=0)) + 1 - k)
    x = np.pad(a, ((0, 0), (0, beyond)))
    x, w = (x, quads.weight) if unsigned else (x.view(np.int8), quads.weight.view(np.uint8))
    acc = np.zeros((max(m, int(quads.row.max(initial=0)) + 1), len(a)), np.int64)
    np.add.at(acc, quads.row, dot(x[:, quads.column].astype(np.int32) * w.astype(np.int32)).T)
    return acc[:m].T.astype(np.int32)


# --- dot products ----------------------------------------------------------------------------------------------------


def exact(products: np.ndarray) -> np.ndarray:
    """``vpdpbusd``."""
    return products.sum(-1)


def pairs(products: np.ndarray) -> np.ndarray:
    """The sums of the pairs (0, 1) and (2, 3), s32 (..., 2)."""
    return products.reshape(*products.shape[:-1], 2, 2).sum(-1)


def saturating(products: np.ndarray) -> np.ndarray:
    """``vpmaddubsw``, ``vpmaddwd``, ``vpaddd``."""
    return saturate_s16(pairs(products)).sum(-1, dtype=np.int32)


WRONG_DOTS: dict[str, Dot] = {
    "pairs_wrap": lambda p: pairs(p).astype(np.int16).sum(-1, dtype=np.int32),
    "pairs_02_13": lambda p: saturating(p[..., [0, 2, 1, 3]]),
    "quads_saturate": lambda p: saturate_s16(exact(p)).astype(np.int32),
    "lowest_is_minus_32767": lambda p: np.clip(pairs(p), -32767, 32767).sum(-1),
    "saturates_above_only": lambda p: np.minimum(pairs(p), 32767).sum(-1),
}
"""Instead of ``saturating``."""


# --- layouts ---------------------------------------------------------------------------------------------------------


def _tiles(values: np.ndarray) -> Quads:
    """VNNI-4 tiles, s8 (tiles, steps, 64, 4)."""
    indices: np.ndarray = np.indices(values.shape[:3])
    tile, step, channel = indices
    column = vnni4.QUAD * step[..., None] + np.arange(vnni4.QUAD)
    return Quads((vnni4.TILE * tile + channel).reshape(-1), column.reshape(-1, 4), values.reshape(-1, 4))


def _tile_shape(inputs: Arrays) -> tuple[int, int]:
    m, k = inputs["w"].shape
    return -(-m // vnni4.TILE), -(-k // vnni4.QUAD)


def dense(inputs: Arrays) -> Quads:
    """``vnni4``."""
    return _tiles(inputs["values"].reshape(*_tile_shape(inputs), 64, 4))


def dense_transposed(inputs: Arrays) -> Quads:
    """A step read as 4 input channels of 64 output channels."""
    values = inputs["values"].reshape(*_tile_shape(inputs), 4, 64).swapaxes(2, 3)
    return _tiles(values)


def dense_first_tile(inputs: Arrays) -> Quads:
    """Output channels from 64 on with the weights of the first 64."""
    values = inputs["values"].reshape(*_tile_shape(inputs), 64, 4)
    return _tiles(np.broadcast_to(values[:1], values.shape))


def expanded(inputs: Arrays, first: slice = slice(None), starts: np.ndarray | None = None) -> Quads:
    """``bitmask``: the nonzero bytes in their places. ``first`` orders the bits, ``starts`` replaces the layout's."""
    bits = np.unpackbits(inputs["masks"].astype("<u8").view(np.uint8), bitorder="little").astype(bool)
    live = bits.reshape(-1, bitmask.BITS)[:, first].reshape(*_tile_shape(inputs), 64, 4)
    values: np.ndarray = np.zeros(live.shape, np.int8)
    for tile, alive, start in zip(values, live, inputs["starts"] if starts is None else starts, strict=False):
        tile[alive] = inputs["values"][start : start + np.count_nonzero(alive)]
    return _tiles(values)


def highest_bit_first(inputs: Arrays) -> Quads:
    """Bit 63 for the first byte."""
    return expanded(inputs, first=slice(None, None, -1))


def starts_ignored(inputs: Arrays) -> Quads:
    """Every tile begins with the first value."""
    return expanded(inputs, starts=np.zeros_like(inputs["starts"]))


def blocks_4x1(inputs: Arrays) -> Quads:
    """``bsr4x1``."""
    return _groups(inputs, inputs["indices"].reshape(-1, 1, 4), inputs["values"].reshape(-1, 4, 4))


def groups_transposed(inputs: Arrays) -> Quads:
    """The 16 bytes of a group read column by column."""
    return _groups(inputs, inputs["indices"].reshape(-1, 1, 4), inputs["values"].reshape(-1, 4, 4).swapaxes(1, 2))


def neighbouring_columns(inputs: Arrays) -> Quads:
    """Only the first column of a group looked up, the others taken for its neighbours."""
    columns = inputs["indices"].reshape(-1, 4)[:, :1] + np.arange(4)
    return _groups(inputs, columns[:, None], inputs["values"].reshape(-1, 4, 4))


def last_group_dropped(inputs: Arrays) -> Quads:
    """Every block row ends one group early."""
    quads, indptr = blocks_4x1(inputs), inputs["indptr"]
    kept = np.ones(int(indptr[-1]), bool)
    kept[indptr[1:][np.diff(indptr) > 0] - 1] = False
    return Quads(*(part[np.repeat(kept, bsr4x1.ROWS)] for part in quads))


def _groups(inputs: Arrays, columns: np.ndarray, values: np.ndarray) -> Quads:
    rows = np.repeat(np.arange(inputs["indptr"].size - 1), np.diff(inputs["indptr"]))
    row = bsr4x1.ROWS * rows[:, None] + np.arange(bsr4x1.ROWS)
    column = np.broadcast_to(columns, values.shape)
    return Quads(row.reshape(-1), column.reshape(-1, 4), values.reshape(-1, 4))


def blocks_32x32(inputs: Arrays, side: int = bsr32x32.SIDE) -> Quads:
    """``bsr32x32``. ``side`` is what a block column counts."""
    return _blocks(inputs, inputs["values"].reshape(-1, bsr32x32.STEPS, bsr32x32.SIDE, bsr32x32.QUAD), side)


def blocks_transposed(inputs: Arrays) -> Quads:
    """A block read as input x output."""
    steps, side, quad = bsr32x32.STEPS, bsr32x32.SIDE, bsr32x32.QUAD
    square = inputs["values"].reshape(-1, steps, side, quad).swapaxes(1, 2).reshape(-1, side, side)
    return _blocks(inputs, square.swapaxes(1, 2).reshape(-1, side, steps, quad).swapaxes(1, 2), side)


def last_block_dropped(inputs: Arrays) -> Quads:
    """Every block row ends one block early."""
    quads, indptr = blocks_32x32(inputs), inputs["indptr"]
    kept = np.ones(int(indptr[-1]), bool)
    kept[indptr[1:][np.diff(indptr) > 0] - 1] = False
    return Quads(*(part[np.repeat(kept, bsr32x32.STEPS * bsr32x32.SIDE)] for part in quads))


def _blocks(inputs: Arrays, values: np.ndarray, side: int) -> Quads:
    rows = np.repeat(np.arange(inputs["indptr"].size - 1), np.diff(inputs["indptr"]))
    row = np.broadcast_to(bsr32x32.SIDE * rows[:, None, None] + np.arange(bsr32x32.SIDE), values.shape[:3])
    step = bsr32x32.QUAD * np.arange(bsr32x32.STEPS)[:, None, None] + np.arange(bsr32x32.QUAD)
    column = np.broadcast_to(side * inputs["indices"][:, None, None, None] + step, values.shape)
    return Quads(row.reshape(-1), column.reshape(-1, 4), values.reshape(-1, 4))


def whole_quads(reader: Reader) -> Reader:
    """Leaves out a last step that reaches beyond K."""

    def read(inputs: Arrays) -> Quads:
        quads = reader(inputs)
        kept = quads.column[:, -1] < inputs["w"].shape[1]
        return Quads(*(part[kept] for part in quads))

    return read
