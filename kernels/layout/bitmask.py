"""Bitmask: unstructured sparse weights as one bit an element and the nonzero bytes, in the order of VNNI-4.

    VNNI-4 bytes (see ``vnni4``)    a . . b  . c . .  . . . .  ...  . d . .  |  . e . .  ...  |  ...      . is 0

    masks   one u64 for 64 bytes    bits 0, 3, 5, ..., 61 set                |  bit 1, ...    |
    values  nonzero bytes, in order a b c ... d                                 e ...
    starts  one s64 for a tile of 64 output channels: its first value in values; at the end, the number of values

    v = VNNI-4 index of w[m, k] = ((m // 64 * ceil(K/4) + k // 4) * 64 + m % 64) * 4 + k % 4
    bit v % 64 of masks[v // 64] = (w[m, k] != 0)                           lowest bit first
    values[number of bits set before it] = w[m, k]                          padding of M and K is 0: bits clear

A step of a tile (64 channels x 4) is four masks, each one register after ``vpexpandb``. Size: nnz + P/8 + 8 (tiles + 1)
bytes for P dense ones, less than P below a density of about 7/8. It saves memory traffic, never a multiplication.
Source: the packed format of oneDNN (doc/advanced/experimental.md, sparse weights decompression), with VNNI-4 tiles
in place of the AMX blocks and offsets for each tile, exclusive prefix sums, in place of each block.
"""

from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.kernels.layout import vnni4
from refimpl.kernels.layout.vnni4 import QUAD, TILE, Vnni4

BITS = 64


class Bitmask(NamedTuple):
    """shape: (M, K); starts: s64 (ceil(M/64) + 1,); masks: u64 (ceil(M/64) * ceil(K/4) * 4,); values: s8 (nnz,)."""

    shape: tuple[int, int]
    starts: np.ndarray
    masks: np.ndarray
    values: np.ndarray


def pack(w: np.ndarray) -> Bitmask:
    """Store the nonzero weights of w, s8 (M, K). Raises what ``vnni4.pack`` raises."""
    bytes_ = vnni4.pack(w).values
    live = bytes_ != 0
    masks = _masks(live)
    return Bitmask(w.shape, _starts(masks, w.shape[0]), masks, bytes_[live])


def unpack(packed: Bitmask) -> np.ndarray:
    """The exact inverse of ``pack``: s8 (M, K). Raises what ``validate`` raises."""
    validate(packed)
    live = np.unpackbits(packed.masks.astype("<u8").view(np.uint8), bitorder="little").astype(bool)
    bytes_ = np.zeros(live.size, np.int8)
    bytes_[live] = packed.values
    return vnni4.unpack(Vnni4(packed.shape, bytes_))


def _masks(live: np.ndarray) -> np.ndarray:
    """bool (64 n,) -> u64 (n,)."""
    return np.packbits(live, bitorder="little").view("<u8").astype(np.uint64)


def _starts(masks: np.ndarray, m: int) -> np.ndarray:
    """Exclusive prefix sums of the numbers of set bits in each tile, and their sum."""
    counts = np.bitwise_count(masks).reshape(-(-m // TILE), -1).sum(1, dtype=np.int64)
    return np.concatenate([[0], counts.cumsum()]).astype(np.int64)


def validate(packed: Bitmask) -> None:
    """Raise TypeError or ValueError unless a kernel can run on this without reading outside its arrays.

    Also requires the canonical form, so that ``pack(unpack(x)) == x``: no value is zero, no bit is set outside the
    shape. Takes time and memory in proportion to M K.
    """
    for name, dtype in (("starts", np.int64), ("masks", np.uint64), ("values", np.int8)):
        check.dtype(name, getattr(packed, name), dtype)
    vnni4.check_shape(packed.shape)
    m, k = packed.shape
    tiles = -(-m // TILE)
    check.shape("starts", packed.starts, (tiles + 1,))
    check.shape("masks", packed.masks, (tiles * -(-k // QUAD) * (TILE * QUAD // BITS),))
    starts = _starts(packed.masks, m)
    wrong = np.flatnonzero(packed.starts != starts)
    if wrong.size:
        at = wrong[0]
        raise ValueError(f"starts is {packed.starts[at]} at [{at}]; the masks before it have {starts[at]} bits set")
    check.shape("values", packed.values, (int(starts[-1]),))
    if not packed.values.all():
        raise ValueError(f"values is 0 at [{np.flatnonzero(packed.values == 0)[0]}]; need nonzero weights")
    inside = _masks(vnni4.pack(np.ones(packed.shape, np.int8)).values != 0)
    if (packed.masks & ~inside).any():
        raise ValueError(f"masks has weights outside the shape {packed.shape}")


def size(packed: Bitmask) -> int:
    """Bytes of the three arrays."""
    return packed.starts.nbytes + packed.masks.nbytes + packed.values.nbytes


def break_even_density(shape: tuple[int, int]) -> float:
    """The share of nonzero weights at which this layout takes as many bytes as VNNI-4; 1 where it never takes more.

    >>> round(break_even_density((3072, 768)), 4)
    0.8748
    """
    vnni4.check_shape(shape)
    m, k = shape
    tiles = -(-m // TILE)
    dense = tiles * -(-k // QUAD) * TILE * QUAD
    return min(1.0, (dense - dense // 8 - 8 * (tiles + 1)) / (m * k))
