"""Bias correction of a quantized model. See ``refimpl.quant.bias_correction`` for the rule and its traps.

    correct_biases             fast: each layer alone, on the inputs of the f32 model
    correct_weight_biases      fast, NNCF's way: what the quantized weight shifts, at the mean of the inputs
    correct_biases_in_order    full: layer after layer, in the quantized model with the earlier ones corrected

Layers that are not ``QuantizedLinear`` stay as they are. Stages: the ``Quantized`` model, and the ``Calibrated`` one
that it was made of.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refimpl.models.bert import Batch, forward, linears, map_linears
from refimpl.models.compress import Calibrated, Quantized
from refimpl.models.quantization.observing import observe
from refimpl.nn.taps import NO_TAP, Tap
from refimpl.quant import QuantizedLinear, quantized_linear
from refimpl.quant.bias_correction import (
    CHANNEL_MEAN,
    FAST_THRESHOLD,
    FULL_THRESHOLD,
    Rule,
    corrected_bias,
    mean_of,
    shift_of,
    shift_of_weight,
)
from refimpl.quant.ops import QUANTIZED

TOGETHER = (("q", "k", "v"), ("attention_output",), ("intermediate",), ("output",))
"""Layers that do not read one another, in the order of computation."""


def correct_biases(
    quantized: Quantized, calibrated: Calibrated, batches: Sequence[Batch], rule: Rule = corrected_bias
) -> Quantized:
    """Fast bias correction. rule: ``corrected_bias`` or ``corrected_bias_nncf``."""
    if not batches:
        raise ValueError("batches is empty; need at least one text")
    after = _quantized(quantized)
    names = {id(layer): name for name, layer in linears(calibrated.model).items()}
    states = dict.fromkeys(after, (CHANNEL_MEAN.start, CHANNEL_MEAN.start))

    def linear(x: np.ndarray, p: Any, tap: Tap = NO_TAP) -> np.ndarray:
        y = QUANTIZED.linear(x, p, tap)
        name = names.get(id(p), "")
        if name in after:
            of_float, of_codes = states[name]
            states[name] = CHANNEL_MEAN.see(of_float, y), CHANNEL_MEAN.see(of_codes, quantized_linear(x, after[name]))
        return y

    for batch in batches:
        forward(calibrated.model, batch, QUANTIZED._replace(linear=linear))
    shifts = {name: shift_of(*(mean_of(state) for state in pair)) for name, pair in states.items()}
    return _shifted(quantized, shifts, lambda bias, shift: rule(bias, shift, FAST_THRESHOLD))


def correct_weight_biases(
    quantized: Quantized, calibrated: Calibrated, batches: Sequence[Batch], rule: Rule = corrected_bias
) -> Quantized:
    """NNCF's fast bias correction; with ``corrected_bias_nncf`` also its rule."""
    seen = observe(calibrated.model, batches, CHANNEL_MEAN)
    shifts = {
        name: shift_of_weight(seen.inputs[name], seen.outputs[name], layer)
        for name, layer in _quantized(quantized).items()
    }
    return _shifted(quantized, shifts, lambda bias, shift: rule(bias, shift, FAST_THRESHOLD))


def correct_biases_in_order(
    quantized: Quantized, calibrated: Calibrated, batches: Sequence[Batch], rule: Rule = corrected_bias
) -> Quantized:
    """Full bias correction: 4 passes over the batches for each encoder layer, and one of the f32 model."""
    means = observe(calibrated.model, batches, CHANNEL_MEAN).outputs
    for i in range(len(quantized.model.layers)):
        for fields in TOGETHER:
            names = [f"layer.{i}.{field}" for field in fields]
            now = observe(quantized.model, batches, CHANNEL_MEAN, names).outputs
            shifts = {name: shift_of(means[name], now[name]) for name in names if name in _quantized(quantized)}
            quantized = _shifted(quantized, shifts, lambda bias, shift: rule(bias, shift, FULL_THRESHOLD))
    return quantized


def _quantized(quantized: Quantized) -> dict[str, QuantizedLinear]:
    return {name: layer for name, layer in linears(quantized.model).items() if isinstance(layer, QuantizedLinear)}


def _shifted(
    quantized: Quantized, shifts: dict[str, np.ndarray], rule: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Quantized:
    def change(name: str, layer: Any) -> Any:
        return layer._replace(bias=rule(layer.bias, shifts[name])) if name in shifts else layer

    return replace(quantized, model=map_linears(quantized.model, change))
