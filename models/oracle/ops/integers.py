"""Products of integers, and what turns their sums back into floats or codes.

    acc = sum_k (a[k] - a_zero_point) (b[k] - b_zero_point)          s32; the raw product is the semantics' own

Zero points correct the raw sum exactly. Every operator here whose result is not the accumulator itself offers it as
the inner value "acc", but for products with the attribute ``block_size``, which ``rewrite`` gives them and
``ops.blocks`` computes. Errors: roundings of the result, counted below, and what uncertain codes add. Sources: ONNX;
ONNX Runtime's docs/ContribOperators.md.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from refimpl.integer.narrow import wrap_s32
from refimpl.models.oracle.graph import MICROSOFT
from refimpl.models.oracle.operator import UNKNOWN, Approx, Call, Operator, affordable, rounded
from refimpl.models.oracle.ops.blocks import in_blocks, in_blocks_error
from refimpl.models.oracle.ops.quantized import quotient, shift_of, zero_of
from refimpl.quant.affine import requantize_in_two


def raw_product(call: Call, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Codes a (..., M, K), b (..., K, N) -> s64 (..., M, N), each matrix by the semantics' product."""
    if a.ndim < 1 or b.ndim < 1 or a.shape[-1] != b.shape[max(0, b.ndim - 2)]:
        raise ValueError(f"the operands have the shapes {a.shape} and {b.shape}, which do not match")
    left, right = (a[None] if a.ndim == 1 else a), (b[:, None] if b.ndim == 1 else b)
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    affordable([*batch, left.shape[-2], right.shape[-1]])
    product = call.semantics.product
    if right.ndim == 2:
        made = product(left.reshape(-1, left.shape[-1]), np.ascontiguousarray(right.T))
        made = made.reshape(*left.shape[:-1], right.shape[-1])
    else:
        lefts = np.broadcast_to(left, (*batch, *left.shape[-2:])).reshape(-1, *left.shape[-2:])
        rights = np.broadcast_to(right, (*batch, *right.shape[-2:])).reshape(-1, *right.shape[-2:])
        made = np.array([product(x, np.ascontiguousarray(y.T)) for x, y in zip(lefts, rights, strict=True)])
        made = made.reshape(*batch, left.shape[-2], right.shape[-1])
    made = made[..., 0, :] if a.ndim == 1 else made
    return (made[..., 0] if b.ndim == 1 else made).astype(np.int64)


def _per_row(p: np.ndarray | None) -> np.ndarray:
    """A parameter of the left operand against (..., M, N)."""
    p = np.zeros((), np.int64) if p is None else p
    return p.reshape(()) if p.size == 1 else p[:, None] if p.ndim == 1 else p


def _per_column(p: np.ndarray | None) -> np.ndarray:
    """A parameter of the right operand against (..., M, N)."""
    p = np.zeros((), np.int64) if p is None else p
    return p.reshape(()) if p.size == 1 else p


def accumulate(
    call: Call, a: np.ndarray, b: np.ndarray, za: np.ndarray | None = None, zb: np.ndarray | None = None
) -> np.ndarray:
    """s32 accumulators with zero points: MatMulInteger."""
    acc = raw_product(call, a, b)
    left, right = (p.astype(np.int64) for p in (_per_row(za), _per_column(zb)))
    if left.any():
        sums = b.sum(-2 if b.ndim > 1 else 0, dtype=np.int64, keepdims=b.ndim > 2)
        acc = acc - left * sums
    if right.any():
        acc = acc - a.sum(-1, dtype=np.int64, keepdims=b.ndim > 1) * right + a.shape[-1] * left * right
    return wrap_s32(acc)


def accumulator_error(a: Approx, b: Approx, za: Approx | None = None, zb: Approx | None = None) -> np.ndarray:
    """What uncertain codes and zero points add to a sum of products."""
    if all(x is None or x.known for x in (a, b, za, zb)):
        return np.zeros(())
    if a.value.ndim < 2 or b.value.ndim < 2:
        return UNKNOWN
    left, right = _per_row(None if za is None else za.value), _per_column(None if zb is None else zb.value)
    x, y = np.abs(a.value.astype(np.float64) - left), np.abs(b.value.astype(np.float64) - right)
    ex = a.full + (0 if za is None else _per_row(za.full))
    ey = b.full + (0 if zb is None else _per_column(zb.full))
    return (x + ex) @ (y + ey) - x @ y


def _integer(call: Call, *xs: Any) -> np.ndarray:
    a, b, za, zb = (*xs, None, None)[:4]
    return accumulate(call, a, b, za, zb)


def _integer_error(call: Call, xs: Sequence[Any], y: np.ndarray) -> np.ndarray:
    a, b, za, zb = (*xs, None, None)[:4]
    return accumulator_error(a, b, za, zb)


