"""Judge another engine operator by operator: each of its values against the exact result of its own inputs.

Two engines that both round correctly drift apart, layer by layer, and no honest tolerance holds at the end. So nothing
is compared with our own run: the model's wiring is run once more with an op table that computes each operator in f64
*from the engine's values* and bounds what rounding can do to it (``refimpl.bounds``); the tap compares, and hands the
engine's value on. An operator that is wrong is found at its place, and only there.

    |engine value - f64 operator(engine inputs)| <= bound          f32 taps
    |engine code - (engine input / scale + 128)| <= 1/2 + bound    INT8 codes; those that are not ours are counted
    |engine code - 255 engine probability| <= 1/2 + bound          likewise
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl import bounds
from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.isa.bf16 import from_bf16, vcvtneps2bf16
from refimpl.models.bert import Batch, Model, forward
from refimpl.nn import NO_TAP, REFERENCE, AttentionScales, Norm, Ops, Tap
from refimpl.nn.embedding import check_ids
from refimpl.nn.linear_bf16 import Bf16Linear
from refimpl.nn.taps import SEPARATOR
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


class Finding(NamedTuple):
    """The verdict on one tap.

    worst: the largest |error| / bound, at most 1 if all is well; at: its index; outside: how many elements exceed
    their bound; of: how many there are; different: for codes, how many are not ours.
    """

    worst: float
    at: tuple[int, ...]
    outside: int
    of: int
    different: int


class JudgeTap:
    """Compares an ``Exact`` with the engine's value of that name, records a ``Finding`` and returns the value.

    Taps that the engine did not expose are passed through: what follows is then judged from our own exact value, and
    GELU, softmax, context and norms with the room that this value's own bound leaves them.
    """

    def __init__(self, engine: dict[str, np.ndarray], findings: dict[str, Finding] | None = None, prefix: str = ""):
        self.engine = engine
        self.findings: dict[str, Finding] = {} if findings is None else findings
        self.prefix = prefix

    def scope(self, name: str) -> "JudgeTap":
        return JudgeTap(self.engine, self.findings, self.prefix + name + SEPARATOR)

    def __call__(self, name: str, value: Any) -> Any:
        """value: an ``Exact``; returns the engine's value, f64, or u8 for codes; what was not exposed as it is."""
        exact: Exact = value
        name = self.prefix + name
        if name not in self.engine:
            return exact if exact.ours is None else exact.ours
        theirs = self.engine[name]
        if theirs.shape != exact.value.shape:
            raise ValueError(f"{name} has shape {theirs.shape}; need {exact.value.shape}")
        self.findings[name] = find(theirs, exact)
        return theirs if theirs.dtype == np.uint8 else theirs.astype(np.float64)


def find(value: np.ndarray, exact: Exact) -> Finding:
    """Compare one tap. NaN, or infinity where a finite number is due, is outside any bound."""
    error = np.abs(value.astype(np.float64) - exact.value)
    bound = np.broadcast_to(exact.bound, error.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error <= bound, np.where(bound > 0, error / bound, 0.0), np.maximum(error / bound, 1.0))
    ratio = np.where(np.isinf(bound) & (error <= bound), 0.0, np.where(np.isfinite(error), ratio, np.inf))
    at = np.unravel_index(int(ratio.argmax()), ratio.shape)
    outside = int((~(error <= bound)).sum())
    different = 0 if exact.ours is None else int((value != exact.ours).sum())
    return Finding(float(ratio[at]), tuple(int(i) for i in at), outside, error.size, different)


def first_outside(findings: dict[str, Finding]) -> str:
    """Where an engine first leaves its bounds, in words; "" if it never does."""
    for tap, finding in findings.items():
        if finding.outside:
            return f"{tap} {list(finding.at)} has {finding.worst:.3g} times the error allowed"
    return ""


def judge(model: Model, batch: Batch, engine: dict[str, np.ndarray]) -> dict[str, Finding]:
    """Tap name -> finding, for every tap that the engine exposed, of a model in f32 or quantized.

    A NaN or an infinity of the engine's is a finding at its tap, and at what follows from it.
    """
    tap = JudgeTap(engine)
    with np.errstate(invalid="ignore", over="ignore"):
        forward(model, batch, JUDGE, tap)
    return tap.findings


def _wide(p: Any) -> Any:
    return type(p)(*(np.asarray(part, np.float64) if isinstance(part, np.ndarray) else part for part in p))


def _parts(x: Any) -> tuple[np.ndarray, np.ndarray | float]:
    """An operand and its error: none where it is the engine's own."""
    return (x.value, x.bound) if isinstance(x, Exact) else (x, 0.0)


def _on_values(op: Callable[..., Any]) -> Callable[..., Any]:
    """The operator with errors of its operands left out."""
    return lambda *operands: op(*(_parts(x)[0] for x in operands))


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


def _linear(x: np.ndarray, p: Any, tap: Tap = NO_TAP) -> Exact:
    if isinstance(p, Bf16Linear):
        return _linear_bf16(x, p)
    if not isinstance(p, QuantizedLinear):
        return Exact(REFERENCE.linear(x, _wide(p)), bounds.linear(x, p.weight, p.bias))
    codes = tap("codes", _codes(x, p.input_scale))
    acc = gemm_u8s8s32(codes.reshape(-1, codes.shape[-1]), p.codes) - p.compensation
    acc = acc.reshape(*x.shape[:-1], -1)
    scales = (p.input_scale, p.weight_scale, p.bias)
    exact = acc * (p.input_scale.astype(np.float64) * p.weight_scale) + p.bias
    return Exact(exact, bounds.rescale(acc, *scales))


