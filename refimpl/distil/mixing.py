"""How each source mixes the loss of the task with those of distillation.

    ovtrainer          (1 - w) task + w kd + compression                        w 0.5
    model_compression  a task + sum_i a_i kd_i, one a teacher                   a 0.5, a_i 0.5; the paper 0 and 1
    nn_pruning         a_ce task + a_teacher kd                                 0.5 and 0.5; its recipes 0.1 and 0.9
    inc                w_0 task + w_1 kd                                        0.5 and 0.5; must sum to 1
    inc_intermediate   sum_i w_i loss_i                                         w_i = 1 / n

All but the last are weighted sums of losses of one output, the logits; each has its own name because each has its own
defaults and conditions. ``compression`` is what pruning or quantization adds, in OVTrainer outside of the mixture.

Sources: Optimum 1.16, optimum/intel/openvino/trainer.py; Model Compression Research package,
distillation/distiller.py; nn_pruning/sparse_trainer.py; Intel Neural Compressor 2.5,
compression/distillation/criterions.py (weights are compared with 1 within 1e-9).
"""

from collections.abc import Sequence

import numpy as np

from refimpl import check
from refimpl.distil.loss import Loss, weighted_sum

SUM_TOLERANCE = 1e-9


def ovtrainer(task: Loss, kd: Loss, weight: float = 0.5, compression: np.ndarray | float = 0.0) -> Loss:
    """compression: a number that does not depend on the logits; its own gradient goes to the parameters."""
    check.fraction("weight", weight)
    mixed = weighted_sum([1 - weight, weight], [task, kd])
    return mixed._replace(value=mixed.value + mixed.gradient.dtype.type(compression))


def model_compression(
    task: Loss, kds: Sequence[Loss], alpha_student: float = 0.5, alphas: Sequence[float] = (0.5,)
) -> Loss:
    """PruneOFA's package, any number of teachers."""
    return weighted_sum([alpha_student, *alphas], [task, *kds])


def nn_pruning(task: Loss, kd: Loss, alpha_ce: float = 0.5, alpha_teacher: float = 0.5) -> Loss:
    """Two independent weights."""
    return weighted_sum([alpha_ce, alpha_teacher], [task, kd])


def inc(task: Loss, kd: Loss, weights: tuple[float, float] = (0.5, 0.5)) -> Loss:
    """Two weights, 0 to 1, that sum to 1.

    >>> inc(Loss(np.array(1.0), np.zeros(1)), Loss(np.array(3.0), np.zeros(1)), (0.5, 0.4))
    Traceback (most recent call last):
    ValueError: weights sum to 0.9; need 1
    """
    for weight in weights:
        check.fraction("weights", weight)
    if not abs(sum(weights) - 1) < SUM_TOLERANCE:
        raise ValueError(f"weights sum to {sum(weights)}; need 1")
    return weighted_sum(weights, [task, kd])


def inc_intermediate(losses: Sequence[Loss], weights: Sequence[float] | None = None) -> tuple[np.ndarray, list[Loss]]:
    """Value of the sum, and each loss times its weight: their gradients belong to different layers' outputs."""
    chosen = [1 / len(losses)] * len(losses) if weights is None else weights
    scaled = [weighted_sum([weight], [loss]) for weight, loss in zip(chosen, losses, strict=True)]
    return np.asarray(sum(loss.value for loss in scaled)), scaled
