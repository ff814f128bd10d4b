"""The forms of a linear layer's INT8 weight: how its zeros are left out. All give the same bits, and so differ in time
only.

A kernel is given: the weight's arrays; start, scale, bias, step (``linear_4x1``), padded to whole tiles; x; K; scratch
memory; out.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refimpl.kernels.encoder import linear_4x1, linear_32x32, linear_dense
from refimpl.kernels.encoder.stores import Stores
from refimpl.kernels.layout import aligned, bsr4x1, bsr32x32_rows, vnni4_rows
from refimpl.kernels.layout.bsr4x1 import GROUP, ROWS, Bsr4x1
from refimpl.kernels.layout.bsr32x32 import SIDE

Arrays = tuple[np.ndarray, ...]


class Form(NamedTuple):
    """name, for people; stores: the kernels; tile: output channels in a tile.

    pack: a weight -> the kernel's arrays, on cache lines. work: a weight -> the share of a dense product's
    multiplications that the form does for it, infinite where another form is surely faster. scratch: input channels,
    tokens -> dtypes and sizes of the scratch memory.
    """

    name: str
    stores: Stores
    tile: int
    pack: Callable[[Bsr4x1], Arrays]
    work: Callable[[Bsr4x1], float]
    scratch: Callable[[int, int], tuple[tuple[type, int], ...]] = lambda k, tokens: ()

    def __reduce__(self) -> tuple[Callable[[str], "Form"], tuple[str]]:
        """Another process has the same form under its name."""
        return named, (self.name,)


def density(weight: Bsr4x1) -> float:
    """The share of the 4x1 blocks that are stored, those that fill a group included."""
    m, k = weight.shape
    return ROWS * weight.indices.size / (-(-m // ROWS) * ROWS * k)


def _pack_4x1(weight: Bsr4x1) -> Arrays:
    return aligned.flat(weight.indptr), aligned.flat(weight.indices), aligned.flat(weight.values)


def _pack_dense(weight: Bsr4x1) -> Arrays:
    return (vnni4_rows.pack(bsr4x1.unpack(weight)).values,)


def _quads(k: int, tokens: int) -> tuple[tuple[type, int], ...]:
    return ((np.uint8, k * tokens),)


def _pack_32x32(weight: Bsr4x1) -> Arrays:
    packed = bsr32x32_rows.pack(bsr4x1.unpack(weight))
    return aligned.flat(packed.indptr), aligned.flat(packed.indices), packed.values


def _wide_quads(k: int, tokens: int) -> tuple[tuple[type, int], ...]:
    return _quads(-(-k // SIDE) * SIDE, tokens)


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
DENSE = Form("dense", linear_dense.STORES, vnni4_rows.TILE, _pack_dense, lambda weight: 1.0, _quads)
BLOCKS = Form("32x32", linear_32x32.STORES, bsr32x32_rows.TILE, _pack_32x32, _work_32x32, _wide_quads)
FORMS = {form.name: form for form in (SPARSE, DENSE, BLOCKS)}


def named(name: str) -> Form:
    """One of ``FORMS``."""
    return FORMS[name]
