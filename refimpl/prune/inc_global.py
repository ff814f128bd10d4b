"""Intel Neural Compressor's ranking over all layers: no layer loses more than 98 % of its blocks.

    left   = int(sparsity n) - pruned blocks of full layers              n blocks of all layers
    repeat over the layers that are not full, in order, until none becomes full:
        t    = the left-th smallest score of all of them;  mask = score > t
        a layer whose mask prunes more than ``cap`` gets its own: the int(cap n_l)-th smallest score is its threshold
        a layer that brings the count of all masks (those of this event, and before them of the last one) over
        int(target n) prunes so many fewer; only ties can cause that, where the schedule does not fall
        either becomes full: its blocks leave the ranking, and what they lack is taken from the others
    an event that has nothing left to prune changes nothing

Contract. Ties are pruned, in each ranking. A full layer keeps its mask at all later events, which a caller must carry
on (``Ranked``). Where ties of full layers leave less than nothing for the others they are kept whole, and where the
limits leave more than there is they go as far as their limits: the original's kthvalue fails in both cases. Source:
Intel Neural Compressor v2.5, pruner/patterns/nxm.py (get_masks_global) and base.py (adjust_ratio, with
min_sparsity_ratio_per_op 0; update_residual_cnt).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.prune.masks import kth_mask, kth_smallest

CAP = 0.98
"""max_sparsity_ratio_per_op."""


class Ranked(NamedTuple):
    """The masks after an event, name -> bool (m, k), True where a block lives; and which layers are full."""

    masks: dict[str, np.ndarray]
    full: frozenset[str] = frozenset()


def unpruned(scores: Mapping[str, np.ndarray]) -> Ranked:
    """What the first event starts from: every block lives."""
    return Ranked({name: np.ones(layer.shape, bool) for name, layer in scores.items()})


def inc_global_masks(
    scores: Mapping[str, np.ndarray], before: Ranked, sparsity: float, target: float, cap: float = CAP
) -> Ranked:
    """One event.

    Parameters
    ----------
    scores : name -> float (m, k), one score a block
    before : masks of the last event, for the same names and shapes
    sparsity, target : of all blocks together, at this event and at the last one; 0 to 1
    cap : the largest sparsity of one layer

    Raises
    ------
    TypeError, ValueError
        scores are not finite floats, names or shapes differ, or a fraction is not one
    """
    _check(scores, before)
    for name, value in {"sparsity": sparsity, "target": target, "cap": cap}.items():
        check.fraction(name, value)
    masks, full = dict(before.masks), set(before.full)
    blocks = sum(mask.size for mask in masks.values())
    left = int(blocks * sparsity) - sum(_pruned(masks[name]) for name in full)
    if left <= 0:
        return before
    ranked: list[str] = []
    while (open_layers := [name for name in scores if name not in full]) not in (ranked, []):
        ranked = open_layers
        pool = np.concatenate([scores[name].ravel() for name in ranked])
        threshold = kth_smallest(pool, min(max(left, 0), pool.size))
        for name in ranked:
            masks[name], limited = _limited(name, scores[name], scores[name] > threshold, masks, (target, cap))
            if limited:
                full.add(name)
                left -= _pruned(masks[name])
    return Ranked(masks, frozenset(full))


def _limited(
    name: str, scores: np.ndarray, mask: np.ndarray, masks: Mapping[str, np.ndarray], limits: tuple[float, float]
) -> tuple[np.ndarray, bool]:
    """The mask of a layer within both limits, and whether one of them held."""
    target, cap = limits
    pruned, sparsity, limited = _pruned(mask), _pruned(mask) / mask.size, False
    if sparsity > cap:
        pruned, sparsity, limited = int(mask.size * cap), cap, True
    others = [layer for other, layer in masks.items() if other != name]
    allowed = int(sum(layer.size for layer in masks.values()) * target)
    excess = pruned + sum(map(_pruned, others)) - allowed
    if excess > 0:
        sparsity, limited = (pruned - excess) / mask.size, True
    return (kth_mask(scores, max(sparsity, 0.0)), True) if limited else (mask, False)


def _pruned(mask: np.ndarray) -> int:
    return int(mask.size - mask.sum())


def _check(scores: Mapping[str, np.ndarray], before: Ranked) -> None:
    if set(scores) != set(before.masks) or not scores:
        raise ValueError(f"before has masks for {sorted(before.masks)}; need those of scores, {sorted(scores)}")
    for name, layer in scores.items():
        check.dtype(f"scores of {name}", layer, *check.FLOATS)
        check.dtype(f"mask of {name}", before.masks[name], np.bool_)
        check.shape(f"mask of {name}", before.masks[name], layer.shape)
        check.finite(f"scores of {name}", layer)
