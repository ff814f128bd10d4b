"""Plausible wrong versions of the integer products, of quantization, and of a judge of nodes. See tests/mutants.py."""

import numpy as np
import test_1_products as products
import test_3_error_propagation as propagation
import test_7_oracle as oracle
from mutants import Suite

from refimpl.integer.gemm import gemm_u8s8s32_pair_saturating
from refimpl.integer.narrow import saturate_s16
from refimpl.integer.products import acc16, exact, neon_wrap, pair_saturating, s8s8_shifted
from refimpl.models.oracle.judge_nodes import judge_nodes
from refimpl.quant import affine, blocks, codes
from refimpl.quant.blocks import Blocks


def other_operand_shifted(a, w):
    """The weights shifted in the place of the source."""
    return s8s8_shifted(w, a).T


def compensation_forgotten(a, w):
    return gemm_u8s8s32_pair_saturating((a.astype(np.int16) + 128).astype(np.uint8), w)


def number(x):
    return affine.dequantize(x.codes, x.scale, x.zero_point)


def added_by_division(a, b, scale, zero_point):
    """As the definition reads: dequantized, added, quantized."""
    return affine.by_division(number(a) + number(b), scale, zero_point)


def added_without_fma(a, b, scale, zero_point):
    left, right = a.scale / scale, b.scale / scale
    fixed = np.float32(zero_point) - (left * np.float32(a.zero_point) + right * np.float32(b.zero_point))
    total = np.rint(a.codes * left + (b.codes * right + fixed))
    return np.clip(total, *affine.limits(zero_point.dtype)).astype(zero_point.dtype)


def multiplied_by_division(a, b, scale, zero_point):
    return affine.by_division(number(a) * number(b), scale, zero_point)


