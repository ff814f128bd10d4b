"""A masked linear layer in training: y = x (W mask)ᵀ + b, and its way through the tape.

    dx = dy (W mask)      dW = mask dW',  dW' = sum over tokens of dyᵀ x      db = sum over tokens of dy

Contract. ``masked``'s, around the linear layer that is given; a pruned weight has gradient 0.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.nn.linear import linear, linear_backward
from refimpl.nn.params import Linear
from refimpl.nn.tape import LinearKind
from refimpl.prune.masked import masked_weight, masked_weight_backward


class MaskedLinear(NamedTuple):
    """weight: float (M, K), whole; bias: float (M,); mask: bool (M, K), which weights are there."""

    weight: np.ndarray
    bias: np.ndarray
    mask: np.ndarray


def masked_kind(
    forward: Callable[..., np.ndarray] = linear, backward: Callable[..., tuple[np.ndarray, Linear]] = linear_backward
) -> LinearKind:
    """For ``Tape(linears={MaskedLinear: masked_kind()})``; forward and backward: those of the table in use."""

    def run(x: np.ndarray, p: MaskedLinear) -> tuple[np.ndarray, Any]:
        effective = Linear(masked_weight(p.weight, p.mask), p.bias)
        return forward(x, effective), (x, p, effective)

    def back(dy: np.ndarray, kept: Any) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        x, p, effective = kept
        dx, d = backward(dy, x, effective)
        return dx, [(p.weight, masked_weight_backward(d.weight, p.mask)), (p.bias, d.bias)]

    return LinearKind(run, back)
