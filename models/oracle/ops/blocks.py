"""MatMulNBits: floats times a weight whose codes have a scale and a zero point for each block of input channels.

    y[m, n] = sum_g s[n, g] sum_k x[m, k] (b[n, g, k] - z[n, g])        g blocks of ``block_size`` channels
    accuracy_level 4: each block of x is u codes, u = rint(127 x / max |x|), before it is multiplied

ONNX Runtime puts it in the place of MatMul with a weight alone dequantized, in blocks of 32, and at level 4: what the
file says in floats then has 8 bits. Only 8-bit codes are supported.

Source: ONNX Runtime, docs/ContribOperators.md; that level 4 means s8 codes for each block: its results.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from refimpl import bounds
from refimpl.bounds import F32
from refimpl.models.oracle.graph import MICROSOFT
from refimpl.models.oracle.operator import TINY, UNKNOWN, Call, Operator, affordable

LEVELS = 127
MIDDLE = 128
"""The zero point where none is given."""


def _weight(
    call: Call, b: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """f64 (N, K padded to whole blocks): the weight, and the largest that its terms are if the zero point is apart."""
    n, k, block = call.get("N"), call.get("K"), call.get("block_size")
    if call.get("bits", 4) != 8 or block < 1 or call.get("weight_prepacked", 0):
        raise ValueError("only 8 bits in blocks that are not packed in advance are supported")
    groups = -(-k // block)
    if b.dtype != np.uint8 or b.shape != (n, groups, block) or scale.size != n * groups:
        raise ValueError(f"codes are {b.dtype} {b.shape} with {scale.size} scales; need uint8 {(n, groups, block)}")
    zero = np.full((), MIDDLE) if zero_point is None else zero_point.reshape(n, groups, 1)
    codes, step = b.astype(np.float64), scale.reshape(n, groups, 1).astype(np.float64)
    return ((codes - zero) * step).reshape(n, -1), ((codes + zero) * np.abs(step)).reshape(n, -1)


def _blocks(call: Call, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x (..., K) -> (..., groups, block), filled up with zeros, and the step of each block's codes (..., groups, 1)."""
    k, block = call.get("K"), call.get("block_size")
    if x.ndim < 1 or x.shape[-1] != k:
        raise ValueError(f"x has shape {x.shape}; need (..., {k})")
    filled = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -k % block)])
    parts = filled.reshape(*x.shape[:-1], -1, block)
    return parts, np.abs(parts).max(-1, keepdims=True) / x.dtype.type(LEVELS)


def _coded(call: Call, x: np.ndarray) -> np.ndarray:
    """What level 4 makes of x, filled up: (..., K padded)."""
    parts, step = _blocks(call, x)
    if call.get("accuracy_level", 0) == 4:
        parts = np.rint(parts / np.where(step > 0, step, 1)) * step
    return parts.reshape(*x.shape[:-1], -1)


def _product(call: Call, *xs: Any) -> np.ndarray:
    x, b, scale, zero_point, order, bias = (*xs, None, None, None)[:6]
    if order is not None:
        raise ValueError("g_idx is not supported")
    affordable([*x.shape[:-1], call.get("N")])
    weight, _ = _weight(call, b, scale, zero_point)
    y = (_coded(call, x).astype(np.float64) @ weight.T).astype(x.dtype)
    return y if bias is None else y + bias


def _product_error(call: Call, xs: Sequence[Any], y: np.ndarray) -> np.ndarray:
    """Sums of K products, a rounding of each factor, the scales and the bias. A code slips where its quotient, which
    has four roundings, may be on either side of a tie; if x is uncertain any may, by a step and what x may move."""
    x, b, scale, zero_point, _, bias = (*xs, None, None, None)[:6]
    if any(each is not None and not each.known for each in xs[1:]):
        return UNKNOWN
    weight, terms = _weight(call, b.value, scale.value, None if zero_point is None else zero_point.value)
    parts, step = _blocks(call, x.value)
    off, step_off = _blocks(call, x.full.astype(np.float64))
    if call.get("accuracy_level", 0) != 4:
        moved = off
    elif x.known:
        quotient = np.abs(parts) / np.where(step > 0, step, 1)
        moved = np.where(np.abs(quotient % 1 - 0.5) <= 4 * F32 * quotient, step, 0)
    else:
        moved = off + step + 2 * step_off
    moved, sure = (np.broadcast_to(each, parts.shape).reshape(*x.value.shape[:-1], -1) for each in (moved, parts))
    sums = (np.abs(sure) + moved) @ terms.T + (0 if bias is None else np.abs(bias.value))
    k = weight.shape[1]
    return moved @ np.abs(weight).T + bounds.gamma(k + 8) * sums + 2 * k * TINY


OPERATORS = {(MICROSOFT, "MatMulNBits"): Operator(_product, _product_error)}
