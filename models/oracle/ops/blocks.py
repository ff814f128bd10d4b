"""Products whose left operand is quantized on the way, each block of its channels by itself: ``refimpl.quant.blocks``.

    MatMulNBits   y[m, n] = sum_g s[n, g] sum_k x[m, k] (b[n, g, k] - z[n, g])   g blocks of ``block_size`` channels
                  accuracy_level 4: x is codes by level

ONNX Runtime puts it in the place of MatMul with a weight alone dequantized, in blocks of 32, and at level 4: what the
file says in floats then has 8 bits. Only 8-bit codes are supported. ``in_blocks`` is what OpenVINO makes of a product
of codes: x is codes by step of the dequantized left operand.

Error. Sums of K products, a rounding of each factor, of the scales and the bias. If x is known so are its codes; if
not, any may slip, by a step and what x may move.

Source: ONNX Runtime, docs/ContribOperators.md.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from refimpl import bounds
from refimpl.models.oracle.graph import MICROSOFT
from refimpl.models.oracle.operator import TINY, UNKNOWN, Approx, Call, Operator, affordable
from refimpl.quant import blocks
from refimpl.quant.affine import dequantize
from refimpl.quant.blocks import Blocks

MIDDLE = 128
"""The zero point where none is given."""


def _weight(call: Call, b: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """f64 (K, N): the weight, and the largest that its terms are if the zero point is apart."""
    n, k, block = call.get("N"), call.get("K"), call.get("block_size")
    if call.get("bits", 4) != 8 or block < 1 or call.get("weight_prepacked", 0):
        raise ValueError("only 8 bits in blocks that are not packed in advance are supported")
    groups = -(-k // block)
    if b.dtype != np.uint8 or b.shape != (n, groups, block) or scale.size != n * groups:
        raise ValueError(f"codes are {b.dtype} {b.shape} with {scale.size} scales; need uint8 {(n, groups, block)}")
    zero = np.full((), MIDDLE) if zero_point is None else zero_point.reshape(n, groups, 1)
    codes, step = b.astype(np.float64), scale.reshape(n, groups, 1).astype(np.float64)
    return tuple(w.reshape(n, -1)[:, :k].T for w in ((codes - zero) * step, (codes + zero) * np.abs(step)))


def _left(call: Call, x: np.ndarray) -> Blocks | None:
    """What level 4 makes of x."""
    if x.ndim < 1 or x.shape[-1] != call.get("K"):
        raise ValueError(f"x has shape {x.shape}; need (..., {call.get('K')})")
    coded = call.get("accuracy_level", 0) == 4
    return blocks.by_level(x.astype(np.float32), call.get("block_size")) if coded else None


def _moved(x: Approx, coded: Blocks | None) -> np.ndarray:
    """How far the left operand may be off, f64 (..., K)."""
    if coded is None or x.known:
        return x.full.astype(np.float64)
    k = x.value.shape[-1]
    step = np.repeat(coded.step[..., 0].astype(np.float64), coded.codes.shape[-1], -1)[..., :k]
    return x.full + step + 2 * x.full.max(-1, keepdims=True) / blocks.LEVELS


def _sum_error(x: np.ndarray, moved: np.ndarray, weight: np.ndarray, terms: np.ndarray, more: Any = 0.0) -> np.ndarray:
    """Of x @ weight. terms: the largest that the weight is on its way; more: what is added."""
    k = weight.shape[0]
    sums = (np.abs(x) + moved) @ terms + more
    return moved @ np.abs(weight) + bounds.gamma(k + 8) * sums + 2 * k * TINY


def _product(call: Call, *xs: Any) -> np.ndarray:
    x, b, scale, zero_point, order, bias = (*xs, None, None, None)[:6]
    if order is not None:
        raise ValueError("g_idx is not supported")
    affordable([*x.shape[:-1], call.get("N")])
    weight, _ = _weight(call, b, scale, zero_point)
    coded = _left(call, x)
    given = x.astype(np.float64) if coded is None else blocks.numbers(coded, x.shape[-1])
    y = (given @ weight).astype(x.dtype)
    return y if bias is None else y + bias


def _product_error(call: Call, xs: Sequence[Any], y: np.ndarray) -> np.ndarray:
    x, b, scale, zero_point, _, bias = (*xs, None, None, None)[:6]
    if any(each is not None and not each.known for each in xs[1:]):
        return UNKNOWN
    weight, terms = _weight(call, b.value, scale.value, None if zero_point is None else zero_point.value)
    coded = _left(call, x.value)
    given = x.value if coded is None else blocks.numbers(coded, x.value.shape[-1])
    return _sum_error(given, _moved(x, coded), weight, terms, 0.0 if bias is None else np.abs(bias.value))


# --- products of codes -----------------------------------------------------------------------------------------------


def in_blocks(call: Call, *xs: np.ndarray) -> np.ndarray:
    """f32 or f64 (..., N). xs: codes a (..., K) and b (K, N), their scales and their zero points, one for all of a."""
    a, b, a_scale, b_scale, a_zero, b_zero = xs
    coded = _by_step(call, a, a_scale, a_zero)
    if call.wide:
        return blocks.numbers(coded, a.shape[-1]) @ dequantize(b, b_scale, b_zero)
    return blocks.product(coded, b.astype(np.int64) - b_zero, b_scale)


def _by_step(call: Call, a: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> Blocks:
    return blocks.by_step(dequantize(a, scale.astype(np.float32), zero), call.get("block_size"))


def in_blocks_error(call: Call, *xs: Approx) -> np.ndarray:
    """Of that; it may keep the zero point of b apart."""
    a, b, a_scale, b_scale, a_zero, b_zero = xs
    if not all(x.known for x in xs[1:]):
        return UNKNOWN
    coded = _by_step(call, a.value, a_scale.value, a_zero.value)
    moved = _moved(Approx(a.value, a.error * a_scale.value), coded)
    weight = dequantize(b.value, b_scale.value, b_zero.value)
    apart = (np.abs(b.value.astype(np.float64)) + np.abs(b_zero.value.astype(np.float64))) * np.abs(b_scale.value)
    return _sum_error(blocks.numbers(coded, a.value.shape[-1]), moved, weight, apart)


OPERATORS = {(MICROSOFT, "MatMulNBits"): Operator(_product, _product_error)}
