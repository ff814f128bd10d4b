"""Codes from floats and back: QuantizeLinear and its kin, and the element-wise operators on codes.

Wide values of codes are quotients before rounding. Errors: roundings of the quotient, counted below, and what uncertain
inputs add. Sources: ONNX; ONNX Runtime's docs/ContribOperators.md.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refimpl.models.oracle.graph import MICROSOFT, OURS
from refimpl.models.oracle.operator import UNKNOWN, Call, Operator, affordable, axes_of, rounded
from refimpl.nn.softmax import softmax
from refimpl.quant import codes
from refimpl.quant.affine import by_levels, dequantize, dynamic_parameters, limits
from refimpl.quant.codes import Coded

TYPES = {2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16}
"""Of ``output_dtype``: onnx.TensorProto."""


def spread(call: Call, p: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A scale or zero point so that it broadcasts against ``shape``: one, one per index of the axis, or per block."""
    if p.ndim == 0 or p.shape == (1,):
        return p.reshape(())
    (axis,) = axes_of([call.get("axis", 1)], len(shape))
    if p.ndim == 1:
        if p.size != shape[axis]:
            raise ValueError(f"a scale or zero point has {p.size} elements; need {shape[axis]}")
        return p.reshape((-1,) + (1,) * (len(shape) - axis - 1))
    block = call.get("block_size", 0)
    if p.ndim != len(shape) or block < 1 or not p.shape[axis] * block >= shape[axis]:
        raise ValueError(f"a scale or zero point has the shape {p.shape}; need one for blocks of {shape}")
    return np.take(p, np.arange(shape[axis]) // block, axis)


def zero_of(call: Call, zero_point: np.ndarray | None, like: type = np.uint8) -> np.ndarray:
    """The zero point, or a 0 of the type that the codes have without one."""
    if zero_point is None:
        kind = call.get("output_dtype", 0)
        if kind and kind not in TYPES:
            raise ValueError(f"the attribute output_dtype is {kind}, a type that is not supported")
        return np.zeros((), TYPES.get(kind, like))
    if zero_point.dtype not in (*TYPES.values(), np.int32):
        raise TypeError(f"zero_point has dtype {zero_point.dtype}, which is not supported")
    return zero_point


def quotient(x: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """A wide code: x, in steps, clipped to where codes are, plus the zero point."""
    low, high = limits(zero_point.dtype)
    z = zero_point.astype(np.float64)
    return np.clip(x, low - z, high - z) + z


def shift_of(zero_point: np.ndarray, levels: bool) -> np.ndarray:
    """How large that is which is added to quotients: the zero point, by levels counted from the lowest code."""
    z = zero_point.astype(np.float64)
    return np.where(z == 0, 0, z - limits(zero_point.dtype)[0]) if levels else np.abs(z)


def _quantize(call: Call, x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None = None) -> np.ndarray:
    z = spread(call, zero_of(call, zero_point), x.shape)
    step = spread(call, scale, x.shape)
    if call.wide:
        return quotient(x / step, z)
    return call.semantics.quantize(x.astype(np.float32), step, z)


def _quantize_error(call: Call, xs: Sequence[Any], y: np.ndarray) -> np.ndarray:
    """Eight roundings of a number no larger than the quotient and the shift: two limits, their difference, the step,
    the shift, the product, the sum, and one of a reciprocal; a division has fewer."""
    x, scale = xs[0], xs[1]
    z = None if len(xs) < 3 or xs[2] is None else xs[2]
    zero = spread(call, zero_of(call, None if z is None else z.value), y.shape)
    shift = shift_of(zero, call.semantics.quantize is by_levels)
    step, off = (spread(call, part, y.shape) for part in (scale.value, scale.full))
    least = step - off
    moved = np.where(least > 0, (x.error + np.abs(y - zero) * off) / np.where(least > 0, least, 1), np.inf)
    moved = moved + (0 if z is None else spread(call, z.full, y.shape))
    return rounded(np.abs(y - zero) + shift, moved, 8)


def _dequantize(call: Call, x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None = None) -> np.ndarray:
    if x.dtype.kind not in "iu":
        raise TypeError(f"x has dtype {x.dtype}; need codes")
    z = spread(call, zero_of(call, zero_point, x.dtype.type), x.shape)
    return dequantize(x, spread(call, scale, x.shape), z)


FOLDED = 7


def _dequantize_error(call: Call, xs: Sequence[Any], y: np.ndarray) -> np.ndarray:
    """One rounding, two for s32 codes. Uncertain codes are off by whole steps. Folded, seven of the code and the zero
    point: of (a - (z + z' s' / s)) (s / s') + b', times s', where b' is of the other operand, all but the last."""
    x, scale = xs[0], xs[1]
    z = xs[2] if len(xs) > 2 else None
    step, off = (spread(call, part, y.shape) for part in (scale.value, scale.full))
    steps = x.error + (0 if z is None else spread(call, z.full, y.shape))
    with np.errstate(divide="ignore", invalid="ignore"):
        code = np.where(step != 0, np.abs(y / step), 0)
    moved = steps * (step + off) + code * off
    if call.semantics.folded:
        zero = 0 if z is None else np.abs(spread(call, z.value, y.shape).astype(np.float64))
        return rounded((np.abs(x.value.astype(np.float64)) + zero) * np.abs(step), moved, FOLDED)
    return rounded(y, moved, 2 if x.value.dtype == np.int32 else 1)


def _dynamic(call: Call, x: np.ndarray) -> tuple[np.ndarray, ...]:
    if not x.size:
        raise ValueError("x is empty; need at least one value")
    scale, z = dynamic_parameters(x)
    zero = np.rint(z).astype(np.uint8)[...]
    y = quotient(x / scale, zero) if call.wide else call.semantics.quantize(x, scale, zero)
    return y, scale, zero


def _dynamic_error(call: Call, xs: Sequence[Any], y: np.ndarray) -> tuple[np.ndarray, ...]:
    """The scale: the difference and the quotient round. Its error, and x's, move the zero point before it is rounded,
    and every quotient."""
    x = xs[0]
    scale, z = dynamic_parameters(x.value)
    e = x.full.max()
    off = rounded(scale, 2 * e / 255, 2)
    if not scale > off:
        return UNKNOWN, UNKNOWN, UNKNOWN
    slip = rounded(z, (e + z * off) / (scale - off), 2)
    zero_error = np.maximum(np.rint(z + slip) - np.rint(z), np.rint(z) - np.rint(z - slip))
    q = np.abs(y - np.rint(z))
    return rounded(q + z, (x.error + q * off) / (scale - off) + zero_error, 4), off, zero_error


def _binary(function: np.ufunc, of_codes: Callable[[Call], Callable[..., np.ndarray]], roundings: int = 8) -> Operator:
    """QLinearAdd, QLinearMul and AddCodes. of_codes: what computes them, by levels if it is ``add_by_levels``."""

    def value(call: Call, *xs: Any) -> np.ndarray:
        a, sa, za, b, sb, zb, sy, zy = (*xs, None)[:8]
        affordable(np.broadcast_shapes(a.shape, b.shape))
        zero = zero_of(call, zy, a.dtype.type)
        left, right = (np.zeros((), x.dtype) if z is None else z for x, z in ((a, za), (b, zb)))
        if call.wide:
            return quotient(function(dequantize(a, sa, left), dequantize(b, sb, right)) / sy, zero)
        scalars = [x.reshape(()) for x in (sa, left, sb, right, sy, zero)]
        return of_codes(call)(Coded(np.asarray(a), *scalars[:2]), Coded(np.asarray(b), *scalars[2:4]), *scalars[4:])

    def error(call: Call, xs: Sequence[Any], y: np.ndarray) -> np.ndarray:
        """At most so many roundings, of numbers as large as codes that are scaled with their zero points still in."""
        if any(x is not None and not x.known for x in xs):
            return UNKNOWN
        sizes: list[Any] = [None if x is None else np.abs(x.value.astype(np.float64)) for x in xs]
        a, sa, za, b, sb, zb, sy, zy = (*sizes, None)[:8]
        left = (a + (0 if za is None else za)) * sa
        right = (b + (0 if zb is None else zb)) * sb
        size = (left + right if function is np.add else left * right) / sy
        zero = zero_of(call, None if zy is None else xs[7].value, xs[0].value.dtype.type)
        return rounded(size + shift_of(zero, of_codes(call) is codes.add_by_levels), 0.0, roundings)

    return Operator(value, error, codes=True)


SUM_ROUNDINGS = 16
"""Of ``add_by_levels``: five of a, two of the ratio and t, and five of each limit, f, the product and the shift."""
TABLE_STEPS = 0x7FFFFF
"""ONNX Runtime looks exponentials of codes up in a table of whole numbers, of which this is the largest."""


def _softmax(call: Call, *xs: Any) -> np.ndarray:
    """QLinearSoftmax: quantize(softmax(dequantize(x))), in f32 as the semantics have it."""
    x, scale, zx, sy, zy = (*xs, None)[:5]
    _check_axis(call, x)
    zero, shift = zero_of(call, zy, x.dtype.type), np.zeros((), x.dtype) if zx is None else zx
    if call.wide:
        return quotient(softmax(dequantize(x, scale, shift)) / sy, zero)
    given = Coded(x, scale.reshape(()), shift.reshape(()))
    return call.semantics.softmax(given, sy.reshape(()), zero.reshape(()))


def _check_axis(call: Call, x: np.ndarray) -> None:
    if (call.get("opset") < 13 and x.ndim > 2) or axes_of([call.get("axis", -1)], x.ndim) != (x.ndim - 1,):
        raise ValueError(f"the attribute axis is {call.get('axis', -1)}; need the last one")


def _softmax_error(call: Call, xs: Sequence[Any], y: np.ndarray) -> np.ndarray:
    """Each exponential is off by one step of the table, which is coarser where sums of T would not fit 32 bits; then
    p' - p <= (E + p T E) / (1 - T E), and roundings of the quotient."""
    if any(x is not None and not x.known for x in xs):
        return UNKNOWN
    _, _, _, sy, zy = (*xs, None)[:5]
    zero = 0.0 if zy is None else np.abs(zy.value.astype(np.float64))
    length = y.shape[-1]
    step = max(1 / TABLE_STEPS, length / 2**32)
    probability = np.abs(y - zero) * sy.value
    moved = (step + probability * length * step) / (1 - length * step)
    return rounded(np.abs(y - zero) + zero, moved / sy.value, 6)


QUANTIZE = Operator(_quantize, _quantize_error, codes=True)
DEQUANTIZE = Operator(_dequantize, _dequantize_error)

OPERATORS = {
    ("", "QuantizeLinear"): QUANTIZE,
    ("", "DequantizeLinear"): DEQUANTIZE,
    (MICROSOFT, "QuantizeLinear"): QUANTIZE,
    (MICROSOFT, "DequantizeLinear"): DEQUANTIZE,
    ("", "DynamicQuantizeLinear"): Operator(_dynamic, _dynamic_error, codes=True),
    (MICROSOFT, "QLinearAdd"): _binary(np.add, lambda call: codes.add),
    (MICROSOFT, "QLinearMul"): _binary(np.multiply, lambda call: codes.multiply),
    (OURS, "AddCodes"): _binary(np.add, lambda call: call.semantics.add or codes.add, SUM_ROUNDINGS),
    (MICROSOFT, "QLinearSoftmax"): Operator(_softmax, _softmax_error, codes=True),
}
