"""The files that the other engines are given, and what is right for each: one model of the same weights a variant.

INT8 is the compressed model; f32 has its weights times their scales, zeros included. A model with INT8 attention is
also given with attention in f32, since an engine may run that faster.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refimpl.models.bench.synthetic import random_batch
from refimpl.models.bert import Batch, Model, forward, map_linears
from refimpl.models.compress import Quantized
from refimpl.models.export import export_onnx
from refimpl.models.information import attention_of
from refimpl.nn import REFERENCE, Linear, Ops
from refimpl.quant import QUANTIZED, QuantizedLinear, dequantize_weight

INT8, BF16, F32 = "INT8", "BF16", "f32"
TEXTS = 8
"""Texts that differ; a larger batch repeats them."""


class Variant(NamedTuple):
    """name: of the difference to the model that we run, "" for none; precision: INT8 or f32; path: its ONNX file."""

    name: str
    precision: str
    model: Model
    path: Path

    @property
    def ops(self) -> Ops:
        """The table that defines its results."""
        return QUANTIZED if self.precision == INT8 else REFERENCE

    @property
    def attention(self) -> str:
        """Its precision: INT8 or f32."""
        return attention_of(self.model)


def export_variants(quantized: Quantized, folder: Path) -> list[Variant]:
    """Write one file a variant; the first is the model itself."""
    float_attention = _without_attention_scales(quantized.model)
    models = [("", INT8, quantized.model), ("f32 attention", INT8, float_attention), ("", F32, dequantized(quantized))]
    if float_attention is quantized.model:
        del models[1]
    found = []
    for i, (name, precision, model) in enumerate(models):
        found.append(Variant(name, precision, model, folder / f"{i}.onnx"))
        export_onnx(model, found[-1].path)
    return found


def dequantized(quantized: Quantized) -> Model:
    """The f32 model whose weights are codes times scales."""

    def change(name: str, p: QuantizedLinear) -> Linear:
        return Linear(dequantize_weight(p.codes, p.weight_scale), p.bias)

    model = map_linears(_without_attention_scales(quantized.model), change)
    table = model.embeddings.word
    word = dequantize_weight(table.codes, table.scale)
    return replace(model, embeddings=model.embeddings._replace(word=word))


def _without_attention_scales(model: Model) -> Model:
    if all(layer.attention_scales is None for layer in model.layers):
        return model
    return replace(model, layers=tuple(layer._replace(attention_scales=None) for layer in model.layers))


class Inputs(NamedTuple):
    """TEXTS texts of one length, without padding; what each variant, by its path, makes of them; and the distance
    between INT8 and f32, relative to f32: how much quantization blurs the output of this model."""

    texts: Batch
    expected: dict[Path, np.ndarray]
    blur: float

    def batches(self, size: int) -> list[tuple[Batch, np.ndarray]]:
        """All texts in batches of a size, repeated where they are too few, and the numbers of the texts in each."""
        count = -(-TEXTS // size)
        rows = [np.arange(i * size, (i + 1) * size) % TEXTS for i in range(count)]
        return [(Batch(*(part[row] for part in self.texts)), row) for row in rows]


def make_inputs(variants: Sequence[Variant], tokens: int) -> Inputs:
    """Random ids, the same for the same length."""
    texts = random_batch(np.random.default_rng(tokens), variants[0].model.config, TEXTS, tokens)
    expected = [np.asarray(forward(variant.model, texts, variant.ops)) for variant in variants]
    exact = expected[-1]
    blur = float(np.linalg.norm(expected[0] - exact) / np.linalg.norm(exact))
    return Inputs(texts, {v.path: output for v, output in zip(variants, expected, strict=True)}, blur)