def in_order(spill, saturate=saturate_s16, pair=2):
    """acc16 with another spill, narrowing or grouping."""

    def product(a, w):
        wide = np.pad(a[:, None].astype(np.int64) * w[None].astype(np.int64), ((0, 0), (0, 0), (0, -a.shape[1] % pair)))
        sums = wide.reshape(*wide.shape[:2], -1, pair).sum(-1)
        total = np.zeros(wide.shape[:2], np.int64)
        for start in range(0, sums.shape[2], spill // pair):
            acc = np.zeros(wide.shape[:2], np.int16)
            for i in range(start, min(start + spill // pair, sums.shape[2])):
                acc = saturate(acc.astype(np.int64) + saturate(sums[..., i]))
            total += acc
        return total.astype(np.int32)

    return product


def lanes(distance, narrow):
    """neon_wrap with another distance, or saturating."""

    def product(a, w):
        pad = -a.shape[1] % (2 * distance)
        terms = np.pad(a[:, None].astype(np.int64) * w[None].astype(np.int64), ((0, 0), (0, 0), (0, pad)))
        return narrow(terms.reshape(*terms.shape[:2], -1, 2, distance).sum(-2)).sum((-1, -2)).astype(np.int32)

    return product


def wrapping(x):
    return x.astype(np.int16)


def by_reciprocal(x, scale, zero_point):
    low, high = affine.limits(zero_point.dtype)
    with np.errstate(all="ignore"):
        codes = np.rint(np.nan_to_num(x * (np.float32(1) / scale) + zero_point.astype(np.float32), nan=low))
    return np.clip(codes, low, high).astype(zero_point.dtype)


def step_of_the_scale(x, scale, zero_point):
    """Levels whose step is 1 / scale, not recomputed from their limits."""
    low, high = affine.limits(zero_point.dtype)
    least = np.float32(low - int(zero_point)) * scale
    most = np.float32(high - int(zero_point)) * scale
    with np.errstate(all="ignore"):
        level = np.clip(np.nan_to_num(x, nan=least), least, most) - least
    return (np.rint(level * (np.float32(1) / scale)).astype(int) + low).astype(zero_point.dtype)


def clipped_late(x, scale, zero_point):
    """An infinite quotient has no integer."""
    with np.errstate(all="ignore"):
        codes = np.rint(x / scale).astype(np.int64) + zero_point
    return np.clip(codes, *affine.limits(zero_point.dtype)).astype(zero_point.dtype)


def whole_rows(x, block):
    """One step for all blocks."""
    made, row = blocks.by_step(x, block), blocks.by_step(x, x.shape[-1])
    return made._replace(step=np.broadcast_to(row.step, made.step.shape))


def added_apart(x, weight, scale):
    """A rounding of each product, before it is added."""
    total = np.zeros((), np.float32)
    for g in range(x.codes.shape[-2]):
        one = Blocks(x.codes[..., g : g + 1, :], x.step[..., g : g + 1, :])
        block = x.codes.shape[-1]
        total = total + blocks.product(one, weight[block * g : block * (g + 1)], scale)
    return total


def at_once(x, weight, scale):
    """Rounded at the end."""
    return (blocks.numbers(x, len(weight)) @ weight * scale).astype(np.float32)


def judged_by_our_own(graph, inputs, engine):
    """Compares with our own run in the place of the engine's inputs: only the graph's outputs are known."""
    whole = judge_nodes(graph, inputs, {})
    return whole + [f for name in engine for f in judge_nodes(graph, inputs, {name: engine[name]})]


def last_first(graph, inputs, engine):
    return judge_nodes(graph, inputs, engine)[::-1]


def half(graph, inputs, engine):
    """Looks at one tensor in two."""
    return judge_nodes(graph, inputs, dict(list(engine.items())[::2]))


def only_the_first(error):
    """Errors of the first input alone are carried on."""
    return lambda call, xs, y: error(call, [xs[0], *(x._replace(error=np.zeros(())) for x in xs[1:])], y)


def carried(share):
    """Errors of the inputs are carried on in part."""
    return lambda error: lambda call, xs, y: error(call, [x._replace(error=share * x.error) for x in xs], y)


ORACLE = [
    Suite(
        propagation.check_errors,
        lambda error: error,
        {"inputs are exact": carried(0), "half": carried(0.5), "of the first input": only_the_first},
    ),
    Suite(products.check_exact, exact, {"pair-saturating": pair_saturating, "shifted": s8s8_shifted}),
    Suite(
        products.check_pair_saturating,
        pair_saturating,
        {"exact": exact, "16 bits": acc16, "wraps": lanes(1, wrapping), "pairs eight apart": lanes(8, saturate_s16)},
    ),
    Suite(
        products.check_s8s8_shifted,
        s8s8_shifted,
        {
            "exact": exact,
            "the other operand shifted": other_operand_shifted,
            "compensation forgotten": compensation_forgotten,
        },
    ),
    Suite(
        products.check_acc16,
        acc16,
        {
            "exact": exact,
            "spilled at once": pair_saturating,
            "spilled after 512": in_order(512),
            "spilled after 128": in_order(128),
            "wraps": in_order(256, wrapping),
            "fours": in_order(256, pair=4),
        },
    ),
    Suite(
        products.check_neon_wrap,
        neon_wrap,
        {
            "exact": exact,
            "saturates": lanes(8, saturate_s16),
            "neighbours": lanes(1, wrapping),
            "four apart": lanes(4, wrapping),
        },
    ),
    Suite(
        products.check_by_division,
        affine.by_division,
        {"by reciprocal": by_reciprocal, "by levels": affine.by_levels, "clipped after rounding": clipped_late},
    ),
    Suite(
        products.check_by_levels,
        affine.by_levels,
        {"by division": affine.by_division, "by reciprocal": by_reciprocal, "step of the scale": step_of_the_scale},
    ),
    Suite(products.check_add, codes.add, {"by division": added_by_division, "without FMA": added_without_fma}),
    Suite(products.check_multiply, codes.multiply, {"by division": multiplied_by_division}),
    Suite(products.check_by_step, blocks.by_step, {"by level": blocks.by_level, "of rows": whole_rows}),
    Suite(products.check_by_level, blocks.by_level, {"by step": blocks.by_step}),
    Suite(products.check_in_blocks, blocks.product, {"added apart": added_apart, "at once": at_once}),
    Suite(products.check_softmax, codes.softmax, {"inverse of the scale": codes.softmax_as_defined}),
    Suite(
        oracle.check_judge,
        judge_nodes,
        {"by our own run": judged_by_our_own, "in another order": last_first, "one in two": half},
    ),
]
