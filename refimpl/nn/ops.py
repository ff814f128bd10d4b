"""The op table: every operator that the wiring of a model calls, as one record of functions.

``REFERENCE`` computes with NumPy. Another table may compute with compiled kernels, emit graph nodes or judge another
engine; the wiring (``encoder_layer`` and what calls it) stays the same, so the two cannot drift apart.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from refimpl.nn.attention import attention_context, attention_operands, attention_scores, merge_heads, split_heads
from refimpl.nn.elementwise import add, relu, tanh
from refimpl.nn.embedding import embedding, position_embedding
from refimpl.nn.gelu import gelu
from refimpl.nn.layernorm import layernorm
from refimpl.nn.linear import linear
from refimpl.nn.mean_pooling import l2_normalize, mean_pool
from refimpl.nn.params import Norm
from refimpl.nn.pooler import first_token
from refimpl.nn.softmax import softmax


def add_layernorm(x: Any, residual: Any, p: Norm) -> Any:
    """layernorm(x + residual): the pair that every engine fuses. float (..., D) -> (..., D)."""
    return layernorm(add(x, residual), p)


class Ops(NamedTuple):
    """Signatures are those of the reference functions of the same names."""

    embedding: Callable[..., Any]
    position_embedding: Callable[..., Any]
    add: Callable[..., Any]
    linear: Callable[..., Any]
    layernorm: Callable[..., Any]
    add_layernorm: Callable[..., Any]
    split_heads: Callable[..., Any]
    merge_heads: Callable[..., Any]
    attention_operands: Callable[..., Any]
    attention_scores: Callable[..., Any]
    softmax: Callable[..., Any]
    attention_context: Callable[..., Any]
    gelu: Callable[..., Any]
    tanh: Callable[..., Any]
    relu: Callable[..., Any]
    first_token: Callable[..., Any]
    mean_pool: Callable[..., Any]
    l2_normalize: Callable[..., Any]


REFERENCE = Ops(
    embedding=embedding,
    position_embedding=position_embedding,
    add=add,
    linear=linear,
    layernorm=layernorm,
    add_layernorm=add_layernorm,
    split_heads=split_heads,
    merge_heads=merge_heads,
    attention_operands=attention_operands,
    attention_scores=attention_scores,
    softmax=softmax,
    attention_context=attention_context,
    gelu=gelu,
    tanh=tanh,
    relu=relu,
    first_token=first_token,
    mean_pool=mean_pool,
    l2_normalize=l2_normalize,
)
