"""Vectors of what turns accumulators and f32 into codes, and accumulators into f32: all of them to the bit.

The oracles are ``refimpl.quant``; a contract here is one sentence of theirs.
"""

from functools import partial

import numpy as np

from refimpl.models.vectors import draw
from refimpl.models.vectors.case import Arrays, Family, Operands, Version, exactly
from refimpl.models.vectors.wrong_codes import away_from_zero, to_code, up
from refimpl.quant.attention import PROBS_MAX, quantize_probs
from refimpl.quant.linear import rescale
from refimpl.quant.requantize import requantize
from refimpl.quant.symmetric import SMALLEST_NORMAL, quantize_activation, quantize_weight

F32 = np.float32


# --- from accumulators -----------------------------------------------------------------------------------------------


def _accumulators(shape: tuple[int, int], limit: int, seed: int) -> np.ndarray:
    return draw.integers(-limit, limit, shape, seed).astype(np.int32)


def _scales(m: int, seed: int) -> np.ndarray:
    return (draw.integers(1, 2**20, (m,), seed) / 2.0**30).astype(F32)


def _near_ties(name: str, about: str, low: float, seed: int) -> Operands:
    """The accumulators whose codes lie nearest to a tie: there every rounding of the multiplier shows."""
    a, y = F32(0.0213), F32(0.00117)
    w = ((low + draw.integers(0, 999, (16,), seed) * (low / 999)) * y / a).astype(F32)
    acc = np.rint((np.arange(-127.5, 127, 4)[:, None]) / (a.astype(np.float64) * w / y)).astype(np.int32)
    return Operands(name, about, {"acc": acc, "input_scale": a[...], "weight_scale": w, "output_scale": y[...]})


def _requantized() -> list[Operands]:
    half = {"input_scale": F32(0.5)[...], "weight_scale": np.ones(1, F32), "output_scale": F32(1)[...]}
    odd = {"input_scale": F32(0.0213)[...], "weight_scale": _scales(96, 80), "output_scale": F32(0.00117)[...]}
    return [
        Operands("ties", "every tie, and both limits", {"acc": np.arange(-261, 262, dtype=np.int32)[:, None], **half}),
        _near_ties("near_ties", "as near to ties as accumulators below 2^24 come", 1e-5, 82),
        _near_ties("beyond_2_24", "the same with accumulators that f32 rounds", 2e-6, 83),
        Operands("layer", "real scales", {"acc": _accumulators((12, 96), 2**12, 81), **odd}),
        Operands(
            "wide", "s32 to its ends",
            {"acc": np.array([[-(2**31), 2**31 - 1, 2**24 + 1, -(2**24) - 1, 0]], np.int32),
             "input_scale": F32(1)[...], "weight_scale": F32([1, 1, 2**-18, 2**-18, 1]), "output_scale": F32(1)[...]},
        ),
    ]  # fmt: skip


def _code(inputs: Arrays, order: int = 0, widen: type = np.float32, **options: object) -> dict[str, np.ndarray]:
    a, w, y = (inputs[name] for name in ("input_scale", "weight_scale", "output_scale"))
    multiplier = (lambda: a * w / y, lambda: a * (w / y), lambda: a / y * w, lambda: a * w * (F32(1) / y))[order]()
    x = (inputs["acc"].astype(widen) * multiplier).astype(F32)
    return {"codes": to_code(x, **options)}  # type: ignore[arg-type]


REQUANTIZE = Family(
    "requantize",
    "codes = round(clamp(f32(acc) * (input_scale * weight_scale[m] / output_scale))) + 128: f32, left to right, acc to"
    " nearest even, clamp to -128 ... 127 before rounding ties to even.",
    {"N": ("acc", 0), "M": ("acc", 1)},
    lambda inputs: exactly(codes=requantize(**inputs)),
    {
        "ties_away_from_zero": partial(_code, rounding=away_from_zero),
        "ties_up": partial(_code, rounding=up),
        "codes_truncate": partial(_code, rounding=np.trunc),
        "codes_wrap": partial(_code, clips=False),
        "lowest_code_is_minus_127": partial(_code, low=-127),
        "zero_point_127": partial(_code, zero=127),
        "acc_in_f64": partial(_code, widen=np.float64),
        "weight_by_output_first": partial(_code, order=1),
        "input_by_output_first": partial(_code, order=2),
        "reciprocal_of_output": partial(_code, order=3),
    },
    _requantized,
)


def _rescaled() -> list[Operands]:
    def case(name: str, about: str, acc: np.ndarray, seed: int) -> Operands:
        m = acc.shape[1]
        scales = {"input_scale": F32(0.0213)[...], "weight_scale": _scales(m, seed), "bias": draw.bell((m,), seed + 1)}
        return Operands(name, about, {"acc": acc, **scales})

    return [
        case("one", "M = N = 1", np.array([[3]], np.int32), 82),
        case("layer", "real scales", _accumulators((9, 70), 2**14, 84), 85),
        case("beyond_2_24", "accumulators that f32 rounds", _accumulators((5, 37), 2**30, 87), 88),
    ]


