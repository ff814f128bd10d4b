"""Pruning: criteria, masks, schedules, learned masks, and the removal of dead neurons and heads.

Here are the names that most callers need; what one method has of its own stands in its module: ``criteria``,
``schedules``, ``rewinding``, ``lock``, ``inc_global``, ``progressive``, ``movement``, ``movement_schedule``,
``resolution``, ``sparsity_table``, ``binarizers``, ``fine_pruning``, ``head_rules``.
"""

from refimpl.prune.blocks import BLOCK_4X1, block_max, block_mean, block_scores, block_sum, expand, live_blocks
from refimpl.prune.masked import masked_weight, masked_weight_backward, straight_through
from refimpl.prune.masks import global_topk_masks, kth_mask, topk_mask
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
    "block_max",
    "block_mean",
    "block_scores",
    "block_sum",
    "expand",
    "global_topk_masks",
    "keep_columns",
    "keep_heads",
    "keep_neurons",
    "keep_rows",
    "kth_mask",
    "live_blocks",
    "live_columns",
    "live_heads",
    "live_neurons",
    "live_rows",
    "masked_weight",
    "masked_weight_backward",
    "straight_through",
    "topk_mask",
]
