"""Vectors of what becomes of accumulators, the next layer's codes or f32: all of them to the bit.

The oracles are ``refimpl.quant``; a contract here is one sentence of theirs.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from refimpl.models.vectors import draw
from refimpl.models.vectors.case import Arrays, Family, Operands, Version, exactly
from refimpl.models.vectors.wrong_codes import away_from_zero, to_code, up
from refimpl.quant.linear import rescale
from refimpl.quant.requantize import requantize

F32 = np.float32


def _accumulators(shape: tuple[int, int], limit: int, seed: int) -> np.ndarray:
    return draw.integers(-limit, limit, shape, seed).astype(np.int32)


def _scales(m: int, seed: int) -> np.ndarray:
    return (draw.integers(1, 2**20, (m,), seed) / 2.0**30).astype(F32)


def _near_ties(name: str, about: str, low: float, seed: int) -> Operands:
    """The accumulators whose codes lie nearest to a tie: there every rounding of the multiplier shows."""
    a, y = draw.scalar(0.0213), draw.scalar(0.00117)
    w = ((low + draw.integers(0, 999, (16,), seed) * (low / 999)) * y / a).astype(F32)
    acc = np.rint((np.arange(-127.5, 127, 4)[:, None]) / (a.astype(np.float64) * w / y)).astype(np.int32)
    return Operands(name, about, {"acc": acc, "input_scale": a, "weight_scale": w, "output_scale": y})


def _requantized() -> list[Operands]:
    half = {"input_scale": draw.scalar(0.5), "weight_scale": np.ones(1, F32), "output_scale": draw.scalar(1)}
    odd = {"input_scale": draw.scalar(0.0213), "weight_scale": _scales(96, 80), "output_scale": draw.scalar(0.00117)}
    return [
        Operands("ties", "every tie, and both limits", {"acc": np.arange(-261, 262, dtype=np.int32)[:, None], **half}),
        _near_ties("near_ties", "as near to ties as accumulators below 2^24 come", 1e-5, 82),
        _near_ties("beyond_2_24", "the same with accumulators that f32 rounds", 2e-6, 83),
        Operands("layer", "real scales", {"acc": _accumulators((12, 96), 2**12, 81), **odd}),
        Operands(
            "wide", "s32 to its ends",
            {"acc": np.array([[-(2**31), 2**31 - 1, 2**24 + 1, -(2**24) - 1, 0]], np.int32),
             "input_scale": draw.scalar(1), "output_scale": draw.scalar(1),
             "weight_scale": np.array([1, 1, 2**-18, 2**-18, 1], F32)},
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
        scales = {
            "input_scale": draw.scalar(0.0213),
            "weight_scale": _scales(m, seed),
            "bias": draw.bell((m,), seed + 1),
        }
        return Operands(name, about, {"acc": acc, **scales})

    return [
        case("one", "M = N = 1", np.array([[3]], np.int32), 82),
        case("layer", "real scales", _accumulators((9, 70), 2**14, 84), 85),
        case("beyond_2_24", "accumulators that f32 rounds", _accumulators((5, 37), 2**30, 87), 88),
    ]


def _y(function: Callable[[Arrays], np.ndarray]) -> Version:
    return lambda inputs: {"y": function(inputs).astype(F32)}


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
        "fused": _y(_fused),
        "input_scale_first": _y(lambda i: i["acc"].astype(F32) * i["input_scale"] * i["weight_scale"] + i["bias"]),
        "weight_scale_first": _y(lambda i: i["acc"].astype(F32) * i["weight_scale"] * i["input_scale"] + i["bias"]),
        "bias_forgotten": _y(lambda i: i["acc"].astype(F32) * (i["input_scale"] * i["weight_scale"])),
        "bias_in_integers": _y(_bias_truncated),
    },
    _rescaled,
)


FAMILIES = [REQUANTIZE, RESCALE]
