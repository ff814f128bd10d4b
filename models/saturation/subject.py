"""What is examined: an INT8 model, the f32 weights that it came from, and the largest code of every layer's input."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from refimpl.integer.pairs import FULL
from refimpl.kernels.layout.bsr4x1 import Bsr4x1
from refimpl.models import compress
from refimpl.models.bert import Model, linears
from refimpl.models.compress import Dense, Packed, Quantized
from refimpl.quant import dequantize_weight
from refimpl.saturation.ranges import most_after_norm

Most = np.ndarray | int


class Subject(NamedTuple):
    """quantized: the model as it is. weights: name -> f32 (M, K), for remedies that quantize again: the real ones, or
    those that the codes stand for, in a packed file. most: name -> the largest code of each input channel on any
    input, s32 (K,), or of all, proved. stored: name -> how a packed file stores a weight; empty for a directory."""

    quantized: Quantized
    weights: dict[str, np.ndarray]
    most: dict[str, Most]
    stored: dict[str, Bsr4x1]


def from_dense(dense: Dense, texts: Sequence[str], sparsity: float) -> Subject:
    """Prune, calibrate on the texts, quantize. Sparsity 0 keeps all."""
    masked = compress.prune(dense, 1 - sparsity)
    quantized = compress.quantize(compress.calibrate(masked, compress.encode_each(dense.tokenizer, texts)))
    weights = {name: layer.weight for name, layer in linears(masked.model).items()}
    return Subject(quantized, weights, largest_codes(quantized.model), {})


def from_packed(packed: Packed) -> Subject:
    """A packed file, its columns in the order in which it has them."""
    quantized = compress.unpack(packed)
    weights = {name: dequantize_weight(p.codes, p.weight_scale) for name, p in linears(quantized.model).items()}
    stored = {name: p.weight for name, p in linears(packed.model).items()}
    return Subject(quantized, weights, largest_codes(quantized.model), stored)


def largest_codes(model: Model) -> dict[str, Most]:
    """By layer, proved for any input: q, k, v and ``intermediate`` read a layer norm; the others may read anything."""
    most: dict[str, Most] = dict.fromkeys(linears(model), FULL)
    norm = model.embeddings.norm
    for i, layer in enumerate(model.layers):
        for name in ("q", "k", "v"):
            most[f"layer.{i}.{name}"] = most_after_norm(norm, getattr(layer, name).input_scale)
        most[f"layer.{i}.intermediate"] = most_after_norm(layer.attention_norm, layer.intermediate.input_scale)
        norm = layer.output_norm
    return most
