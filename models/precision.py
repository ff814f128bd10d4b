"""The precision of single linear layers: kept in f32 while the others are quantized, or rounded to BF16.

Unlike the form of a weight, precision changes numbers, so nothing here is chosen for the user. A name is that of one
layer, "layer.0.output". In the engine q, k and v of a layer are one product, and need one precision.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Any, TypeVar

from refimpl.models.bert import linears, map_linears
from refimpl.models.compress import Calibrated, Dense, Packed, Quantized
from refimpl.nn import Linear
from refimpl.nn.linear_bf16 import round_weight

Stage = TypeVar("Stage", Dense, Quantized, Packed)


def keep(quantized: Quantized, calibrated: Calibrated, names: Collection[str]) -> Quantized:
    """The quantized model with the named layers in f32, as they were before. ValueError for a name of no layer."""
    before = linears(calibrated.model)
    _check(names, before)
    model = map_linears(quantized.model, lambda name, layer: before[name] if name in names else layer)
    return Quantized(model, quantized.tokenizer)


def in_bf16(stage: Stage, names: Collection[str] | None = None) -> Stage:
    """The model with the named layers, or with all that are in f32, in BF16. ValueError for a name of no f32 layer."""
    floats = {name: layer for name, layer in linears(stage.model).items() if isinstance(layer, Linear)}
    _check(names or (), floats)
    chosen = floats if names is None else names
    model = map_linears(stage.model, lambda name, layer: round_weight(layer) if name in chosen else layer)
    return replace(stage, model=model)


def _check(names: Collection[str], layers: Collection[Any]) -> None:
    for name in names:
        if name not in layers:
            raise ValueError(f"names has {name!r}; need one of {', '.join(layers) or 'none: no layer is in f32'}")
