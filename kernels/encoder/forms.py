"""The forms of a linear layer's INT8 weight: how its zeros are left out. All give the same bits, and so differ in time
only.

A kernel is given: the weight's arrays; start, scale, bias, step (``linear_4x1``), padded to whole tiles; x; K; scratch
memory; out.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refimpl.kernels.encoder import linear_4x1, linear_dense
from refimpl.kernels.encoder.stores import Stores
from refimpl.kernels.layout import aligned, bsr4x1, vnni4_rows
from refimpl.kernels.layout.bsr4x1 import ROWS, Bsr4x1

Arrays = tuple[np.ndarray, ...]


class Form(NamedTuple):
    """name, for people; stores: the kernels; tile: output channels in a tile.

    pack: a weight -> the kernel's arrays, on cache lines. worth: a weight -> whether the form may be the fastest for
    it. scratch: input channels, tokens -> dtypes and sizes of the scratch memory.
    """

    name: str
    stores: Stores
    tile: int
    pack: Callable[[Bsr4x1], Arrays]
    worth: Callable[[Bsr4x1], bool]
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


SPARSE = Form("4x1", linear_4x1.STORES, ROWS, _pack_4x1, lambda weight: True)
DENSE = Form("dense", linear_dense.STORES, vnni4_rows.TILE, _pack_dense, lambda weight: density(weight) > 0.5, _quads)
FORMS = {form.name: form for form in (SPARSE, DENSE)}


def named(name: str) -> Form:
    """One of ``FORMS``."""
    return FORMS[name]
