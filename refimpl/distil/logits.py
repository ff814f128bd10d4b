"""Losses between the logits of a student and of a teacher, s and t, N rows of C classes.

    p = softmax(t / T),  q = softmax(s / T)
    kl_batchmean         T**2 / N      sum p (log p - log q)         T / N (q - p)              T 2
    kl_element_mean      T**2 / (N C)  sum p (log p - log q)         T / (N C) (q - p)          T 1
    soft_cross_entropy   T**2 / N      sum -p log q                  T / N (q - p)              T 1
    mse_logits           1 / (N C)     sum (s - t)**2                2 / (N C) (s - t)          no T
    start_end            (loss of the start logits + loss of the end logits) / 2

    columns: name, value, gradient with respect to s, default of its source

Sources and their defaults.
* ``kl_batchmean``: Optimum's OVTrainer, Intel's Model Compression Research package (PruneOFA) and nn_pruning, all with
  T = 2; Prune Once for All, arXiv 2111.05754, T = 2. T**2 keeps the gradient's size independent of T: Hinton et al.,
  arXiv 1503.02531, section 2.
* ``kl_element_mean``: Intel Neural Compressor (INC), loss type "KL". It calls torch's ``kl_div`` with its default
  reduction, the mean over elements, so the loss is smaller than ``kl_batchmean`` by the number of classes C. (torch
  warns that a later version will make its default the mean over rows.)
* ``soft_cross_entropy``: INC's "CE", the default of both of its terms. Same gradient as ``kl_batchmean``.
* ``mse_logits``: the BERT-Mini recipe (INC and GPT-2 augmented SST-2), as the only loss. INC's "MSE" divides both
  logits by T and multiplies by T**2, which is this for every T.
* ``start_end``: OVTrainer and nn_pruning for question answering, where a row is a text and a class a token. Padding is
  a class like the others in both.

Contract. Computed in the dtype of the logits; the maximum of a row is subtracted before exp. A class to which the
teacher gives exactly 0 adds 0.
"""

from collections.abc import Callable

import numpy as np

from refimpl import check
from refimpl.distil.loss import Loss, check_pair, check_temperature
from refimpl.nn.softmax import log_softmax, softmax


def kl_batchmean(student: np.ndarray, teacher: np.ndarray, temperature: float = 2.0) -> Loss:
    """KL(teacher || student) times T**2, the mean over rows. float (N, C)."""
    return _kl(student, teacher, temperature, len(student))


def kl_element_mean(student: np.ndarray, teacher: np.ndarray, temperature: float = 1.0) -> Loss:
    """The same, but the mean over all N C elements: INC's. float (N, C).

    >>> s, t = np.array([[0.0, 1.0, 2.0]]), np.zeros((1, 3))
    >>> float(kl_batchmean(s, t, 1).value / kl_element_mean(s, t, 1).value)
    3.0
    """
    return _kl(student, teacher, temperature, student.size)


def soft_cross_entropy(student: np.ndarray, teacher: np.ndarray, temperature: float = 1.0) -> Loss:
    """Cross entropy of the student under the teacher's probabilities, times T**2, the mean over rows. float (N, C)."""
    logs, p, t = _tempered(student, teacher, temperature)
    n = len(student)
    return Loss(-t * t * (p * logs).sum() / n, t / n * (np.exp(logs) - p))


def mse_logits(student: np.ndarray, teacher: np.ndarray) -> Loss:
    """Mean squared difference over all elements. float (...)."""
    check_pair(student, teacher)
    difference = student - teacher
    factor = student.dtype.type(2 / student.size)
    return Loss((difference * difference).mean()[...], factor * difference)


def start_end(loss: Callable[[np.ndarray, np.ndarray], Loss], student: np.ndarray, teacher: np.ndarray) -> Loss:
    """A loss of logits (B, T), averaged over start and end. student, teacher: float (B, T, 2)."""
    check.shape("student", student, ("B", "T", 2))
    check_pair(student, teacher)
    parts = [loss(student[..., i], teacher[..., i]) for i in range(2)]
    half = student.dtype.type(0.5)
    return Loss(half * (parts[0].value + parts[1].value), half * np.stack([part.gradient for part in parts], -1))


def _kl(student: np.ndarray, teacher: np.ndarray, temperature: float, count: int) -> Loss:
    logs, p, t = _tempered(student, teacher, temperature)
    divergence = (p * (log_softmax(teacher / t) - logs)).sum()
    return Loss(t * t * divergence / count, t / count * (np.exp(logs) - p))


def _tempered(
    student: np.ndarray, teacher: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log q, p and T in the dtype of the logits."""
    check_pair(student, teacher)
    check.shape("student", student, ("N", "C"))
    check_temperature(temperature)
    t = np.asarray(temperature, student.dtype)
    return log_softmax(student / t), softmax(teacher / t), t
