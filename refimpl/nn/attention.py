"""Multi-head self-attention: context = softmax(q kᵀ / sqrt E + mask) v, head by head, then a linear layer.

Contract. Scores are multiplied by 1 / sqrt E rounded to the dtype; a masked key adds the lowest finite number of the
dtype (as Hugging Face does), after which its probability is exactly 0. Errors: ``bounds.attention_scores``,
``bounds.attention_context``. Where a layer has scales for q, k and v, both products are of integers: ``refimpl.quant``
has the operators for that. Source: Vaswani et al., arXiv 1706.03762, section 3.2, equation 1.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl import check
from refimpl.nn.params import AttentionScales, EncoderLayer
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


def attention_operands(
    q: Any, k: Any, v: Any, scales: AttentionScales | None, tap: Tap = NO_TAP
) -> tuple[Any, Any, Any]:
    """What the two products are given: in floats q, k and v as they are, so ``tap`` sees nothing.

    Raises TypeError if the layer has ``scales``: its attention is defined in integers.
    """
    if scales is not None:
        raise TypeError(f"scales is {type(scales).__name__}; need None, or the op table of a quantized model")
    return q, k, v


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


def attention_context(probs: np.ndarray, v: np.ndarray, tap: Tap = NO_TAP) -> np.ndarray:
    """probs (B, H, T, T) times v (B, H, T, E) -> float (B, H, T, E). ``tap`` sees nothing."""
    check.dtype("probs", probs, *check.FLOATS)
    check.same_dtype("v", v, probs)
    check.shape("v", v, (*probs.shape[:2], probs.shape[3], "E"))
    return probs @ v


def attention_scores_backward(dscores: np.ndarray, q: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """dscores: float (B, H, T, T) -> dq = dscores k / sqrt E and dk = dscoresᵀ q / sqrt E, (B, H, T, E)."""
    scaled = dscores * q.dtype.type(1 / q.shape[-1] ** 0.5)
    return scaled @ k, scaled.swapaxes(-1, -2) @ q


def attention_context_backward(dcontext: np.ndarray, probs: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """dcontext: float (B, H, T, E) -> dprobs = dcontext vᵀ (B, H, T, T) and dv = probsᵀ dcontext (B, H, T, E)."""
    return dcontext @ v.swapaxes(-1, -2), probs.swapaxes(-1, -2) @ dcontext


def attention(x: Any, mask: Any, p: EncoderLayer, heads: int, ops: "Ops", tap: Tap = NO_TAP) -> Any:
    """The attention block without residual and norm: x (B, T, D), mask (B, T) -> (B, T, D).

    Taps: q, k, v (B, T, D), scores, probs (B, H, T, T), context (B, T, D), attention_output (B, T, D).
    With scales also q_codes, k_codes, v_codes (B, H, T, E) and probs_codes (B, H, T, T).
    """
    q, k, v = (tap(name, ops.linear(x, getattr(p, name), tap.scope(name))) for name in ("q", "k", "v"))
    q, k, v = (ops.split_heads(y, heads) for y in (q, k, v))
    q, k, v = ops.attention_operands(q, k, v, p.attention_scales, tap)
    scores = tap("scores", ops.attention_scores(q, k, mask))
    probs = tap("probs", ops.softmax(scores))
    context = tap("context", ops.merge_heads(ops.attention_context(probs, v, tap)))
    return tap("attention_output", ops.linear(context, p.attention_output, tap.scope("attention_output")))
