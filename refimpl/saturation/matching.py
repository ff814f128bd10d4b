"""Which columns to put side by side: a perfect matching of small total cost.

A minimum-weight perfect matching in a general graph (Edmonds) is slow for a thousand columns. Here: fix one column of
each pair on the left and one on the right; the best matching between the two sides is an assignment problem (Jonker
and Volgenant, ``scipy.optimize.linear_sum_assignment``), and the present matching is one of its candidates, so it
never gets worse. Turn random pairs around and repeat.

Lower bound, a proof of how good that is: a perfect matching is half of a permutation without fixed points, so half the
cost of the best assignment of all columns to all columns, the diagonal forbidden, is at most that of any matching.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment

from refimpl import check


def match(cost: np.ndarray, rounds: int = 12, seed: int = 0) -> np.ndarray:
    """Pairs of columns of small total cost, never more than that of (0, 1), (2, 3), ...

    Parameters
    ----------
    cost : integer (K, K), symmetric; K even
    rounds : assignments to solve; stops early at 0

    Returns
    -------
    s64 (K / 2, 2), each column once; the smaller one first, pairs by their first column

    >>> match(np.array([[0, 9, 0, 9], [9, 0, 9, 0], [0, 9, 0, 9], [9, 0, 9, 0]]))
    array([[0, 2],
           [1, 3]])
    """
    k = _check(cost)
    if k % 2:
        raise ValueError(f"cost has {k} columns; need an even number")
    rng = np.random.default_rng(seed)
    pairs = np.arange(k).reshape(-1, 2)
    for _ in range(rounds):
        if not cost[pairs[:, 0], pairs[:, 1]].any():
            break
        turned = rng.random(len(pairs)) < 0.5
        left, right = np.where(turned, pairs.T[::-1], pairs.T)
        pairs = np.stack([left, right[linear_sum_assignment(cost[np.ix_(left, right)])[1]]], 1)
    pairs = np.sort(pairs, 1)
    return pairs[np.argsort(pairs[:, 0])]


def lower_bound(cost: np.ndarray) -> int:
    """No perfect matching costs less. cost: integer (K, K), symmetric, >= 0; K >= 2."""
    k = _check(cost)
    forbidden = cost.astype(np.float64)
    np.fill_diagonal(forbidden, float(cost.sum()) + 1)
    rows, columns = linear_sum_assignment(forbidden)
    return -(-int(cost[rows, columns].sum()) // 2) if k > 1 else 0


def _check(cost: np.ndarray) -> int:
    if not isinstance(cost, np.ndarray) or cost.dtype.kind not in "iu":
        raise TypeError(f"cost has dtype {getattr(cost, 'dtype', type(cost).__name__)}; need integers")
    check.shape("cost", cost, (cost.shape[0] if cost.ndim else 0, cost.shape[0] if cost.ndim else 0))
    return cost.shape[0]
