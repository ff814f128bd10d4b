"""Quantization-aware training: layers under fake quantization, from calibrated ranges to learned ones.

    Calibrated -> prepare -> Calibrated (layers are FakeQuantizedLinear) -> training -> Calibrated -> quantize -> ...

``compress.quantize`` takes the learned ranges of such layers, and the observed ones of the others. The word table,
norms, attention and the head are trained in f32; the table is quantized at the end, as always.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from refimpl.models.bert import linears, map_linears
from refimpl.models.compress import Calibrated
from refimpl.nn import Linear
from refimpl.quant.fake import WEIGHT, Levels, initial_high
from refimpl.quant.fake_linear import FakeQuantizedLinear

Initial = Callable[[np.ndarray], np.ndarray]
"""A weight, f32 (M, K), to the ranges of its rows, f32 (M,)."""


def prepare(
    calibrated: Calibrated,
    initial: Initial = initial_high,
    levels: Mapping[str, Levels] | None = None,
) -> Calibrated:
    """Every linear layer of the encoder under fake quantization; its input begins with the observed range.

    q, k and v read one input and share its range, one array, as NNCF's quantizers do and as engines need it.
    initial: ``initial_high``, or ``initial_high_nncf`` for NNCF's floor of 0.1; levels: name of a layer -> the levels
    of its weight, as the ``overflow_fix`` functions return them; None for -127 ... 127. The arrays are copies, so that
    training may write into them.
    """
    names = linears(calibrated.model)
    if levels is not None and set(levels) != set(names):
        raise ValueError(f"levels are of {len(levels)} layers; need exactly {', '.join(names)}")

    inputs: dict[str, np.ndarray] = {}

    def change(name: str, layer: Linear) -> FakeQuantizedLinear:
        if not isinstance(layer, Linear):
            raise TypeError(f"{name} is {type(layer).__name__}; need Linear")
        weight = layer.weight.copy()
        stem, _, field = name.rpartition(".")
        of = f"{stem}.q" if field in ("k", "v") else name
        high = inputs.setdefault(of, calibrated.ranges[of].copy())
        return FakeQuantizedLinear(weight, layer.bias.copy(), initial(weight), high, (levels or {}).get(name, WEIGHT))

    return replace(calibrated, model=map_linears(calibrated.model, change))
