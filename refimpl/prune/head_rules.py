"""Which attention heads two tools remove, by the zeros in q, k, v and attention_output. They disagree.

    NNCF         a head stays if ANY of q, k, v, attention_output keeps anything of it     (weights or biases)
    nn_pruning   a head goes if ANY of q, k, v is all zero in it                           (weights alone)

NNCF's removes nothing that computes (what it removes is dead by ``structured.live_heads`` as well). nn_pruning's
changes results: with q or k zero a head still adds an average of v, or of what the biases say; with v zero, its bias.
So its tool fine-tunes after it. Of a layer without any head left nn_pruning keeps one, and head 0 of them. Source: NNCF
v2.14, experimental/torch/sparsity/movement/structured_mask_handler.py; nn_pruning, inference_model_patcher.py
(BertHeadsPruner).
"""

import numpy as np

from refimpl.nn.params import EncoderLayer
from refimpl.prune.structured import live_columns, live_rows


def _any_of_head(channels: np.ndarray, heads: int) -> np.ndarray:
    if heads < 1 or channels.size % heads:
        raise ValueError(f"heads is {heads}; need a divisor of the {channels.size} rows of q, k and v")
    return np.any(channels.reshape(heads, -1), axis=1)


def nncf_heads(layer: EncoderLayer, heads: int) -> np.ndarray:
    """Which of the ``heads`` stay by NNCF's rule. -> bool (H,), possibly none."""
    channels = live_rows(layer.q) | live_rows(layer.k) | live_rows(layer.v) | live_columns(layer.attention_output)
    return _any_of_head(channels, heads)


def nn_pruning_heads(layer: EncoderLayer, heads: int) -> np.ndarray:
    """Which of the ``heads`` stay by nn_pruning's rule. q, k, v: f32 or f64 ``Linear``. -> bool (H,), at least one."""
    parts = [_any_of_head((p.weight != 0).any(1), heads) for p in (layer.q, layer.k, layer.v)]
    live: np.ndarray = np.all(parts, axis=0)
    if not live.any():
        live[0] = True
    return live
