"""What every distillation loss returns: its value, and its gradient with respect to the student's output.

The teacher's output is a constant in all of them; no gradient goes there. The value and the gradient have the dtype of
the student, f32 or f64.
"""

from collections.abc import Sequence

import numpy as np

from refimpl import check
from refimpl.nn.losses import Loss


def weighted_sum(weights: Sequence[float], losses: Sequence[Loss]) -> Loss:
    """sum_i weights[i] losses[i], of losses of the same output.

    >>> a, b = (Loss(np.array(x), np.full(2, x)) for x in (1.0, 10.0))
    >>> weighted_sum([0.5, 2], [a, b])
    Loss(value=array(20.5), gradient=array([20.5, 20.5]))
    """
    if len(weights) != len(losses) or not losses:
        raise ValueError(f"weights are {len(weights)}, losses {len(losses)}; need one weight a loss, at least one")
    first = losses[0].gradient
    for loss in losses:
        check.shape("gradient", loss.gradient, first.shape)
        check.same_dtype("gradient", loss.gradient, first)
    factors = [first.dtype.type(weight) for weight in weights]
    value = sum(factor * loss.value for factor, loss in zip(factors, losses, strict=True))
    gradient = sum(factor * loss.gradient for factor, loss in zip(factors, losses, strict=True))
    return Loss(np.asarray(value), np.asarray(gradient))


def check_pair(student: np.ndarray, teacher: np.ndarray) -> None:
    """Both f32 or both f64, of one shape, finite and not empty."""
    check.dtype("student", student, *check.FLOATS)
    check.same_dtype("teacher", teacher, student)
    check.shape("teacher", teacher, student.shape)
    if student.size == 0:
        raise ValueError(f"student has shape {student.shape}; need at least one element")
    check.finite("student", student)
    check.finite("teacher", teacher)


def check_temperature(temperature: float) -> None:
    """Above 0 and finite."""
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; need a finite number above 0")
