"""Pairs of products that saturate together: which could, which did, and what saturation adds to the exact sum.

    saturating sum = exact sum + sum_(pairs) excess
    excess         = clip(a0 w0 + a1 w1, -32768, 32767) - (a0 w0 + a1 w1)

A layout is, to a CPU without VNNI, the list of its pairs: which two input channels meet in one 16-bit sum. So whatever
saturates is found from the pairs alone, for every layout in the same way.

Static test, exact. With codes 0 <= a_k <= most_k a pair sum is largest, and smallest, at a corner:

    largest   most0 w0+ + most1 w1+          w+ = max(w, 0)         safe: at most   32767
    smallest  most0 w0- + most1 w1-          w- = min(w, 0)         safe: at least -32768

For most = 255 that is w0+ + w1+ <= 128 and |w0-| + |w1-| <= 128, since 255 * 128 = 32640 <= 32767 < 255 * 129. A pair
that passes cannot saturate for any codes in the range: a theorem. One that fails does, at the corner. Codes above 0 at
the low end change nothing: weights of opposite signs never saturate, nor does either weight alone.

Contract. u8 x s8, no rounding. Source of the mechanism: oneDNN, doc/advanced/int8_computations.md.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.isa import vpmaddubsw

CHUNK = 2**19  # pair sums held at a time
LOWEST, LARGEST = -(2**15), 2**15 - 1
FULL = 255
"""The largest code if nothing is known."""


class Pairs(NamedTuple):
    """P pairs that could saturate. row: s64 (P,), output channels, ascending; columns: s64 (P, 2), the input channels;
    weights: s8 (P, 2)."""

    row: np.ndarray
    columns: np.ndarray
    weights: np.ndarray


def unsafe_pairs(w: np.ndarray, most: np.ndarray | int = FULL) -> np.ndarray:
    """Which pairs of neighbours could saturate: the static test.

    Parameters
    ----------
    w : s8 (M, K)
    most : integer () or (K,) or (M, K)
        largest code of each input channel, 0 ... 255

    Returns
    -------
    bool (M, ceil(K / 2)), True where some codes within the range saturate the pair

    >>> w = np.array([[127, 1, 127, 2]], np.int8)
    >>> unsafe_pairs(w), unsafe_pairs(w, 127)
    (array([[False,  True]]), array([[False, False]]))
    """
    check.dtype("w", w, np.int8)
    check.shape("w", w, ("M", "K"))
    products = w.astype(np.int32) * checked(most)
    pairs = neighbours(products)
    return (np.maximum(pairs, 0).sum(-1) > LARGEST) | (np.minimum(pairs, 0).sum(-1) < LOWEST)


def checked(most: np.ndarray | int) -> np.ndarray:
    """The largest codes as s32; TypeError or ValueError unless they are integers 0 ... 255."""
    most = np.asarray(most)
    if most.dtype.kind not in "iu":
        raise TypeError(f"most has dtype {most.dtype}; need an integer dtype")
    if most.size and not 0 <= most.min() <= most.max() <= FULL:
        raise ValueError(f"most has the element {most.min() if most.min() < 0 else most.max()}; need 0 to {FULL}")
    return most.astype(np.int32)


def dense_pairs(w: np.ndarray, most: np.ndarray | int = FULL) -> Pairs:
    """Of a dense product, which pairs the input channels (0, 1), (2, 3), ...; an odd last one is alone.

    w: s8 (M, K); most: integer () or (K,).
    """
    row, pair = np.nonzero(unsafe_pairs(w, most))
    columns = 2 * pair[:, None] + np.arange(2)
    return Pairs(row, columns, neighbours(w)[row, pair])


def excess(a: np.ndarray, pairs: Pairs) -> Iterator[tuple[slice, np.ndarray]]:
    """What saturation adds to the exact sums. a: u8 (N, K). Yields a part of the pairs, and s32 (N, part)."""
    step = max(1, CHUNK // max(1, len(a)))
    for start in range(0, pairs.row.size, step):
        part = slice(start, start + step)
        few, weights = np.broadcast_arrays(a[:, pairs.columns[part]], pairs.weights[part])
        exact = (few.astype(np.int32) * weights.astype(np.int32)).sum(-1)
        yield part, vpmaddubsw(few, weights)[..., 0] - exact


def add_excess(acc: np.ndarray, a: np.ndarray, pairs: Pairs) -> None:
    """Turn the exact product into the saturating one, in place. acc: s32 (N, M); a: u8 (N, K)."""
    for part, added in excess(a, pairs):
        row = pairs.row[part]
        first = np.flatnonzero(np.diff(row, prepend=-1))  # rows ascend: sum the pairs of each
        acc[:, row[first]] += np.add.reduceat(added, first, axis=1)


def count_saturated(a: np.ndarray, pairs: Pairs) -> int:
    """How many pair sums, over all tokens, were clipped. a: u8 (N, K)."""
    return sum(int(np.count_nonzero(added)) for _, added in excess(a, pairs))


def neighbours(x: np.ndarray) -> np.ndarray:
    """(R, K) -> (R, ceil(K / 2), 2), an odd K padded with a zero."""
    rows, k = x.shape
    return np.pad(x, ((0, 0), (0, k % 2))).reshape(rows, -(-k // 2), 2)
