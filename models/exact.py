"""The exact result of every operator, in f64, from an engine's own values, and how far the engine's may be from it.

The op table behind ``models.judge``. An operator takes the engine's values, or what is exact in place of those that the
engine keeps to itself, and returns an ``Exact``; a tap turns it into what the next operator takes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl import bounds, bounds_bf16, propagation
from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.isa.bf16 import from_bf16, vcvtneps2bf16
from refimpl.nn import NO_TAP, REFERENCE, AttentionScales, Norm, Ops, Tap
from refimpl.nn.embedding import check_ids
from refimpl.nn.linear_bf16 import Bf16Linear
from refimpl.quant import ZERO_POINT, Codes, QuantizedLinear, QuantizedTable, quantize_activation, signed
from refimpl.quant.attention import PROBS_MAX, integer_context, integer_scores, quantize_probs
from refimpl.quant.symmetric import ACTIVATION_MAX, ACTIVATION_MIN

LOWEST = float(np.finfo(np.float32).min)


class Exact(NamedTuple):
    """What an operator's result is, f64 (...), and how far an engine may be from it, f64 (...).

    For codes, value is the quotient before rounding and ours, u8 (...), what our quantizer makes of it.
    """

    value: np.ndarray
    bound: np.ndarray
    ours: np.ndarray | None = None


class Unseen(NamedTuple):
    """A value that the engine keeps to itself: the exact one, f64 or u8 codes, and how far the engine's may be from it.

    error: f64, of the same shape.
    """

    value: np.ndarray
    error: np.ndarray


BF16 = 2.0**-7
"""Between two neighbours in bf16, relative to them."""

SLACK = 1 + 2.0**-10
"""What rounding does is bounded at the exact value; at the engine's own it differs by far less than its 1024th part."""

UNKNOWN = 1e150
"""An error as good as infinite, times which 0 is 0."""


def unseen(exact: Exact) -> Unseen:
    """What an engine may have in place of an exact result."""
    bound = np.broadcast_to(exact.bound, exact.value.shape)
    if exact.ours is None:
        return Unseen(exact.value, np.minimum(SLACK * bound, UNKNOWN))
    return Unseen(exact.ours, propagation.codes(exact.value, bound, exact.ours))


def known(x: Any) -> tuple[np.ndarray, np.ndarray]:
    """An engine's value, or the exact one in its place, and how far the engine's may be from it."""
    return (x.value, x.error) if isinstance(x, Unseen) else (x, np.zeros(np.shape(x)))


def _both(change: Callable[..., np.ndarray]) -> Callable[..., Any]:
    """An operator that only moves numbers, on what is unseen, too."""
    return lambda x, *rest: Unseen(*(change(part, *rest) for part in x)) if isinstance(x, Unseen) else change(x, *rest)


def _wide(p: Any) -> Any:
    return type(p)(*(np.asarray(part, np.float64) if isinstance(part, np.ndarray) else part for part in p))


def _wide_codes(codes: np.ndarray) -> np.ndarray:
    return codes.astype(np.float64) - ZERO_POINT


def _embedding(ids: np.ndarray, table: Any) -> Exact:
    """Copies of rows are exact; code * scale is rounded once, or fused into the addition that follows."""
    if not isinstance(table, QuantizedTable):
        return Exact(REFERENCE.embedding(ids, table).astype(np.float64), np.zeros(()))
    check_ids(ids, len(table.codes))
    value = table.codes[ids] * table.scale[ids].astype(np.float64)[..., None]
    return Exact(value, bounds.F32 * np.abs(value))


def _add(x: Exact, y: Exact | np.ndarray) -> Exact:
    """Sums of embeddings: each addition rounds once, and carries what came before."""
    exact = y.value if isinstance(y, Exact) else y.astype(np.float64)  # positions and token types are copies
    rounding = bounds.add(np.abs(x.value) + x.bound, np.abs(exact))
    return Exact(x.value + exact, x.bound + rounding)


