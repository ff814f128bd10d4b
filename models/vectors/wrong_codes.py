"""Wrong ways from an accumulator to the next layer's code, as functions of a product's inputs and its accumulators."""

from collections.abc import Callable
from functools import partial

import numpy as np

from refimpl.models.vectors.case import Arrays
from refimpl.quant.linear import compensation

Rounding = Callable[[np.ndarray], np.ndarray]


def away_from_zero(x: np.ndarray) -> np.ndarray:
    """Ties away from zero, as C's ``round``."""
    return np.copysign(np.floor(np.abs(x) + 0.5), x)


def up(x: np.ndarray) -> np.ndarray:
    """Ties up: floor(x + 1/2)."""
    return np.floor(x + 0.5)


def to_code(
    x: np.ndarray, rounding: Rounding = np.rint, low: int = -128, zero: int = 128, clips: bool = True
) -> np.ndarray:
    """Numbers -> u8; without ``clips`` the low eight bits of the rounded number are kept."""
    limited = np.clip(x, low, 127) if clips else np.clip(x, -(2.0**30), 2.0**30)
    return (rounding(limited).astype(np.int32) + zero).astype(np.uint8)


def _wrong(inputs: Arrays, acc: np.ndarray, zero: int = 128, **options: object) -> np.ndarray:
    multiplier = inputs["input_scale"] * inputs["weight_scale"] / inputs["output_scale"]
    sums = acc - compensation(inputs["w"]) // 128 * zero
    return to_code(sums.astype(np.float32) * multiplier, **options)  # type: ignore[arg-type]


WRONG_CODES: dict[str, Callable[[Arrays, np.ndarray], np.ndarray]] = {
    "no_compensation": partial(_wrong, zero=0),
    "compensation_127": partial(_wrong, zero=127),
    "ties_away_from_zero": partial(_wrong, rounding=away_from_zero),
    "codes_truncate": partial(_wrong, rounding=np.trunc),
    "codes_wrap": partial(_wrong, clips=False),
    "lowest_code_is_minus_127": partial(_wrong, low=-127),
}
