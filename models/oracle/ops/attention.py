"""The small steps that fused attention has beside ordinary operators: what ``expand`` writes it out with.

    RootScale      1 / sqrt E for q (..., E)
    AttentionMask  what is added to the scores: 0, or a large negative number at masked keys
    SwapLast       the last two axes exchanged
    Positions      0 ... T - 1 for ids (B, T)

Source: ONNX Runtime, docs/ContribOperators.md, Attention: a mask is 2-D (B, S) or 3-D (B, T, S) with 0 where a key is
masked, or 1-D with B ends, or B ends and B starts.
"""

from collections.abc import Sequence

import numpy as np

from refimpl.models.oracle.graph import OURS
from refimpl.models.oracle.operator import UNKNOWN, Approx, Call, Operator, rounded


def _root_scale(call: Call, q: np.ndarray) -> np.ndarray:
    return np.array(1 / q.shape[-1] ** 0.5, call.real())


def _root_error(call: Call, xs: Sequence[Approx | None], y: np.ndarray) -> np.ndarray:
    """sqrt and quotient."""
    return rounded(y, 0.0, 2)


def _mask(call: Call, mask: np.ndarray, k: np.ndarray) -> np.ndarray:
    """k: (B, H, S, E), whose keys are masked -> (B, 1, 1 or T, S)."""
    keys, batch = k.shape[2], k.shape[0]
    filler = np.array(call.get("mask_filter_value", -10000.0), call.real())
    if mask.ndim == 1 and mask.size in (batch, 2 * batch):
        place = np.arange(keys)
        kept = place < mask[:batch, None]
        if mask.size == 2 * batch:
            kept &= place >= mask[batch:, None]
    elif mask.ndim in (2, 3) and mask.shape[-1] == keys:
        kept = mask != 0
    else:
        raise ValueError(
            f"the mask has the shape {mask.shape}; need ({batch},), ({2 * batch},), (B, {keys}) or (B, T, {keys})"
        )
    kept = kept[:, None, None] if kept.ndim == 2 else kept[:, None]
    return np.where(kept, np.zeros((), filler.dtype), filler)


def _mask_error(call: Call, xs: Sequence[Approx | None], y: np.ndarray) -> np.ndarray:
    mask = xs[0]
    return np.zeros(()) if mask is not None and mask.known else UNKNOWN


OPERATORS = {
    (OURS, "RootScale"): Operator(_root_scale, _root_error),
    (OURS, "AttentionMask"): Operator(_mask, _mask_error),
    (OURS, "SwapLast"): Operator(lambda call, x: x.swapaxes(-1, -2)),
    (OURS, "Positions"): Operator(lambda call, ids: np.arange(ids.shape[1])[None], lambda call, xs, y: np.zeros(())),
}
