"""What can go wrong where numbers become codes and codes numbers: ties, divisions, limits, scales, zero points.

Sources: ``refimpl.quant.affine`` for how engines differ by design; ONNX Runtime's QLinearSoftmax for the whole part of
a reciprocal; onnx #6169 for codes that wrap.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from refimpl.models.compare.hypothesis import Hypothesis
from refimpl.models.compare.use import Rule, Use, known, scaled, value
from refimpl.models.oracle.operator import EXACT, Approx
from refimpl.quant.affine import (
    by_division,
    by_levels,
    requantize_in_one,
    requantize_in_two,
    requantize_wrapping,
)

QUANTIZERS = ("QuantizeLinear", "QLinearMatMul", "QGemm", "QLinearAdd", "QLinearMul", "QLinearSoftmax")
ALL_QUANTIZERS = (*QUANTIZERS, "DynamicQuantizeLinear")
PRODUCTS_OF_CODES = ("QLinearMatMul", "QGemm")
ONE = np.array(1, np.float32)


def half_away(x: np.ndarray) -> np.ndarray:
    """Ties away from zero."""
    return np.trunc(x + np.copysign(0.5, x))


def half_up(x: np.ndarray) -> np.ndarray:
    """Ties towards the larger."""
    return np.floor(x + 0.5)


def _rule(rule: Rule, use: Use) -> Use | None:
    return use.in_steps(rule) if _makes_codes(use) else None


def _makes_codes(use: Use) -> bool:
    return use.op != "QGemm" or use.get("y_scale") is not None


def _reciprocal(use: Use) -> Use:
    """x * f32(1 / scale) in the place of x / scale."""
    x, scale = use.get("x"), value(use.get("y_scale")).astype(np.float32)
    assert x is not None
    if scale.size > 1:
        axis = use.call.get("axis", 1)
        scale = scale.reshape(-1, *(1,) * (x.value.ndim - axis % x.value.ndim - 1)) if scale.ndim == 1 else scale
    inverse = ONE / scale
    product = (x.value.astype(np.float32) * inverse).astype(np.float64)
    return use.put(x=Approx(product, EXACT if x.known else x.error * inverse), y_scale=known(1.0))


def _quantized_by(quantize: Callable[..., np.ndarray], use: Use) -> Use | None:
    return None if use.call.semantics.quantize is quantize else use.meaning(quantize=quantize)


def _requantized_by(requantize: Callable[..., np.ndarray], use: Use) -> Use | None:
    return None if use.call.semantics.requantize is requantize else use.meaning(requantize=requantize)


def _wrapping(use: Use) -> Use | None:
    def quantize(x: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        return requantize_wrapping(x, ONE, ONE, scale, zero.astype(use.get("y_zero").value.dtype))  # type: ignore[union-attr]

    if use.get("y_zero") is None:
        return None
    return use.meaning(quantize=quantize, requantize=requantize_wrapping)._replace(narrow=True)


def _whole_reciprocal(use: Use) -> Use | None:
    """The scale 1 / int(1 / scale)."""
    scale = use.get("y_scale")
    if scale is None or not (scale.value > 0).all() or not (scale.value <= 1).all():
        return None
    return use.put(y_scale=known(1 / np.floor(1 / scale.value)))


def _shown_reciprocal(use: Use, wrong: Use, at: tuple[int, ...]) -> str:
    scale, other = (float(value(one.get("y_scale")).reshape(-1)[0]) for one in (use, wrong))
    return f"1 / {scale:.9g} = {1 / scale:.9g} taken as {1 / other:.9g}"


def _clipped(below: float, above: float, use: Use) -> Use | None:
    """Codes end ``below`` the zero point and ``above`` it."""
    if not _makes_codes(use):
        return None
    return use.in_steps(lambda q: np.clip(np.rint(q), -below, above))


def _limited(use: Use) -> Use | None:
    """Codes are clipped to what both u8 and s8 can hold, as if one were taken for the other."""
    y_zero = use.get("y_zero")
    if y_zero is None or not _makes_codes(use):
        return None
    zero = use.zero()
    return use.in_steps(lambda q: np.clip(np.rint(q), 0 - zero, 127 - zero))


def _without_zero(name: str, use: Use) -> Use | None:
    zero = use.get(name)
    return use.put(**{name: known(np.zeros_like(zero.value))}) if zero is not None and zero.value.any() else None


def _first_scale(name: str, use: Use) -> Use | None:
    return _one_scale(lambda scale: scale.reshape(-1)[0], name, use)


def _largest_scale(name: str, use: Use) -> Use | None:
    return _one_scale(np.max, name, use)


def _mean_scale(name: str, use: Use) -> Use | None:
    return _one_scale(np.mean, name, use)


def _one_scale(choose: Callable[[np.ndarray], float], name: str, use: Use) -> Use | None:
    """One scale in the place of one per channel."""
    scale = use.get(name)
    if scale is None or scale.value.size < 2:
        return None
    return use.put(**{name: known(np.full_like(scale.value, choose(scale.value)))})


def _next_scale(name: str, use: Use) -> Use | None:
    scale = use.get(name)
    if scale is None or scale.value.ndim != 1 or scale.value.size < 2:
        return None
    return use.put(**{name: known(np.roll(scale.value, 1))})


def _scale_left_out(name: str, use: Use) -> Use | None:
    scale = use.get(name)
    return use.put(**{name: known(np.ones_like(scale.value))}) if scale is not None else None


def _scale_twice(name: str, use: Use) -> Use | None:
    scale = use.get(name)
    return use.put(**{name: scaled(scale, scale.value)}) if scale is not None and scale.known else None


SCALED = ("MatMulIntegerToFloat", "QLinearMatMul", "QGemm", "QLinearAdd", "QLinearMul")
COLUMNS = {"b_scale": SCALED, "x_scale": ("DequantizeLinear",), "y_scale": QUANTIZERS}
SCALES = {
    "a_scale": SCALED,
    "b_scale": SCALED,
    "x_scale": ("DequantizeLinear", "QLinearSoftmax"),
    "y_scale": QUANTIZERS,
}

HYPOTHESES = [
    Hypothesis("whole part of 1 / scale", QUANTIZERS, _whole_reciprocal, show=_shown_reciprocal),
    Hypothesis("half away from zero", ALL_QUANTIZERS, partial(_rule, half_away)),
    Hypothesis("half up", ALL_QUANTIZERS, partial(_rule, half_up)),
    Hypothesis("truncation", ALL_QUANTIZERS, partial(_rule, np.trunc)),
    Hypothesis("floor", ALL_QUANTIZERS, partial(_rule, np.floor)),
    Hypothesis("ceiling", ALL_QUANTIZERS, partial(_rule, np.ceil)),
    Hypothesis("reciprocal instead of division", ("QuantizeLinear",), _reciprocal),
    Hypothesis("quantized by division", ALL_QUANTIZERS, partial(_quantized_by, by_division)),
    Hypothesis("quantized by levels", ALL_QUANTIZERS, partial(_quantized_by, by_levels)),
    Hypothesis("requantized in one step", PRODUCTS_OF_CODES, partial(_requantized_by, requantize_in_one)),
    Hypothesis("requantized in two steps", PRODUCTS_OF_CODES, partial(_requantized_by, requantize_in_two)),
    Hypothesis("codes wrap", QUANTIZERS, _wrapping),
    Hypothesis("codes clipped to ±127", ALL_QUANTIZERS, partial(_clipped, 127, 127)),
    Hypothesis("codes clipped to 7 bits, -64 to 63", ALL_QUANTIZERS, partial(_clipped, 64, 63)),
    Hypothesis("codes clipped to ±64", ALL_QUANTIZERS, partial(_clipped, 64, 64)),
    Hypothesis("codes clipped to 0 to 127", QUANTIZERS, _limited),
    *(
        Hypothesis(f"missing zero point of {name[0]}", ops, partial(_without_zero, name))
        for name, ops in (
            ("a_zero", (*SCALED, "MatMulInteger")),
            ("b_zero", (*SCALED, "MatMulInteger")),
            ("x_zero", ("DequantizeLinear", "QLinearSoftmax")),
            ("y_zero", QUANTIZERS),
        )
    ),
    *(
        Hypothesis(f"{words} of {name[0]}", ops, partial(change, name))
        for name, ops in COLUMNS.items()
        for words, change in (
            ("first channel's scale for all", _first_scale),
            ("largest scale for all channels", _largest_scale),
            ("mean scale for all channels", _mean_scale),
            ("neighbour channel's scale", _next_scale),
        )
    ),
    *(
        Hypothesis(f"{words} of {name[0]}", ops, partial(change, name))
        for name, ops in SCALES.items()
        for words, change in (("missing scale", _scale_left_out), ("scale twice", _scale_twice))
    ),
]
