"""The quantized linear layer, and the embedding table stored as codes.

    u   = quantize(x)                              u8, code + 128
    acc = sum_k (u[k] - 128) w[m, k]               s32, exact
        = sum_k u[k] w[m, k]  -  128 sum_k w[m, k]     what u8 x s8 hardware computes, and its compensation
    y   = f32(acc) * (x_scale * w_scale[m]) + bias[m]

Contract. acc is exact, hence independent of order, tiles and threads. f32(acc) rounds to nearest even (it is exact up
to 2**24). The two scales are multiplied first, in f32; then one multiplication and one addition, not fused. ONNX
Runtime's MatMulIntegerToFloat followed by Add does the same operations in the same order.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from refimpl import check
from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.nn.embedding import check_ids
from refimpl.nn.taps import NO_TAP, Tap
from refimpl.quant.symmetric import ZERO_POINT, quantize_activation


class QuantizedLinear(NamedTuple):
    """codes: s8 (M, K); weight_scale, bias: f32 (M,); input_scale: f32 ()."""

    codes: np.ndarray
    weight_scale: np.ndarray
    input_scale: np.ndarray
    bias: np.ndarray

    @property
    def compensation(self) -> np.ndarray:
        """s32 (M,)."""
        return compensation(self.codes)


class QuantizedTable(NamedTuple):
    """An embedding table as codes. codes: s8 (V, D); scale: f32 (V,), one per row."""

    codes: np.ndarray
    scale: np.ndarray


def compensation(codes: np.ndarray) -> np.ndarray:
    """128 sum_k w[m, k], which the +128 of the activations added to every accumulator. s8 (M, K) -> s32 (M,)."""
    check.dtype("codes", codes, np.int8)
    return compensation_of(codes.sum(1, dtype=np.int32))


def compensation_of(row_sums: np.ndarray) -> np.ndarray:
    """The same from sum_k w[m, k]. s32 (M,) -> s32 (M,)."""
    check.dtype("row_sums", row_sums, np.int32)
    return ZERO_POINT * row_sums


def rescale(acc: np.ndarray, input_scale: np.ndarray, weight_scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """s32 (..., M) accumulators of the signed codes -> f32 (..., M), by the last line of the equation."""
    check.dtype("acc", acc, np.int32)
    for name, array in (("input_scale", input_scale), ("weight_scale", weight_scale), ("bias", bias)):
        check.dtype(name, array, np.float32)
    check.shape("input_scale", input_scale, ())
    check.shape("weight_scale", weight_scale, (acc.shape[-1],))
    check.shape("bias", bias, weight_scale.shape)
    return acc.astype(np.float32) * (input_scale * weight_scale) + bias


class IntegerLinear(Protocol):
    """What every form of an INT8 linear layer has, however its weight is stored. f32 (), (M,), (M,); s32 (M,)."""

    @property
    def input_scale(self) -> np.ndarray: ...
    @property
    def weight_scale(self) -> np.ndarray: ...
    @property
    def bias(self) -> np.ndarray: ...
    @property
    def compensation(self) -> np.ndarray: ...


def integer_linear(
    x: np.ndarray, p: IntegerLinear, product: Callable[[np.ndarray], np.ndarray], tap: Tap = NO_TAP
) -> np.ndarray:
    """The layer around any integer product, u8 (N, K) -> s32 (N, M) without compensation.

    x: f32 (..., K) -> f32 (..., M). Taps: codes, u8 (..., K); acc, s32 (..., M), compensated.
    """
    u = tap("codes", quantize_activation(x, p.input_scale))
    raw = product(u.reshape(-1, u.shape[-1]))
    acc = tap("acc", (raw - p.compensation).reshape(*x.shape[:-1], -1))
    return rescale(acc, p.input_scale, p.weight_scale, p.bias)


def quantized_linear(x: np.ndarray, p: QuantizedLinear, tap: Tap = NO_TAP) -> np.ndarray:
    """``integer_linear`` with the exact NumPy product."""
    check.last_dim("x", x, p.codes.shape[1])
    return integer_linear(x, p, lambda u: gemm_u8s8s32(u, p.codes), tap)


def quantized_embedding(ids: np.ndarray, table: QuantizedTable) -> np.ndarray:
    """ids: integer (B, T) -> f32 (B, T, D): f32(code) * scale of the row, one rounding."""
    check_ids(ids, table.codes.shape[0])
    return table.codes[ids].astype(np.float32) * table.scale[ids][..., None]
