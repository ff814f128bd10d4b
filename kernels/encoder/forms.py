"""How a linear layer's weight lies in memory, and the kernels that read it there.

FORMS of INT8 weights differ in how zeros are left out: all give the same bits, and so differ in time only. FLOATS are
the weights of other precisions, each with bits of its own.

A kernel is given: the weight's arrays; the layer's parameters, padded to whole tiles (start, scale, bias and step for
INT8, bias and step for floats); x; K; scratch memory; out.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.kernels.encoder import linear_4x1, linear_32x32, linear_bf16, linear_bitmask, linear_dense, linear_f32
from refimpl.kernels.encoder.stores import Stores
from refimpl.kernels.layout import aligned, bitmask_rows, broadcast_rows, bsr4x1, bsr32x32_rows, vnni4_rows
from refimpl.kernels.layout.bitmask import BITS
from refimpl.kernels.layout.bsr4x1 import GROUP, ROWS, Bsr4x1
from refimpl.kernels.layout.bsr32x32 import SIDE

Arrays = tuple[np.ndarray, ...]
Scratch = tuple[tuple[type, int], ...]


class Form(NamedTuple):
    """name, for people; stores: the kernels; tile: output channels in a tile.

    pack: a weight -> the kernel's arrays, on cache lines. work: a weight -> the share of a dense product's
    multiplications that the form does for it, infinite where another form is surely faster. scratch: input channels,
    tokens, threads -> dtypes and sizes of the scratch memory.
    """

    name: str
    stores: Stores
    tile: int
    pack: Callable[[Any], Arrays]
    work: Callable[[Bsr4x1], float] = lambda weight: 1.0
    scratch: Callable[[int, int, int], Scratch] = lambda k, tokens, threads: ()

    def __reduce__(self) -> tuple[Callable[[str], "Form"], tuple[str]]:
        """Another process has the same form under its name."""
        return named, (self.name,)


def density(weight: Bsr4x1) -> float:
    """The share of the 4x1 blocks that are stored, those that fill a group included."""
    m, k = weight.shape
    return ROWS * weight.indices.size / (-(-m // ROWS) * ROWS * k)


def _pack_4x1(weight: Bsr4x1) -> Arrays:
    """Indices in two bytes, if they fit: they are as many as the dwords of values, and all come from memory."""
    narrow = weight.indices.astype(np.uint16) if weight.shape[1] <= 2**16 else weight.indices
    return aligned.flat(weight.indptr), aligned.flat(narrow), aligned.flat(weight.values)


def _pack_dense(weight: Bsr4x1) -> Arrays:
    return (vnni4_rows.pack(bsr4x1.unpack(weight)).values,)


def _quads(k: int, tokens: int, threads: int) -> Scratch:
    return ((np.uint8, k * tokens),)


def _pack_32x32(weight: Bsr4x1) -> Arrays:
    packed = bsr32x32_rows.pack(bsr4x1.unpack(weight))
    return aligned.flat(packed.indptr), aligned.flat(packed.indices), packed.values


def _wide_quads(k: int, tokens: int, threads: int) -> Scratch:
    return _quads(-(-k // SIDE) * SIDE, tokens, threads)


def _quads_and_tiles(k: int, tokens: int, threads: int) -> Scratch:
    tile = -(-vnni4_rows.TILE * k // BITS) * BITS
    return (*_quads(k, tokens, threads), (np.int8, threads * tile))


def density_32x32(weight: Bsr4x1) -> float:
    """The share of the 32x32 blocks in which a 4x1 block is stored."""
    m, k = weight.shape
    live = np.zeros((-(-m // SIDE), -(-k // SIDE)), np.bool_)
    rows = np.repeat(np.arange(len(weight.indptr) - 1) * ROWS // SIDE, np.diff(weight.indptr))
    live[rows[:, None], weight.indices.reshape(-1, GROUP) // SIDE] = True
    return float(live.mean())


def _work_32x32(weight: Bsr4x1) -> float:
    share = density_32x32(weight)
    return share if share < 1 else np.inf


SPARSE = Form("4x1", linear_4x1.STORES, ROWS, _pack_4x1, density)
DENSE = Form("dense", linear_dense.STORES, vnni4_rows.TILE, _pack_dense, scratch=_quads)
BLOCKS = Form("32x32", linear_32x32.STORES, bsr32x32_rows.TILE, _pack_32x32, _work_32x32, _wide_quads)
BITMASK = Form(
    "bitmask",
    linear_bitmask.STORES,
    vnni4_rows.TILE,
    lambda weight: bitmask_rows.pack(bsr4x1.unpack(weight)),
    lambda weight: np.inf,
    _quads_and_tiles,
)
FORMS = {form.name: form for form in (SPARSE, DENSE, BLOCKS, BITMASK)}

F32 = Form("f32", linear_f32.STORES, broadcast_rows.TILE, lambda w: (broadcast_rows.pack(w),))
BF16 = Form(
    "bf16",
    linear_bf16.STORES,
    broadcast_rows.TILE,
    lambda w: (broadcast_rows.pack_pairs(w),),
    scratch=lambda k, tokens, threads: ((np.uint16, k * tokens),),
)
FLOATS = {form.name: form for form in (F32, BF16)}


def named(name: str) -> Form:
    """One of ``FORMS`` or ``FLOATS``."""
    return (FORMS | FLOATS)[name]
