"""What can go wrong in float operators: approximations of GELU and erf, norms, softmax and its mask, residuals.

Sources: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.25 to 7.1.28 (polynomials for erf);
``refimpl.nn.gelu`` for the other forms of GELU. 7.1.26 is within the bound of erf: engines use it.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from refimpl.models.compare.hypotheses_operands import PRECISIONS
from refimpl.models.compare.hypothesis import Hypothesis
from refimpl.models.compare.use import Rule, Use, known, moved, scaled, value
from refimpl.models.oracle.execute import operator_of
from refimpl.models.oracle.graph import MICROSOFT
from refimpl.models.oracle.operator import Approx, Call, Operator
from refimpl.models.oracle.ops.elementwise import FUNCTION_ROUNDINGS, float_only, monotone, unary
from refimpl.nn.gelu import SQRT_HALF, gelu_quick, gelu_tanh

Function = Callable[[np.ndarray], np.ndarray]
FLOATS = ("MatMul", "Gemm", "MatMulIntegerToFloat", "Add", "Mul", "Div", "Gelu", "Erf", "Softmax", "LayerNormalization")
MASKED = -1000.0
"""Added to a score, a number below this is a mask."""


def _function(f: Function, use: Use) -> Use:
    """Another function of one input; f32 may lose as much in it as in an exponential."""
    operator = Operator(unary(f), float_only(monotone(f, FUNCTION_ROUNDINGS, 2.0**-20)))
    return use._replace(call=use.call._replace(operator=operator))


# --- GELU ------------------------------------------------------------------------------------------------------------


def _rational(p: float, *a: float) -> Function:
    """erf x = 1 - (a1 t + a2 t**2 + ...) exp(-x**2), t = 1 / (1 + p x), x >= 0: 7.1.25."""

    def erf(x: np.ndarray) -> np.ndarray:
        t = 1 / (1 + p * np.abs(x))
        return np.sign(x) * (1 - t * np.polynomial.polynomial.polyval(t, a) * np.exp(-x * x))

    return erf


def _power(exponent: int, *a: float) -> Function:
    """erf x = 1 - 1 / (1 + a1 x + a2 x**2 + ...)**exponent, x >= 0: 7.1.27 and 7.1.28."""
    return lambda x: np.sign(x) * (1 - np.polynomial.polynomial.polyval(np.abs(x), (1, *a)) ** -float(exponent))


def _erf_of(form: Function) -> Function:
    """The erf with which x / 2 (1 + erf(x / sqrt 2)) is this form of GELU."""

    def erf(u: np.ndarray) -> np.ndarray:
        x = np.where(u == 0, 1, u / SQRT_HALF)
        return np.where(u == 0, 0, 2 * form(x) / x - 1)

    return erf


ERFS = {
    "erf by Abramowitz-Stegun 7.1.25": _rational(0.47047, 0.3480242, -0.0958798, 0.7478556),
    "erf by Abramowitz-Stegun 7.1.27": _power(4, 0.278393, 0.230389, 0.000972, 0.078108),
    "erf by Abramowitz-Stegun 7.1.28": _power(
        16, 0.0705230784, 0.0422820123, 0.0092705272, 0.0001520143, 0.0002765672, 0.0000430638
    ),
}


def _gelu_with(erf: Function, use: Use) -> Use:
    return _function(lambda x: 0.5 * x * (1 + erf(x * SQRT_HALF)), use)


def _tanh_gelu(use: Use) -> Use | None:
    return None if use.call.get("approximate", "none") == "tanh" else use.attributes(approximate="tanh")


def _erf_gelu(use: Use) -> Use | None:
    return None if use.call.get("approximate", "none") == "none" else use.attributes(approximate="none")


def _input_of(use: Use) -> Approx:
    x = use.xs[0]
    assert x is not None
    return x


# --- norms -----------------------------------------------------------------------------------------------------------


def _epsilon(epsilon: float, use: Use) -> Use | None:
    return use.attributes(epsilon=epsilon) if use.call.get("epsilon", 1e-5) != np.float32(epsilon) else None


def _sample_variance(use: Use) -> Use | None:
    """Over N - 1: (N - 1) / N comes out of the root, epsilon with it."""
    weight = use.get("weight")
    n = value(use.get("x")).shape[-1]
    if weight is None or n < 2:
        return None
    share = (n - 1) / n
    return use.put(weight=scaled(weight, share**0.5)).attributes(epsilon=use.call.get("epsilon", 1e-5) * share)


def _plain_norm(name: str, neutral: float, use: Use) -> Use | None:
    part = use.get(name)
    return None if part is None else use.put(**{name: known(np.full_like(part.value, neutral))})


# --- softmax and masks -----------------------------------------------------------------------------------------------


def _overflowing(use: Use) -> Use:
    """exp(x) / sum exp(x) in f32, nothing subtracted: NaN where exp is infinite."""
    right = operator_of(use.call)

    def naive(call: Call, x: np.ndarray) -> np.ndarray:
        y, e = right.value(call, x), np.exp(x.astype(np.float32))
        axis = call.get("axis", -1)
        return np.where(np.isfinite(e.sum(axis, keepdims=True)), y, e / e.sum(axis, keepdims=True))

    return use._replace(call=use.call._replace(operator=right._replace(value=naive)))


def _other_axis(use: Use) -> Use | None:
    return use.attributes(axis=-2) if value(use.xs[0]).ndim > 1 and use.call.opset >= 13 else None


def is_mask(x: Approx | None) -> bool:
    """Whether it is 0, or far below, everywhere, and both somewhere or only the latter."""
    if x is None or x.value.dtype.kind != "f" or not x.value.size:
        return False
    low = x.value <= MASKED
    return bool(low.any() and (low | (x.value == 0)).all())


def _mask_of(use: Use) -> int | None:
    return next((i for i, x in enumerate(use.xs) if is_mask(x)), None)


def _other_mask(filler: float, use: Use) -> Use | None:
    i = _mask_of(use)
    if i is None:
        return None
    mask = value(use.xs[i])
    made = np.where(mask <= MASKED, filler, 0.0)
    if not filler:
        shape = np.broadcast_shapes(mask.shape, value(use.xs[1 - i]).shape)
        other = use.xs[1 - i]
        assert other is not None
        return use.only(moved(other, lambda x: np.broadcast_to(x, shape)))
    return None if (made == mask).all() else use.replace_at(i, known(made))


def _mask_attribute(filler: float, use: Use) -> Use:
    return use.attributes(mask_filter_value=filler)


def _mask_chosen(filler: float, use: Use) -> Use | None:
    """Where(mask, filler, scores), either way around; without a filler the scores alone."""
    i = next((i for i in (1, 2) if is_mask(use.xs[i]) and value(use.xs[i]).size == 1), None)
    return None if i is None else use.replace_at(i, known(filler) if filler else use.xs[3 - i])  # type: ignore[arg-type]


# --- sums and factors ------------------------------------------------------------------------------------------------


def _left_out(i: int, use: Use) -> Use | None:
    """Only the other operand: a residual or an embedding is lost. Masks and biases have their own names."""
    other, kept = use.xs[i], use.xs[1 - i]
    if other is None or kept is None or other.value.dtype.kind != "f" or min(other.value.ndim, kept.value.ndim) < 2:
        return None
    if is_mask(other) or is_mask(kept):
        return None
    shape = np.broadcast_shapes(other.value.shape, kept.value.shape)
    return use.only(moved(kept, lambda x: np.broadcast_to(x, shape)))


def _factor(power: float, use: Use) -> Use | None:
    """A constant factor left out, or used twice."""
    i = next((i for i, fixed in enumerate(use.constant) if fixed and value(use.xs[i]).size == 1), None)
    if i is None or value(use.xs[i]).dtype.kind != "f" or (use.op == "Div" and i == 0):
        return None
    return use.replace_at(i, known(value(use.xs[i]) ** power))


def _rounded(rule: Rule, use: Use) -> Use | None:
    return use._replace(rule=rule) if value(use.xs[0]).dtype.kind == "f" or use.op == "MatMulIntegerToFloat" else None


def _replaced(op: str, domain: str, use: Use) -> Use:
    return use.becomes(op, _input_of(use), domain=domain)


def _call_erf(form: Function, use: Use) -> Use:
    return _function(_erf_of(form), use)


MASKS: dict[str, float] = {
    "mask left out": 0.0,
    "mask of -10000": -1e4,
    "mask of -65504": -65504.0,
    "mask of -1e9": -1e9,
    "mask of -inf": -np.inf,
    "mask of the lowest f32": float(np.finfo(np.float32).min),
}
EPSILONS = (0.0, 1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
WHOLE = ("Gelu",)

HYPOTHESES: list[Hypothesis] = [
    Hypothesis("tanh GELU", WHOLE, _tanh_gelu),
    Hypothesis("erf GELU", WHOLE, _erf_gelu),
    Hypothesis("sigmoid GELU", WHOLE, partial(_replaced, "QuickGelu", MICROSOFT)),
    Hypothesis("ReLU in the place of GELU", WHOLE, partial(_replaced, "Relu", "")),
    *(Hypothesis(name, WHOLE, partial(_gelu_with, erf)) for name, erf in ERFS.items()),
    Hypothesis("tanh GELU", ("Erf",), partial(_call_erf, gelu_tanh)),
    Hypothesis("sigmoid GELU", ("Erf",), partial(_call_erf, gelu_quick)),
    *(Hypothesis(name, ("Erf",), partial(_function, erf)) for name, erf in ERFS.items()),
    *(Hypothesis(f"epsilon {e:g}", ("LayerNormalization",), partial(_epsilon, e)) for e in EPSILONS),
    Hypothesis("variance over N - 1", ("LayerNormalization",), _sample_variance),
    Hypothesis("norm without its weight", ("LayerNormalization",), partial(_plain_norm, "weight", 1.0)),
    Hypothesis("norm without its bias", ("LayerNormalization",), partial(_plain_norm, "bias", 0.0)),
    Hypothesis("softmax without subtracting the maximum", ("Softmax",), _overflowing),
    Hypothesis("softmax over another axis", ("Softmax",), _other_axis),
    *(Hypothesis(name, ("Add",), partial(_other_mask, filler)) for name, filler in MASKS.items()),
    *(Hypothesis(name, ("AttentionMask",), partial(_mask_attribute, filler)) for name, filler in MASKS.items()),
    *(Hypothesis(name, ("Where",), partial(_mask_chosen, filler)) for name, filler in MASKS.items()),
    Hypothesis("residual left out (first operand)", ("Add",), partial(_left_out, 0)),
    Hypothesis("residual left out (second operand)", ("Add",), partial(_left_out, 1)),
    Hypothesis("factor left out", ("Mul", "Div"), partial(_factor, 0.0)),
    Hypothesis("factor used twice", ("Mul", "Div"), partial(_factor, 2.0)),
    *(Hypothesis(f"result rounded to {name}", FLOATS, partial(_rounded, rule)) for name, rule in PRECISIONS.items()),
]
