"""What an engine's integers mean: which product, which rounding of codes, and whether QDQ runs in integers at all."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refimpl.integer.products import Product, acc16, exact, neon_wrap, pair_saturating, s8s8_shifted
from refimpl.quant.affine import (
    by_division,
    by_levels,
    requantize_in_one,
    requantize_in_two,
)
from refimpl.quant.codes import add_by_levels, softmax, softmax_as_defined


class Semantics(NamedTuple):
    """product: codes (N, K), (M, K) -> s32 (N, M); quantize, requantize: see ``refimpl.quant.affine``.

    fuse: whether MatMul and Gemm of two dequantized tensors are products of integers, as engines make them.
    softmax: QLinearSoftmax, see ``refimpl.quant.codes``.
    add: how two dequantized tensors are added and quantized in one, see ``refimpl.quant.codes``; None: in f32.
    block: channels of a block where a weight of u8 codes with a zero point has the left operand quantized again, see
    ``refimpl.quant.blocks``; 0: it is not.
    folded: whether dequantized numbers may be made in the operators that read them, scales and zero points in any
    order.
    """

    product: Product = exact
    quantize: Callable[..., np.ndarray] = by_division
    requantize: Callable[..., np.ndarray] = requantize_in_one
    fuse: bool = True
    softmax: Callable[..., np.ndarray] = softmax_as_defined
    add: Callable[..., np.ndarray] | None = None
    block: int = 0
    folded: bool = False


ONNX_RUNTIME = Semantics(softmax=softmax)
"""On x86 with VNNI. But for QLinearSoftmax, a fault of its own, the semantics of ONNX wherever it leaves no choice."""

OPENVINO = Semantics(quantize=by_levels, requantize=requantize_in_two, add=add_by_levels)
"""On x86 with VNNI, but that activations are not quantized again."""

OPENVINO_IN_BLOCKS = OPENVINO._replace(block=32)
"""On x86 with VNNI, as it is set by default."""

PRODUCTS = {f.__name__: f for f in (exact, pair_saturating, s8s8_shifted, acc16, neon_wrap)}
"""By name, for who chooses one."""