def _linear_bf16(x: np.ndarray, p: Bf16Linear) -> Exact:
    """The rounding of x to bf16 is part of the operator, and no error."""
    a = vcvtneps2bf16(x.reshape(-1, x.shape[-1]).astype(np.float32))
    exact = from_bf16(a).astype(np.float64) @ from_bf16(p.weight).T.astype(np.float64) + p.bias
    bound = bounds.linear_bf16(a, p.weight, p.bias)
    return Exact(exact.reshape(*x.shape[:-1], -1), bound.reshape(*x.shape[:-1], -1))


def _codes(x: np.ndarray, scale: np.ndarray) -> Exact:
    finite = np.nan_to_num(x.astype(np.float32))  # what is not was found at its own tap
    quotient = np.clip(finite / scale.astype(np.float64), ACTIVATION_MIN, ACTIVATION_MAX) + ZERO_POINT
    return Exact(quotient, bounds.quantize(finite, scale), quantize_activation(finite, scale))


def _layernorm(x: Any, p: Norm) -> Exact:
    x, error = _parts(x)
    return Exact(REFERENCE.layernorm(x, _wide(p)), bounds.layernorm(x, p.weight, p.eps, p.bias, error))


def _add_layernorm(x: Any, residual: Any, p: Norm) -> Exact:
    (x, x_error), (residual, residual_error) = _parts(x), _parts(residual)
    bound = bounds.add_layernorm(x, residual, p, x_error=x_error + residual_error)
    return Exact(REFERENCE.add_layernorm(x, residual, _wide(p)), bound)


def _softmax(x: Any) -> Exact:
    x, error = _parts(x)
    return Exact(REFERENCE.softmax(x), bounds.softmax(x, x_error=error))


def _gelu(x: Any) -> Exact:
    x, error = _parts(x)
    return Exact(REFERENCE.gelu(x), bounds.gelu(x, x_error=error))


def _attention_operands(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scales: AttentionScales | None, tap: Tap = NO_TAP
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
        return Exact(REFERENCE.attention_scores(q, k, np.ones_like(mask)), bounds.attention_scores(q, k))
    acc, e = integer_scores(q.codes, signed(k.codes)), q.codes.shape[-1]
    factor = q.scale.astype(np.float64) * k.scale / np.sqrt(e)
    return Exact(acc * factor, bounds.scaled_scores(acc, q.scale, k.scale, e))


def _attention_scores(q: Any, k: Any, mask: np.ndarray) -> Exact:
    """At masked keys the lowest f32 number is added, which rounds once: a mask that was ignored is found here."""
    value, bound, _ = _products(q, k, mask)
    lowest = np.where(mask[:, None, None, :] != 0, 0.0, LOWEST)
    return Exact(value + lowest, bound + np.where(lowest, bounds.add(value, lowest), 0.0))


def _attention_context(probs: Any, v: Any, tap: Tap = NO_TAP) -> Exact:
    probs, error = _parts(probs)
    if not isinstance(v, Codes):
        bound = bounds.attention_context(probs, v, probs_error=error)
        return Exact(REFERENCE.attention_context(probs, v), bound)
    finite = np.clip(np.nan_to_num(probs.astype(np.float32)), 0, 1)  # what is not was found at its own tap
    exact = Exact(finite.astype(np.float64) * PROBS_MAX, bounds.quantize_probs(finite), quantize_probs(finite))
    acc = integer_context(tap("probs_codes", exact), signed(v.codes))
    return Exact(acc * (v.scale.astype(np.float64) / PROBS_MAX), bounds.scaled_context(acc, v.scale))


def _merge_heads(x: Exact) -> Exact:
    return Exact(REFERENCE.merge_heads(x.value), REFERENCE.merge_heads(x.bound))


JUDGE = Ops(
    embedding=_embedding,
    position_embedding=REFERENCE.position_embedding,
    add=_add,
    linear=_on_values(_linear),
    layernorm=_layernorm,
    add_layernorm=_add_layernorm,
    split_heads=_on_values(REFERENCE.split_heads),
    merge_heads=_merge_heads,
    attention_operands=_attention_operands,
    attention_scores=_attention_scores,
    softmax=_softmax,
    attention_context=_attention_context,
    gelu=_gelu,
    tanh=_on_values(lambda x: Exact(REFERENCE.tanh(x), bounds.tanh(x))),
    relu=_on_values(lambda x: Exact(REFERENCE.relu(x), bounds.relu(x))),
    first_token=_on_values(REFERENCE.first_token),
    mean_pool=_on_values(lambda x, mask: Exact(REFERENCE.mean_pool(x, mask), bounds.mean_pool(x, mask))),
    l2_normalize=_on_values(lambda x: Exact(REFERENCE.l2_normalize(x), bounds.l2_normalize(x))),
)
"""Operators take the engine's values, widened to f64, and return an ``Exact``, which the next tap turns back if the
engine exposed it."""