def _y(function: Version) -> Version:
    return lambda inputs: {"y": np.asarray(function(inputs), F32)}  # type: ignore[call-overload]


def _fused(i: Arrays) -> np.ndarray:
    scale = i["input_scale"] * i["weight_scale"]
    return (i["acc"].astype(F32) * scale.astype(np.float64) + i["bias"]).astype(F32)


def _bias_truncated(i: Arrays) -> np.ndarray:
    scale = i["input_scale"] * i["weight_scale"]
    return (i["acc"].astype(F32) + np.trunc(i["bias"] / scale)) * scale


RESCALE = Family(
    "rescale",
    "y = f32(acc) * (input_scale * weight_scale[m]) + bias[m]: f32, the scales multiplied first, acc to nearest even,"
    " the addition not fused.",
    {"N": ("acc", 0), "M": ("acc", 1)},
    lambda inputs: exactly(y=rescale(**inputs)),
    {
        "fused": _y(_fused),  # type: ignore[arg-type]
        "input_scale_first": _y(lambda i: i["acc"].astype(F32) * i["input_scale"] * i["weight_scale"] + i["bias"]),
        "weight_scale_first": _y(lambda i: i["acc"].astype(F32) * i["weight_scale"] * i["input_scale"] + i["bias"]),
        "bias_forgotten": _y(lambda i: i["acc"].astype(F32) * (i["input_scale"] * i["weight_scale"])),
        "bias_in_integers": _y(_bias_truncated),
    },
    _rescaled,
)


# --- from f32 --------------------------------------------------------------------------------------------------------


def _ties(scale: float) -> np.ndarray:
    """Halves of the scale, and their neighbours in f32, f32 (k, 3)."""
    x = (np.arange(-131.5, 131) * F32(scale)).astype(F32)
    return np.stack([np.nextafter(x, F32(-1e9)), x, np.nextafter(x, F32(1e9))], 1)


def _quantized() -> list[Operands]:
    far = np.array([[-3e38, 3e38, -0.0, 1e-45, -1e-45, 127.5, -128.5, 500, -500]], F32)
    return [
        Operands("ties", "halves and their neighbours, both limits", {"x": _ties(1), "scale": F32(1)[...]}),
        Operands("division", "x / scale is no product", {"x": _ties(0.0213), "scale": F32(0.0213)[...]}),
        Operands("far", "large, tiny, negative zero", {"x": far, "scale": F32(1)[...]}),
        Operands("small_scale", "quotients beyond f32", {"x": far, "scale": F32(1e-30)[...]}),
        Operands("bert", "a slice of a layer's input", {"x": draw.bell((3, 384), 90), "scale": F32(0.0191)[...]}),
    ]


def _quotient(inputs: Arrays) -> np.ndarray:
    with np.errstate(over="ignore"):
        return inputs["x"] / inputs["scale"]


def _quantize(inputs: Arrays, **options: object) -> dict[str, np.ndarray]:
    return {"codes": to_code(_quotient(inputs), **options)}  # type: ignore[arg-type]


def _by_reciprocal(inputs: Arrays) -> dict[str, np.ndarray]:
    with np.errstate(over="ignore"):
        return {"codes": to_code(inputs["x"] * (F32(1) / inputs["scale"]))}


def _zero_point_first(inputs: Arrays) -> dict[str, np.ndarray]:
    return {"codes": np.rint(np.clip(_quotient(inputs) + F32(128), 0, 255)).astype(np.uint8)}


QUANTIZE = Family(
    "quantize_rows",
    "codes = round(clamp(x / scale)) + 128: a true f32 division, clamp to -128 ... 127, ties to even.",
    {"N": ("x", 0), "D": ("x", 1)},
    lambda inputs: exactly(codes=quantize_activation(**inputs)),
    {
        "ties_away_from_zero": partial(_quantize, rounding=away_from_zero),
        "ties_up": partial(_quantize, rounding=up),
        "codes_truncate": partial(_quantize, rounding=np.trunc),
        "codes_wrap": partial(_quantize, clips=False),
        "lowest_code_is_minus_127": partial(_quantize, low=-127),
        "zero_point_127": partial(_quantize, zero=127),
        "zero_point_before_rounding": _zero_point_first,
        "reciprocal_for_division": _by_reciprocal,
    },
    _quantized,
)


