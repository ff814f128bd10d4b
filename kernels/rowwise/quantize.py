"""Quantization of f32 to u8 codes: round(clamp(x / scale)) + 128.

Contract. Bits of ``refimpl.quant.quantize_activation``: a true division, clamped to -128 ... 127 in f32, rounded ties
to even, plus 128. The order of the operations, the zero point after the rounding, is what makes it exact.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from refimpl import check
from refimpl.kernels.rowwise import matrices
from refimpl.kernels.rowwise.record import RowKernel
from refimpl.kernels.simd.instructions.arithmetic import vpaddd
from refimpl.kernels.simd.instructions.convert import broadcast_s32, vcvtps2dq, vpmovusdb_store_first
from refimpl.kernels.simd.instructions.f32 import broadcast_f32, vdivps, vmaxps, vminps, vmovups_load_first, zero_f32
from refimpl.kernels.simd.threefold import kernel, part
from refimpl.quant.symmetric import ACTIVATION_MAX, ACTIVATION_MIN, ZERO_POINT, quantize_activation

MIN, MAX, ZERO = np.float32(ACTIVATION_MIN), np.float32(ACTIVATION_MAX), np.int32(ZERO_POINT)


@part
def quantize(x, scale):
    """Codes + 128 of sixteen lanes, still s32; scale: the same in all lanes."""
    clamped = vminps(vmaxps(vdivps(x, scale), broadcast_f32(MIN)), broadcast_f32(MAX))
    return vpaddd(vcvtps2dq(clamped), broadcast_s32(ZERO))


@kernel
def quantize_rows(x, d, scale, out):
    """x: f32 (N d,); out: u8 (N d,)."""
    for row in numba.prange(x.size // d):
        for i in range(0, d, 16):
            at, count = row * d + i, d - i
            codes = quantize(vmovups_load_first(x, at, count, zero_f32()), broadcast_f32(scale))
            vpmovusdb_store_first(out, at, codes, count)


def validate(x: np.ndarray, scale: np.ndarray) -> None:
    """x: f32 (N, D), finite; scale: f32 (), finite and > 0."""
    matrices.validate("x", x)
    check.dtype("scale", scale, np.float32)
    check.shape("scale", scale, ())
    check.positive("scale", scale)


def call(execution: Callable[..., Any], x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """f32 (N, D) -> u8 (N, D)."""
    out = matrices.result(x, np.uint8)
    execution(matrices.flat(x), x.shape[1], scale[()], out.reshape(-1))
    return out


QUANTIZE_ROWS = RowKernel(
    "quantize_rows", quantize_activation, lambda x, scale: np.zeros(x.shape), validate, quantize_rows, call
)
