"""Requantization: from an s32 accumulator straight to the next layer's code.

    m[m]  = input_scale * weight_scale[m] / output_scale        f32, left to right
    code  = round(clamp(f32(acc) * m)) + 128                    ties to even

Contract. f32(acc) rounds to nearest even above 2**24; the clamp is to -128 ... 127. ONNX Runtime's QLinearMatMul
computes the multiplier in this order (quantize_linear_matmul.cc) and clamps in f32 before rounding.
"""

import numpy as np

from refimpl import check
from refimpl.quant.affine import requantize_in_one
from refimpl.quant.symmetric import ZERO_POINT


def requantize(
    acc: np.ndarray, input_scale: np.ndarray, weight_scale: np.ndarray, output_scale: np.ndarray
) -> np.ndarray:
    """acc: s32 (..., M); weight_scale: f32 (M,); the other scales f32 (); returns u8 (..., M), code + 128."""
    check.dtype("acc", acc, np.int32)
    for name, scale in (("input_scale", input_scale), ("weight_scale", weight_scale), ("output_scale", output_scale)):
        check.dtype(name, scale, np.float32)
        check.shape(name, scale, ("M",) if name == "weight_scale" else ())
        check.positive(name, scale)
    check.last_dim("acc", acc, weight_scale.shape[0])
    with np.errstate(over="ignore"):
        check.finite("input_scale * weight_scale / output_scale", input_scale * weight_scale / output_scale)
    return requantize_in_one(acc, input_scale, weight_scale, output_scale, np.asarray(ZERO_POINT, np.uint8))
