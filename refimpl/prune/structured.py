"""Structured pruning: feed-forward neurons and attention heads that are taken out of the weights.

What stays is a smaller dense layer, for the dense product. Between a producer and a consumer lie channels: F neurons
between ``intermediate`` and ``output``, H E numbers of context between ``v`` and ``attention_output``. A channel is
dead if either of two things holds, and then it adds nothing to the consumer:

    1. its column of the consumer is zero         whatever the channel holds
    2. its row of the producer and its bias are   the channel is 0 for every input: gelu(0) = 0, and a context of
       zero                                       zeros is 0; its code is 0

A neuron is dead if its channel is, a head if all E of its channels are. A row of zeros with a bias does not count: its
channel is a constant, which the consumer adds.

Contract, all values being finite.
* INT8: the consumer's accumulators, compensated, are equal integers. Of equal inputs the producer makes equal bits of
  what stays, hence the feed-forward block as a whole returns equal bits. For heads, of equal contexts.
* Not so where pairs saturate (``gemm_u8s8s32_pair_saturating``): without a channel others become neighbours.
* f32: zeros are left out of the sum, so of equal inputs the consumer before and after are each within
  ``bounds.linear`` of the same exact result.
* Scales are kept, not computed anew: quantize first, then remove. The other order gives the same codes under rule 1
  but not under rule 2, where a column that is removed may hold its row's largest weight; and calibration no longer
  sees the range of what was removed.
* Heads keep their E: q, k, v become (H' E, D), attention_output (D, H' E), and the layer is run with H' heads.
  ``refimpl.models.pruning.removal`` does it to whole models, whose layers then differ in H and F.

How others remove heads. NNCF (movement sparsity, v2.4 to v2.19) removes a head if q, k, v, their biases and the columns
of attention_output are all zero: always dead here too. nn_pruning removes one if q, k or v is zero: with q or k zero
the head still adds an average of v, so the result changes; here it stays.

For scores of what to prune, ``block_scores`` takes blocks of a whole row (1, K), column (M, 1) or head (E, K).
"""

from typing import Any, TypeVar

import numpy as np

from refimpl import check
from refimpl.nn.params import EncoderLayer, Linear
from refimpl.quant.linear import QuantizedLinear

AnyLinear = TypeVar("AnyLinear", Linear, QuantizedLinear)

PER_ROW = {Linear: ("weight", "bias"), QuantizedLinear: ("codes", "weight_scale", "bias")}
"""What a linear layer holds for each output channel, the matrix (M, K) first."""


def _matrix(p: Any) -> np.ndarray:
    if type(p) not in PER_ROW:
        raise TypeError(f"p is {type(p).__name__}; need Linear or QuantizedLinear")
    matrix: np.ndarray = getattr(p, PER_ROW[type(p)][0])
    check.shape("p", matrix, ("M", "K"))
    return matrix


def live_rows(p: Linear | QuantizedLinear) -> np.ndarray:
    """Which output channels are not 0 for every input: a nonzero weight or bias. -> bool (M,)."""
    return (_matrix(p) != 0).any(1) | (p.bias != 0)


def live_columns(p: Linear | QuantizedLinear) -> np.ndarray:
    """Which input channels have a nonzero weight. -> bool (K,)."""
    return (_matrix(p) != 0).any(0)


def _check_live(what: str, live: np.ndarray, count: int) -> None:
    check.dtype("live", live, np.bool_)
    check.shape("live", live, (count,))
    if not live.any():
        raise ValueError(f"live keeps none of {count} {what}s; need at least one")


def keep_rows(p: AnyLinear, live: np.ndarray) -> AnyLinear:
    """The layer with the output channels in ``live`` alone, bool (M,). The consumer must lose the same columns."""
    _check_live("row", live, _matrix(p).shape[0])
    return p._replace(**{name: getattr(p, name).compress(live, 0) for name in PER_ROW[type(p)]})


def keep_columns(p: AnyLinear, live: np.ndarray) -> AnyLinear:
    """The layer with the input channels in ``live`` alone, bool (K,). The input must lose the same channels."""
    _check_live("column", live, _matrix(p).shape[1])
    return p._replace(**{PER_ROW[type(p)][0]: _matrix(p).compress(live, 1)})


def _live_between(producer: Linear | QuantizedLinear, consumer: Linear | QuantizedLinear) -> np.ndarray:
    """Which channels are not dead. (C, K), (M, C) -> bool (C,)."""
    rows, columns = live_rows(producer), live_columns(consumer)
    check.shape("columns of the consumer", columns, rows.shape)
    return rows & columns


def _check_kept(what: str, live: np.ndarray, needed: np.ndarray) -> None:
    _check_live(what, live, needed.size)
    lost = np.flatnonzero(needed & ~live)
    if lost.size:
        raise ValueError(f"live drops {what} {lost[0]}, which is not dead; need its weights zero")


def live_neurons(layer: EncoderLayer) -> np.ndarray:
    """Which feed-forward neurons are not dead. -> bool (F,)."""
    return _live_between(layer.intermediate, layer.output)


def keep_neurons(layer: EncoderLayer, live: np.ndarray) -> EncoderLayer:
    """The layer with the neurons in ``live`` alone, bool (F,); any dead ones may stay.

    Raises TypeError if ``live`` is not bool or a linear layer is neither f32, f64 nor quantized; ValueError if ``live``
    has another length, keeps nothing, or drops a neuron that is not dead.
    """
    _check_kept("neuron", live, live_neurons(layer))
    return layer._replace(intermediate=keep_rows(layer.intermediate, live), output=keep_columns(layer.output, live))


def live_heads(layer: EncoderLayer, heads: int) -> np.ndarray:
    """Which of the layer's ``heads`` attention heads are not dead. -> bool (H,)."""
    channels = _live_between(layer.v, layer.attention_output)
    if heads < 1 or channels.size % heads:
        raise ValueError(f"heads is {heads}; need a divisor of the {channels.size} rows of v")
    return np.any(channels.reshape(heads, -1), axis=1)


def keep_heads(layer: EncoderLayer, heads: int, live: np.ndarray) -> EncoderLayer:
    """The layer with the heads in ``live`` alone, bool (H,), to be run with live.sum() heads.

    Raises as ``keep_neurons`` does, and ValueError if ``heads`` does not divide the rows of v.
    """
    _check_kept("head", live, live_heads(layer, heads))
    channels = live.repeat(_matrix(layer.v).shape[0] // heads)
    q, k, v = (keep_rows(p, channels) for p in (layer.q, layer.k, layer.v))
    return layer._replace(q=q, k=k, v=v, attention_output=keep_columns(layer.attention_output, channels))
