"""Vectors of what turns f32 into codes, and codes into codes: all of them to the bit.

The oracles are ``refimpl.quant``; a contract here is one sentence of theirs.
"""

from functools import partial

import numpy as np

from refimpl.models.vectors import draw
from refimpl.models.vectors.case import Arrays, Family, Operands, exactly
from refimpl.models.vectors.wrong_codes import away_from_zero, to_code, up
from refimpl.quant.attention import PROBS_MAX, quantize_probs
from refimpl.quant.symmetric import SMALLEST_NORMAL, quantize_activation, quantize_weight

F32 = np.float32


# --- from f32 --------------------------------------------------------------------------------------------------------


def _ties(scale: float) -> np.ndarray:
    """Halves of the scale, and their neighbours in f32, f32 (k, 3)."""
    x = (np.arange(-131.5, 131) * F32(scale)).astype(F32)
    return np.stack([np.nextafter(x, F32(-1e9)), x, np.nextafter(x, F32(1e9))], 1)


def _quantized() -> list[Operands]:
    far = np.array([[-3e38, 3e38, -0.0, 1e-45, -1e-45, 127.5, -128.5, 500, -500]], F32)
    return [
        Operands("ties", "halves and their neighbours, both limits", {"x": _ties(1), "scale": draw.scalar(1)}),
        Operands("division", "x / scale is no product", {"x": _ties(0.0213), "scale": draw.scalar(0.0213)}),
        Operands("far", "large, tiny, negative zero", {"x": far, "scale": draw.scalar(1)}),
        Operands("small_scale", "quotients beyond f32", {"x": far, "scale": draw.scalar(1e-30)}),
        Operands("bert", "a slice of a layer's input", {"x": draw.bell((3, 384), 90), "scale": draw.scalar(0.0191)}),
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
        Operands("exact_ties", "halves of the scale 1", {"w": np.arange(-254, 255).astype(F32)[None] / F32(2)}),
        Operands("layer", "a slice of a weight", {"w": draw.bell((12, 96), 91) * F32(0.05)}),
    ]


def _quantize_weight(
    inputs: Arrays, axis: int | None = 1, limit: int = 127, least: float = float(SMALLEST_NORMAL), **how: object
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

    made = table(draw.scalar(0.0421), draw.scalar(0.0317))
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


FAMILIES = [QUANTIZE, QUANTIZE_WEIGHT, QUANTIZE_PROBS, GELU_TABLE]
