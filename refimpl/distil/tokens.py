"""DistilBERT's losses, over the tokens that are not padding: N of them, among (B, T).

    kl_tokens       T**2 / N sum KL(softmax(t / T) || softmax(s / T))                       logits (B, T, V)
    mse_tokens      1 / N sum (s - t)**2, a sum over V                                      logits (B, T, V)
    cosine_tokens   1 / N sum (1 - cos(s, t)),  cos = s.t / sqrt((|s|**2 + e) (|t|**2 + e)) last hidden state (B, T, D)
                    d cos / ds = t / sqrt(...) - cos s / (|s|**2 + e)                       e = 1e-12
    distilbert      ce kl_tokens + mlm L + cosine cosine_tokens

L is the cross entropy of masked tokens. Weights: the defaults of its parser are ce 0.5, clm 0.5 and all others 0; the
command that made DistilBERT has ce 5, mlm 2, cosine 1 (``README.md``); the paper (arXiv 1910.01108, section 2) names
three terms and no weights. T = 2.

Source: Hugging Face, examples/research_projects/distillation/{distiller,train}.py; torch's CosineEmbeddingLoss, whose e
is inside the root. ``restrict_ce_to_mask`` there selects masked tokens instead: pass their mask.

Contract. In the dtype of the student; the gradient is exactly 0 at padding.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.distil.logits import kl_batchmean
from refimpl.distil.loss import Loss, check_pair, weighted_sum

COSINE_SHIFT = 1e-12


class DistilBertWeights(NamedTuple):
    """Of the terms of ``distilbert``."""

    ce: float
    mlm: float
    cosine: float


PARSER_DEFAULTS = DistilBertWeights(0.5, 0.0, 0.0)
"""With clm 0.5 besides, for GPT-2."""

DISTILBERT_COMMAND = DistilBertWeights(5.0, 2.0, 1.0)


class DistilBertLoss(NamedTuple):
    """value: float (); d_logits: float (B, T, V); d_hidden: float (B, T, D)."""

    value: np.ndarray
    d_logits: np.ndarray
    d_hidden: np.ndarray


def kl_tokens(student: np.ndarray, teacher: np.ndarray, mask: np.ndarray, temperature: float = 2.0) -> Loss:
    """``kl_batchmean`` over tokens. student, teacher: float (B, T, V); mask: integer or bool (B, T), 0 at padding."""
    return of_tokens(lambda s, t: kl_batchmean(s, t, temperature), student, teacher, mask)


def mse_tokens(student: np.ndarray, teacher: np.ndarray, mask: np.ndarray) -> Loss:
    """Squared distance, the mean over tokens. float (B, T, V); mask: integer or bool (B, T)."""

    def loss(s: np.ndarray, t: np.ndarray) -> Loss:
        n = s.dtype.type(len(s))
        return Loss(((s - t) ** 2).sum() / n, 2 / n * (s - t))

    return of_tokens(loss, student, teacher, mask)


def cosine_tokens(student: np.ndarray, teacher: np.ndarray, mask: np.ndarray) -> Loss:
    """1 - cosine, the mean over tokens. float (B, T, D); mask: integer or bool (B, T)."""

    def loss(s: np.ndarray, t: np.ndarray) -> Loss:
        n = s.dtype.type(len(s))
        s2, t2 = ((x * x).sum(-1, keepdims=True) + s.dtype.type(COSINE_SHIFT) for x in (s, t))
        norm = np.sqrt(s2 * t2)
        cosine = (s * t).sum(-1, keepdims=True) / norm
        return Loss((1 - cosine).sum() / n, (cosine * s / s2 - t / norm) / n)

    return of_tokens(loss, student, teacher, mask)


def distilbert(ce: Loss, mlm: Loss, cosine: Loss, weights: DistilBertWeights = DISTILBERT_COMMAND) -> DistilBertLoss:
    """The triple loss. ce: of ``kl_tokens``; mlm: cross entropy of masked tokens; cosine: of ``cosine_tokens``."""
    logits = weighted_sum(weights[:2], [ce, mlm])
    hidden = weighted_sum(weights[2:], [cosine])
    return DistilBertLoss(logits.value + hidden.value, logits.gradient, hidden.gradient)


def of_tokens(
    loss: Callable[[np.ndarray, np.ndarray], Loss], student: np.ndarray, teacher: np.ndarray, mask: np.ndarray
) -> Loss:
    """A loss of rows (N, D), of the tokens that are not padding. student, teacher: float (B, T, D); mask: (B, T)."""
    check_pair(student, teacher)
    check.shape("student", student, ("B", "T", "D"))
    check.shape("mask", mask, student.shape[:2])
    live = mask != 0
    if not live.any():
        raise ValueError("mask is 0 everywhere; need at least one token")
    value, rows = loss(student[live], teacher[live])
    gradient = np.zeros_like(student)
    gradient[live] = rows
    return Loss(np.asarray(value), gradient)
