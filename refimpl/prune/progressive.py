"""Intel Neural Compressor's progressive pruning: a condemned block loses its weights in four steps, weakest first.

    new       = elements that the mask before an event keeps and the one after it does not, over all layers
    t         = the (new step // steps)-th smallest score among them
    mask      = before, without the new elements whose score is at most t            step 1 ... steps - 1
    mask      = after                                                                step = steps

Contract. Scores are per element, magnitudes (the original takes their absolute value; here they must not be negative).
Ties with t go at once. Nothing new gives ``before``; too few new elements for the first step give it as well, where the
original's kthvalue fails. Between two events, ``frequency`` steps apart, step i is i - 1 times ``frequency // 4`` steps
after the first (``progressive_step``); with fewer than 4 steps between events only step 1 is reached, and the next
event takes the rest. The original does without where end - start <= 4 or frequency = 1. Source: Intel
Neural Compressor v2.5, pruner/pruners/progressive.py; patterns/base.py, update_progressive_masks_global_scores.
"""

from collections.abc import Mapping

import numpy as np

from refimpl import check
from refimpl.prune.masks import kth_smallest

STEPS = 4


def progressive_step(since_event: int, frequency: int) -> int:
    """Which of the four masks holds so many training steps after an event. 1 to 4.

    >>> [progressive_step(step, 10) for step in range(10)]
    [1, 1, 2, 2, 3, 3, 4, 4, 4, 4]
    """
    if not 0 <= since_event < frequency:
        raise ValueError(f"since_event is {since_event}; need 0 to {frequency - 1}")
    every = frequency // STEPS or frequency
    return min(since_event // every + 1, STEPS)


def progressive_masks(
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
    step: int,
) -> dict[str, np.ndarray]:
    """The masks at ``step`` of ``STEPS`` between two events.

    before, after: name -> bool (M, K); scores: name -> float (M, K), >= 0. Returns name -> bool (M, K).
    """
    if not 1 <= step <= STEPS:
        raise ValueError(f"step is {step}; need 1 to {STEPS}")
    for name, layer in scores.items():
        check.dtype(f"scores of {name}", layer, *check.FLOATS)
        for mask in (before[name], after[name]):
            check.dtype(f"mask of {name}", mask, np.bool_)
            check.shape(f"mask of {name}", mask, layer.shape)
        if not (layer >= 0).all():
            raise ValueError(f"scores of {name} has the element {layer.min()}; need every element >= 0")
    if step == STEPS:
        return dict(after)
    new = {name: before[name] & ~after[name] for name in scores}
    condemned = np.concatenate([scores[name][new[name]] for name in scores])
    threshold = kth_smallest(condemned, condemned.size * step // STEPS)
    return {name: before[name] & ~(new[name] & (scores[name] <= threshold)) for name in scores}
