"""One operator of the oracle as a record, and what its functions are given.

    value(call, *arrays)          the result, or a tuple of results, in the types that come in. ``call.wide`` says that
                                  every float is f64: then the result is the exact one, but for f64's own rounding
    error(call, xs, y)            how far an f32 engine may be from y, the first wide result, if it starts anywhere
                                  within the errors of ``xs``; None: the operator moves numbers and rounds nothing, so
                                  errors move with them
    codes                         the results are codes: a wide value is the quotient *before* it is rounded, zero
                                  point included, and the error leaves out the half step that rounding takes

Contract of ``error``. f32 arithmetic (u = 2**-24) in any order, with or without fused multiply-add, as in
``refimpl.bounds``. An ``Approx`` holds whatever may be within ``error`` of ``value``. Where nothing can be said the
error is infinite. NaN and infinities in the values are outside the domain of the bounds.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.bounds import F32
from refimpl.models.oracle.graph import Node
from refimpl.models.oracle.semantics import Semantics
from refimpl.nn import Tap

TINY = 2.0**-126
"""What flushing one f32 result to zero can lose."""

MAX_BYTES = 2**33
"""Of one result; a file may ask for more than any machine has."""

REQUIRED: Any = object()


class Approx(NamedTuple):
    """value: f64, or integers or bools as they are; error: f64, broadcastable to it, and 0 if it is known."""

    value: np.ndarray
    error: np.ndarray

    @property
    def known(self) -> bool:
        return not self.error.any()

    @property
    def full(self) -> np.ndarray:
        """The error of every element."""
        return np.broadcast_to(self.error, self.value.shape)

    @property
    def size(self) -> np.ndarray:
        """The largest magnitude that may be there."""
        return np.abs(self.value).astype(np.float64) + self.error


EXACT = np.zeros(())
"""The error of what is known."""

UNKNOWN = np.full((), np.inf)


class Call(NamedTuple):
    """One use of an operator. tap: given inner values, such as the accumulator, under the node's name.

    operator: what is done, if it is not what the node says: a mistake that is tried out.
    """

    node: Node
    opset: int
    semantics: Semantics
    wide: bool
    tap: Tap
    operator: "Operator | None" = None

    def get(self, name: str, default: Any = REQUIRED) -> Any:
        """An attribute, of the type of its default.

        Raises ValueError if it is missing or of another type.
        """
        value = self.node.attributes.get(name, default)
        if value is REQUIRED:
            raise ValueError(f"the attribute {name} is missing")
        if default not in (None, REQUIRED) and type(value) is not type(default) and not _int_for_float(value, default):
            raise ValueError(f"the attribute {name} is {value!r}; need {type(default).__name__}")
        return value

    def real(self, dtype: Any = np.float32) -> np.dtype:
        """The type that a float result of type ``dtype`` has in this call."""
        return np.dtype(np.float64) if self.wide and np.dtype(dtype).kind == "f" else np.dtype(dtype)


def _int_for_float(value: Any, default: Any) -> bool:
    return isinstance(default, float) and isinstance(value, int)


Value = Callable[..., Any]
Error = Callable[..., Any]


class Operator(NamedTuple):
    """See the module."""

    value: Value
    error: Error | None = None
    codes: bool = False


def affordable(shape: Sequence[int], itemsize: int = 8) -> None:
    """Raise ValueError if a result of that shape would take more than ``MAX_BYTES``, before anyone allocates it."""
    if any(n < 0 for n in shape) or math.prod(map(int, shape)) * itemsize > MAX_BYTES:
        raise ValueError(f"the result would have the shape {[int(n) for n in shape]}; need at most {MAX_BYTES} bytes")


def rounded(y: np.ndarray, error: np.ndarray | float = 0.0, roundings: float = 1) -> np.ndarray:
    """``error`` from the inputs, and roundings of a result as large as |y| + error."""
    grow = roundings * F32 / (1 - roundings * F32)
    return error + grow * (np.abs(y) + error) + math.ceil(roundings) * TINY


def ints(array: np.ndarray | None) -> list[int] | None:
    """Integers that steer an operator: axes, a shape. None stays None."""
    if array is None:
        return None
    if array.dtype.kind not in "iu" or array.ndim > 1 or array.size > 64:
        raise ValueError(f"came {array.dtype} of shape {array.shape} where a few integers are needed")
    return [int(n) for n in array.reshape(-1)]


def axes_of(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes counted from the front. Raises ValueError if one is out of range or occurs twice."""
    if any(not -rank <= axis < rank for axis in axes):
        raise ValueError(f"axes are {list(axes)}; need -{rank} to {rank - 1}")
    counted = tuple(axis % rank for axis in axes)
    if len(set(counted)) != len(counted):
        raise ValueError(f"axes are {list(axes)}; need each once")
    return counted


def only(xs: Sequence[Approx | None]) -> list[Approx]:
    """The inputs that are there."""
    return [x for x in xs if x is not None]
