"""Element by element, float: arithmetic and functions, with what f32 may lose in each.

A function that rises or falls throughout carries an input's error to its values at both ends. Errors of exp, tanh and
erf themselves: ``refimpl.bounds``; those of pow and log as of exp. Integer arithmetic wraps and has no error; Div
truncates.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import erf, expit

from refimpl import bounds, propagation
from refimpl.models.oracle.graph import MICROSOFT
from refimpl.models.oracle.operator import UNKNOWN, Approx, Call, Error, Operator, Value, affordable, only, rounded
from refimpl.nn.elementwise import relu, tanh
from refimpl.nn.gelu import gelu, gelu_quick, gelu_tanh

FUNCTION_ROUNDINGS = 2 * bounds.EXP_ULPS
GELU_SLOPE = propagation.GELU_SLOPE + 256 * bounds.F32
"""Of GELU in any form, and of its own rounding error, which rises by less than 256 u per unit."""


def broadcast(f: Callable[..., np.ndarray]) -> Value:
    """The value function of an operator that broadcasts its inputs, in their one dtype."""

    def value(call: Call, *xs: np.ndarray) -> np.ndarray:
        same_types(xs)
        affordable(np.broadcast_shapes(*(x.shape for x in xs)))
        return np.asarray(f(*xs))

    return value


def same_types(xs: tuple[np.ndarray, ...]) -> None:
    """Raise TypeError unless all arrays have one dtype."""
    if len({x.dtype for x in xs}) > 1:
        raise TypeError(f"the inputs have the dtypes {', '.join(str(x.dtype) for x in xs)}; need one")


def unary(f: Callable[[np.ndarray], np.ndarray]) -> Value:
    """The value function of ``f`` on f32 or f64; f16 is widened and rounded once."""

    def value(call: Call, x: np.ndarray) -> np.ndarray:
        if x.dtype.kind != "f":
            return np.asarray(f(x)).astype(x.dtype)
        return np.asarray(f(x.astype(np.float32) if x.dtype == np.float16 else x)).astype(x.dtype)

    return value


# --- errors ----------------------------------------------------------------------------------------------------------


def _add(call: Call, xs: list[Approx], y: np.ndarray) -> np.ndarray:
    """Of three and more terms, sums on the way may be larger than the last one."""
    size = y if len(xs) < 3 else sum(np.abs(x.value) for x in xs)
    return rounded(size, sum(x.error for x in xs), len(xs) - 1)


def _multiply(call: Call, xs: list[Approx], y: np.ndarray) -> np.ndarray:
    a, b = xs
    return rounded(y, np.abs(a.value) * b.error + a.error * b.size)


def _divide(call: Call, xs: list[Approx], y: np.ndarray) -> np.ndarray:
    """By division, or by a product with a rounded reciprocal."""
    a, b = xs
    least = np.abs(b.value) - b.error
    moved = np.where(least > 0, (a.error + np.abs(y) * b.error) / least, np.inf)
    return rounded(y, np.where(np.broadcast_to(a.error, y.shape) + b.error > 0, moved, 0.0), 2)


def _reciprocal(call: Call, xs: list[Approx], y: np.ndarray) -> np.ndarray:
    return _divide(call, [Approx(np.ones(()), np.zeros(())), xs[0]], y)


def _power(call: Call, xs: list[Approx], y: np.ndarray) -> np.ndarray:
    """By a function, or by repeated multiplication; of an uncertain base only with a whole exponent >= 1."""
    base, exponent = xs
    n = exponent.value.astype(np.float64)
    if not exponent.known:
        return UNKNOWN
    moved = 0.0
    if not base.known:
        if not ((n >= 1) & (n == np.rint(n))).all():
            return UNKNOWN
        moved = n * base.error * base.size ** (n - 1)
    return rounded(y, moved, max(FUNCTION_ROUNDINGS, float(np.abs(n).max(initial=0))))


def monotone(f: Callable[[np.ndarray], np.ndarray], roundings: float, absolute: float = 0.0) -> Error:
    """The error of a function that only rises or only falls; ``absolute``: its own error where that is not relative."""

    def error(call: Call, xs: list[Approx], y: np.ndarray) -> np.ndarray:
        (x,) = xs
        moved: np.ndarray | float = 0.0
        if not x.known:
            moved = np.maximum(np.abs(f(x.value + x.error) - y), np.abs(f(x.value - x.error) - y))
        return rounded(y, moved + absolute, roundings)

    return error


def through(call: Call, xs: list[Approx], y: np.ndarray) -> np.ndarray:
    """The operator rounds nothing, and no input counts more than once: minimum, absolute value and the like."""
    total = xs[0].error
    for x in xs[1:]:
        total = np.maximum(total, x.error)
    return total


def _gelu_error(call: Call, xs: list[Approx], y: np.ndarray) -> np.ndarray:
    x = xs[0]
    return bounds.gelu(x.value) + x.error * GELU_SLOPE


def _gelu_tanh_error(call: Call, xs: list[Approx], y: np.ndarray) -> np.ndarray:
    x = xs[0]
    return bounds.gelu_tanh(x.value) + x.error * GELU_SLOPE


def _quick_error(call: Call, xs: list[Approx], y: np.ndarray) -> np.ndarray:
    x = xs[0]
    alpha = call.get("alpha", 1.702)
    return bounds.gelu_quick(x.value, alpha) + x.error * GELU_SLOPE


# --- values ----------------------------------------------------------------------------------------------------------


def _quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return a / b
    if not b.all():
        raise ValueError("an integer is divided by 0")
    remainder = np.fmod(a, b)
    return (a - remainder) // b


def _pow(call: Call, base: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    affordable(np.broadcast_shapes(base.shape, exponent.shape))
    if base.dtype.kind in "iu" and exponent.dtype.kind in "iu" and (exponent >= 0).all():
        return np.power(base, exponent.astype(np.int64) if exponent.dtype.kind == "i" else exponent).astype(base.dtype)
    return np.power(base, exponent if base.dtype.kind in "iu" else exponent.astype(base.dtype)).astype(base.dtype)


def _gelu(call: Call, x: np.ndarray) -> np.ndarray:
    approximate = call.get("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise ValueError(f"the attribute approximate is {approximate!r}; need none or tanh")
    return unary(gelu_tanh if approximate == "tanh" else gelu)(call, x)


def _either_gelu_error(call: Call, xs: list[Approx], y: np.ndarray) -> np.ndarray:
    return (_gelu_tanh_error if call.get("approximate", "none") == "tanh" else _gelu_error)(call, xs, y)


def _quick(call: Call, x: np.ndarray) -> np.ndarray:
    return unary(lambda z: gelu_quick(z, call.get("alpha", 1.702)))(call, x)


def _sum(*xs: np.ndarray) -> np.ndarray:
    total = xs[0]
    for x in xs[1:]:
        total = total + x
    return total


def _reduced(f: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    def fold(*xs: np.ndarray) -> np.ndarray:
        result = xs[0]
        for x in xs[1:]:
            result = f(result, x)
        return result

    return fold


def float_only(error: Callable[..., np.ndarray]) -> Error:
    """Of integers the result is exact if the inputs are known, and nothing is said if they are not."""

    def guarded(call: Call, xs: list[Approx | None], y: np.ndarray) -> np.ndarray:
        given = only(xs)
        if y.dtype.kind == "f":
            return error(call, given, y)
        return np.zeros(()) if all(x.known for x in given) else UNKNOWN

    return guarded


def _unary(f: Callable[[np.ndarray], np.ndarray], error: Callable[..., np.ndarray]) -> Operator:
    return Operator(unary(f), float_only(error))


def _binary(f: Callable[..., np.ndarray], error: Callable[..., np.ndarray]) -> Operator:
    return Operator(broadcast(f), float_only(error))


EXPONENTIAL = monotone(np.exp, FUNCTION_ROUNDINGS)
GELU = Operator(_gelu, float_only(_either_gelu_error))

OPERATORS = {
    ("", "Add"): _binary(np.add, _add),
    ("", "Sub"): _binary(np.subtract, _add),
    ("", "Mul"): _binary(np.multiply, _multiply),
    ("", "Div"): _binary(_quotient, _divide),
    ("", "Sum"): _binary(_sum, _add),
    ("", "Min"): _binary(_reduced(np.minimum), through),
    ("", "Max"): _binary(_reduced(np.maximum), through),
    ("", "Pow"): Operator(_pow, float_only(_power)),
    ("", "Sqrt"): _unary(np.sqrt, monotone(lambda x: np.sqrt(np.maximum(x, 0)), 2)),
    ("", "Exp"): _unary(np.exp, EXPONENTIAL),
    ("", "Log"): _unary(np.log, monotone(np.log, FUNCTION_ROUNDINGS)),
    ("", "Erf"): _unary(erf, monotone(erf, 1, 2 * bounds.ERF_ULPS * bounds.F32)),
    ("", "Tanh"): _unary(tanh, monotone(np.tanh, 2 * bounds.TANH_ULPS)),
    ("", "Sigmoid"): _unary(expit, monotone(expit, FUNCTION_ROUNDINGS + 3)),
    ("", "Relu"): _unary(lambda x: relu(x) if x.dtype.kind == "f" else np.maximum(x, 0), through),
    ("", "Reciprocal"): _unary(lambda x: 1 / x, _reciprocal),
    ("", "Neg"): _unary(np.negative, through),
    ("", "Abs"): _unary(np.abs, through),
    ("", "Gelu"): GELU,
    (MICROSOFT, "Gelu"): GELU,
    (MICROSOFT, "QuickGelu"): Operator(_quick, float_only(_quick_error)),
}
