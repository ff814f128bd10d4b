"""Plausible wrong versions of what refimpl defines, each with the check that must reject it.

A vector set that accepts one of these would also accept an engine with that bug. Most are bugs that real systems had
or have, or the other reading of an ambiguous sentence; none is a typo that every test would find.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import test_1_arithmetic as arithmetic
import test_2_instructions as instructions
import test_3_operators as operators
import test_8_pruning as pruning
from scipy.special import erf

from refimpl import isa
from refimpl.integer import gemm, narrow, pairs
from refimpl.nn.attention import attention_context, attention_scores
from refimpl.nn.elementwise import tanh
from refimpl.nn.gelu import gelu
from refimpl.nn.layernorm import layernorm
from refimpl.nn.linear import linear
from refimpl.nn.mean_pooling import l2_normalize, mean_pool
from refimpl.nn.ops import add_layernorm
from refimpl.nn.params import Norm
from refimpl.nn.softmax import softmax
from refimpl.prune import block_scores, expand, global_topk_masks, live_blocks, topk_mask
from refimpl.quant import linear as quant_linear
from refimpl.quant import symmetric
from refimpl.quant.requantize import requantize

F32 = np.float32


class Suite(NamedTuple):
    """A check, the implementation that it must accept, and by name those that it must reject."""

    check: Callable[[Any], None]
    true: Callable[..., Any]
    mutants: dict[str, Callable[..., Any]]


# --- rounding and codes ----------------------------------------------------------------------------------------------


def half_away(x):
    return np.copysign(np.floor(np.abs(x) + 0.5), x)


def half_up(x):
    return np.floor(x + 0.5)


ROUNDINGS = {"ties away from zero": half_away, "ties up": half_up, "truncation": np.trunc, "floor": np.floor}


def ratio(x, scale):
    with np.errstate(over="ignore"):
        return x / scale


def activation(rounding=np.rint, low=-128, high=127, zero=128, quotient=ratio):
    def quantize(x, scale):
        return (rounding(np.clip(quotient(x, scale), low, high)).astype(np.int32) + zero).astype(np.uint8)

    return quantize


def by_reciprocal(x, scale):
    with np.errstate(over="ignore", invalid="ignore"):
        return np.nan_to_num(x * (F32(1) / scale))


def in_f64(x, scale):
    return np.float64(x) / np.float64(scale)


def wrapping_activation(x, scale):
    """Rounds, then wraps instead of clamping, as ONNX's reference evaluator does in QLinearMatMul."""
    return (np.rint(np.clip(ratio(x, scale), -(2.0**30), 2.0**30)).astype(np.int32) + 128).astype(np.uint8)


def weight(rounding=np.rint, limit=127, divisor=127, axis=1, quotient=ratio):
    def quantize(w):
        scale = np.abs(w).max(axis, keepdims=True) / F32(divisor)
        scale = np.where(scale >= symmetric.SMALLEST_NORMAL, scale, F32(1))
        codes = rounding(np.clip(quotient(w, scale), -limit, 127)).astype(np.int8)
        return codes, np.broadcast_to(scale, (w.shape[0], 1))[:, 0]

    return quantize


def requantized(rounding=np.rint, widen=np.float32, multiplier=lambda a, w, y: a * w / y, clip=True):
    def function(acc, a, w, y):
        x = (acc.astype(widen) * multiplier(a, w, y)).astype(F32)
        x = rounding(np.clip(x, -128, 127) if clip else np.clip(x, -(2.0**30), 2.0**30))
        return (x.astype(np.int32) + 128).astype(np.uint8)

    return function


def rescaled(product):
    def function(acc, a, w, bias):
        return product(acc.astype(F32), a, w, bias)

    return function


