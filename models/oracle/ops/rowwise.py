"""Reductions and what is built on them: sums, norms, Softmax, LayerNormalization, CumSum."""

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl import bounds
from refimpl.models.oracle.operator import TINY, UNKNOWN, Approx, Call, Operator, axes_of, ints, only, rounded
from refimpl.models.oracle.ops.elementwise import float_only
from refimpl.nn import Norm
from refimpl.nn.layernorm import layernorm
from refimpl.nn.softmax import softmax

F16 = np.float16


def _axes(call: Call, rank: int, more: tuple[np.ndarray | None, ...]) -> tuple[int, ...]:
    """Of a reduction; all if none are given, or none at all where the node says so."""
    axes = ints(more[0]) if more and more[0] is not None else call.get("axes", None)
    if not axes:
        return () if call.get("noop_with_empty_axes", 0) else tuple(range(rank))
    return axes_of(axes, rank)


def _reduce(f: Callable[..., Any]) -> Callable[..., np.ndarray]:
    def value(call: Call, x: np.ndarray, *more: np.ndarray | None) -> np.ndarray:
        axes, keep = _axes(call, x.ndim, more), bool(call.get("keepdims", 1))
        return np.asarray(f(x, axis=axes, keepdims=keep)).astype(x.dtype)

    return value


def _along(call: Call, xs: list[Approx | None]) -> tuple[Approx, dict[str, Any], int]:
    """The operand, how NumPy is to reduce it, and how many numbers meet in each result."""
    x = xs[0]
    assert x is not None
    axes = _axes(call, x.value.ndim, tuple(None if y is None else y.value for y in xs[1:]))
    how = {"axis": axes, "keepdims": bool(call.get("keepdims", 1))}
    return x, how, int(np.prod([x.value.shape[axis] for axis in axes], dtype=np.int64))


def _sum_error(call: Call, xs: list[Approx | None], y: np.ndarray) -> np.ndarray:
    """n - 1 additions, of |x| at worst."""
    x, how, n = _along(call, xs)
    moved = x.full.sum(**how)
    return moved + bounds.gamma(max(n - 1, 0)) * (np.abs(x.value) + x.full).sum(**how) + n * TINY


def _mean_error(call: Call, xs: list[Approx | None], y: np.ndarray) -> np.ndarray:
    """Two roundings more: 1 / n and the product, or the division."""
    x, how, n = _along(call, xs)
    moved = x.full.mean(**how)
    return moved + bounds.gamma(n + 1) * (np.abs(x.value) + x.full).mean(**how) + 2 * TINY


def _l2_error(call: Call, xs: list[Approx | None], y: np.ndarray) -> np.ndarray:
    """sqrt(sum x**2): the norm of the errors, and half the relative error of the sum, bounded by all of it."""
    x, how, n = _along(call, xs)
    moved = np.sqrt((x.full**2).sum(**how))
    return rounded(y, moved, n + 2) + np.sqrt(n * TINY)


def _product_error(call: Call, xs: list[Approx | None], y: np.ndarray) -> np.ndarray:
    x, how, n = _along(call, xs)
    return rounded(y, np.prod(x.size, **how) - np.prod(np.abs(x.value), **how), n)


def _extreme_error(call: Call, xs: list[Approx | None], y: np.ndarray) -> np.ndarray:
    x, how, _ = _along(call, xs)
    return x.full.max(**how)


def _norm2(x: np.ndarray, **how: Any) -> np.ndarray:
    return np.sqrt((x * x).sum(**how))


# --- rows ------------------------------------------------------------------------------------------------------------


def _axis(call: Call, rank: int) -> int:
    (axis,) = axes_of([call.get("axis", -1 if call.opset >= 13 else 1)], rank)
    return axis


def _rows(call: Call, x: np.ndarray) -> np.ndarray:
    """The axis of softmax last; before opset 13 all from the axis on are one."""
    axis = _axis(call, x.ndim)
    if call.opset < 13 and call.node.domain == "":
        return x.reshape(*x.shape[:axis], -1)
    return np.moveaxis(x, axis, -1)


