"""AMX: eight tiles of up to 16 rows x 64 bytes, their configuration and their products, to the bit.

    configuration, 64 bytes    0 palette   1 start_row   2 ... 15 zero   16 ... 31 colsb of tile 0 ... 7 (u16)
                               32 ... 47 zero   48 ... 55 rows of tile 0 ... 7 (u8)   56 ... 63 zero

    product of tiles           dst[m, n] += sum_k a[m, k] . b[k, n]        . of one dword with another
                               dst: rows_a x colsb_b,   a: rows_a x colsb_a,   b: colsb_a / 4 rows x colsb_b

A row of ``a`` holds the inputs of one output row in order; row k of ``b`` holds, for each output column, the four bytes
(or two bf16) that meet dword k of ``a``.

Contract. State goes in and comes out: nothing is changed in place but memory, by ``tilestored``. What the manual raises
#GP or #UD for is a ValueError. Rows and bytes outside a tile's configuration are zero after every write to it. Integer
products are exact, their sums wrap to s32. ``tdpbf16ps`` has, for each output, two chains that start at +0, one of the
even and one of the odd elements, each step one fused multiply-add; then dst + (even + odd), two more roundings:

    even = fma(even, a[m, 2 k], b[k, 2 n])        odd = fma(odd, a[m, 2 k + 1], b[k, 2 n + 1])        k ascending

with the rounding, flushing and NaN rules of ``refimpl.isa.bf16``. This is not the order of ``vdpbf16ps``, so the bits
differ. Which NaN wins in a sum is our choice (dst, then even, then odd); the manual leaves it open.

Source: Intel SDM volume 1, Programming with Intel AMX; volume 2, LDTILECFG, TILELOADD, TILESTORED, TILEZERO,
TDPBSSD and its relatives, TDPBF16PS, and section 2.10 (exception classes AMX-E1 ... E5).
"""

from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.integer.narrow import wrap_s32
from refimpl.isa.bf16 import fma_daz_ftz

TILES, ROWS, BYTES = 8, 16, 64
"""Palette 1."""


class Amx(NamedTuple):
    """palette: 0 (nothing configured) or 1; tiles: u8 (8, 16, 64), read-only.

    colsb, rows: bytes per row and rows of each tile, both 0 for a tile not in use. start_row: where an interrupted load
    or store goes on; every instruction puts it back to 0.
    """

    palette: int
    start_row: int
    colsb: tuple[int, ...]
    rows: tuple[int, ...]
    tiles: np.ndarray


# --- configuration ---------------------------------------------------------------------------------------------------


def configuration(rows: tuple[int, ...], colsb: tuple[int, ...]) -> np.ndarray:
    """The memory image of palette 1 with these tiles, u8 (64,); missing ones are not in use. ``ldtilecfg`` checks it.

    >>> configuration((2,), (12,)).nonzero()[0].tolist()
    [0, 16, 48]
    """
    image = np.zeros(64, np.uint8)
    image[0] = 1
    image[16:].view(np.uint16)[: len(colsb)] = colsb
    image[48 : 48 + len(rows)] = rows
    return image


def ldtilecfg(image: np.ndarray) -> Amx:
    """Configure from a 64-byte image, u8 (64,); all tiles become zero. Palette 0 ignores the other bytes.

    Raises ValueError where the manual raises #GP.
    """
    check.dtype("image", image, np.uint8)
    check.shape("image", image, (64,))
    palette = int(image[0])
    if palette == 0:
        return Amx(0, 0, (0,) * TILES, (0,) * TILES, _frozen(np.zeros((TILES, ROWS, BYTES), np.uint8)))
    if palette != 1:
        raise ValueError(f"palette is {palette}; need 0 or 1")
    for start, stop in ((2, 16), (32, 48), (56, 64)):
        if image[start:stop].any():
            at = start + int(image[start:stop].nonzero()[0][0])
            raise ValueError(f"image has {image[at]} in byte {at}; need 0: it is reserved")
    colsb = tuple(int(low) + 256 * int(high) for low, high in image[16:32].reshape(TILES, 2))
    rows = tuple(image[48:56].tolist())
    for t, (r, c) in enumerate(zip(rows, colsb, strict=True)):
        if r > ROWS or c > BYTES:
            raise ValueError(f"tile {t} has {r} rows of {c} bytes; need at most {ROWS} of {BYTES}")
        if (r == 0) != (c == 0):
            raise ValueError(f"tile {t} has {r} rows of {c} bytes; need both or neither to be 0")
    return Amx(1, int(image[1]), colsb, rows, _frozen(np.zeros((TILES, ROWS, BYTES), np.uint8)))


def sttilecfg(state: Amx) -> np.ndarray:
    """The image that ``ldtilecfg`` took, u8 (64,); all zero if nothing is configured."""
    if state.palette == 0:
        return np.zeros(64, np.uint8)
    image = configuration(state.rows, state.colsb)
    image[1] = state.start_row
    return image


# --- memory ----------------------------------------------------------------------------------------------------------


def tileloadd(state: Amx, t: int, memory: np.ndarray, at: int, stride: int) -> Amx:
    """Tile t from memory: row r is colsb bytes from element ``at + r * stride`` of a contiguous 1-D array.

    Rows before ``start_row`` stay. Reading outside the array is an IndexError.
    """
    _check_memory_operand(state, t)
    tile = state.tiles[t].copy()
    tile[state.start_row :] = 0
    for r in range(state.start_row, state.rows[t]):
        tile[r, : state.colsb[t]] = _row(memory, at + r * stride, state.colsb[t])
    return _with_tile(state, t, tile)