def _to_float(call: Call, *xs: Any) -> np.ndarray:
    """MatMulIntegerToFloat: f32(acc) * (a_scale * b_scale) + bias."""
    a, b, sa, sb, za, zb, bias = (*xs, None, None, None)[:7]
    if call.get("block_size", 0):
        y = in_blocks(call, a, b, _per_row(sa), _per_column(sb), _per_row(za), _per_column(zb))
    else:
        acc = call.tap("acc", accumulate(call, a, b, za, zb))
        y = acc.astype(sa.dtype) * (_per_row(sa) * _per_column(sb))
    return y if bias is None else y + bias


def _to_float_error(call: Call, xs: Sequence[Any], y: np.ndarray) -> np.ndarray:
    """Five roundings: of acc, the scales' product, the product, the sum, and one for a bias scaled by itself."""
    a, b, sa, sb, za, zb, bias = (*xs, None, None, None)[:7]
    if call.get("block_size", 0):
        off = in_blocks_error(call, a, b, sa, sb, za, zb)
        return off if bias is None else rounded(y, off + bias.error, 1)
    left, right = _per_row(sa.value), _per_column(sb.value)
    largest = (left + _per_row(sa.full)) * (right + _per_column(sb.full))
    shift = np.zeros(()) if bias is None else bias.value
    product = y - shift
    off = accumulator_error(a, b, za, zb)
    with np.errstate(divide="ignore", invalid="ignore"):
        acc = np.where(left * right != 0, np.abs(product / (left * right)), 0)
    moved = off * largest + acc * (largest - left * right) + (0 if bias is None else bias.error)
    return rounded(np.abs(product) + np.abs(shift), moved, 5) + acc * 2.0**-126


def _requantized(call: Call, *xs: Any) -> np.ndarray:
    """QLinearMatMul."""
    a, sa, za, b, sb, zb, sy, zy = xs
    scales = (_per_row(sa), _per_column(sb), _per_row(sy))
    zero = _per_row(zy)
    if call.get("block_size", 0):
        y = in_blocks(call, a, b, *scales[:2], _per_row(za), _per_column(zb))
        return quotient(y / scales[2], zero) if call.wide else call.semantics.quantize(y, scales[2], zero)
    acc = call.tap("acc", accumulate(call, a, b, za, zb))
    if call.wide:
        return quotient(acc * (scales[0] * scales[1] / scales[2]), zero)
    return call.semantics.requantize(acc, *scales, zero)


def _requantized_error(call: Call, xs: Sequence[Any], y: np.ndarray) -> np.ndarray:
    """In one step six roundings: of acc, three of the multiplier, the product, the zero point added before rounding. In
    two, eleven: of acc, the scales' product and theirs, and the eight that QuantizeLinear may have."""
    if not all(x is None or x.known for x in (*xs[1:3], *xs[4:])):
        return UNKNOWN
    a, sa, za, b, sb, zb, sy, zy = xs
    zero = _per_row(zy.value)
    if call.get("block_size", 0):
        off = in_blocks_error(call, a, b, sa, sb, za, zb) / _per_row(sy.value)
    else:
        off = accumulator_error(a, b, za, zb) * _per_row(sa.value) * _per_column(sb.value) / _per_row(sy.value)
    return rounded(np.abs(y - zero) + shift_of(zero, _in_levels(call)), off, 11)


def _in_levels(call: Call) -> bool:
    return call.semantics.requantize is requantize_in_two


def _qgemm(call: Call, *xs: Any) -> np.ndarray:
    a, sa, za, b, sb, zb, c, sy, zy = (*xs, None, None, None)[:9]
    a = a.T if call.get("transA", 0) else a
    b = b.T if call.get("transB", 0) else b
    acc = accumulate(call, a, b, za, zb)
    acc = call.tap("acc", acc if c is None else wrap_s32(acc.astype(np.int64) + c))
    alpha = sa.dtype.type(call.get("alpha", 1.0))
    left, right = _per_row(sa) * alpha, _per_column(sb)
    if sy is None:
        return acc.astype(left.dtype) * (left * right)
    zero = zero_of(call, zy)
    if call.wide:
        return quotient(acc * (left * right / sy), zero)
    return call.semantics.requantize(acc, left, right, sy, zero)


def _qgemm_error(call: Call, xs: Sequence[Any], y: np.ndarray) -> np.ndarray:
    """As QLinearMatMul, and one of alpha."""
    if not all(x is None or x.known for x in xs):
        return UNKNOWN
    zy = xs[8] if len(xs) > 8 else None
    zero = zero_of(call, None if zy is None else zy.value)
    return rounded(np.abs(y - zero) + shift_of(zero, _in_levels(call)), 0.0, 12)


OPERATORS = {
    ("", "MatMulInteger"): Operator(_integer, _integer_error),
    (MICROSOFT, "MatMulIntegerToFloat"): Operator(_to_float, _to_float_error),
    ("", "QLinearMatMul"): Operator(_requantized, _requantized_error, codes=True),
    (MICROSOFT, "QGemm"): Operator(_qgemm, _qgemm_error, codes=True),
}
