"""The first token's vector, and BERT's pooler: tanh(W x_first + b).

Source: BERT, arXiv 1810.04805, section 3: the final hidden state of [CLS] is the aggregate sequence representation.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl import check
from refimpl.nn.params import Linear
from refimpl.nn.taps import NO_TAP, Tap

if TYPE_CHECKING:
    from refimpl.nn.ops import Ops


def first_token(x: np.ndarray) -> np.ndarray:
    """float (B, T, D) -> (B, D), the vector of the token at position 0."""
    check.shape("x", x, ("B", "T", "D"))
    return x[:, 0]


def pooler(x: Any, p: Linear, ops: "Ops", tap: Tap = NO_TAP) -> Any:
    """x (B, T, D) -> (B, D). Taps: pooler.linear and pooler (B, D)."""
    hidden = tap("pooler.linear", ops.linear(ops.first_token(x), p, tap.scope("pooler")))
    return tap("pooler", ops.tanh(hidden))


def first_token_backward(dy: np.ndarray, tokens: int) -> np.ndarray:
    """dy: float (B, D) -> dx (B, T, D), zero but for the first of ``tokens``."""
    dx = np.zeros((len(dy), tokens, dy.shape[-1]), dy.dtype)
    dx[:, 0] = dy
    return dx
