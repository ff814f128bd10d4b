"""BERT and DistilBERT: parameters, and the one wiring that every op table runs.

    x = LN(word[ids] + position[0 ... T-1] + token_type[type_ids])      DistilBERT has no token types
    x = encoder_layer(x)                                                L times
    y = head(x)

Source: BERT, arXiv 1810.04805, section 3; DistilBERT, arXiv 1910.01108, section 3.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from refimpl import check
from refimpl.models.config import Config
from refimpl.models.heads import Head
from refimpl.nn import LINEARS, NO_TAP, REFERENCE, Embeddings, EncoderLayer, Ops, Tap, encoder_layer


class Batch(NamedTuple):
    """Token ids, mask (1 token, 0 padding) and token types, each s64 (B, T)."""

    ids: np.ndarray
    mask: np.ndarray
    types: np.ndarray


@dataclass(frozen=True)
class Model:
    """A model's configuration and parameters, at any stage of compression."""

    config: Config
    embeddings: Embeddings
    layers: tuple[EncoderLayer, ...]
    head: Head


def forward(model: Model, batch: Batch, ops: Ops = REFERENCE, tap: Tap = NO_TAP) -> Any:
    """The head's output. Taps: embedding_sum, embeddings (B, T, D), layer.0.q, ..., output."""
    x = embed(model.embeddings, batch, ops, tap)
    for i, layer in enumerate(model.layers):
        x = encoder_layer(x, batch.mask, layer, model.config.heads_of(i), ops, tap.scope(f"layer.{i}"))
    return tap("output", model.head(x, batch.mask, ops, tap))


def embed(p: Embeddings, batch: Batch, ops: Ops, tap: Tap) -> Any:
    """The embedding layer: (B, T) ids -> (B, T, D)."""
    x = ops.add(ops.embedding(batch.ids, p.word), ops.position_embedding(batch.ids, p.position))
    if p.token_type is not None:
        x = ops.add(x, ops.embedding(batch.types, p.token_type))
    return tap("embeddings", ops.layernorm(tap("embedding_sum", x), p.norm))


def linears(model: Model) -> dict[str, Any]:
    """The encoder's linear layers by name: "layer.0.q", ..., in the order of computation."""
    return {f"layer.{i}.{name}": getattr(layer, name) for i, layer in enumerate(model.layers) for name in LINEARS}


def map_linears(model: Model, change: Callable[[str, Any], Any]) -> Model:
    """The model with each of the encoder's linear layers replaced by ``change(name, layer)``."""
    layers = tuple(
        layer._replace(**{name: change(f"layer.{i}.{name}", getattr(layer, name)) for name in LINEARS})
        for i, layer in enumerate(model.layers)
    )
    return replace(model, layers=layers)


def cast(model: Model, dtype: type[np.floating]) -> Model:
    """The model with every f32 or f64 array in another of the two dtypes; integer arrays stay."""
    head = map_floats(model.head, dtype)
    return replace(
        model, embeddings=map_floats(model.embeddings, dtype), layers=map_floats(model.layers, dtype), head=head
    )


def map_floats(tree: Any, dtype: type[np.floating]) -> Any:
    """A tree of tuples, NamedTuples and arrays with its f32 and f64 arrays in ``dtype``."""
    if isinstance(tree, np.ndarray):
        return tree.astype(dtype) if tree.dtype in check.FLOATS else tree
    if isinstance(tree, tuple):
        leaves = [map_floats(leaf, dtype) for leaf in tree]
        return type(tree)(*leaves) if hasattr(tree, "_fields") else tuple(leaves)
    return tree