CODES = [
    Suite(
        arithmetic.check_quantize_activation,
        symmetric.quantize_activation,
        {name: activation(rounding) for name, rounding in ROUNDINGS.items()}
        | {
            "reciprocal for division": activation(quotient=by_reciprocal),
            "division in f64": activation(quotient=in_f64),
            "-127 as the lowest": activation(low=-127),
            "zero point 127": activation(zero=127),
            "wraps": wrapping_activation,
        },
    ),
    Suite(
        arithmetic.check_quantize_weight,
        symmetric.quantize_weight,
        {name: weight(rounding) for name, rounding in ROUNDINGS.items()}
        | {
            "reciprocal for division": weight(quotient=by_reciprocal),
            "absmax / 128, full range": weight(limit=128, divisor=128),
            "absmax / 127.5, full range": weight(limit=128, divisor=127.5),
            "one scale for the tensor": weight(axis=(0, 1)),
        },
    ),
    Suite(
        arithmetic.check_scale_of,
        symmetric.scale_of,
        {
            "times 1 / 127": lambda x: np.where((s := x * F32(1 / 127)) >= 2.0**-126, s, F32(1)),
            "only 0 becomes 1": lambda x: np.where(x > 0, x / F32(127), F32(1)),
            "plus an epsilon": lambda x: np.maximum(x / F32(127), F32(1e-10)),
        },
    ),
    Suite(
        arithmetic.check_requantize,
        requantize,
        {name: requantized(rounding) for name, rounding in ROUNDINGS.items()}
        | {
            "wraps": requantized(clip=False),
            "accumulator kept in f64": requantized(widen=np.float64),
            "weight scale / output scale first": requantized(multiplier=lambda a, w, y: a * (w / y)),
            "input scale / output scale first": requantized(multiplier=lambda a, w, y: a / y * w),
            "times 1 / output scale": requantized(multiplier=lambda a, w, y: a * w * (F32(1) / y)),
        },
    ),
    Suite(
        arithmetic.check_rescale,
        quant_linear.rescale,
        {
            "input scale first": rescaled(lambda x, a, w, b: x * a * w + b),
            "weight scale first": rescaled(lambda x, a, w, b: x * w * a + b),
            "fused multiply-add": rescaled(lambda x, a, w, b: (np.float64(x) * (a * w) + b).astype(F32)),
            "bias forgotten": rescaled(lambda x, a, w, b: x * (a * w)),
            "bias in integers, truncated": rescaled(lambda x, a, w, b: (x + np.trunc(b / (a * w))) * (a * w)),
            "accumulator kept in f64": lambda x, a, w, b: (x.astype(np.float64) * (a * w)).astype(F32) + b,
        },
    ),
]


# --- narrowing, products ---------------------------------------------------------------------------------------------


def pair_saturating(pairs):
    """A product that clips each pair; ``pairs(K)`` lists which channels are added before clipping."""

    def function(a, w):
        a, w = even(a).astype(np.int32), even(w).astype(np.int32)
        products = a[:, None] * w
        terms = [products[..., list(p)].sum(-1) for p in pairs(a.shape[1])]
        return sum(np.clip(t, -32768, 32767) for t in terms).astype(np.int32)

    return function


def even(x):
    """Pad an odd K with a zero."""
    return np.pad(x, ((0, 0), (0, x.shape[1] % 2)))


def stride_two(k):
    """(k, k + 2) inside each group of four; what is left over as neighbours."""
    groups = [pair for i in range(0, k - k % 4, 4) for pair in ((i, i + 2), (i + 1, i + 3))]
    return groups + [(i, i + 1) for i in range(k - k % 4, k, 2)]


def running_saturation(a, w):
    """Saturates the accumulator after each pair, not the pair."""
    a, w = even(a).astype(np.int32), even(w).astype(np.int32)
    acc = np.zeros((a.shape[0], w.shape[0]), np.int32)
    for k in range(0, a.shape[1], 2):
        acc = np.clip(acc + a[:, k : k + 2] @ w[:, k : k + 2].T, -32768, 32767)
    return acc


def wrapping_pairs(a, w):
    a, w = even(a).astype(np.int32), even(w).astype(np.int32)
    products = a[:, None] * w
    return (products[..., 0::2] + products[..., 1::2]).astype(np.int16).sum(-1, dtype=np.int32)


