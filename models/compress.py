"""Compression as a row of stages.

    Dense -> prune -> Masked -> calibrate -> Calibrated -> quantize -> Quantized -> pack -> Packed

Each arrow is a pure function and each stage a frozen type of its own, so that a wrong order does not type-check.
Pruning comes before calibration because zeroed blocks move the ranges of activations and the scales of weights.
What is compressed: the encoder's linear layers (4x1 blocks, INT8) and the word table (INT8 rows). Norms, positions and
the head stay f32, and so does attention, unless ``quantize_with_attention`` takes the place of ``quantize``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refimpl.kernels.layout import bsr4x1
from refimpl.kernels.layout.bsr4x1 import Bsr4x1
from refimpl.models.bert import Batch, Model, linears, map_linears
from refimpl.models.checkpoint import load_model
from refimpl.models.quantization.observing import observe
from refimpl.models.tokenizer import Tokenizer
from refimpl.nn import AttentionScales
from refimpl.nn.taps import SEPARATOR
from refimpl.prune import BLOCK_4X1, block_scores, expand, global_topk_masks, topk_mask
from refimpl.quant import QuantizedLinear, QuantizedTable, compensation, quantize_weight, scale_of
from refimpl.quant.fake_linear import FakeQuantizedLinear, frozen
from refimpl.quant.observers import MIN_MAX, Observer
from refimpl.quant.smooth import SmoothedLinear


@dataclass(frozen=True)
class Dense:
    """A model as it was trained, f32."""

    model: Model
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Masked:
    """Pruned: dead blocks are zeros in the f32 weights. masks: name -> bool (M, K), True where a weight lives."""

    model: Model
    tokenizer: Tokenizer
    masks: dict[str, np.ndarray]


@dataclass(frozen=True)
class Calibrated:
    """Pruned, and the ranges of the activations are known.

    ranges: name of a linear layer -> f32 (), largest magnitude of its input; outputs: name of q, k or v -> f32 (),
    largest magnitude of its output, if it was observed.
    """

    model: Model
    tokenizer: Tokenizer
    ranges: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


@dataclass(frozen=True)
class Quantized:
    """The encoder's linear layers are ``QuantizedLinear``, but for those in another precision, and the word table
    is a ``QuantizedTable``.

    Attention is INT8 in layers that have ``attention_scales``.
    """

    model: Model
    tokenizer: Tokenizer


class PackedLinear(NamedTuple):
    """An INT8 linear layer as its kernel reads it. scales and bias: f32 (M,), (), (M,); compensation: s32 (M,)."""

    weight: Bsr4x1
    weight_scale: np.ndarray
    input_scale: np.ndarray
    bias: np.ndarray
    compensation: np.ndarray


@dataclass(frozen=True)
class Packed:
    """The encoder's linear layers are ``PackedLinear``, but for those in another precision: what is saved and run."""

    model: Model
    tokenizer: Tokenizer


def load(directory: Path) -> Dense:
    """A Hugging Face directory: config.json, model.safetensors, tokenizer.json or vocab.txt."""
    model = load_model(directory)
    return Dense(model, Tokenizer.load(directory, model.config))


def prune(dense: Dense, density: float) -> Masked:
    """Keep the share ``density`` of the 4x1 blocks with the largest mean magnitude, in each layer."""
    return _masked(dense, {name: topk_mask(scores, density) for name, scores in _scores(dense).items()})


def prune_globally(dense: Dense, density: float) -> Masked:
    """Keep the share ``density`` of all 4x1 blocks, ranked over all layers together."""
    return _masked(dense, global_topk_masks(_scores(dense), density))


def _scores(dense: Dense) -> dict[str, np.ndarray]:
    scores = {}
    for name, layer in linears(dense.model).items():
        try:
            scores[name] = block_scores(layer.weight)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return scores


def _masked(dense: Dense, blocks: dict[str, np.ndarray]) -> Masked:
    masks = {name: expand(mask, BLOCK_4X1) for name, mask in blocks.items()}
    model = map_linears(dense.model, lambda name, layer: layer._replace(weight=layer.weight * masks[name]))
    return Masked(model, dense.tokenizer, masks)


