"""bsr32x32 for broadcasting: the blocks of a block row cut into tiles of 8 output channels, tile after tile.

    block row r                tile 0 of its first block, tile 0 of its second, ...; then tile 1 of each, tile 2, tile 3

    tile t of a block          step 0:  m0 | k0 k1 k2 k3 |  m1 | k0 k1 k2 k3 |  ...  m7 | k0 k1 k2 k3 |
                               step 1:  m0 | k4 k5 k6 k7 |  ...                             8 steps, 256 bytes

    values[1024 first + 256 (count t + b) + 32 s + 4 i + j] = w[32 r + 8 t + i, 32 indices[first + b] + 4 s + j]
    first = indptr[r], count = indptr[r + 1] - first, b = 0 ... count - 1

One step of a tile is eight dwords, each broadcast against the same four input channels of many tokens: what
``vnni4_rows`` is to ``vnni4``. A kernel that does four or eight channels of all blocks of a row reads on and on.
"""

import numpy as np

from refimpl.kernels.layout import aligned, bsr32x32
from refimpl.kernels.layout.bsr32x32 import QUAD, SIDE, STEPS, Bsr32x32

TILE = 8


def pack(w: np.ndarray) -> Bsr32x32:
    """w: s8 (M, K). The arrays are those of ``bsr32x32``, the values in another order."""
    packed = bsr32x32.pack(w)
    values = aligned.empty(packed.values.shape, np.int8)
    for first, last in zip(packed.indptr[:-1], packed.indptr[1:], strict=True):
        here = slice(SIDE * SIDE * first, SIDE * SIDE * last)
        blocks = packed.values[here].reshape(-1, STEPS, SIDE // TILE, TILE * QUAD)
        values[here] = blocks.transpose(2, 0, 1, 3).reshape(-1)
    return packed._replace(values=values)
