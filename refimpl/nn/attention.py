"""Multi-head self-attention: context = softmax(q kᵀ / sqrt E + mask) v, head by head, then a linear layer.

Contract. Scores are multiplied by 1 / sqrt E rounded to the dtype; a masked key adds the lowest finite number of the
dtype (as Hugging Face does), after which its probability is exactly 0. Errors: ``bounds.attention_scores``,
``bounds.attention_context``. Source: Vaswani et al., arXiv 1706.03762, section 3.2, equation 1.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl import check
from refimpl.nn.params import EncoderLayer
from refimpl.nn.taps import NO_TAP, Tap

if TYPE_CHECKING:
    from refimpl.nn.ops import Ops


def split_heads(x: np.ndarray, heads: int) -> np.ndarray:
    """(B, T, D) -> (B, H, T, E); a copy-free view of the same numbers."""
    check.shape("x", x, ("B", "T", "D"))
    if x.shape[2] % heads:
        raise ValueError(f"x has shape {x.shape}; need a last dimension that {heads} heads divide")
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def merge_heads(x: np.ndarray) -> np.ndarray:
    """(B, H, T, E) -> (B, T, D), the inverse of ``split_heads``."""
    check.shape("x", x, ("B", "H", "T", "E"))
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def attention_scores(q: np.ndarray, k: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Scaled scores with masked keys pushed to the bottom.

    Parameters
    ----------
    q, k : float (B, H, T, E)
    mask : integer or bool (B, T), 0 where a key is padding

    Returns
    -------
    float (B, H, T, T)
    """
    check.dtype("q", q, *check.FLOATS)
    check.same_dtype("k", k, q)
    check.shape("k", k, q.shape)
    check.shape("mask", mask, (q.shape[0], q.shape[2]))
    scale = q.dtype.type(1 / q.shape[-1] ** 0.5)
    lowest = np.where(mask[:, None, None, :] != 0, q.dtype.type(0), np.finfo(q.dtype).min)
    return q @ k.swapaxes(-1, -2) * scale + lowest


def attention_context(probs: np.ndarray, v: np.ndarray) -> np.ndarray:
    """probs (B, H, T, T) times v (B, H, T, E) -> float (B, H, T, E)."""
    check.dtype("probs", probs, *check.FLOATS)
    check.same_dtype("v", v, probs)
    check.shape("v", v, (*probs.shape[:2], probs.shape[3], "E"))
    return probs @ v


def attention(x: Any, mask: Any, p: EncoderLayer, heads: int, ops: "Ops", tap: Tap = NO_TAP) -> Any:
    """The attention block without residual and norm: x (B, T, D), mask (B, T) -> (B, T, D).

    Taps: q, k, v (B, T, D), scores, probs (B, H, T, T), context (B, T, D), attention_output (B, T, D).
    """
    q, k, v = (tap(name, ops.linear(x, getattr(p, name), tap.scope(name))) for name in ("q", "k", "v"))
    q, k, v = (ops.split_heads(y, heads) for y in (q, k, v))
    scores = tap("scores", ops.attention_scores(q, k, mask))
    probs = tap("probs", ops.softmax(scores))
    context = tap("context", ops.merge_heads(ops.attention_context(probs, v)))
    return tap("attention_output", ops.linear(context, p.attention_output, tap.scope("attention_output")))
