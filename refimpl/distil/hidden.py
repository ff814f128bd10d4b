"""Losses between hidden states (or attention scores) of a student and of a teacher, with or without a linear matcher.

    hidden_mse    mean (s - t)**2                       2 (s - t) / n
    hidden_l1     mean |s - t|                          sign(s - t) / n, 0 where they are equal
    hidden_kl     mean p (log p - log q)                (q - p) / n          p = softmax(t), q = softmax(s)
    matched       loss(s Wᵀ + b, t)                     by the chain rule, and the gradients of W and b

The mean is over all n elements, as torch's default reduction has it, for KL too (smaller than a mean over rows by D).

Source: Intel Neural Compressor, compression/distillation/criterions.py, IntermediateLayersKnowledgeDistillationLoss:
types "MSE" (default), "KL" and "L1", weights 1 / n for n pairs of layers (``mixing.inc_intermediate``).

INC makes the matcher, a ``torch.nn.Linear``, inside the loss at the first call, if exactly one dimension differs. It is
in no optimizer's list, so it stays the random map that it was made as, and the student learns to be seen through it.
Here the matcher is an ordinary ``Linear`` whose gradients come back, to be trained like the rest.

Where there is no matcher INC's KL takes features for probabilities if each row sums to 1 within 0.2, and normalizes
them otherwise: ``hidden_kl_unmatched_inc``. Features that happen to sum to about 1 are treated as what they are not.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.distil.logits import kl_element_mean, mse_logits
from refimpl.distil.loss import Loss, check_pair
from refimpl.nn.linear import linear, linear_backward
from refimpl.nn.params import Linear
from refimpl.nn.softmax import softmax

NOT_A_PROBABILITY, INC_LOG_SHIFT = 0.2, 1e-9


class MatchedLoss(NamedTuple):
    """value: float (); gradient: float (..., Ds), of the student's output; d_weight (Dt, Ds), d_bias (Dt,)."""

    value: np.ndarray
    gradient: np.ndarray
    d_weight: np.ndarray
    d_bias: np.ndarray


def hidden_mse(student: np.ndarray, teacher: np.ndarray) -> Loss:
    """Mean squared difference; the same formula as of logits. float (..., D)."""
    return mse_logits(student, teacher)


def hidden_l1(student: np.ndarray, teacher: np.ndarray) -> Loss:
    """Mean absolute difference. float (..., D)."""
    check_pair(student, teacher)
    difference = student - teacher
    return Loss(np.abs(difference).mean()[...], np.sign(difference) / student.dtype.type(student.size))


def hidden_kl(student: np.ndarray, teacher: np.ndarray) -> Loss:
    """Divergence of the softmax over the last dimension: ``kl_element_mean`` at T = 1. float (..., D)."""
    check_pair(student, teacher)
    loss = kl_element_mean(student.reshape(-1, student.shape[-1]), teacher.reshape(-1, teacher.shape[-1]))
    return Loss(loss.value, loss.gradient.reshape(student.shape))


def hidden_kl_unmatched_inc(student: np.ndarray, teacher: np.ndarray) -> Loss:
    """INC's, without a matcher: rows that sum to about 1 are probabilities already, and log is of q + 1e-9.

    float (..., D). Elements of the teacher taken for probabilities must be >= 0 (torch returns NaN otherwise).
    """
    check_pair(student, teacher)
    p = softmax(teacher) if _not_probabilities(teacher) else teacher
    if (p < 0).any():
        raise ValueError(f"teacher has the element {p.min()} in rows that sum to 1; need >= 0")
    normalized = _not_probabilities(student)
    q = softmax(student) if normalized else student
    shifted = q + student.dtype.type(INC_LOG_SHIFT)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(p > 0, np.log(np.where(p > 0, p, 1)), 0)
        value = (p * (logs - np.log(shifted))).mean()
    dq = -p / shifted / student.dtype.type(student.size)
    gradient = q * (dq - (dq * q).sum(-1, keepdims=True)) if normalized else dq
    return Loss(np.asarray(value), gradient)


def matched(
    loss: Callable[[np.ndarray, np.ndarray], Loss], student: np.ndarray, teacher: np.ndarray, matcher: Linear
) -> MatchedLoss:
    """A loss of the student's states brought to the teacher's width. student: float (..., Ds); teacher: (..., Dt)."""
    outer = loss(linear(student, matcher), teacher)
    check.shape("teacher", teacher, (*student.shape[:-1], matcher.weight.shape[0]))
    dx, d = linear_backward(outer.gradient, student, matcher)
    return MatchedLoss(outer.value, dx, d.weight, d.bias)


def _not_probabilities(x: np.ndarray) -> bool:
    return bool((np.abs(x.sum(-1) - 1) > NOT_A_PROBABILITY).any())
