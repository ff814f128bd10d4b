"""A smaller model without its dead heads and neurons, layer by layer.

Contract. Of equal inputs the smaller model's exact result is the exact result of the model before; both compute it
within the bounds of ``refimpl.bounds`` (f32), from equal integers where linear layers are INT8
(``refimpl.prune.structured`` says what stays equal). E stays; ``Config.layer_heads`` and ``layer_feed_forward`` say how
many each layer has left. A layer whose heads, or neurons, are all dead keeps the first. Neurons are kept in multiples
of ``multiple``, with dead ones where need be: the engine and the layout 4x1 need 4.

Such a model runs in the reference, on the 4x1 kernel, in the engine, as a packed file, as ONNX and from a Hugging Face
directory. transformers 4 reads one whose heads alone are fewer (``pruned_heads``); its version 5 reads none.
"""

from dataclasses import replace

import numpy as np

from refimpl.models.bert import Model
from refimpl.nn import EncoderLayer
from refimpl.prune import keep_heads, keep_neurons, live_heads, live_neurons


def remove_dead(model: Model, multiple: int = 4) -> Model:
    """The model without dead heads and neurons. Linear layers: f32 ``Linear`` or ``QuantizedLinear``.

    Raises TypeError for other linear layers, ValueError unless multiple >= 1.
    """
    if multiple < 1:
        raise ValueError(f"multiple is {multiple}; need at least 1")
    config, heads, layers = model.config, kept_heads(model), []
    for i, layer in enumerate(model.layers):
        smaller = keep_heads(layer, config.heads_of(i), heads[i])
        layers.append(keep_neurons(smaller, _in_multiples(live_neurons(layer), multiple)))
    return with_layers(model, tuple(layers))


def kept_heads(model: Model) -> list[np.ndarray]:
    """Which heads of each layer ``remove_dead`` keeps, bool (H,). Raises as it does."""
    return [_at_least_one(live_heads(layer, model.config.heads_of(i))) for i, layer in enumerate(model.layers)]


def with_layers(model: Model, layers: tuple[EncoderLayer, ...]) -> Model:
    """The model with other layers, which may have other numbers of heads and neurons, and their configuration."""
    config = model.config
    heads = tuple(layer.v.bias.size // config.head_size for layer in layers)
    neurons = tuple(layer.intermediate.bias.size for layer in layers)
    config = replace(
        config,
        layer_heads=() if set(heads) == {config.heads} else heads,
        layer_feed_forward=() if set(neurons) == {config.feed_forward} else neurons,
    )
    return replace(model, config=config, layers=layers)


def _at_least_one(live: np.ndarray) -> np.ndarray:
    return live if live.any() else np.arange(live.size) == 0


def _in_multiples(live: np.ndarray, multiple: int) -> np.ndarray:
    """With the first dead ones, up to a multiple, at least one; or all."""
    missing = -max(int(live.sum()), 1) % multiple + (not live.any())
    made = live.copy()
    made[np.flatnonzero(~live)[:missing]] = True
    return made