def _linear_bf16(x: Any, p: Bf16Linear) -> Exact:
    """The rounding of x to bf16 is part of the operator, and no error; where x is uncertain, so is its rounding."""
    value, error = known(x)
    a = vcvtneps2bf16(value.reshape(-1, value.shape[-1]).astype(np.float32))
    steps = np.where(error > 0, error + BF16 * (np.abs(value) + error), 0)
    moved = propagation.product(value, steps, from_bf16(p.weight).T.astype(np.float64), np.zeros(()))
    exact = from_bf16(a).astype(np.float64) @ from_bf16(p.weight).T.astype(np.float64) + p.bias
    bound = bounds_bf16.linear_bf16(a, p.weight, p.bias)
    return Exact(exact.reshape(*value.shape[:-1], -1), bound.reshape(*value.shape[:-1], -1) + moved)


def _linear(x: Any, p: Any, tap: Tap = NO_TAP) -> Exact:
    if isinstance(p, Bf16Linear):
        return _linear_bf16(x, p)
    if not isinstance(p, QuantizedLinear):
        value, error = known(x)
        moved = propagation.product(value, error, p.weight.T.astype(np.float64), np.zeros(()))
        bound = bounds.linear(np.abs(value) + error, p.weight, p.bias) + moved
        return Exact(REFERENCE.linear(value, _wide(p)), bound)
    codes, steps = known(tap("codes", _codes(x, p.input_scale)))
    acc = gemm_u8s8s32(codes.reshape(-1, codes.shape[-1]), p.codes) - p.compensation
    acc = acc.reshape(*codes.shape[:-1], -1)
    scales = p.input_scale.astype(np.float64) * p.weight_scale
    moved = SLACK * scales * propagation.product(codes, steps, p.codes.T.astype(np.float64), np.zeros(()))
    return Exact(acc * scales + p.bias, bounds.rescale(acc, p.input_scale, p.weight_scale, p.bias) + moved)


def _codes(x: Any, scale: np.ndarray) -> Exact:
    value, error = known(x)
    finite = np.nan_to_num(value, posinf=-LOWEST, neginf=LOWEST)  # what is not was found at its own tap
    quotient = np.clip(finite / scale.astype(np.float64), ACTIVATION_MIN, ACTIVATION_MAX) + ZERO_POINT
    ours = quantize_activation(finite.astype(np.float32), scale)
    return Exact(quotient, bounds.quantize(finite, scale) + error / scale, ours)


def _layernorm(x: Any, p: Norm) -> Exact:
    value, error = known(x)
    bound = bounds.layernorm(value, p.weight, p.eps, p.bias, error)
    return Exact(REFERENCE.layernorm(value, _wide(p)), bound)


def _add_layernorm(x: Any, residual: Any, p: Norm) -> Exact:
    (x, error), (residual, other) = known(x), known(residual)
    summed = bounds.add(x, residual) + SLACK * (error + other)
    bound = bounds.layernorm(x + residual, p.weight, p.eps, p.bias, summed)
    return Exact(REFERENCE.add_layernorm(x, residual, _wide(p)), bound)


def _attention_operands(
    q: Any, k: Any, v: Any, scales: AttentionScales | None, tap: Tap = NO_TAP
) -> tuple[Any, Any, Any]:
    if scales is None:
        return q, k, v
    return (
        Codes(tap("q_codes", _codes(q, scales.q)), scales.q),
        Codes(tap("k_codes", _codes(k, scales.k)), scales.k),
        Codes(tap("v_codes", _codes(v, scales.v)), scales.v),
    )


def _products(q: Any, k: Any, mask: np.ndarray) -> Exact:
    """Scores without the mask."""
    if not isinstance(q, Codes):
        (q, q_error), (k, k_error) = known(q), known(k)
        bound = bounds.attention_scores(np.abs(q) + q_error, np.abs(k) + k_error)
        moved = propagation.product(q, q_error, k.mT, k_error.mT) / q.shape[-1] ** 0.5
        return Exact(REFERENCE.attention_scores(q, k, np.ones_like(mask)), bound + moved)
    (q_codes, q_steps), (k_codes, k_steps) = known(q.codes), known(k.codes)
    acc, e = integer_scores(q_codes, signed(k_codes)), q_codes.shape[-1]
    factor = q.scale.astype(np.float64) * k.scale / np.sqrt(e)
    moved = propagation.product(_wide_codes(q_codes), q_steps, _wide_codes(k_codes).mT, k_steps.mT)
    return Exact(acc * factor, bounds.scaled_scores(acc, q.scale, k.scale, e) + SLACK * factor * moved)


