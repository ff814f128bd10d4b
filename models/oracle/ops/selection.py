"""Comparisons, logic, Where, Cast and other choices: exact, unless what is compared or cast is uncertain.

An uncertain bool or integer has an error of 1 or more; whatever depends on it in a way not followed here is unknown.
"""

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from refimpl.models.oracle.operator import UNKNOWN, Approx, Call, Operator, affordable, only, rounded
from refimpl.models.oracle.ops.elementwise import broadcast, float_only, same_types, through, unary

CASTS = {
    TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64, TensorProto.FLOAT16: np.float16,
    TensorProto.UINT8: np.uint8, TensorProto.INT8: np.int8, TensorProto.UINT16: np.uint16,
    TensorProto.INT16: np.int16, TensorProto.UINT32: np.uint32, TensorProto.INT32: np.int32,
    TensorProto.UINT64: np.uint64, TensorProto.INT64: np.int64, TensorProto.BOOL: np.bool_,
}  # fmt: skip


def _compare_error(call: Call, xs: list[Approx | None], y: np.ndarray) -> np.ndarray:
    a, b = only(xs)
    if a.known and b.known:
        return np.zeros(())
    room = a.error + b.error
    return ((np.abs(a.value.astype(np.float64) - b.value) <= room) & (room > 0)).astype(np.float64)


def _logic_error(call: Call, xs: list[Approx | None], y: np.ndarray) -> np.ndarray:
    return np.minimum(through(call, only(xs), y), 1.0)


def _where(call: Call, condition: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    same_types((x, y))
    if condition.dtype != np.bool_:
        raise TypeError(f"condition has dtype {condition.dtype}; need bool")
    affordable(np.broadcast_shapes(condition.shape, x.shape, y.shape))
    return np.where(condition, x, y)


def _where_error(call: Call, xs: list[Approx | None], out: np.ndarray) -> np.ndarray:
    condition, x, y = only(xs)
    chosen = np.where(condition.value, x.full, y.full)
    if condition.known:
        return chosen
    other = np.abs(np.where(condition.value, y.value, x.value).astype(np.float64) - out)
    return np.where(condition.full > 0, other + np.maximum(x.full, y.full), chosen)


def _cast(call: Call, x: np.ndarray, *like: np.ndarray) -> np.ndarray:
    if like:
        kind = like[0].dtype
    else:
        to = call.get("to")
        if to not in CASTS:
            raise ValueError(f"the attribute to is {to!r}, a type that is not supported")
        kind = call.real(CASTS[to])
    if call.wide and x.dtype.kind == "f" and kind.kind == "f":
        return x
    return x.astype(kind)


def _cast_error(call: Call, xs: list[Approx | None], y: np.ndarray) -> np.ndarray:
    x = only(xs)[0]
    if y.dtype.kind == "f":
        return x.error if x.value.dtype.kind == "b" else _representable(x, y)
    if x.known:
        return np.zeros(())
    if y.dtype.kind == "b":
        return ((np.abs(x.value) <= x.error) & (x.full > 0)).astype(np.float64)
    return np.where(x.full > 0, np.ceil(x.full) + 1, 0)


def _representable(x: Approx, y: np.ndarray) -> np.ndarray:
    """Numbers that are f32 already, such as an engine's own, are not rounded."""
    exact = x.known and bool((y.astype(np.float32) == y).all())
    return np.zeros(()) if exact else rounded(y, x.error)


def _clip(call: Call, x: np.ndarray, low: np.ndarray | None = None, high: np.ndarray | None = None) -> np.ndarray:
    if call.opset < 11:
        low, high = (np.asarray(call.get(name, end), x.dtype) for name, end in (("min", -np.inf), ("max", np.inf)))
    for limit, choose in ((low, np.maximum), (high, np.minimum)):
        if limit is not None:
            same_types((x, limit))
            x = choose(x, limit.reshape(()))
    return np.asarray(x)


def _first_error(call: Call, xs: list[Approx | None], y: np.ndarray) -> np.ndarray:
    rest = [x for x in xs[1:] if x is not None]
    first = xs[0]
    return first.error if first is not None and all(x.known for x in rest) else UNKNOWN


def _certain(call: Call, xs: list[Approx | None], y: np.ndarray) -> np.ndarray:
    return np.zeros(()) if all(x.known for x in only(xs)) else UNKNOWN


def _comparison(f: Callable[..., np.ndarray]) -> Operator:
    return Operator(broadcast(f), _compare_error)


def _modulo(call: Call, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    same_types((a, b))
    affordable(np.broadcast_shapes(a.shape, b.shape))
    if a.dtype.kind in "iu" and not b.all():
        raise ValueError("an integer is divided by 0")
    return np.fmod(a, b) if call.get("fmod", 0) else np.mod(a, b)


OPERATORS = {
    ("", "Equal"): _comparison(np.equal),
    ("", "Greater"): _comparison(np.greater),
    ("", "GreaterOrEqual"): _comparison(np.greater_equal),
    ("", "Less"): _comparison(np.less),
    ("", "LessOrEqual"): _comparison(np.less_equal),
    ("", "And"): Operator(broadcast(np.logical_and), _logic_error),
    ("", "Or"): Operator(broadcast(np.logical_or), _logic_error),
    ("", "Xor"): Operator(broadcast(np.logical_xor), _logic_error),
    ("", "Not"): Operator(unary(np.logical_not), _logic_error),
    ("", "IsNaN"): Operator(lambda call, x: np.isnan(x), lambda call, xs, y: np.zeros(())),
    ("", "Where"): Operator(_where, _where_error),
    ("", "Cast"): Operator(_cast, _cast_error),
    ("", "CastLike"): Operator(_cast, _cast_error),
    ("", "Clip"): Operator(_clip, _first_error),
    ("", "Mod"): Operator(_modulo, _certain),
    ("", "Floor"): Operator(unary(np.floor), _certain),
    ("", "Ceil"): Operator(unary(np.ceil), _certain),
    ("", "Round"): Operator(unary(np.rint), _certain),
    ("", "Sign"): Operator(unary(np.sign), float_only(_certain)),
}
