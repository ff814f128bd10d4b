"""Plausible wrong attention with integer products. tests/test_mutants.py runs them."""

import numpy as np
import test_3_integer_attention as attention
from mutants import Suite

from refimpl.nn.taps import NO_TAP
from refimpl.quant import Codes, quantize_activation, signed
from refimpl.quant.attention import (
    PROBS_SCALE,
    coded_context,
    coded_operands,
    coded_scores,
    context_multiplier,
    integer_context,
    integer_scores,
    quantize_probs,
    scaled_context,
    scaled_scores,
    scores_multiplier,
)

F32 = np.float32


def operands(change):
    """Each of ("q", "k", "v") coded by ``change(x, scale, tap, name)``."""

    def function(q, k, v, scales, tap=NO_TAP):
        return tuple(
            Codes(change(x, scale, tap, f"{name}_codes"), scale)
            for name, x, scale in zip("qkv", (q, k, v), scales, strict=True)
        )

    return function


def narrow(x, scale, tap, name):
    """-127 as the lowest, as for weights."""
    return tap(name, np.maximum(quantize_activation(x, scale), 1))


def cut(x, scale, tap, name):
    return tap(name, (np.clip(np.trunc(x / scale), -128, 127) + 128).astype(np.uint8))


def tapped_beside(x, scale, tap, name):
    """The tap sees the codes, but what follows ignores what it returns."""
    tap(name, quantize_activation(x, scale))
    return quantize_activation(x, scale)


def scales_swapped(q, k, v, scales, tap=NO_TAP):
    return coded_operands(q, k, v, scales._replace(k=scales.v, v=scales.k), tap)


def scores(acc=lambda q, k: integer_scores(q, signed(k)), factor=scores_multiplier, mask=lambda mask: mask):
    def function(q, k, keys):
        return scaled_scores(acc(q.codes, k.codes), factor(q.scale, k.scale, q.codes.shape[-1]), mask(keys))

    return function


def unsigned_keys(q, k):
    return (np.float64(q) - 128) @ np.float64(k).swapaxes(-1, -2)


def unsigned_queries(q, k):
    return np.float64(q) @ np.float64(signed(k)).swapaxes(-1, -2)


def s32(product):
    return lambda a, b: product(a, b).astype(np.int32)


def queries_masked(q, k, mask):
    whole = coded_scores(q, k, np.ones_like(mask))
    return np.where(mask[:, None, :, None] != 0, whole, np.finfo(F32).min)


def context(code=quantize_probs, acc=lambda p, v: integer_context(p, signed(v)), factor=context_multiplier):
    def function(probs, v, tap=NO_TAP):
        return scaled_context(acc(tap("probs_codes", code(probs)), v.codes), factor(v.scale))

    return function


def rounded_by(rounding, most=255):
    return lambda probs: np.minimum(rounding(probs * F32(most)), 255).astype(np.uint8)


INTEGER_ATTENTION = [
    Suite(
        attention.check_coded_operands,
        coded_operands,
        {
            "scales of k and v swapped": scales_swapped,
            "one scale for all": lambda q, k, v, scales, tap: coded_operands(
                q, k, v, type(scales)(*[scales.q] * 3), tap
            ),
            "-127 as the lowest": operands(narrow),
            "cut toward zero": operands(cut),
            "what the tap returns is ignored": operands(tapped_beside),
        },
    ),
    Suite(
        attention.check_coded_scores,
        coded_scores,
        {
            "k unsigned": scores(acc=s32(unsigned_keys)),
            "q unsigned": scores(acc=s32(unsigned_queries)),
            "sign of k from a cast": scores(acc=lambda q, k: integer_scores(q, k.astype(np.int8))),
            "scale of k left out": scores(factor=lambda q, k, e: scores_multiplier(q, np.ones((), F32), e)),
            "not divided by the root": scores(factor=lambda q, k, e: scores_multiplier(q, k, 1)),
            "divided by E": scores(factor=lambda q, k, e: scores_multiplier(q, k, e * e)),
            "mask forgotten": scores(mask=np.ones_like),
            "queries masked": queries_masked,
        },
    ),
    Suite(
        attention.check_coded_context,
        coded_context,
        {
            "rounded down": context(rounded_by(np.floor)),
            "rounded up": context(rounded_by(np.ceil)),
            "times 256": context(rounded_by(np.rint, 256)),
            "codes to 127": context(rounded_by(np.rint, 127), factor=lambda v: F32(F32(1 / 127) * v)),
            "scale 1 / 256": context(factor=lambda v: F32(F32(1 / 256) * v)),
            "scale of v left out": context(factor=lambda v: PROBS_SCALE),
            "v unsigned": context(acc=s32(lambda p, v: np.float64(p) @ np.float64(v))),
            "probabilities signed": context(acc=s32(lambda p, v: np.float64(p.view(np.int8)) @ np.float64(signed(v)))),
        },
    ),
]
