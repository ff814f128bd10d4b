"""Layer normalization of f32 panels, and the codes that the next layer reads.

    y   = (x - mean) * (1 / sqrt(var + eps)) * weight[m] + bias[m]          x, y: f32 (P, D, W), over D
    out = quantize(y, step)                                                 u8 (P, D, W)

Contract. As ``rowwise.layernorm``: two passes, the mean, then the mean of the squared deviations (fused: sum + c c);
true divisions by D. Both sums ascend from 0. Then 1 / sqrt is one division, the deviation is multiplied by it, and the
last multiplication and addition are fused. Codes have the bits of ``refimpl.quant.quantize_activation``. Equal bits
everywhere. Oracle: ``refimpl.nn.layernorm`` in f64, within ``bounds.layernorm``.
"""

import numba
import numpy as np

from refimpl.kernels.encoder.rows import (
    add,
    divide,
    fused,
    load_row,
    multiply,
    root,
    spread,
    store_quantized,
    store_row,
    subtract,
    width,
)
from refimpl.kernels.simd.exchange import exchange
from refimpl.kernels.simd.instructions.f32 import broadcast_f32, vbroadcastss, zero_f32
from refimpl.kernels.simd.threefold import kernel, part

ONE = np.float32(1)


@part
def statistics(x, at, d, length, eps):
    """Mean and 1 / sqrt(var + eps) of each token of the panel at x[at]."""
    total, squares = spread(zero_f32()), spread(zero_f32())
    for m in range(d):
        total = add(total, load_row(x, at + m * width()))
    mean = divide(total, spread(broadcast_f32(length)))
    for m in range(d):
        c = subtract(load_row(x, at + m * width()), mean)
        squares = fused(c, c, squares)
    variance = divide(squares, spread(broadcast_f32(length)))
    return mean, divide(spread(broadcast_f32(ONE)), root(add(variance, spread(broadcast_f32(eps)))))


@part
def store_as_codes(out, at, row, step):
    """A row as codes."""
    store_quantized(out, at, row, spread(broadcast_f32(step)))


@part
def store_nothing(out, at, row, step):
    """In place of ``store_as_codes``."""


@kernel
def layernorm_codes(x, d, length, weight, bias, eps, step, out):
    """x: f32 (P d W,), in place: it becomes y; length: d as f32; weight, bias: f32 (d,); out: u8 (P d W,)."""
    for panel in numba.prange(x.size // (d * width())):
        mean, inverse = statistics(x, panel * d * width(), d, length, eps)
        for m in range(d):
            at = (panel * d + m) * width()
            c = multiply(subtract(load_row(x, at), mean), inverse)
            row = fused(c, spread(vbroadcastss(weight, m)), spread(vbroadcastss(bias, m)))
            store_row(x, at, row)
            store_as_codes(out, at, row, step)


layernorm_f32 = exchange(layernorm_codes, {store_as_codes: store_nothing}, "layernorm_f32", __name__)
"""Where no layer reads codes: ``step`` and ``out`` are not looked at."""
