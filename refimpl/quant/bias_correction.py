"""Bias correction: a quantized layer's mean output is brought back to that of the layer it came from.

    shift = mean over tokens of y  -  mean over tokens of y_q          for each output channel
    bias  = bias + shift                                               if the shift is small enough

    rule                    small enough                                        threshold
    corrected_bias          max |shift| < threshold max |bias|, or no bias      2 (fast), 1000 (full)
    corrected_bias_nncf     max |shift / bias| < threshold over all channels    2 (fast), 1000 (full)

NNCF takes the ratio for infinite as soon as *one* element of the bias is exactly 0, and leaves the layer as it is.
Pruned models have such zeros (masked biases), so their layers get no correction, and nothing says so. A bias that is
merely tiny in one channel does the same through a huge ratio. ``corrected_bias`` compares the largest with the largest.

Where y_q comes from:
* fast: the layer alone, on the inputs of the f32 model. NNCF's layer is the one behind the quantizer of the weight
  only, at the mean input of each channel (``shift_of_weight``): one product, (W - W_q) mean x, which is exact for the
  weight and blind to what the quantizer of the activation rounds and clips.
* full: the layer inside of the quantized model, whose earlier layers are corrected already, one after another.

Contract. Means are f64 sums, divided once; shift is rounded to f32 once.
Source: Nagel et al., arXiv 1906.04721, section 4.2; NNCF nncf/quantization/algorithms/{fast_bias_correction,
bias_correction} (``get_bias_shift_magnitude``).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.nn.linear import linear
from refimpl.nn.params import Linear
from refimpl.quant.linear import QuantizedLinear
from refimpl.quant.observers import Observer
from refimpl.quant.symmetric import dequantize_weight

FAST_THRESHOLD, FULL_THRESHOLD = 2.0, 1000.0

Rule = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


class ChannelMean(NamedTuple):
    """Sums over tokens. total: f64 (M,), or () before anything came; tokens: s64 ()."""

    total: np.ndarray
    tokens: np.ndarray


def see_channel_mean(state: ChannelMean, y: np.ndarray) -> ChannelMean:
    """y: f32 (..., M)."""
    check.dtype("y", y, np.float32)
    rows = y.reshape(-1, y.shape[-1])
    return ChannelMean(state.total + rows.sum(0, dtype=np.float64), state.tokens + len(rows))


def mean_of(state: ChannelMean) -> np.ndarray:
    """f64 (M,)."""
    if not state.tokens:
        raise ValueError("nothing was observed; need at least one batch")
    return np.asarray(state.total / state.tokens)


CHANNEL_MEAN = Observer(ChannelMean(np.zeros(()), np.zeros((), np.int64)), see_channel_mean, mean_of)


def shift_of(mean: np.ndarray, quantized_mean: np.ndarray) -> np.ndarray:
    """Mean output less mean quantized output. f64 (M,) each -> f32 (M,)."""
    return (mean - quantized_mean).astype(np.float32)


def shift_of_weight(mean_input: np.ndarray, mean_output: np.ndarray, p: QuantizedLinear) -> np.ndarray:
    """NNCF's fast shift: of the quantized weight alone, at the mean input. f64 (K,) and (M,) -> f32 (M,)."""
    weight = dequantize_weight(p.codes, p.weight_scale).astype(np.float64)
    return shift_of(mean_output, linear(mean_input, Linear(weight, p.bias.astype(np.float64))))


def corrected_bias(bias: np.ndarray, shift: np.ndarray, threshold: float = FAST_THRESHOLD) -> np.ndarray:
    """f32 (M,) -> f32 (M,). A single zero does not matter.

    >>> corrected_bias(np.float32([1, 0]), np.float32([0.5, 0.25]))
    array([1.5 , 0.25], dtype=float32)
    """
    _check(bias, shift)
    largest = np.abs(bias).max(initial=0)
    small = largest == 0 or np.abs(shift).max(initial=0) < threshold * largest
    return bias + shift if small else bias


def corrected_bias_nncf(bias: np.ndarray, shift: np.ndarray, threshold: float = FAST_THRESHOLD) -> np.ndarray:
    """f32 (M,) -> f32 (M,). A single zero prevents the correction.

    >>> corrected_bias_nncf(np.float32([1, 0]), np.float32([0.5, 0.25]))
    array([1., 0.], dtype=float32)
    """
    _check(bias, shift)
    if (bias == 0).any():
        return bias
    with np.errstate(over="ignore"):
        magnitude = np.abs((bias + shift - bias) / bias).max(initial=0)
    return bias + shift if magnitude < threshold else bias


def _check(bias: np.ndarray, shift: np.ndarray) -> None:
    check.dtype("bias", bias, np.float32)
    check.dtype("shift", shift, np.float32)
    check.shape("bias", bias, ("M",))
    check.shape("shift", shift, bias.shape)
    check.finite("shift", shift)
