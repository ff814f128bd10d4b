"""Embedding lookups: y[b, t] = table[ids[b, t]], and the first T rows of the position table.

    dtable[i] = sum of dy[b, t] over all b, t with ids[b, t] = i

Contract. Exact copies. ids: any integer dtype, 0 <= id < V. Source: BERT (arXiv 1810.04805), section 3, figure 2:
the input representation is the sum of word, position and token-type embeddings.
"""

import numpy as np

from refimpl import check


def embedding(ids: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Rows of a table.

    Parameters
    ----------
    ids : integer (B, T)
    table : float (V, D)

    Returns
    -------
    float (B, T, D)

    Raises
    ------
    TypeError
        ids are not integers
    ValueError
        an id is outside the table
    """
    check_ids(ids, table.shape[0])
    check.dtype("table", table, *check.FLOATS)
    check.shape("table", table, ("V", "D"))
    return table[ids]


def check_ids(ids: np.ndarray, vocabulary: int) -> None:
    """Raise unless ids is integer (B, T) with every id in 0 ... vocabulary - 1."""
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu":
        raise TypeError(f"ids has dtype {getattr(ids, 'dtype', type(ids).__name__)}; need an integer dtype")
    check.shape("ids", ids, ("B", "T"))
    outside = (ids < 0) | (ids >= vocabulary)
    if outside.any():
        at = [int(i) for i in np.argwhere(outside)[0]]
        raise ValueError(f"ids is {ids[tuple(at)]} at {at}; need 0 to {vocabulary - 1}")


def position_embedding(ids: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The first T rows of the position table, float (1, T, D); T must not exceed the table's P rows."""
    if ids.shape[-1] > table.shape[0]:
        raise ValueError(f"ids has {ids.shape[-1]} tokens; need at most {table.shape[0]}, the model's positions")
    return table[None, : ids.shape[-1]]


def embedding_backward(dy: np.ndarray, ids: np.ndarray, rows: int) -> np.ndarray:
    """dy: float (B, T, D) -> dtable (rows, D). A row's tokens are added in their order.

    >>> embedding_backward(np.array([[[1.0], [2.0], [4.0]]]), np.array([[0, 2, 0]]), 3)
    array([[5.],
           [0.],
           [2.]])
    """
    check_ids(ids, rows)
    check.shape("dy", dy, (*ids.shape, "D"))
    dtable = np.zeros((rows, dy.shape[-1]), dy.dtype)
    np.add.at(dtable, ids.reshape(-1), dy.reshape(-1, dy.shape[-1]))
    return dtable


def position_embedding_backward(dy: np.ndarray, rows: int) -> np.ndarray:
    """dy: float (1, T, D) -> dtable (rows, D)."""
    dtable = np.zeros((rows, dy.shape[-1]), dy.dtype)
    dtable[: dy.shape[1]] = dy[0]
    return dtable
