"""What can go wrong where numbers only move: heads taken for others, rows of a table off by one.

Heads: a Transpose (0, 2, 1, 3) after a Reshape splits (B, T, H, E) into (B, H, T, E); without one before it, it merges.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from refimpl.models.compare.hypothesis import Hypothesis
from refimpl.models.compare.use import Use, moved, value
from refimpl.models.oracle.operator import EXACT, Approx

SPLIT = [0, 2, 1, 3]


def _heads(use: Use) -> int | None:
    """The axis of the heads in what a Transpose is given; None if it moves no heads."""
    if use.call.node.attributes.get("perm") != SPLIT or value(use.xs[0]).ndim != 4:
        return None
    return 2 if use.sources[0] == "Reshape" else 1


def _ordered(order: Callable[[int], np.ndarray], use: Use) -> Use | None:
    axis = _heads(use)
    if axis is None or value(use.xs[0]).shape[axis] < 2:
        return None
    return _on_input(lambda x: np.take(x, order(x.shape[axis]), axis), use)


def _on_input(move: Callable[[np.ndarray], np.ndarray], use: Use) -> Use:
    x = use.xs[0]
    assert x is not None
    return use.replace_at(0, moved(x, move))


def _not_transposed(use: Use) -> Use | None:
    """The numbers stay in memory as they were, in the shape that was asked for."""
    x = use.xs[0]
    if x is None or _heads(use) is None:
        return None
    shape = tuple(x.value.shape[axis] for axis in SPLIT)
    return use.only(moved(x, lambda part: part.reshape(shape)))


def _interleaved(use: Use) -> Use | None:
    """Channel d belongs to head d mod H in the place of d / E."""
    axis = _heads(use)
    x = use.xs[0]
    if axis is None or x is None:
        return None
    if axis == 2:
        b, t, h, e = x.value.shape
        return use.only(moved(x, lambda part: part.reshape(b, t, e, h).transpose(0, 3, 1, 2)))
    b, h, t, e = x.value.shape
    return use.only(moved(x, lambda part: part.transpose(0, 2, 3, 1).reshape(b, t, h, e)))


def _swapped(n: int) -> np.ndarray:
    """Neighbours exchanged."""
    order = np.arange(n)
    order[: n // 2 * 2] = order[: n // 2 * 2].reshape(-1, 2)[:, ::-1].reshape(-1)
    return order


# --- tables ----------------------------------------------------------------------------------------------------------


def _is_table(use: Use, x: Approx | None) -> bool:
    return x is not None and use.constant[0] and x.value.ndim == 2 and use.call.get("axis", 0) == 0


def _other_rows(change: Callable[[np.ndarray, int], np.ndarray], use: Use) -> Use | None:
    """Gather with other indices; those that leave the table stop at its end."""
    table, ids = use.xs[0], use.xs[1]
    if not _is_table(use, table) or ids is None or table is None or ids.value.dtype.kind not in "iu":
        return None
    rows = len(table.value)
    return use.replace_at(1, Approx(np.clip(change(ids.value, rows), 0, rows - 1), EXACT))


def _other_slice(change: Callable[[np.ndarray, int], np.ndarray], use: Use) -> Use | None:
    """The first rows of a table of positions, by a Slice."""
    table, *steering = use.xs
    if table is None or not use.constant[0] or table.value.ndim != 2 or len(steering) < 2:
        return None
    starts, ends = (value(x).reshape(-1) for x in steering[:2])
    if (
        starts.tolist() != [0]
        or not 0 < ends[0] <= len(table.value)
        or (len(steering) > 2 and value(steering[2]).any())
    ):
        return None
    rows = np.clip(change(np.arange(ends[0]), len(table.value)), 0, len(table.value) - 1)
    return use.only(moved(table, lambda x: x[rows]))


ORDERS: dict[str, Callable[[int], np.ndarray]] = {
    "neighbouring heads swapped": _swapped,
    "heads in reverse": lambda n: np.arange(n)[::-1],
    "heads off by one": lambda n: np.roll(np.arange(n), 1),
    "heads off by minus one": lambda n: np.roll(np.arange(n), -1),
}
ROWS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "row 0 of the table for all": lambda ids, n: 0 * ids,
    "row 1 of the table for all": lambda ids, n: 0 * ids + 1,
    "rows of the table off by one": lambda ids, n: ids + 1,
    "rows of the table off by two": lambda ids, n: ids + 2,
    "rows of the table off by minus one": lambda ids, n: ids - 1,
    "last row of the table first": lambda ids, n: n - 1 - ids,
    "rows in reverse": lambda ids, n: ids[..., ::-1],
}

HYPOTHESES = [
    *(Hypothesis(name, ("Transpose",), partial(_ordered, order)) for name, order in ORDERS.items()),
    Hypothesis("heads interleaved", ("Transpose",), _interleaved),
    Hypothesis("heads not transposed", ("Transpose",), _not_transposed),
    *(Hypothesis(name, ("Gather",), partial(_other_rows, change)) for name, change in ROWS.items()),
    *(Hypothesis(name, ("Slice",), partial(_other_slice, change)) for name, change in ROWS.items()),
]
