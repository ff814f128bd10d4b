"""Activations in 7 bits, so that no pair of s8 weights can saturate: 2 * 127 * 128 = 32512 <= 32767. Lossy.

    code = round(clamp(x / scale, -64, 63)) + 64          u8, 0 ... 127, ties to even;  scale = absmax / 63
    acc  = sum_k code[k] w[m, k]  -  64 sum_k w[m, k]

Source: oneDNN, doc/advanced/int8_computations.md (source data in 7 bits); ``torch.ao.quantization``'s reduce_range for
the fbgemm back end, which likewise keeps u8 activations within 0 ... 127. Plain ONNX QuantizeLinear clamps to 255, not
to 127, so this needs a Clip there.
"""

from collections.abc import Callable

import numpy as np

from refimpl import check
from refimpl.nn.taps import NO_TAP, Tap
from refimpl.quant.linear import QuantizedLinear, rescale
from refimpl.quant.symmetric import SMALLEST_NORMAL

LOW, HIGH = -64, 63
U7_ZERO_POINT = 64
U7_MOST = 127


def u7_scale(absmax: np.ndarray) -> np.ndarray:
    """absmax / 63 as f32, or 1 where that would not be a normal number. absmax: f32 ()."""
    absmax = np.asarray(absmax)
    check.dtype("absmax", absmax, np.float32)
    scale = absmax / np.float32(HIGH)
    return np.where(scale >= SMALLEST_NORMAL, scale, np.float32(1))


def quantize_u7(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """f32 (...), f32 () -> u8 (...), 0 ... 127.

    >>> quantize_u7(np.array([-99, -0.5, 1.5, 99], np.float32), np.float32(1)[...])
    array([  0,  64,  66, 127], dtype=uint8)
    """
    check.dtype("x", x, np.float32)
    check.finite("x", x)
    check.shape("scale", scale, ())
    check.positive("scale", scale)
    with np.errstate(over="ignore"):  # infinity clips to the limit, as it should
        return (np.rint(np.clip(x / scale, LOW, HIGH)) + U7_ZERO_POINT).astype(np.uint8)


def u7_linear(
    x: np.ndarray, p: QuantizedLinear, product: Callable[[np.ndarray], np.ndarray], tap: Tap = NO_TAP
) -> np.ndarray:
    """The quantized linear layer on such codes; ``p.input_scale`` is that of 7 bits.

    x: f32 (..., K) -> f32 (..., M); product: u8 (N, K) -> s32 (N, M). Taps: codes, u8 (..., K); acc, s32 (..., M).
    """
    u = tap("codes", quantize_u7(x, p.input_scale))
    raw = product(u.reshape(-1, u.shape[-1])) - U7_ZERO_POINT * p.codes.sum(1, dtype=np.int32)
    acc = tap("acc", raw.reshape(*x.shape[:-1], -1))
    return rescale(acc, p.input_scale, p.weight_scale, p.bias)
