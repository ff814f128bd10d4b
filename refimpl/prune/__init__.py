"""Magnitude pruning in blocks, and the removal of dead neurons and heads."""

from refimpl.prune.blocks import BLOCK_4X1, block_scores, expand, live_blocks
from refimpl.prune.masks import global_topk_masks, topk_mask
from refimpl.prune.structured import (
    keep_columns,
    keep_heads,
    keep_neurons,
    keep_rows,
    live_columns,
    live_heads,
    live_neurons,
    live_rows,
)

__all__ = [
    "BLOCK_4X1",
    "block_scores",
    "expand",
    "global_topk_masks",
    "keep_columns",
    "keep_heads",
    "keep_neurons",
    "keep_rows",
    "live_blocks",
    "live_columns",
    "live_heads",
    "live_neurons",
    "live_rows",
    "topk_mask",
]
