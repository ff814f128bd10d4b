"""SmoothQuant on a BERT: which layers share an activation, and where its division goes. See ``refimpl.quant.smooth``.

    q, k, v             one s; the input is multiplied by 1 / s, since the norm before them is the residual too
    attention_output    s divides the rows of v: nothing is added
    intermediate        its input is multiplied by 1 / s, for the same reason
    output              its input is multiplied by 1 / s, since GELU stands before it

Between pruning and calibration: smoothing moves ranges. Zeros stay zeros, so masks hold.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refimpl.models.bert import Batch
from refimpl.models.compress import Masked
from refimpl.models.quantization.observing import observe
from refimpl.nn import EncoderLayer
from refimpl.quant.smooth import (
    ALPHA,
    CHANNEL_ABSMAX,
    SmoothedLinear,
    fold_into_rows,
    inverse_of,
    smooth_columns,
    smoothing,
)

MULTIPLIED = (("q", "k", "v"), ("intermediate",), ("output",))
"""Layers of one input, behind a multiplication."""


def smooth_foldable(masked: Masked, batches: Sequence[Batch], alpha: float = ALPHA) -> Masked:
    """Only what costs nothing and every engine runs: ``attention_output``, into v."""
    seen = observe(masked.model, batches, CHANNEL_ABSMAX, ()).inputs
    layers = tuple(_folded(layer, seen[f"layer.{i}.attention_output"], alpha) for i, layer in _layers(masked))
    return replace(masked, model=replace(masked.model, layers=layers))


def smooth(masked: Masked, batches: Sequence[Batch], alpha: float = ALPHA) -> Masked:
    """All layers. Those behind a multiplication are ``SmoothedLinear``, which the reference runs and the engine not."""
    seen = observe(masked.model, batches, CHANNEL_ABSMAX, ()).inputs

    def change(i: int, layer: EncoderLayer) -> EncoderLayer:
        layer = _folded(layer, seen[f"layer.{i}.attention_output"], alpha)
        for names in MULTIPLIED:
            parts = [getattr(layer, name) for name in names]
            s = smoothing(seen[f"layer.{i}.{names[0]}"], [p.weight for p in parts], alpha)
            smoothed: list[Any] = [SmoothedLinear(inverse_of(s), smooth_columns(p, s)) for p in parts]
            layer = layer._replace(**dict(zip(names, smoothed, strict=True)))
        return layer

    layers = tuple(change(i, layer) for i, layer in _layers(masked))
    return replace(masked, model=replace(masked.model, layers=layers))


def _layers(masked: Masked) -> enumerate:
    return enumerate(masked.model.layers)


def _folded(layer: EncoderLayer, activation: np.ndarray, alpha: float) -> EncoderLayer:
    s = smoothing(activation, [layer.attention_output.weight], alpha)
    return layer._replace(v=fold_into_rows(layer.v, s), attention_output=smooth_columns(layer.attention_output, s))
