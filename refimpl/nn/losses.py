"""Losses of a task: each a value and its gradient with respect to the model's output.

    cross_entropy        -1/N sum over n of log softmax(x_n)[label_n]         (softmax(x_n) - onehot(label_n)) / N
    question_answering   (cross entropy of starts + cross entropy of ends) / 2, where a text's tokens are the classes

N counts what is not ignored: labels below 0 (masked language models have a label at masked words only; -100 in Hugging
Face), and answers that lie outside the text. Where nothing is left both value and gradient are 0.

Contract. In the dtype of the output. A padded token is no class: it takes part in neither maximum nor sum.
Source: BERT, arXiv 1810.04805, sections 4.1, 4.2 and appendix A.2.
"""

from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.nn.softmax import log_softmax


class Loss(NamedTuple):
    """value: float (); gradient: float, of the shape of the output that it is a loss of, d value / d output."""

    value: np.ndarray
    gradient: np.ndarray


def cross_entropy(x: np.ndarray, labels: np.ndarray) -> Loss:
    """x: float (..., C); labels: integer (...), below 0 to ignore. Raises ValueError for a label that is no class.

    >>> cross_entropy(np.zeros((2, 2)), np.array([1, -100]))
    Loss(value=array(0.69314718), gradient=array([[ 0.5, -0.5],
           [ 0. ,  0. ]]))
    """
    check.dtype("x", x, *check.FLOATS)
    check.shape("labels", labels, x.shape[:-1])
    if labels.max(initial=-1) >= x.shape[-1]:
        raise ValueError(f"labels has {labels.max()}; need at most {x.shape[-1] - 1}")
    rows, told = x.reshape(-1, x.shape[-1]), labels.reshape(-1)
    (kept,) = np.nonzero(told >= 0)
    gradient = np.zeros_like(rows)
    if not kept.size:
        return Loss(np.zeros((), x.dtype), gradient.reshape(x.shape))
    logs = log_softmax(rows[kept])
    picked = np.arange(kept.size), told[kept]
    one = np.exp(logs)
    one[picked] -= 1
    gradient[kept] = one / x.dtype.type(kept.size)
    return Loss((-logs[picked].mean())[...], gradient.reshape(x.shape))


def question_answering(x: np.ndarray, mask: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Loss:
    """x: float (B, T, 2), logits of start and end; mask: integer (B, T), 0 where a token is padding; starts, ends:
    integer (B,), tokens, below 0 where the answer is not in the text."""
    check.shape("x", x, ("B", "T", 2))
    check.shape("mask", mask, x.shape[:2])
    lowest = np.where(mask != 0, x.dtype.type(0), np.finfo(x.dtype).min)
    half, parts = x.dtype.type(0.5), []
    for i, places in enumerate((starts, ends)):
        parts.append(cross_entropy(np.where(mask != 0, x[..., i], lowest), places))
    value = half * (parts[0].value + parts[1].value)
    return Loss(np.asarray(value), half * np.stack([part.gradient for part in parts], -1))
