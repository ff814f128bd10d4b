"""Which groups of four columns several block rows can share.

Interleaving four columns of activations costs as many instructions as half of the products that it feeds. Two block
rows that both have the columns {3, 8, 21, 40} alive can share one interleaved quad. In a random pattern two block rows
of 768 columns at 80 % sparsity have 31 live columns in common, three have 6; the more rows share a quad, the more is
saved, so the search wants quads with many rows first:

    for t = 12, 11, ..., 2:  grow a set of rows from each row in turn, always adding the row that has most live columns
                             in common with all rows so far, while four are left; keep it if it has at least t rows;
                             its columns, cut to a multiple of four, are then taken out of all its rows

This is the greedy heuristic for covering a bipartite graph with bicliques. Rows are bit sets of u64 words.
"""

from collections.abc import Callable
from functools import cache

import numba
import numpy as np

from refimpl.kernels.cache import keep

MOST_ROWS = 12
GROUP = 4


def find_shared(live: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Shared quads of a set of block rows.

    Parameters
    ----------
    live : bool (R, K)

    Returns
    -------
    rows : for each quad the block rows that share it, ascending
    columns : s32 (Q, 4), ascending
    left : bool (R, K), the live columns in no shared quad
    """
    count, k = live.shape
    padded = np.zeros((count, -(-k // 64) * 64), bool)
    padded[:, :k] = live
    words = np.packbits(padded, axis=1, bitorder="little").view(np.uint64)
    most = int(live.sum()) // GROUP + 1
    members = np.zeros((most, MOST_ROWS), np.int32)
    sizes, columns = np.zeros(most, np.int32), np.zeros((most, GROUP), np.int32)
    found = _kept()(words, members, sizes, columns)
    left = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, :k].astype(bool)
    rows = [np.sort(members[i, : sizes[i]]) for i in range(found)]
    return rows, columns[:found], left


@numba.njit
def _popcount(x):
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    x = x + (x >> np.uint64(8))
    x = x + (x >> np.uint64(16))
    x = x + (x >> np.uint64(32))
    return np.int64(x & np.uint64(127))


@numba.njit
def _grow(words, seed, common, rows):
    """Fill ``rows`` and their common columns, greedily; return how many rows."""
    used = np.zeros(words.shape[0], np.bool_)
    common[:] = words[seed]
    rows[0], used[seed], size = seed, True, 1
    while size < rows.size:
        best, best_row = GROUP - 1, -1
        for row in range(words.shape[0]):
            if not used[row]:
                overlap = 0
                for w in range(common.size):
                    overlap += _popcount(words[row, w] & common[w])
                if overlap > best:
                    best, best_row = overlap, row
        if best_row < 0:
            break
        common &= words[best_row]
        rows[size], used[best_row] = best_row, True
        size += 1
    return size


@numba.njit
def _take(words, common, rows, size, columns, at):
    """Move a multiple of four common columns out of all rows into ``columns``, from quad ``at`` on; return how many."""
    total = 0
    for w in range(common.size):
        total += _popcount(common[w])
    wanted, taken = total // GROUP * GROUP, 0
    for w in range(common.size):
        bits = common[w]
        while bits and taken < wanted:
            lowest = bits & (~bits + np.uint64(1))
            columns[at + taken // GROUP, taken % GROUP] = 64 * w + _popcount(lowest - np.uint64(1))
            for i in range(size):
                words[rows[i], w] ^= lowest
            bits ^= lowest
            taken += 1
    return taken // GROUP


@numba.njit
def _search(words, members, sizes, columns):
    """Fill members, sizes and columns, clear what is covered from ``words``; return the number of quads."""
    rows, common = np.zeros(MOST_ROWS, np.int32), np.zeros(words.shape[1], np.uint64)
    found = 0
    for least in range(MOST_ROWS, 1, -1):
        for seed in range(words.shape[0]):
            size = _grow(words, seed, common, rows)
            while size >= least:
                quads = _take(words, common, rows, size, columns, found)
                members[found : found + quads] = rows
                sizes[found : found + quads] = size
                found += quads
                size = _grow(words, seed, common, rows)
    return found


@cache
def _kept() -> Callable[..., int]:
    """``_search``, on disk once it is compiled: that takes seconds."""
    return keep(_search)
