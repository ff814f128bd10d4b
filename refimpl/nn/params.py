"""The parameters of a BERT-family encoder as immutable trees of arrays.

Dimensions: B batch, T tokens, D hidden, H heads, E = D / H, F feed-forward, L layers, V vocabulary, P positions,
S token types, C classes; for one linear layer M output and K input channels. A linear layer's parameters may be
replaced by another type with the same role (a quantized or a packed one); the op table in use must understand it.
"""

from typing import Any, NamedTuple

import numpy as np


class Linear(NamedTuple):
    """y = x Wᵀ + b. weight: float (M, K), torch's order; bias: float (M,)."""

    weight: np.ndarray
    bias: np.ndarray


class Norm(NamedTuple):
    """Layer normalization. weight, bias: float (D,); eps is added to the variance."""

    weight: np.ndarray
    bias: np.ndarray
    eps: float


class Embeddings(NamedTuple):
    """word: float (V, D) or a quantized table; position: float (P, D); token_type: float (S, D), None in DistilBERT."""

    word: Any
    position: np.ndarray
    token_type: np.ndarray | None
    norm: Norm


class AttentionScales(NamedTuple):
    """What INT8 attention quantizes q, k and v with. f32 ()."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray


class EncoderLayer(NamedTuple):
    """One post-norm transformer layer. q, k, v, attention_output: (D, D); intermediate: (F, D); output: (D, F).

    attention_scales: None where attention is in floats.
    """

    q: Any
    k: Any
    v: Any
    attention_output: Any
    attention_norm: Norm
    intermediate: Any
    output: Any
    output_norm: Norm
    attention_scales: AttentionScales | None = None


LINEARS = ("q", "k", "v", "attention_output", "intermediate", "output")
"""The fields of ``EncoderLayer`` that are linear layers: what is pruned, quantized and packed."""
