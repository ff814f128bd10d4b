"""What can go wrong in a sum of products of codes: 16-bit sums, saturated pairs, a lost compensation, sums in f32.

Sources: ``refimpl.integer.products`` for what CPUs do; oneDNN, doc/advanced/int8_computations.md, for the shift of s8
and its compensation.
"""

from functools import partial
from typing import Any

import numpy as np

from refimpl import bounds
from refimpl.integer.narrow import wrap_s32
from refimpl.integer.pairs import neighbours
from refimpl.integer.products import SHIFT, Product, exact, pair_saturating
from refimpl.models.compare import words
from refimpl.models.compare.hypothesis import Hypothesis, Show
from refimpl.models.compare.use import Use, value
from refimpl.models.oracle.execute import operator_of
from refimpl.models.oracle.semantics import PRODUCTS

INTEGER = ("MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul", "QGemm")
FLOAT = ("MatMul", "Gemm")
F32_WHOLE = 2.0**24
"""Up to here f32 holds every integer."""


# --- sums ------------------------------------------------------------------------------------------------------------


def _product(name: str, use: Use) -> Use | None:
    product = PRODUCTS[name]
    return None if use.call.semantics.product is product else use.multiplied(product)


def _multiplied(product: Product, use: Use) -> Use:
    return use.multiplied(product)


def _pair(distance: int, shift: int) -> Show:
    return partial(words.pair, distance, shift)


def paired(distance: int, k: int) -> np.ndarray:
    """The order of K channels in which those ``distance`` apart, of each 2 ``distance``, are neighbours."""
    whole = -(-k // (2 * distance)) * 2 * distance
    order = np.arange(whole).reshape(-1, 2, distance).swapaxes(1, 2).reshape(-1)
    return np.where(order < k, order, -1)  # -1: a channel of zeros, appended


def saturating_at(distance: int, a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """``pair_saturating`` of channels k and k + distance."""
    order = paired(distance, a.shape[1])
    return pair_saturating(*(np.pad(x, ((0, 0), (0, 1)))[:, order] for x in (a, w)))


def _saturating_at(distance: int, use: Use) -> Use | None:
    a = value(use.get("a"))
    return use.multiplied(partial(saturating_at, distance)) if a.shape[-1] > distance else None


def _saturating_halves(use: Use) -> Use | None:
    half = value(use.get("a")).shape[-1] // 2
    return _saturating_at(half, use) if half > 1 else None


def _pairs_wrap(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Each pair sum keeps its low 16 bits."""
    total = np.zeros((len(a), len(w)), np.int64)
    for few, weights in zip(*(neighbours(x.astype(np.int32)).swapaxes(0, 1) for x in (a, w)), strict=True):
        total += (few @ weights.T).astype(np.int16)
    return wrap_s32(total)


def _sum_wraps(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    return exact(a, w).astype(np.int16).astype(np.int32)


def _through_f32(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    return exact(a, w).astype(np.float32).astype(np.int64)


def _uncompensated(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """a is shifted to u8, and nothing taken off the sum."""
    return exact((a.astype(np.int16) + SHIFT).astype(np.uint8), w) if a.dtype == np.int8 else exact(a, w)


def _accumulated_in_f32(use: Use) -> Use | None:
    """The sum of products rounded at each addition, in an order that nobody knows. Where no sum can pass 2**24 it is
    exact."""
    a, b = (value(use.get(name)).astype(np.float64) for name in "ab")
    if a.ndim < 2 or b.ndim < 2 or use.op == "QGemm":
        return None
    size = np.abs(a) @ np.abs(b)
    off = np.where(size > F32_WHOLE, bounds.gamma(a.shape[-1]) * size, 0)
    if not off.any():
        return None
    operator = operator_of(use.call)
    assert operator.error is not None
    error = operator.error
    scales = {name: use.get(name) for name in ("a_scale", "b_scale", "y_scale")}
    left, right, under = (np.ones(()) if x is None else x.value for x in scales.values())
    factor = left * right / under

    def more(call: Any, xs: Any, y: np.ndarray) -> np.ndarray:
        return error(call, xs, y) + off * factor

    return use._replace(call=use.call._replace(operator=operator._replace(error=more)))


SHOWN = {"pair_saturating": _pair(1, 0), "s8s8_shifted": _pair(1, SHIFT)}
NARROW_SUMS: dict[str, Product] = {
    "pair sums wrap at 16 bits": _pairs_wrap,
    "sum kept in 16 bits": _sum_wraps,
    "missing compensation of the shift by 128": _uncompensated,
    "sum passed through f32": _through_f32,
}
HYPOTHESES = [
    *(Hypothesis(name, INTEGER, partial(_product, name), show=SHOWN.get(name, words.sums)) for name in PRODUCTS),
    *(
        Hypothesis(
            f"pairs (k, k + {distance}) saturate", INTEGER, partial(_saturating_at, distance), 0, _pair(distance, 0)
        )
        for distance in (2, 4, 8, 16, 32)
    ),
    Hypothesis("pairs (k, k + K / 2) saturate", INTEGER, _saturating_halves, show=_pair(0, 0)),
    *(
        Hypothesis(name, INTEGER, partial(_multiplied, product), show=words.sums)
        for name, product in NARROW_SUMS.items()
    ),
    Hypothesis("accumulated in f32", INTEGER, _accumulated_in_f32, vague=1),
]
