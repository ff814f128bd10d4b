"""VNNI-4 for broadcasting: dense weights cut into tiles of 6 output channels, four input channels in a dword.

    w (M, K)            (ceil(M/6), ceil(K/4), 6, 4)

                        tile m0, step k0:   m0 | k0 k1 k2 k3 |  m1 | k0 k1 k2 k3 |  ...  m5 | k0 k1 k2 k3 |
                        tile m0, step k1:   m0 | k4 k5 k6 k7 |  ...

    values[m // 6, k // 4, m % 6, k % 4] = w[m, k]              rows from M and columns from K on are 0

One step of a tile is six dwords, each broadcast against the same four input channels of many tokens: the layout for
activations in panels, as ``vnni4`` is the one for weights in the lanes.
"""

import numpy as np

from refimpl.kernels.layout.vnni4 import Vnni4, pack_tiles

TILE = 6


def pack(w: np.ndarray) -> Vnni4:
    """w: s8 (M, K)."""
    return pack_tiles(w, TILE)