def _back(call: Call, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if call.opset < 13 and call.node.domain == "":
        return rows.reshape(shape)
    return np.moveaxis(rows, -1, _axis(call, len(shape)))


def _softmax(call: Call, x: np.ndarray) -> np.ndarray:
    rows = _rows(call, x.astype(np.float32) if x.dtype == F16 else x)
    return _back(call, softmax(rows), x.shape).astype(x.dtype)


def _softmax_error(call: Call, xs: list[Approx], y: np.ndarray) -> np.ndarray:
    x = xs[0]
    return _back(call, bounds.softmax(_rows(call, x.value), _rows(call, x.full)), y.shape)


def _log_softmax(call: Call, x: np.ndarray) -> np.ndarray:
    rows = _rows(call, x)
    shifted = rows - rows.max(-1, keepdims=True)
    return _back(call, shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)), x.shape).astype(x.dtype)


def _log_softmax_error(call: Call, xs: list[Approx], y: np.ndarray) -> np.ndarray:
    """Errors h of x move the result by h_i + max h; d = x - max x rounds, log S has the relative error of S and its
    own, and the difference rounds."""
    x = xs[0]
    rows, h = _rows(call, x.value), _rows(call, x.full)
    d = rows.max(-1, keepdims=True) - rows
    n, u = rows.shape[-1], bounds.F32
    weighted = (softmax(rows) * d).sum(-1, keepdims=True)
    total = (bounds.gamma(n + 2 * bounds.EXP_ULPS) + u * weighted) * 2
    log = np.log(np.exp(-d).sum(-1, keepdims=True)) * 2 * bounds.EXP_ULPS * u
    moved = h + h.max(-1, keepdims=True)
    own = 2 * u * (d + np.abs(_rows(call, y))) + total + log + 2 * TINY
    return _back(call, moved * (1 + 4 * u) + own, y.shape)


def _flat_norm(call: Call, x: np.ndarray, scale: np.ndarray, bias: np.ndarray | None) -> tuple[Any, ...]:
    """Rows (..., D), scale and bias (D,), the lengths before and from the axis on."""
    (axis,) = axes_of([call.get("axis", -1)], x.ndim)
    tail = x.shape[axis:]
    rows = x.reshape(*x.shape[:axis], -1)
    flat = np.broadcast_to(scale, tail).reshape(-1)
    shift = np.zeros_like(flat) if bias is None else np.broadcast_to(bias, tail).reshape(-1)
    return rows, Norm(flat, shift, call.get("epsilon", 1e-5)), axis


