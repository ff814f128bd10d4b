"""What a kernel does with its accumulators before it stores them, as parts.

    rescale       f32(acc) * scale + bias                    scale = f32(input_scale * weight_scale[m])
    rescale_add   rescale + residual
    requantize    round(clamp(f32(acc) * multiplier)) + 128  multiplier = f32(f32(input * weight[m]) / output scale)
    quantize      round(clamp(y / output_scale)) + 128       from ``rowwise.quantize``
    gelu          from ``rowwise.gelu``

Contract. ``rescale`` has the bits of ``refimpl.quant.rescale``: one multiplication and one addition, not fused.
``requantize`` has those of ``refimpl.quant.requantize``. Accumulators are compensated: a kernel starts them from
minus the compensation, and then they need no subtraction at the end (s32 sums wrap, so the order does not matter).

Where lanes are tokens, scale and bias are one number for all lanes; where they are output channels, sixteen numbers.
"""

import numpy as np

from refimpl.kernels.rowwise.quantize import MAX, MIN, ZERO
from refimpl.kernels.simd.instructions.arithmetic import vpaddd
from refimpl.kernels.simd.instructions.convert import (
    broadcast_s32,
    vcvtdq2ps,
    vcvtps2dq,
    vpackssdw,
    vpackuswb,
    vpmovusdb_store_first,
)
from refimpl.kernels.simd.instructions.f32 import broadcast_f32, vaddps, vmaxps, vminps, vmulps
from refimpl.kernels.simd.threefold import part


@part
def start_row(value):
    """Accumulators of 64 tokens, or channels, that all start from one s32."""
    return broadcast_s32(value), broadcast_s32(value), broadcast_s32(value), broadcast_s32(value)


@part
def rescale(acc, scale, bias):
    """s32 -> f32."""
    return vaddps(vmulps(vcvtdq2ps(acc), scale), bias)


@part
def rescale_add(acc, scale, bias, residual):
    """s32 -> f32, and the residual added last."""
    return vaddps(rescale(acc, scale, bias), residual)


@part
def requantize(acc, multiplier):
    """s32 -> codes + 128, still s32."""
    product = vmulps(vcvtdq2ps(acc), multiplier)
    clamped = vminps(vmaxps(product, broadcast_f32(MIN)), broadcast_f32(MAX))
    return vpaddd(vcvtps2dq(clamped), broadcast_s32(ZERO))


@part
def pack_tokens(codes):
    """Four registers of s32 codes in the lane order of the 4x1 kernel -> 64 u8 in the order of the tokens.

    Lane l of register j holds tokens 16 l + 4 j ... 16 l + 4 j + 3; packing takes turns by lanes, and so undoes it.
    """
    return vpackuswb(vpackssdw(codes[0], codes[1]), vpackssdw(codes[2], codes[3]))


@part
def store_channels(out, at, codes):
    """Four registers of s32 codes of 64 consecutive output channels, as 64 u8 at out[at]."""
    vpmovusdb_store_first(out, at, codes[0], 16)
    vpmovusdb_store_first(out, at + 16, codes[1], 16)
    vpmovusdb_store_first(out, at + 32, codes[2], 16)
    vpmovusdb_store_first(out, at + 48, codes[3], 16)


def multiplier(input_scale: np.ndarray, weight_scale: np.ndarray, output_scale: np.ndarray) -> np.ndarray:
    """What ``requantize`` multiplies by, f32 (M,): the two operations in f32, left to right."""
    return input_scale * weight_scale / output_scale