def calibrate(
    masked: Masked, batches: Sequence[Batch], observer: Observer = MIN_MAX, attention: bool = True
) -> Calibrated:
    """Run the f32 model on the batches and take the ranges of every linear layer's input.

    observer: one of ``refimpl.quant.observers``; attention: whether also of what q, k and v return, which
    ``quantize_with_attention`` needs. Padding would be observed too, so give one text a batch, which is then also one
    sample a batch.
    """
    coded = [name for name in masked.masks if attention and name.rsplit(SEPARATOR, 1)[1] in AttentionScales._fields]
    seen = observe(masked.model, batches, observer, coded)
    return Calibrated(masked.model, masked.tokenizer, seen.inputs, seen.outputs)


def quantize(
    calibrated: Calibrated, of_weight: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] = quantize_weight
) -> Quantized:
    """INT8: the encoder's weights and the word table with one scale a row, the layers' inputs with one a tensor.

    A layer that was trained under fake quantization has the ranges that it learned, any other the observed ones.
    of_weight: ``quantize_weight``, or one of ``refimpl.saturation.reduced_range`` for the encoder's weights.
    """

    def change(name: str, layer: Any) -> QuantizedLinear | SmoothedLinear:
        if isinstance(layer, FakeQuantizedLinear):
            return frozen(layer)
        if isinstance(layer, SmoothedLinear):
            return layer._replace(linear=change(name, layer.linear))
        codes, scale = of_weight(layer.weight)
        return QuantizedLinear(codes, scale, scale_of(calibrated.ranges[name]), layer.bias)

    model = map_linears(calibrated.model, change)
    table = QuantizedTable(*quantize_weight(model.embeddings.word))
    return Quantized(replace(model, embeddings=model.embeddings._replace(word=table)), calibrated.tokenizer)


def quantize_with_attention(
    calibrated: Calibrated, of_weight: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] = quantize_weight
) -> Quantized:
    """``quantize``, and attention in INT8: q, k and v with one scale a tensor.

    Raises ValueError if they were not observed.
    """
    if not calibrated.outputs:
        raise ValueError("q, k and v were not observed; need calibrate with attention")
    quantized = quantize(calibrated, of_weight)

    def scales(i: int) -> AttentionScales:
        return AttentionScales(*(scale_of(calibrated.outputs[f"layer.{i}.{name}"]) for name in AttentionScales._fields))

    layers = tuple(layer._replace(attention_scales=scales(i)) for i, layer in enumerate(quantized.model.layers))
    return replace(quantized, model=replace(quantized.model, layers=layers))


def pack(quantized: Quantized) -> Packed:
    """Bring the codes into the layout of the 4x1 kernel, exactly. Layers in f32 or BF16 stay as they are."""

    def change(name: str, layer: Any) -> Any:
        if isinstance(layer, SmoothedLinear | FakeQuantizedLinear):
            raise TypeError(f"{name} is {type(layer).__name__}, which the engine lacks; need QuantizedLinear or Linear")
        return pack_linear(layer) if isinstance(layer, QuantizedLinear) else layer

    return Packed(map_linears(quantized.model, change), quantized.tokenizer)


def pack_linear(layer: QuantizedLinear) -> PackedLinear:
    """One layer of ``pack``."""
    weight = bsr4x1.pack(layer.codes)
    return PackedLinear(weight, layer.weight_scale, layer.input_scale, layer.bias, compensation(layer.codes))


def unpack(packed: Packed) -> Quantized:
    """The exact inverse of ``pack``."""

    def change(name: str, layer: Any) -> Any:
        if not isinstance(layer, PackedLinear):
            return layer
        return QuantizedLinear(bsr4x1.unpack(layer.weight), layer.weight_scale, layer.input_scale, layer.bias)

    return Quantized(map_linears(packed.model, change), packed.tokenizer)


def compress(
    dense: Dense,
    texts: Sequence[str],
    density: float = 0.2,
    observer: Observer = MIN_MAX,
    quantizer: Callable[[Calibrated], Quantized] = quantize,
) -> Packed:
    """All stages at once, without training: prune each layer to ``density``, calibrate on ``texts``, quantize, pack.

    quantizer: ``quantize``, or ``quantize_with_attention`` for attention in INT8.
    """
    return pack(quantizer(calibrate(prune(dense, density), encode_each(dense.tokenizer, texts), observer)))


def encode_each(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Batch]:
    """One batch a text, so that nothing is padded."""
    return split(tokenizer.encode(texts))


def split(batch: Batch) -> list[Batch]:
    """One batch a text, without its padding."""
    return [Batch(*(part[i : i + 1, :length] for part in batch)) for i, length in enumerate(batch.mask.sum(1).tolist())]
