"""Magnitude pruning in blocks."""

from refimpl.prune.blocks import BLOCK_4X1, block_scores, expand, live_blocks
from refimpl.prune.masks import global_topk_masks, topk_mask

__all__ = ["BLOCK_4X1", "block_scores", "expand", "global_topk_masks", "live_blocks", "topk_mask"]