def _attention_scores(q: Any, k: Any, mask: np.ndarray) -> Exact:
    """At masked keys the lowest f32 number is added, which rounds once: a mask that was ignored is found here."""
    value, bound, _ = _products(q, k, mask)
    lowest = np.where(mask[:, None, None, :] != 0, 0.0, LOWEST)
    return Exact(value + lowest, bound + np.where(lowest, bounds.add(value, lowest), 0.0))


def _softmax(x: Any) -> Exact:
    value, error = known(x)
    return Exact(REFERENCE.softmax(value), bounds.softmax(value, error))


def _attention_context(probs: Any, v: Any, tap: Tap = NO_TAP) -> Exact:
    probs, error = known(probs)
    if not isinstance(v, Codes):
        v, v_error = known(v)
        bound = bounds.attention_context(probs + error, np.abs(v) + v_error)
        return Exact(REFERENCE.attention_context(probs, v), bound + propagation.product(probs, error, v, v_error))
    finite = np.clip(np.nan_to_num(probs), 0, 1)  # what is not was found at its own tap
    ours = quantize_probs(finite.astype(np.float32))
    exact = Exact(finite * PROBS_MAX, bounds.quantize_probs(finite) + PROBS_MAX * error, ours)
    (codes, steps), (v_codes, v_steps) = known(tap("probs_codes", exact)), known(v.codes)
    acc, factor = integer_context(codes, signed(v_codes)), v.scale.astype(np.float64) / PROBS_MAX
    moved = (
        SLACK
        * factor
        * propagation.product(codes.astype(np.float64), steps, v_codes.astype(np.float64) - ZERO_POINT, v_steps)
    )
    return Exact(acc * factor, bounds.scaled_context(acc, v.scale) + moved)


def _merge_heads(x: Exact) -> Exact:
    return Exact(REFERENCE.merge_heads(x.value), REFERENCE.merge_heads(x.bound))


def _gelu(x: Any) -> Exact:
    value, error = known(x)
    return Exact(REFERENCE.gelu(value), bounds.gelu(value) + propagation.gelu(error))


def _tanh(x: Any) -> Exact:
    value, error = known(x)
    return Exact(REFERENCE.tanh(value), bounds.tanh(value) + error)


def _relu(x: Any) -> Exact:
    value, error = known(x)
    return Exact(REFERENCE.relu(value), bounds.relu(value) + error)


def _mean_pool(x: Any, mask: np.ndarray) -> Exact:
    value, error = known(x)
    bound = bounds.mean_pool(np.abs(value) + error, mask) + REFERENCE.mean_pool(error, mask)
    return Exact(REFERENCE.mean_pool(value, mask), bound)


def _l2_normalize(x: Any) -> Exact:
    value, error = known(x)
    return Exact(REFERENCE.l2_normalize(value), bounds.l2_normalize(value) + propagation.l2_normalize(value, error))


JUDGE = Ops(
    embedding=_embedding,
    position_embedding=REFERENCE.position_embedding,
    add=_add,
    linear=_linear,
    layernorm=_layernorm,
    add_layernorm=_add_layernorm,
    split_heads=_both(REFERENCE.split_heads),
    merge_heads=_merge_heads,
    attention_operands=_attention_operands,
    attention_scores=_attention_scores,
    softmax=_softmax,
    attention_context=_attention_context,
    gelu=_gelu,
    tanh=_tanh,
    relu=_relu,
    first_token=_both(REFERENCE.first_token),
    mean_pool=_mean_pool,
    l2_normalize=_l2_normalize,
)
"""Values of the engine's are widened to f64."""
