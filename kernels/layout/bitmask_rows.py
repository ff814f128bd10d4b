"""Bitmask for broadcasting: ``bitmask`` with the tiles of ``vnni4_rows``, 6 output channels each.

bytes of a tile, padded to whole masks     a . . b  . c . .  ...  . d . .  |  . e . .  ...  0 0     . is 0

masks   one u64 for 64 bytes               bits 0, 3, 5, ..., 61 set       |  bit 1, ...
values  nonzero bytes, in order            a b c ... d                        e ...
starts  one s64 for a tile                 its first value in values

masks[C t + v // 64], bit v % 64, is set where byte v of tile t is not 0; C = ceil(24 ceil(K/4) / 64)
"""

import numpy as np

from refimpl.kernels.layout import aligned, vnni4_rows
from refimpl.kernels.layout.bitmask import BITS


def pack(w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """s8 (M, K) -> starts s64 (ceil(M/6),), masks u64 (ceil(M/6) C,), values s8 (nnz,)."""
    tiles = -(-w.shape[0] // vnni4_rows.TILE)
    rows = vnni4_rows.pack(w).values.reshape(tiles, -1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % BITS)))
    live = rows != 0
    ends = live.sum(1, dtype=np.int64).cumsum()
    masks = np.packbits(live, bitorder="little").view("<u8").astype(np.uint64)
    return aligned.flat(np.concatenate([[0], ends[:-1]])), aligned.flat(masks), aligned.flat(rows[live])
