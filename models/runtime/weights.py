"""A packed model's parameters as the kernels of an encoder read them; read-only, so any number of sessions share them.

q, k and v become one product of 3 D output channels. Scales are folded: the input's times the weight's, once, and each
layer's accumulators start from minus their compensation.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from refimpl.kernels.encoder.forms import FORMS, Arrays, Form
from refimpl.kernels.layout.aligned import flat
from refimpl.kernels.layout.bsr4x1 import ROWS, Bsr4x1
from refimpl.models.compress import Packed, PackedLinear
from refimpl.models.config import Config
from refimpl.models.heads import Head
from refimpl.models.runtime import choice
from refimpl.models.runtime.choice import Decision
from refimpl.nn import EncoderLayer, Norm
from refimpl.quant.attention import context_multiplier, scores_multiplier
from refimpl.quant.linear import QuantizedTable


class LinearWeights(NamedTuple):
    """form: of the weight; arrays: the weight; shape: (M, K).

    start: s32, minus the compensation; scale, bias: f32; step: f32, of the codes that the layer writes, 1 where it
    writes none; each (M',), padded to the form's tiles; input_scale: f32 ().
    """

    form: Form
    arrays: Arrays
    shape: tuple[int, int]
    start: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    step: np.ndarray
    input_scale: np.ndarray


class NormWeights(NamedTuple):
    """norm; step: f32 scalar, of the codes that the next layer reads, 1 where none does."""

    norm: Norm
    step: Any


class LayerWeights(NamedTuple):
    """One encoder layer. factors: f32, what the attention kernel multiplies by: scores, context (if INT8), step."""

    qkv: LinearWeights
    factors: np.ndarray
    attention_output: LinearWeights
    attention_norm: NormWeights
    intermediate: LinearWeights
    output: LinearWeights
    output_norm: NormWeights


class Weights(NamedTuple):
    """word, scale: s8 (V D,), f32 (V,); position: f32 (S D,); token_type: f32 (C D,), or (0,) for none; decisions: the
    form of each layer's weight, by name, and why.

    Of the model itself only what these do not hold: its configuration and its head.
    """

    config: Config
    head: Head
    word: np.ndarray
    scale: np.ndarray
    position: np.ndarray
    token_type: np.ndarray
    norm: NormWeights
    layers: tuple[LayerWeights, ...]
    integer_attention: bool
    decisions: dict[str, Decision]


def prepare(packed: Packed, form: str | Mapping[str, str] | None = None, tokens: int = choice.TOKENS) -> Weights:
    """Attention is INT8 if the layers have scales for it, and f32 if not.

    form: of the weights: "4x1" or another of ``FORMS`` for all, or by layer ("layer.0.qkv", ".attention_output",
    ".intermediate", ".output"); what is not named gets the form that is fastest here for so many tokens.

    Raises ValueError for a model that the kernels cannot run: 4 does not divide the numbers of a head or of the
    feed-forward block, a layer's q, k and v read their input with different scales, or only some layers have attention
    scales; and for a form or a layer that does not exist.
    """
    model = packed.model
    config, table = model.config, model.embeddings.word
    if config.hidden % (ROWS * config.heads):
        raise ValueError(f"a head has {config.hidden / config.heads:g} numbers; need a multiple of {ROWS}")
    if config.feed_forward % ROWS:
        raise ValueError(f"the feed-forward block has {config.feed_forward} numbers; need a multiple of {ROWS}")
    if not isinstance(table, QuantizedTable):
        raise TypeError(f"the word table is {type(table).__name__}; need QuantizedTable")
    integer = [layer.attention_scales is not None for layer in model.layers]
    if any(integer) != all(integer):
        raise ValueError("only some layers have attention scales; need all or none")
    products = {name: p for i, layer in enumerate(model.layers) for name, p in _products(layer, f"layer.{i}").items()}
    decisions = choice.decide({name: p.weight for name, p in products.items()}, form, tokens)
    made = {name: (p, FORMS[decisions[name].form]) for name, p in products.items()}
    layers = tuple(_layer(layer, config.heads, made, f"layer.{i}") for i, layer in enumerate(model.layers))
    steps = [layer.qkv.input_scale[()] for layer in layers[1:]] + [np.float32(1)]
    layers = tuple(
        layer._replace(output_norm=NormWeights(layer.output_norm.norm, step))
        for layer, step in zip(layers, steps, strict=True)
    )
    types = model.embeddings.token_type
    return Weights(
        config,
        model.head,
        flat(table.codes),
        flat(table.scale),
        flat(model.embeddings.position),
        flat(np.zeros(0, np.float32) if types is None else types),
        NormWeights(model.embeddings.norm, layers[0].qkv.input_scale[()] if layers else np.float32(1)),
        layers,
        any(integer),
        decisions,
    )


def _products(p: EncoderLayer, name: str) -> dict[str, PackedLinear]:
    """The products of a layer by name."""
    inputs = {float(part.input_scale) for part in (p.q, p.k, p.v)}
    if len(inputs) > 1:
        raise ValueError(f"{name}: q, k and v read their input with the scales {sorted(inputs)}; need one for all")
    return {
        f"{name}.qkv": _join(p.q, p.k, p.v),
        f"{name}.attention_output": p.attention_output,
        f"{name}.intermediate": p.intermediate,
        f"{name}.output": p.output,
    }


def _layer(p: EncoderLayer, heads: int, made: Mapping[str, tuple[PackedLinear, Form]], name: str) -> LayerWeights:
    d, scales = p.q.weight.shape[0], p.attention_scales
    step = np.ones(3 * d, np.float32) if scales is None else np.repeat([scales.q, scales.k, scales.v], d)
    context_step = p.attention_output.input_scale[()]
    if scales is None:
        factors = [np.float32(1 / (d // heads) ** 0.5), context_step]
    else:
        factors = [scores_multiplier(scales.q, scales.k, d // heads), context_multiplier(scales.v), context_step]
    hidden = np.full(p.intermediate.weight.shape[0], p.output.input_scale)
    return LayerWeights(
        _linear(*made[f"{name}.qkv"], step),
        np.array(factors, np.float32),
        _linear(*made[f"{name}.attention_output"]),
        NormWeights(p.attention_norm, p.intermediate.input_scale[()]),
        _linear(*made[f"{name}.intermediate"], hidden),
        _linear(*made[f"{name}.output"]),
        NormWeights(p.output_norm, np.float32(1)),
    )


def _join(*parts: PackedLinear) -> PackedLinear:
    """One layer with the output channels of all; 4 divides those of each."""
    weights = [part.weight for part in parts]
    ends = np.cumsum([0, *(weight.indptr[-1] for weight in weights)])
    indptr = np.concatenate([[0], *(weight.indptr[1:] + end for weight, end in zip(weights, ends, strict=False))])
    joined = Bsr4x1(
        (sum(weight.shape[0] for weight in weights), weights[0].shape[1]),
        indptr.astype(np.int32),
        np.concatenate([weight.indices for weight in weights]),
        np.concatenate([weight.values for weight in weights]),
    )
    weight_scale, bias, compensation = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("weight_scale", "bias", "compensation")
    )
    return PackedLinear(joined, weight_scale, parts[0].input_scale, bias, compensation)


def _linear(p: PackedLinear, form: Form, step: np.ndarray | None = None) -> LinearWeights:
    m = p.weight.shape[0]
    step = np.ones(m, np.float32) if step is None else step.astype(np.float32)
    padding = (0, -m % form.tile)
    return LinearWeights(
        form,
        form.pack(p.weight),
        p.weight.shape,
        flat(np.pad(-p.compensation, padding)),
        flat(np.pad(p.input_scale * p.weight_scale, padding)),
        flat(np.pad(p.bias, padding)),
        flat(np.pad(step, padding, constant_values=1)),
        p.input_scale,
    )