def _layernorm(call: Call, x: np.ndarray, scale: np.ndarray, bias: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    single = x.astype(np.float32) if x.dtype == F16 else x
    rows, p, axis = _flat_norm(
        call, single, scale.astype(single.dtype), None if bias is None else bias.astype(single.dtype)
    )
    y = layernorm(rows, p).reshape(x.shape).astype(x.dtype)
    if len(call.node.outputs) == 1:
        return (y,)
    kept = (*x.shape[:axis], *(1,) * (x.ndim - axis))
    variance = rows.var(-1) + rows.dtype.type(p.eps)
    return y, rows.mean(-1).reshape(kept), (1 / np.sqrt(variance)).reshape(kept)


def _layernorm_error(call: Call, xs: list[Approx | None], y: np.ndarray) -> np.ndarray:
    x, scale, bias = (*xs, None)[:3]
    assert x is not None
    assert scale is not None
    rows, p, _ = _flat_norm(call, x.value, scale.value, None if bias is None else bias.value)
    _, off, _ = _flat_norm(call, x.value, scale.full, None if bias is None else bias.full)
    error = bounds.layernorm(rows, np.abs(p.weight) + off.weight, p.eps, p.bias, x.full.reshape(rows.shape))
    if off.weight.any() or off.bias.any():
        unit = np.abs(layernorm(rows, Norm(np.ones_like(p.weight), np.zeros_like(p.bias), p.eps)))
        largest = unit * np.abs(p.weight) + np.abs(p.bias)
        error = error + rounded(largest, unit * off.weight + off.bias)
    return error.reshape(y.shape)


def _rms(call: Call, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    rows, p, _ = _flat_norm(call, x, scale, None)
    y = rows / np.sqrt((rows * rows).mean(-1, keepdims=True) + rows.dtype.type(p.eps)) * p.weight
    return y.reshape(x.shape)


def _rms_error(call: Call, xs: list[Approx | None], y: np.ndarray) -> np.ndarray:
    """x / r, r = sqrt(mean x**2 + eps): r has half the relative error gamma(D + 2) of its square, bounded by all of
    it; three roundings more, sqrt, quotient, product. An error e of x moves x / r by e / r and |x / r| rms(e) / r."""
    x, scale = only(xs)[:2]
    if not scale.known:
        return UNKNOWN
    rows, p, _ = _flat_norm(call, x.value, scale.value, None)
    h = x.full.reshape(rows.shape)
    r = np.sqrt((rows * rows).mean(-1, keepdims=True) + p.eps)
    shift = np.sqrt((h * h).mean(-1, keepdims=True)) / r
    unit = np.abs(rows) / r
    moved = np.where(shift < 1, (h / r + unit * shift) / np.maximum(1 - shift, 1e-9), np.inf)
    return rounded(y, (moved * np.abs(p.weight)).reshape(y.shape), rows.shape[-1] + 5)


def _cumsum(call: Call, x: np.ndarray, axis: np.ndarray) -> np.ndarray:
    (along,) = axes_of(ints(axis) or [], x.ndim)
    turned = np.flip(x, along) if call.get("reverse", 0) else x
    total = np.cumsum(turned, along, dtype=x.dtype)
    if call.get("exclusive", 0):
        total = np.concatenate([np.zeros_like(np.take(total, [0], along)), np.delete(total, -1, along)], along)
    return np.flip(total, along) if call.get("reverse", 0) else total


def _cumsum_error(call: Call, xs: list[Approx], y: np.ndarray) -> np.ndarray:
    x, axis = xs
    n = max(x.value.shape, default=1)
    return _cumsum(call, x.full + bounds.gamma(n) * x.size, axis.value) + n * TINY


def _arg(f: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def value(call: Call, x: np.ndarray) -> np.ndarray:
        (axis,) = axes_of([call.get("axis", 0)], x.ndim)
        last = bool(call.get("select_last_index", 0))
        found = f(np.flip(x, axis) if last else x, axis=axis, keepdims=bool(call.get("keepdims", 1)))
        return (x.shape[axis] - 1 - found if last else found).astype(np.int64)

    return value


def _reduction(f: Callable[..., Any], error: Callable[..., np.ndarray]) -> Operator:
    def full(call: Call, xs: list[Approx | None], y: np.ndarray) -> np.ndarray:
        if y.dtype.kind == "f":
            return error(call, xs, y)
        return np.zeros(()) if all(x.known for x in only(xs)) else UNKNOWN

    return Operator(_reduce(f), full)


SOFTMAX = Operator(_softmax, float_only(_softmax_error))
RMS = Operator(_rms, _rms_error)

OPERATORS = {
    ("", "ReduceSum"): _reduction(np.sum, _sum_error),
    ("", "ReduceMean"): _reduction(np.mean, _mean_error),
    ("", "ReduceL2"): _reduction(_norm2, _l2_error),
    ("", "ReduceProd"): _reduction(np.prod, _product_error),
    ("", "ReduceMax"): _reduction(np.max, _extreme_error),
    ("", "ReduceMin"): _reduction(np.min, _extreme_error),
    ("", "Softmax"): SOFTMAX,
    ("", "LogSoftmax"): Operator(_log_softmax, float_only(_log_softmax_error)),
    ("", "LayerNormalization"): Operator(_layernorm, _layernorm_error),
    ("", "SimplifiedLayerNormalization"): RMS,
    ("", "RMSNormalization"): RMS,
    ("", "CumSum"): Operator(_cumsum, float_only(_cumsum_error)),
    ("", "ArgMax"): Operator(_arg(np.argmax), lambda call, xs, y: np.zeros(()) if xs[0].known else UNKNOWN),  # type: ignore[union-attr]
    ("", "ArgMin"): Operator(_arg(np.argmin), lambda call, xs, y: np.zeros(()) if xs[0].known else UNKNOWN),  # type: ignore[union-attr]
}
