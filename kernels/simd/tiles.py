"""AMX in a trace: a tile is a register with rows, and an instruction is seen as one on the tiles that it names.

The functions of ``refimpl.isa.amx`` take a state of eight tiles and give the next one. Of a call, a trace wants the few
tiles that go in and the one that comes out: u8 or s8 (rows, colsb) if loaded, s32 (rows, colsb / 4) if a product.
"""

from collections.abc import Callable
from functools import wraps
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np

from refimpl.isa.amx import Amx


class TileCall(NamedTuple):
    """One call on a state.

    reads: the numbers of the tiles that go in. rest: the arguments behind the numbers. tile: the number of the tile
    that is made, and result: that tile; both None for a store. meaning: (the tiles that go in, rest) -> result.
    """

    reads: tuple[int, ...]
    rest: tuple[Any, ...]
    tile: int | None
    result: np.ndarray | None
    meaning: Callable[..., np.ndarray | None]


def tile_call(meaning: Callable[..., Amx], arguments: tuple[Any, ...], after: Amx) -> TileCall:
    """What a call was: the integers behind the state, up to an array, are tiles; a load reads none, a store makes none.

    meaning: a function of ``refimpl.isa.amx``; arguments: a state and the rest; after: what it returned.
    """
    state, *others = arguments
    numbers = tuple(takewhile(lambda value: isinstance(value, int), others))
    rest = tuple(others[len(numbers) :])
    stores = after.tiles is state.tiles
    reads = numbers if stores or not rest else ()

    def made(then: Amx) -> np.ndarray | None:
        return None if stores else _tile(then, numbers[0], rest[0].dtype if rest else np.dtype(np.int32))

    @wraps(meaning)
    def on_tiles(*operands: Any) -> np.ndarray | None:
        tiles = np.zeros_like(state.tiles)
        for t, value in zip(reads, operands, strict=False):
            if isinstance(value, np.ndarray):
                tiles[t, : state.rows[t], : state.colsb[t]] = value.view(np.uint8)
        return made(meaning(state._replace(tiles=tiles), *numbers, *operands[len(reads) :]))

    return TileCall(reads, rest, None if stores else numbers[0], made(after), on_tiles)


def _tile(state: Amx, t: int, dtype: np.dtype) -> np.ndarray:
    return np.ascontiguousarray(state.tiles[t, : state.rows[t], : state.colsb[t]]).view(dtype)
