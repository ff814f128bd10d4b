"""Attention with integer products: scores from codes, probabilities as codes, context from codes.

    u           = quantize(y)  for y = q, k, v after split_heads      u8, code + 128      one scale a tensor
    acc_s[i, j] = sum_e (q[i, e] - 128) k[j, e]                       s32, exact       q: u8, k: s8 = u - 128
    scores      = f32(acc_s) * m + mask,   m = (q_scale * k_scale) * f32(1 / sqrt E)      f32, left to right
    p           = round(255 softmax(scores))                          u8, zero point 0, scale f32(1 / 255)
    acc_c[i, e] = sum_j p[i, j] v[j, e]                               s32, exact       v: s8 = u - 128
    context     = f32(acc_c) * (f32(1 / 255) * v_scale)               f32

Contract. Both accumulators are exact, hence independent of order. Probabilities lie in 0 ... 1, so they use all 256
codes and need no zero point: one f32 multiplication by 255, rounded ties to even. The codes need not sum to 255.
A masked key adds the lowest finite f32, after which its code is 0. Scores add a mask of 0 to the unmasked keys.
Intel Extension for Transformers quantizes the same two products, with s8 q, k and v and a u8 softmax.

B batch, H heads, T tokens, E numbers per head.
"""

from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.integer.gemm import MAX_K
from refimpl.nn.params import AttentionScales
from refimpl.nn.taps import NO_TAP, Tap
from refimpl.quant.symmetric import ZERO_POINT, quantize_activation, signed

PROBS_MAX = 255
PROBS_SCALE = np.float32(1 / PROBS_MAX)


class Codes(NamedTuple):
    """An operand of an integer product. codes: u8 (B, H, T, E), code + 128; scale: f32 ()."""

    codes: np.ndarray
    scale: np.ndarray


def coded_operands(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scales: AttentionScales, tap: Tap = NO_TAP
) -> tuple[Codes, Codes, Codes]:
    """q, k, v: f32 (B, H, T, E). Taps: q_codes, k_codes, v_codes, u8 (B, H, T, E)."""
    return (
        Codes(tap("q_codes", quantize_activation(q, scales.q)), scales.q),
        Codes(tap("k_codes", quantize_activation(k, scales.k)), scales.k),
        Codes(tap("v_codes", quantize_activation(v, scales.v)), scales.v),
    )


def coded_scores(q: Codes, k: Codes, mask: np.ndarray) -> np.ndarray:
    """mask: integer or bool (B, T), 0 where a key is padding -> f32 (B, H, T, T)."""
    acc = integer_scores(q.codes, signed(k.codes))
    return scaled_scores(acc, scores_multiplier(q.scale, k.scale, q.codes.shape[-1]), mask)


def coded_context(probs: np.ndarray, v: Codes, tap: Tap = NO_TAP) -> np.ndarray:
    """probs: f32 (B, H, T, T) -> f32 (B, H, T, E). Tap: probs_codes, u8 (B, H, T, T)."""
    acc = integer_context(tap("probs_codes", quantize_probs(probs)), signed(v.codes))
    return scaled_context(acc, context_multiplier(v.scale))


def scores_multiplier(q_scale: np.ndarray, k_scale: np.ndarray, e: int) -> np.float32:
    """What an accumulator of scores is multiplied by. q_scale, k_scale: f32 ()."""
    for name, scale in (("q_scale", q_scale), ("k_scale", k_scale)):
        _check_scale(name, scale)
    return np.float32(q_scale * k_scale) * np.float32(1 / e**0.5)


def context_multiplier(v_scale: np.ndarray) -> np.float32:
    """What an accumulator of the context is multiplied by. v_scale: f32 ()."""
    _check_scale("v_scale", v_scale)
    return np.float32(PROBS_SCALE * v_scale)


def integer_scores(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """q: u8 (..., T, E), code + 128; k: s8 of the same shape -> s32 (..., T, T)."""
    check.dtype("q", q, np.uint8)
    check.dtype("k", k, np.int8)
    check.shape("k", k, q.shape)
    return _product(q.astype(np.int32) - ZERO_POINT, k.swapaxes(-1, -2))


def scaled_scores(acc: np.ndarray, multiplier: np.float32, mask: np.ndarray) -> np.ndarray:
    """acc: s32 (B, H, T, T); mask: integer or bool (B, T), 0 where a key is padding -> f32 (B, H, T, T)."""
    check.dtype("acc", acc, np.int32)
    check.shape("mask", mask, (acc.shape[0], acc.shape[3]))
    lowest = np.where(mask[:, None, None, :] != 0, np.float32(0), np.finfo(np.float32).min)
    return acc.astype(np.float32) * multiplier + lowest


def quantize_probs(probs: np.ndarray) -> np.ndarray:
    """f32 (...), 0 ... 1 -> u8 (...).

    >>> quantize_probs(np.array([0, 0.5, 1], np.float32))
    array([  0, 128, 255], dtype=uint8)
    """
    check.dtype("probs", probs, np.float32)
    if not ((probs >= 0) & (probs <= 1)).all():
        raise ValueError("probs has an element outside 0 to 1")
    return np.rint(probs * np.float32(PROBS_MAX)).astype(np.uint8)


def integer_context(probs: np.ndarray, v: np.ndarray) -> np.ndarray:
    """probs: u8 (..., T, T); v: s8 (..., T, E) -> s32 (..., T, E)."""
    check.dtype("probs", probs, np.uint8)
    check.dtype("v", v, np.int8)
    check.shape("v", v, (*probs.shape[:-2], probs.shape[-1], "E"))
    return _product(probs, v)


def scaled_context(acc: np.ndarray, multiplier: np.float32) -> np.ndarray:
    """s32 (...) -> f32 (...)."""
    check.dtype("acc", acc, np.int32)
    return acc.astype(np.float32) * multiplier


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Exact, through f64: every partial sum is an integer below 2**31."""
    if a.shape[-1] > MAX_K:
        raise ValueError(f"sums of {a.shape[-1]} products; need at most {MAX_K}, or an s32 sum may overflow")
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int32)


def _check_scale(name: str, scale: np.ndarray) -> None:
    check.dtype(name, scale, np.float32)
    check.shape(name, scale, ())
    check.positive(name, scale)