def tail_dropped(product, step):
    return lambda a, w: product(a[:, : a.shape[1] // step * step], w[:, : w.shape[1] // step * step])


def swapped_signs(a, w):
    """Reads the activations as s8 and the weights as u8."""
    return a.view(np.int8).astype(np.int32) @ w.view(np.uint8).astype(np.int32).T


def f32_product(a, w):
    """Accumulates in f32, as the reference of a sparse INT8 kernel once did."""
    return (a.astype(F32) @ w.astype(F32).T).astype(np.int32)


def s16_product(a, w):
    return np.clip(gemm.gemm_u8s8s32(a, w), -32768, 32767)


def unsafe(limit_up, limit_down):
    def function(w):
        pairs = even(w).astype(np.int32).reshape(w.shape[0], -1, 2)
        return (np.maximum(pairs, 0).sum(-1) > limit_up) | (np.minimum(pairs, 0).sum(-1) < -limit_down)

    return function


def compensated(product, compensation):
    """The quantized linear layer with another product or another compensation."""

    def function(x, p):
        u = symmetric.quantize_activation(x, p.input_scale).reshape(-1, x.shape[-1])
        acc = (product(u, p.codes) - compensation(p.codes)).reshape(*x.shape[:-1], -1)
        return quant_linear.rescale(acc, p.input_scale, p.weight_scale, p.bias)

    return function


def compensation(zero=128, axis=1, dtype=np.int32):
    return lambda w: np.int32(zero) * w.sum(axis, dtype=dtype)


WRONG_COMPENSATIONS = {
    "no compensation": compensation(zero=0),
    "127 for 128": compensation(zero=127),
    "added, not subtracted": compensation(zero=-128),
}

PRODUCTS = [
    *(
        Suite(
            getattr(arithmetic, f"check_saturate_{name}"),
            getattr(narrow, f"saturate_{name}"),
            {"wraps": lambda x, t=dtype: x.astype(t), "symmetric": lambda x, t=dtype: symmetric_clip(x, t)},
        )
        for name, dtype in {"s8": np.int8, "s16": np.int16}.items()
    ),
    Suite(
        arithmetic.check_saturate_u8,
        narrow.saturate_u8,
        {"wraps": lambda x: x.astype(np.uint8), "magnitude": lambda x: np.clip(np.abs(x), 0, 255).astype(np.uint8)},
    ),
    Suite(
        arithmetic.check_wrap_s32,
        narrow.wrap_s32,
        {"saturates": lambda x: np.clip(x, -(2**31), 2**31 - 1).astype(np.int32)},
    ),
    Suite(
        arithmetic.check_gemm,
        gemm.gemm_u8s8s32,
        {
            "K tail of 2 dropped": tail_dropped(gemm.gemm_u8s8s32, 2),
            "K tail of 4 dropped": tail_dropped(gemm.gemm_u8s8s32, 4),
            "signs swapped": swapped_signs,
            "f32 accumulator": f32_product,
            "s16 accumulator": s16_product,
            "pairs saturate": gemm.gemm_u8s8s32_pair_saturating,
        },
    ),
    Suite(
        arithmetic.check_pair_saturating,
        gemm.gemm_u8s8s32_pair_saturating,
        {
            "exact": gemm.gemm_u8s8s32,
            "pairs (k, k + 2)": pair_saturating(stride_two),
            "pairs (k, k + K / 2)": pair_saturating(lambda k: [(i, i + k // 2) for i in range(k // 2)]),
            "pairs from k = 1": pair_saturating(lambda k: [(0,), *((i, i + 1) for i in range(1, k - 1, 2)), (k - 1,)]),
            "groups of four": pair_saturating(lambda k: [tuple(range(i, min(i + 4, k))) for i in range(0, k, 4)]),
            "pairs wrap": wrapping_pairs,
            "the accumulator saturates": running_saturation,
            "the sum saturates": s16_product,
            "K tail dropped": tail_dropped(gemm.gemm_u8s8s32_pair_saturating, 2),
        },
    ),
    Suite(
        arithmetic.check_unsafe_pairs,
        pairs.unsafe_pairs,
        {
            "limit 127": unsafe(127, 127),
            "limit 127 below": unsafe(128, 127),
            "limit 129": unsafe(129, 129),
            "limit 129 below": unsafe(128, 129),
            "any |w| > 64": lambda w: (np.abs(even(w).astype(int)) > 64).reshape(w.shape[0], -1, 2).any(-1),
        },
    ),
    Suite(
        arithmetic.check_compensation,
        quant_linear.compensation,
        WRONG_COMPENSATIONS
        | {"summed in s8": compensation(dtype=np.int8), "summed in s16": compensation(dtype=np.int16)},
    ),
    Suite(
        arithmetic.check_quantized_linear,
        quant_linear.quantized_linear,
        {name: compensated(gemm.gemm_u8s8s32, wrong) for name, wrong in WRONG_COMPENSATIONS.items()}
        | {
            "pairs saturate": compensated(gemm.gemm_u8s8s32_pair_saturating, quant_linear.compensation),
            "K tail of 4 dropped": compensated(tail_dropped(gemm.gemm_u8s8s32, 4), quant_linear.compensation),
        },
    ),
]


def symmetric_clip(x, dtype):
    """Leaves out the lowest number of the type."""
    limit = np.iinfo(dtype).max
    return np.clip(x, -limit, limit).astype(dtype)


# --- instructions ----------------------------------------------------------------------------------------------------


def dot_saturating(acc, a, b):
    """vpdpbusds: saturates the sum with the accumulator."""
    quads = (a.astype(np.int64) * b).reshape(-1, 4).sum(-1)
    return np.clip(acc + quads, -(2**31), 2**31 - 1).astype(np.int32)


def dot_through_pairs(acc, a, b):
    """vpdpbusd made of vpmaddubsw, vpmaddwd, vpaddd: loses what a pair clips."""
    return isa.vpaddd(acc, isa.vpmaddwd(isa.vpmaddubsw(a, b), np.ones(32, np.int16)))


def dot_swapped(acc, a, b):
    return isa.vpdpbusd(acc, b.view(np.uint8), a.view(np.int8))


def halves(a, b):
    """vpmaddubsw that pairs byte i with byte i + 32."""
    products = a.astype(np.int32) * b.astype(np.int32)
    return narrow.saturate_s16(products[:32] + products[32:])


def wrapping_pair(a, b):
    products = a.astype(np.int32) * b.astype(np.int32)
    return (products[0::2] + products[1::2]).astype(np.int16)


def swapped(function):
    return lambda a, b, *rest: function(b, a, *rest)


def across_lanes(item, high):
    """Interleaves the halves of the whole register instead of each 128-bit lane."""

    def function(a, b):
        x, y = (r.view(np.uint8)[32 * high : 32 * (high + 1)].reshape(-1, item) for r in (a, b))
        return np.stack([x, y], 1).reshape(-1).view(a.dtype)

    return function


INSTRUCTIONS = [
    Suite(
        instructions.check_vpmaddubsw,
        isa.vpmaddubsw,
        {
            "signs swapped": lambda a, b: isa.vpmaddubsw(b.view(np.uint8), a.view(np.int8)),
            "wraps": wrapping_pair,
            "pairs (i, i + 32)": halves,
            "symmetric limits": lambda a, b: np.maximum(isa.vpmaddubsw(a, b), -32767).astype(np.int16),
        },
    ),
    Suite(
        instructions.check_vpmaddwd,
        isa.vpmaddwd,
        {
            "saturates": lambda a, b: np.clip((a.astype(np.int64) * b).reshape(-1, 2).sum(-1), None, 2**31 - 1).astype(
                "i4"
            )
        },
    ),
    Suite(
        instructions.check_vpaddd,
        isa.vpaddd,
        {"saturates": lambda a, b: np.clip(a.astype(np.int64) + b, -(2**31), 2**31 - 1).astype(np.int32)},
    ),
    Suite(
        instructions.check_vpdpbusd,
        isa.vpdpbusd,
        {"saturates": dot_saturating, "saturates pairs": dot_through_pairs, "signs swapped": dot_swapped},
    ),
    *(
        Suite(
            getattr(instructions, f"check_vpunpck{half}{unit}"),
            getattr(isa, f"vpunpck{half}{unit}"),
            {
                "across lanes": across_lanes(item, half == "h"),
                "operands swapped": swapped(getattr(isa, f"vpunpck{half}{unit}")),
                "the other half": getattr(isa, f"vpunpck{'l' if half == 'h' else 'h'}{unit}"),
            },
        )
        for half in "lh"
        for unit, item in {"bw": 1, "wd": 2}.items()
    ),
    Suite(
        instructions.check_vpbroadcastd,
        isa.vpbroadcastd,
        {
            "one byte": lambda memory, at: np.repeat(memory[at], 64),
            "at counts dwords": lambda memory, at: np.tile(memory[at // 4 * 4 : at // 4 * 4 + 4], 16),
            "each byte four times": lambda memory, at: np.tile(memory[at : at + 4].repeat(4), 4),
        },
    ),
    Suite(instructions.check_vpsubd, isa.vpsubd, {"adds": isa.vpaddd, "operands swapped": swapped(isa.vpsubd)}),
    Suite(instructions.check_vpxord, isa.vpxord, {"or": isa.vpord, "and": lambda a, b: a & b}),
    Suite(
        instructions.check_vmovdqu8_load_low,
        isa.vmovdqu8_load_low,
        {
            "repeats the half": lambda memory, at: np.tile(memory[at : at + 32], 2),
            "into the upper half": lambda memory, at: np.roll(isa.vmovdqu8_load_low(memory, at), 32),
        },
    ),
    Suite(
        instructions.check_vinserti64x4,
        isa.vinserti64x4,
        {
            "into the lower half": lambda r, memory, at: np.concatenate([memory[at : at + 32], r[32:]]),
            "keeps the upper half": lambda r, memory, at: np.concatenate([r[32:], memory[at : at + 32]]),
        },
    ),
    Suite(
        instructions.check_vmovdqu8_load,
        isa.vmovdqu8_load,
        {"aligned": lambda memory, at: memory[at // 64 * 64 : at // 64 * 64 + 64].copy()},
    ),
]


# --- operators -------------------------------------------------------------------------------------------------------


def bf16(x):
    """Rounds to the upper 16 bits of f32, ties aside."""
    return ((x.astype(F32).view(np.uint32) + 0x8000) & 0xFFFF0000).view(F32).astype(x.dtype)


def gelu_tanh(x):
    with np.errstate(over="ignore"):
        cubic = x + x.dtype.type(0.044715) * x * x * x
    return 0.5 * x * (1 + np.tanh(x.dtype.type(math.sqrt(2 / math.pi)) * cubic))


def gelu_sigmoid(x):
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-x.dtype.type(1.702) * x))


def norm(variance=lambda c: (c * c).mean(-1, keepdims=True), root=lambda v, eps: np.sqrt(v + eps), last=None):
    def function(x, p):
        c = x - x.mean(-1, keepdims=True)
        y = c / root(variance(c), x.dtype.type(p.eps)) * p.weight + p.bias
        return y if last is None else last(y)

    return function


def unbiased(c):
    return (c * c).sum(-1, keepdims=True) / max(c.shape[-1] - 1, 1)


NORMS = {
    "unbiased variance": norm(variance=unbiased),
    "eps outside the root": norm(root=lambda v, eps: np.sqrt(v) + eps),
    "eps forgotten": norm(root=lambda v, eps: np.sqrt(v)),
    "eps clamps": norm(root=lambda v, eps: np.sqrt(np.maximum(v, eps))),
    "mean absolute deviation": norm(variance=lambda c: np.abs(c).mean(-1, keepdims=True) ** 2),
}


def scores(scale=lambda e: 1 / e**0.5, mask_value=None):
    def function(q, k, mask):
        lowest = np.finfo(q.dtype).min if mask_value is None else mask_value
        added = np.where(mask[:, None, None, :] != 0, q.dtype.type(0), q.dtype.type(lowest))
        return q @ k.swapaxes(-1, -2) * q.dtype.type(scale(q.shape[-1])) + added

    return function


def query_masked(q, k, mask):
    lowest = np.where(mask[:, None, :, None] != 0, q.dtype.type(0), np.finfo(q.dtype).min)
    return scores()(q, k, np.ones_like(mask)) + lowest


def softmax_over(axis):
    def function(x):
        e = np.exp(x - x.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    return function


def softmax_unshifted(x):
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


OPERATORS = [
    Suite(
        operators.check_linear,
        linear,
        {
            "bias forgotten": lambda x, p: x @ p.weight.T,
            "weight in bf16": lambda x, p: x @ bf16(p.weight).T + p.bias,
            "input in bf16": lambda x, p: bf16(x) @ p.weight.T + p.bias,
            "K tail of 4 dropped": lambda x, p: (
                x[..., : x.shape[-1] // 4 * 4] @ p.weight[:, : x.shape[-1] // 4 * 4].T + p.bias
            ),
        },
    ),
    Suite(
        operators.check_gelu,
        gelu,
        {
            "tanh approximation": gelu_tanh,
            "sigmoid approximation": gelu_sigmoid,
            "erf x": lambda x: 0.5 * x * (1 + erf(x)),
            "output in bf16": lambda x: bf16(gelu(x)),
        },
    ),
    Suite(operators.check_layernorm, layernorm, NORMS),
    Suite(
        operators.check_add_layernorm,
        add_layernorm,
        {name: lambda x, r, p, f=f: f(x + r, p) for name, f in NORMS.items()}
        | {
            "residual after the norm": lambda x, r, p: layernorm(x, p) + r,
            "no residual": lambda x, r, p: layernorm(x, p),
            "another eps": lambda x, r, p: layernorm(x + r, Norm(p.weight, p.bias, 1e-4)),
        },
    ),
    Suite(
        operators.check_attention_scores,
        attention_scores,
        {
            "scale forgotten": scores(scale=lambda e: 1.0),
            "scale 1 / E": scores(scale=lambda e: 1 / e),
            "mask of -10000": scores(mask_value=-10000),
            "queries masked": query_masked,
            "mask inverted": lambda q, k, mask: attention_scores(q, k, mask == 0),
        },
    ),
    Suite(
        operators.check_attention_context,
        attention_context,
        {
            "probabilities in u8": lambda p, v: (np.rint(p * 255) / p.dtype.type(255)) @ v,
            "v in bf16": lambda p, v: p @ bf16(v),
        },
    ),
    Suite(
        operators.check_softmax,
        softmax,
        {
            "over the queries": softmax_over(-2),
            "over everything": softmax_over(None),
            "maximum not subtracted": softmax_unshifted,
            "one more in the sum": lambda x: (
                (e := np.exp(x - x.max(-1, keepdims=True))) / (1 + e.sum(-1, keepdims=True))
            ),
            "output in bf16": lambda x: bf16(softmax(x)),
        },
    ),
    Suite(
        operators.check_tanh,
        tanh,
        {"clamped x": lambda x: np.clip(x, -1, 1), "output in bf16": lambda x: bf16(np.tanh(x))},
    ),
    Suite(
        operators.check_mean_pool,
        mean_pool,
        {
            "padding counted": lambda x, mask: x.mean(1),
            "divided by T": lambda x, mask: (x * (mask != 0)[..., None].astype(x.dtype)).mean(1),
            "first token": lambda x, mask: x[:, 0],
        },
    ),
    Suite(
        operators.check_l2_normalize,
        l2_normalize,
        {
            "no floor": lambda x: x / np.maximum(np.sqrt((x * x).sum(-1, keepdims=True)), np.finfo(x.dtype).tiny),
            "epsilon added": lambda x: x / (np.sqrt((x * x).sum(-1, keepdims=True)) + x.dtype.type(1e-4)),
            "largest component": lambda x: x / np.maximum(np.abs(x).max(-1, keepdims=True), x.dtype.type(1e-12)),
        },
    ),
]


# --- pruning ---------------------------------------------------------------------------------------------------------


def transposed(function):
    """The block read as input x output: four consecutive INPUT channels."""
    return lambda w, block=(4, 1): function(w, block[::-1])


def scored(reduce):
    def function(w, block=(4, 1)):
        rows, columns = block
        return reduce(np.float64(w).reshape(w.shape[0] // rows, rows, w.shape[1] // columns, columns))

    return function


def topk(pruned, keep=np.greater):
    """Another count of pruned scores, or another treatment of ties."""

    def function(scores, density):
        count = pruned(scores.size, density)
        return keep(scores, np.sort(scores, axis=None)[count - 1]) if count else np.ones(scores.shape, bool)

    return function


def kept_exactly(scores, density):
    """Breaks ties by position, to keep exactly the share asked."""
    mask = np.zeros(scores.size, bool)
    order = np.argsort(scores, axis=None, kind="stable")
    mask[order[scores.size - round(density * scores.size) :]] = True
    return mask.reshape(scores.shape)


def exact_count(n, density):
    return n - round(density * n)


def global_in_f32(layers, density):
    threshold = float(np.sort(np.concatenate([x.ravel() for x in layers.values()]))[: -round(density * 4) or None][-1])
    return {name: x > threshold for name, x in layers.items()}


PRUNING = [
    Suite(
        pruning.check_block_scores,
        block_scores,
        {
            "4 along the input": transposed(block_scores),
            "sum": scored(lambda g: np.abs(g).sum((1, 3))),
            "largest": scored(lambda g: np.abs(g).max((1, 3))),
            "root mean square": scored(lambda g: np.sqrt((g * g).mean((1, 3)))),
            "signs kept": scored(lambda g: np.abs(g.mean((1, 3)))),
            "f32": lambda w, block=(4, 1): block_scores(w, block).astype(F32).astype(np.float64),
        },
    ),
    Suite(
        pruning.check_live_blocks,
        live_blocks,
        {
            "4 along the input": transposed(live_blocks),
            "sum not 0": scored(lambda g: g.sum((1, 3)) != 0),
            "all nonzero": scored(lambda g: (g != 0).all((1, 3))),
        },
    ),
    Suite(
        pruning.check_expand,
        expand,
        {
            "4 along the input": transposed(expand),
            "tiled": lambda mask, block=(4, 1): np.tile(mask, block),
        },
    ),
    Suite(
        pruning.check_topk_mask,
        topk_mask,
        {
            "ties kept": topk(exact_count, keep=np.greater_equal),
            "ties broken by position": kept_exactly,
            "int(sparsity * n)": topk(lambda n, density: int((1 - density) * n)),
            "kept count rounded down": topk(lambda n, density: n - int(density * n)),
            "kept count rounded up": topk(lambda n, density: n - math.ceil(density * n)),
            "ties of the count up": topk(lambda n, density: n - math.floor(density * n + 0.5)),
            "the pruned count rounded": topk(lambda n, density: round((1 - density) * n)),
            "at least one kept": topk(lambda n, density: min(exact_count(n, density), n - 1)),
            "density is sparsity": lambda scores, density: topk_mask(scores, 1 - density),
        },
    ),
    Suite(
        pruning.check_global_topk_masks,
        global_topk_masks,
        {
            "each layer by itself": lambda layers, d: {name: topk_mask(x, d) for name, x in layers.items()},
            "compared in f32": global_in_f32,
        },
    ),
]

SUITES = [*CODES, *PRODUCTS, *INSTRUCTIONS, *OPERATORS, *PRUNING]
