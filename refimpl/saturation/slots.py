"""Slots: a weight whose columns are stored in any order, more than once or never, with the exact product unchanged.

    acc[n, m] = sum_s a[n, columns[s]] codes[m, s]          = sum_k a[n, k] w[m, k]
    if          sum_(s: columns[s] = k) codes[m, s] = w[m, k]          for all m, k

So a layer may be re-paired (a permutation), padded with zeros, or split into parts that add up, and every accumulator
keeps its bits; only which products meet in a 16-bit sum changes: slots (0, 1), (2, 3), ...

A dense layer has one list of slots; a block row of 4 output channels in 4x1 blocks has its own.
"""

from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.integer.pairs import FULL, Pairs, dense_pairs

WHOLE = 4
"""Products in one dword: slots are padded to a multiple of this."""


class Slots(NamedTuple):
    """columns: s32 (S,), input channels; codes: s8 (M, S)."""

    columns: np.ndarray
    codes: np.ndarray


def as_stored(w: np.ndarray) -> Slots:
    """Every column once, in its place. w: s8 (M, K)."""
    check.dtype("w", w, np.int8)
    check.shape("w", w, ("M", "K"))
    return Slots(np.arange(w.shape[1], dtype=np.int32), w)


def weight_of(slots: Slots, k: int) -> np.ndarray:
    """What the slots add up to: s8 (M, K). ValueError where a sum is no s8 or a column is outside 0 ... K - 1."""
    check.dtype("codes", slots.codes, np.int8)
    if slots.columns.size and not 0 <= slots.columns.min() <= slots.columns.max() < k:
        raise ValueError(f"columns reach from {slots.columns.min()} to {slots.columns.max()}; need 0 to {k - 1}")
    w = np.zeros((k, len(slots.codes)), np.int32)
    np.add.at(w, slots.columns, slots.codes.T.astype(np.int32))
    if w.size and not -128 <= w.min() <= w.max() <= 127:
        raise ValueError("codes of one column add up to more than an s8")
    return w.T.astype(np.int8)


def most_at(slots: Slots, most: np.ndarray | int) -> np.ndarray | int:
    """The largest code of each slot. most: integer () or (K,) -> integer () or (S,)."""
    return most[slots.columns] if isinstance(most, np.ndarray) and most.ndim else most


def slot_pairs(slots: Slots, most: np.ndarray | int = FULL) -> Pairs:
    """The pairs of slots that could saturate. most: integer () or (K,), the largest code of each input channel."""
    few = dense_pairs(slots.codes, most_at(slots, most))
    columns = np.append(slots.columns, slots.columns[-1:])  # an odd last slot is alone
    return few._replace(columns=columns[few.columns])
