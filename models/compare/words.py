"""One element of a node in words: its operands, and what was made of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from refimpl.models.compare.use import Use, value

SIGNS = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/", "QLinearAdd": "+", "QLinearMul": "*"}
LOWEST, LARGEST = -(2**15), 2**15 - 1


def index(at: Sequence[int]) -> str:
    """An element.

    >>> index((3, 41))
    '[3,41]'
    """
    return f"[{','.join(str(int(i)) for i in at)}]"


def number(x: Any) -> str:
    """Integers as they are; floats so that two neighbours in f32 differ."""
    item = x.item() if isinstance(x, np.generic | np.ndarray) else x
    return f"{item:.9g}" if isinstance(item, float) else str(item)


def quotient(x: float) -> str:
    """As ``number``, or with as many more digits as it takes to tell on which side of a tie it is.

    >>> quotient(127.4999996185), quotient(127.5)
    ('127.4999996', '127.5')
    """
    tie = x % 1 == 0.5
    return next(text for text in (f"{x:.{digits}g}" for digits in range(9, 18)) if (float(text) % 1 == 0.5) == tie)


def element(x: np.ndarray, at: Sequence[int]) -> Any:
    """x at an index of what it is broadcast to."""
    at = tuple(at)[len(at) - x.ndim :]
    return x[tuple(0 if n == 1 else i for i, n in zip(at, x.shape, strict=True))]


def operands(use: Use, at: tuple[int, ...]) -> str:
    """What an element is computed from; "" where that takes more than a few numbers."""
    if use.op in ("MatMul", "Gemm") or (use.place("b_zero") >= 0 and use.op not in SIGNS):
        return _product(use, at)
    if use.op in SIGNS:
        names = ("a", "b") if use.op.startswith("QLinear") else ()
        xs = [value(use.get(name)) for name in names] or [value(x) for x in use.xs if x is not None]
        return f" {SIGNS[use.op]} ".join(number(element(x, at)) for x in xs)
    if use.op == "QuantizeLinear":
        return _quotient(use, at)
    if use.op in ("LayerNormalization", "Softmax"):
        x = value(use.xs[0])
        row = x[at[:-1]]
        return f"{number(x[at])} in a row from {number(row.min())} to {number(row.max())}, variance {number(row.var())}"
    if len(use.xs) == 1 and value(use.xs[0]).ndim == len(at):
        x = value(use.xs[0])
        return f"of {number(x[at])}" if all(i < n for i, n in zip(at, x.shape, strict=True)) else ""
    return ""


def _quotient(use: Use, at: tuple[int, ...]) -> str:
    x, scale = value(use.get("x")), value(use.get("y_scale"))
    if scale.size > 1:
        return f"of {number(x[at])}"
    zero = use.zero().reshape(-1)
    step = float(scale.reshape(-1)[0])
    return f"{number(x[at])} / {number(step)} + {zero[0]:.0f} = {quotient(float(x[at] / step + zero[0]))}"


def row_and_column(use: Use, at: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The K numbers of each operand that meet in an element of a product."""
    a, b = value(use.get("a")), value(use.get("b"))
    a = a.T if use.call.node.attributes.get("transA", 0) else a
    b = b.T if use.call.node.attributes.get("transB", 0) else b
    batch = at[:-2]
    left, right = (_batch(x, batch) for x in (a, b))
    return left[at[-2]], right[:, at[-1]]


def _batch(x: np.ndarray, batch: tuple[int, ...]) -> np.ndarray:
    """One matrix of a stack that is broadcast to ``batch``."""
    own = batch[len(batch) - (x.ndim - 2) :]
    return x[tuple(0 if n == 1 else i for i, n in zip(own, x.shape[:-2], strict=True))]


def _is_matrix(use: Use, at: tuple[int, ...]) -> bool:
    return min(value(use.get("a")).ndim, value(use.get("b")).ndim) > 1 and len(at) > 1


def _product(use: Use, at: tuple[int, ...]) -> str:
    if not _is_matrix(use, at):
        return ""
    row, column = row_and_column(use, at)
    products = row * column if row.dtype.kind == "f" else row.astype(np.int64) * column.astype(np.int64)
    k = int(np.abs(products).argmax())
    what = "products" if row.dtype.kind == "f" else f"products of codes is {products.sum()}"
    return f"sum of {row.size} {what}, the largest {number(row[k])} * {number(column[k])} at k={k}"


def pair(distance: int, shift: int, use: Use, wrong: Use, at: tuple[int, ...]) -> str:
    """The pair of channels (k, k + distance) that loses most when its sum is clipped to 16 bits.

    shift: added to a code first.
    """
    if not _is_matrix(use, at):
        return ""
    row, column = (x.astype(np.int64) for x in row_and_column(use, at))
    row = row + (shift if value(use.get("a")).dtype == np.int8 else 0)
    distance = distance or row.size // 2
    place = np.arange(row.size)
    first = place[(place // distance % 2 == 0) & (place + distance < row.size)]
    sums = row[first] * column[first] + row[first + distance] * column[first + distance]
    k = int(np.abs(sums - np.clip(sums, LOWEST, LARGEST)).argmax())
    one, two = first[k], first[k] + distance
    factors = f"{row[one]}*{column[one]} + {row[two]}*{column[two]}"
    return f"pair k=({one},{two}) {factors} = {sums[k]} clipped to {min(max(sums[k], LOWEST), LARGEST)}"


def sums(use: Use, wrong: Use, at: tuple[int, ...]) -> str:
    """The sum of products as it is and as another product makes it."""
    if not _is_matrix(use, at):
        return ""
    row, column = row_and_column(use, at)
    right, other = (
        int(one.call.semantics.product(row[None], np.ascontiguousarray(column)[None])[0, 0]) for one in (use, wrong)
    )
    return f"sum of {row.size} products of codes {right} becomes {other}"


def concentrated(wrong: np.ndarray) -> str:
    """Where all that is wrong has one index of an axis.

    >>> concentrated(np.array([[False, True], [False, True]]))
    ', all with index 1 of axis 1'
    """
    axes = [np.unique(place) for place in np.nonzero(wrong)]
    found = [f"index {a[0]} of axis {i}" for i, a in enumerate(axes) if a.size == 1 and wrong.shape[i] > 1]
    return f", all with {' and '.join(found)}" if found and wrong.sum() > 1 else ""
