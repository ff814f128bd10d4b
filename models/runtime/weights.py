"""A model's parameters as the kernels of an encoder read them; read-only, so any number of sessions share them.

q, k and v become one product of 3 D output channels. Scales are folded: the input's times the weight's, once, and each
layer's accumulators start from minus their compensation.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from refimpl.kernels.compilation import Say
from refimpl.kernels.encoder.forms import FLOATS, FORMS, Arrays, Form
from refimpl.kernels.layout.aligned import flat
from refimpl.kernels.layout.bsr4x1 import ROWS, Bsr4x1
from refimpl.models.compress import Dense, Packed, PackedLinear
from refimpl.models.config import Config
from refimpl.models.heads import Head, QuestionAnswering
from refimpl.models.runtime import choice
from refimpl.models.runtime.choice import Decision
from refimpl.nn import EncoderLayer, Linear, Norm
from refimpl.nn.linear_bf16 import Bf16Linear
from refimpl.quant.attention import context_multiplier, scores_multiplier
from refimpl.quant.linear import QuantizedTable


class LinearWeights(NamedTuple):
    """form: how the weight lies in ``arrays``; shape: (M, K); parameters: what the form's kernels are given beside,
    each (M',), padded to whole tiles; input_scale: f32 (), of the codes that the layer reads; None if it reads f32."""

    form: Form
    arrays: Arrays
    shape: tuple[int, int]
    parameters: Arrays
    input_scale: np.ndarray | None

    @property
    def step(self) -> Any:
        """f32 scalar, of the codes that the layer reads, None if it reads f32."""
        return None if self.input_scale is None else self.input_scale[()]


class NormWeights(NamedTuple):
    """norm; step: f32 scalar, of the codes that the next layer reads, None where none does."""

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
    """word, scale: s8 or f32 (V D,), f32 (V,); position: f32 (S D,); token_type: f32 (C D,), or (0,) for none;
    outputs: of a head that is one product of all tokens, None for another, which is computed after the plan;
    decisions: the form of each INT8 weight, by the layer's name, and why.

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
    outputs: LinearWeights | None
    integer_attention: bool
    decisions: dict[str, Decision]

    @property
    def texts_share_panels(self) -> bool:
        """Whether they may: attention that stores f32 stores whole panels."""
        return all(layer.attention_output.step is not None for layer in self.layers)


def prepare(
    stage: Dense | Packed,
    form: str | Mapping[str, str] | None = None,
    tokens: int = choice.TOKENS,
    say: Say | None = None,
) -> Weights:
    """Each linear layer in the precision that it has in the model: INT8, BF16 or f32. Attention is INT8 if the layers
    have scales for it, and f32 if not.

    form: of the INT8 weights: "4x1" or another of ``FORMS`` for all, or by layer ("layer.0.qkv", ".attention_output",
    ".intermediate", ".output"); what is not named gets the form that is fastest here for so many tokens. say: told, as
    in ``compiling.compile_first``, while the kernels to be timed are compiled.

    Raises TypeError for what is no model, such as the path of one; ValueError for a model that the kernels cannot
    run: 4 does not divide the numbers of a head or of the feed-forward block, a layer's q, k and v differ in
    precision or in the scale of their input, or only some layers have attention scales; and for a form or a layer
    that does not exist.
    """
    _check(stage)
    model = stage.model
    config, table = model.config, model.embeddings.word
    products = {name: p for i, layer in enumerate(model.layers) for name, p in _products(layer, f"layer.{i}").items()}
    packed = {name: p.weight for name, p in products.items() if isinstance(p, PackedLinear)}
    decisions = choice.decide(packed, form, tokens, say)
    made = {name: (p, _form(p, decisions.get(name))) for name, p in products.items()}
    layers = tuple(_layer(layer, config.head_size, made, f"layer.{i}") for i, layer in enumerate(model.layers))
    steps = [layer.qkv.step for layer in layers] + [None]
    layers = tuple(
        layer._replace(output_norm=NormWeights(layer.output_norm.norm, step))
        for layer, step in zip(layers, steps[1:], strict=True)
    )
    types = model.embeddings.token_type
    codes, scale = table if isinstance(table, QuantizedTable) else (table, np.ones(len(table), np.float32))
    return Weights(
        config,
        model.head,
        flat(codes),
        flat(scale),
        flat(model.embeddings.position),
        flat(np.zeros(0, np.float32) if types is None else types),
        NormWeights(model.embeddings.norm, steps[0]),
        layers,
        _linear(model.head.outputs, FLOATS["f32"]) if isinstance(model.head, QuestionAnswering) else None,
        any(layer.attention_scales is not None for layer in model.layers),
        decisions,
    )


def _check(stage: Any) -> None:
    """Raise what ``prepare`` raises, but for what single layers are."""
    if not isinstance(stage, Dense | Packed):
        raise TypeError(
            f"the model is {type(stage).__name__}; need what compress.load reads from a Hugging Face directory, or "
            "packed_file.load from a packed file"
        )
    config = stage.model.config
    if config.head_size % ROWS:
        raise ValueError(f"a head has {config.head_size} numbers; need a multiple of {ROWS}")
    for wide in map(config.feed_forward_of, range(config.layers)):
        if wide % ROWS:
            raise ValueError(f"the feed-forward block has {wide} numbers; need a multiple of {ROWS}")
    if len({layer.attention_scales is None for layer in stage.model.layers}) > 1:
        raise ValueError("only some layers have attention scales; need all or none")


def _form(p: Any, decision: Decision | None) -> Form:
    if decision is not None:
        return FORMS[decision.form]
    return FLOATS["bf16" if isinstance(p, Bf16Linear) else "f32"]


def _products(p: EncoderLayer, name: str) -> dict[str, Any]:
    """The products of a layer by name."""
    return {
        f"{name}.qkv": _join(name, p.q, p.k, p.v),
        f"{name}.attention_output": p.attention_output,
        f"{name}.intermediate": p.intermediate,
        f"{name}.output": p.output,
    }


def _join(name: str, *parts: Any) -> Any:
    """q, k and v as one layer with the output channels of all; 4 divides those of each."""
    kinds = {type(part) for part in parts}
    if len(kinds) > 1:
        raise ValueError(f"{name}: q, k and v differ in precision; need one for all: they are one product")
    if kinds != {PackedLinear}:
        return type(parts[0])(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    inputs = {float(part.input_scale) for part in parts}
    if len(inputs) > 1:
        raise ValueError(f"{name}: q, k and v read their input with the scales {sorted(inputs)}; need one for all")
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


def _layer(p: EncoderLayer, head_size: int, made: Mapping[str, tuple[Any, Form]], name: str) -> LayerWeights:
    scales = p.attention_scales
    attention_output, output = _linear(*made[f"{name}.attention_output"]), _linear(*made[f"{name}.output"])
    steps = None if scales is None else np.repeat([scales.q, scales.k, scales.v], p.q.bias.size)
    intermediate = _linear(*made[f"{name}.intermediate"], output.input_scale)
    context_step = np.float32(1) if attention_output.step is None else attention_output.step
    if scales is None:
        factors = [np.float32(1 / head_size**0.5), context_step]
    else:
        factors = [scores_multiplier(scales.q, scales.k, head_size), context_multiplier(scales.v), context_step]
    return LayerWeights(
        _linear(*made[f"{name}.qkv"], steps),
        np.array(factors, np.float32),
        attention_output,
        NormWeights(p.attention_norm, intermediate.step),
        intermediate,
        output,
        NormWeights(p.output_norm, None),
    )


def _linear(p: PackedLinear | Linear | Bf16Linear, form: Form, step: np.ndarray | None = None) -> LinearWeights:
    """step: f32 () or (M,), of the codes that the layer writes, None where it writes f32."""
    m = p.bias.size
    steps = np.ones(m, np.float32) if step is None else np.broadcast_to(step, m).astype(np.float32)
    parameters: Arrays = (p.bias, steps)
    input_scale = None
    if isinstance(p, PackedLinear):
        parameters, input_scale = (-p.compensation, p.input_scale * p.weight_scale, *parameters), p.input_scale
    padded = (flat(np.pad(array, (0, -m % form.tile))) for array in parameters)
    return LinearWeights(form, form.pack(p.weight), (m, p.weight.shape[1]), tuple(padded), input_scale)
