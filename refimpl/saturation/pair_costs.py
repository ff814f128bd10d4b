"""How many output channels could saturate if two input channels were neighbours: the weights of a matching problem.

    cost[i, j] = number of rows m with an unsafe pair (w[m, i], w[m, j])

With products p = w most a pair is unsafe if p_i + p_j > 32767 (or < -32768). Then at least one of the two is *big*,
p >= 16384 (p <= -16385), since 16383 + 16383 is safe; and two big ones of a sign are always unsafe. So

    cost = C + C.T - both,    C[i, j] = unsafe rows in which i is big,    both = rows in which both are

and C needs only the rows in which i is big, a few in a hundred.
"""

import numpy as np

from refimpl import check
from refimpl.integer.pairs import FULL, LARGEST, LOWEST, checked

BIG, BIG_NEGATIVE = LARGEST // 2 + 1, LOWEST // 2 - 1


def pair_costs(w: np.ndarray, most: np.ndarray | int = FULL) -> np.ndarray:
    """Every two columns against each other.

    Parameters
    ----------
    w : s8 (M, K)
    most : integer () or (K,), the largest code of each input channel

    Returns
    -------
    s32 (K, K), symmetric, 0 on the diagonal

    >>> pair_costs(np.array([[127, 2, 1], [-128, 0, -1]], np.int8))
    array([[0, 1, 1],
           [1, 0, 0],
           [1, 0, 0]], dtype=int32)
    """
    check.dtype("w", w, np.int8)
    check.shape("w", w, ("M", "K"))
    products = w.astype(np.int32) * checked(most)
    up, down = products >= BIG, products <= BIG_NEGATIVE
    one = np.zeros((w.shape[1], w.shape[1]), np.int32)
    for i in range(w.shape[1]):
        high, low = products[up[:, i]], products[down[:, i]]
        one[i] = (high > LARGEST - high[:, i, None]).sum(0) + (low < LOWEST - low[:, i, None]).sum(0)
    both = sum(big.astype(np.float64).T @ big.astype(np.float64) for big in (up, down))
    cost = one + one.T - np.asarray(both).astype(np.int32)
    np.fill_diagonal(cost, 0)
    return cost