def _weights() -> list[Operands]:
    guard = np.zeros((5, 6), F32)
    guard[1, 2], guard[2, 3], guard[3, 0], guard[4] = 1e-41, 127 * SMALLEST_NORMAL, -1e-37, [-2, -1, 0, 1, 2, 1.5]
    ties = np.append(_ties(1.36 / 127).clip(-1.36, 1.36).reshape(-1), F32(1.36)).astype(F32)[None]
    return [
        Operands("guard", "a row of zeros, and rows whose scale would be subnormal or 0: scale 1", {"w": guard}),
        Operands("ties", "halves of a scale that has no exact reciprocal", {"w": ties}),
        Operands("exact_ties", "halves of the scale 1", {"w": np.arange(-127, 127.5, 0.5, F32)[None]}),
        Operands("layer", "a slice of a weight", {"w": draw.bell((12, 96), 91) * F32(0.05)}),
    ]


def _quantize_weight(
    inputs: Arrays, axis: int | None = 1, limit: int = 127, least: float = SMALLEST_NORMAL, **how: object
) -> dict[str, np.ndarray]:
    w = inputs["w"]
    scale = np.broadcast_to(np.abs(w).max(axis, keepdims=True) / F32(limit), (len(w), 1))
    scale = np.where(scale >= least, scale, F32(1)) if least else np.where(scale > 0, scale, F32(1))
    x = w * (F32(1) / scale) if how.pop("reciprocal", False) else w / scale
    codes = to_code(x, low=-limit, zero=0, **how).view(np.int8)  # type: ignore[arg-type]
    return {"codes": codes, "scale": scale[:, 0].copy()}


QUANTIZE_WEIGHT = Family(
    "quantize_weight",
    "scale[m] = max_k |w[m, k]| / 127 in f32, or 1 where that is no normal number; codes = round(clamp(w / scale[m])),"
    " a true f32 division, clamp to -127 ... 127, ties to even.",
    {"M": ("w", 0), "K": ("w", 1)},
    lambda inputs: exactly(**dict(zip(("codes", "scale"), quantize_weight(inputs["w"]), strict=True))),
    {
        "ties_away_from_zero": partial(_quantize_weight, rounding=away_from_zero),
        "codes_truncate": partial(_quantize_weight, rounding=np.trunc),
        "reciprocal_for_division": partial(_quantize_weight, reciprocal=True),
        "full_range_128": partial(_quantize_weight, limit=128),
        "one_scale_for_all": partial(_quantize_weight, axis=None),
        "only_zero_becomes_1": partial(_quantize_weight, least=0),
    },
    _weights,
)


def _probabilities() -> list[Operands]:
    half = np.concatenate([(np.arange(255) + 0.5) / 255, [0, 1, 0.5]]).astype(F32)
    near = np.stack([np.nextafter(half, F32(0)), half, np.nextafter(half, F32(1))])
    return [Operands("ties", "halves of 1 / 255 and their neighbours", {"x": near})]


def _probs(inputs: Arrays, most: int = PROBS_MAX, **options: object) -> dict[str, np.ndarray]:
    rounding = options.get("rounding", np.rint)
    return {"codes": np.clip(rounding(inputs["x"] * F32(most)), 0, 255).astype(np.uint8)}  # type: ignore[operator]


QUANTIZE_PROBS = Family(
    "quantize_probs",
    "codes = round(255 x), x 0 ... 1: one f32 product, ties to even, zero point 0.",
    {"N": ("x", 0), "D": ("x", 1)},
    lambda inputs: exactly(codes=quantize_probs(inputs["x"])),
    {
        "ties_away_from_zero": partial(_probs, rounding=away_from_zero),
        "codes_truncate": partial(_probs, rounding=np.trunc),
        "times_256": partial(_probs, most=256),
    },
    _probabilities,
)


# --- from codes ------------------------------------------------------------------------------------------------------


def _looked_up() -> list[Operands]:
    from refimpl.kernels.rowwise.gelu_u8_table import table

    made = table(F32(0.0421)[...], F32(0.0317)[...])
    return [
        Operands("all", "every code", {"codes": np.arange(256, dtype=np.uint8)[None], "table": made}),
        Operands("tail", "no multiple of 64", {"codes": draw.codes((3, 37), 92), "table": made}),
    ]


GELU_TABLE = Family(
    "gelu_u8_table",
    "y = table[codes]; table[c] is the code of GELU of the number that c stands for, made for input scale 0.0421 and"
    " output scale 0.0317.",
    {"N": ("codes", 0), "D": ("codes", 1)},
    lambda inputs: exactly(y=inputs["table"][inputs["codes"]]),
    {
        "codes_read_as_signed": lambda i: {"y": i["table"][i["codes"] ^ np.uint8(128)]},
        "only_128_entries": lambda i: {"y": i["table"][i["codes"] & np.uint8(127)]},
    },
    _looked_up,
)


FAMILIES = [REQUANTIZE, RESCALE, QUANTIZE, QUANTIZE_WEIGHT, QUANTIZE_PROBS, GELU_TABLE]