def tilestored(state: Amx, t: int, memory: np.ndarray, at: int, stride: int) -> Amx:
    """Tile t to memory, addressed as in ``tileloadd``; nothing between the rows changes."""
    _check_memory_operand(state, t)
    for r in range(state.start_row, state.rows[t]):
        _row(memory, at + r * stride, state.colsb[t])[:] = state.tiles[t, r, : state.colsb[t]]
    return state._replace(start_row=0)


def tilezero(state: Amx, t: int) -> Amx:
    """Tile t becomes zero."""
    _check_in_use(state, t)
    return _with_tile(state, t, np.zeros((ROWS, BYTES), np.uint8))


# --- products --------------------------------------------------------------------------------------------------------


def tdpbusd(state: Amx, dst: int, a: int, b: int) -> Amx:
    """Tile dst, s32, += tile a, u8, by tile b, s8."""
    return _dot_quads(state, dst, a, b, np.uint8, np.int8)


def tdpbssd(state: Amx, dst: int, a: int, b: int) -> Amx:
    """Tile dst, s32, += tile a, s8, by tile b, s8."""
    return _dot_quads(state, dst, a, b, np.int8, np.int8)


def tdpbsud(state: Amx, dst: int, a: int, b: int) -> Amx:
    """Tile dst, s32, += tile a, s8, by tile b, u8."""
    return _dot_quads(state, dst, a, b, np.int8, np.uint8)


def tdpbuud(state: Amx, dst: int, a: int, b: int) -> Amx:
    """Tile dst, 32 bits, += tile a, u8, by tile b, u8."""
    return _dot_quads(state, dst, a, b, np.uint8, np.uint8)


def tdpbf16ps(state: Amx, dst: int, a: int, b: int) -> Amx:
    """Tile dst, f32, += tile a by tile b, both bf16; two chains of fma, as the module says."""
    _check_product(state, dst, a, b)
    x = _used(state, a).view(np.uint32)
    w = _used(state, b).view(np.uint32)
    even = odd = np.zeros((len(x), w.shape[1]), np.float32)
    for k in range(len(w)):
        even = fma_daz_ftz(even, (x[:, k, None] << 16).view(np.float32), (w[k] << 16).view(np.float32))
        odd = fma_daz_ftz(odd, _upper(x[:, k, None]), _upper(w[k]))
    one = np.ones(1, np.float32)
    total = fma_daz_ftz(fma_daz_ftz(odd, even, one), _used(state, dst).view(np.float32), one)
    return _with_product(state, dst, total)


def _upper(dwords: np.ndarray) -> np.ndarray:
    return (dwords & np.uint32(0xFFFF0000)).view(np.float32)


def _dot_quads(state: Amx, dst: int, a: int, b: int, type_a: type, type_b: type) -> Amx:
    _check_product(state, dst, a, b)
    x = _used(state, a).view(type_a).astype(np.int64)
    w = _used(state, b).view(type_b).astype(np.int64)
    w = w.reshape(len(w), -1, 4).swapaxes(1, 2).reshape(x.shape[1], -1)  # (K, N)
    return _with_product(state, dst, wrap_s32(_used(state, dst).view(np.int32) + x @ w))


# --- the state -------------------------------------------------------------------------------------------------------


def _used(state: Amx, t: int) -> np.ndarray:
    """The configured part of a tile, u8 (rows, colsb)."""
    return np.ascontiguousarray(state.tiles[t, : state.rows[t], : state.colsb[t]])


def _with_product(state: Amx, t: int, dwords: np.ndarray) -> Amx:
    tile = np.zeros((ROWS, BYTES), np.uint8)
    tile[: state.rows[t], : state.colsb[t]] = dwords.view(np.uint8)
    return _with_tile(state, t, tile)


def _with_tile(state: Amx, t: int, tile: np.ndarray) -> Amx:
    tiles = state.tiles.copy()
    tiles[t] = tile
    return state._replace(start_row=0, tiles=_frozen(tiles))


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _row(memory: np.ndarray, at: int, count: int) -> np.ndarray:
    """A view of ``count`` bytes from element ``at``."""
    if not isinstance(memory, np.ndarray) or memory.ndim != 1 or not memory.flags.c_contiguous:
        raise ValueError("memory needs to be a contiguous 1-D array")
    start = at * memory.itemsize
    if at < 0 or start + count > memory.nbytes:
        raise IndexError(f"bytes {start} to {start + count - 1} of an array of {memory.nbytes} bytes")
    return memory.view(np.uint8)[start : start + count]


def _check_in_use(state: Amx, *operands: int) -> None:
    for t in operands:
        if not 0 <= t < TILES or state.rows[t] == 0:
            raise ValueError(f"tile {t} is not configured")


def _check_dwords(state: Amx, *operands: int) -> None:
    _check_in_use(state, *operands)
    for t in operands:
        if state.colsb[t] % 4:
            raise ValueError(f"tile {t} has rows of {state.colsb[t]} bytes; need a multiple of 4")


def _check_memory_operand(state: Amx, t: int) -> None:
    _check_dwords(state, t)
    if state.start_row >= state.rows[t]:
        raise ValueError(f"start_row is {state.start_row}; tile {t} has {state.rows[t]} rows")


def _check_product(state: Amx, dst: int, a: int, b: int) -> None:
    if len({dst, a, b}) < 3:
        raise ValueError(f"tiles are {dst}, {a}, {b}; need three different ones")
    _check_dwords(state, dst, a, b)
    have = [(state.rows[t], state.colsb[t]) for t in (dst, a, b)]
    (rows, colsb), (rows_a, colsb_a), (rows_b, colsb_b) = have
    if (rows, colsb) != (rows_a, colsb_b) or rows_b != colsb_a // 4:
        raise ValueError(f"tiles have (rows, bytes) {have}; need (M, 4 N), (M, 4 K), (K, 4 N)")
