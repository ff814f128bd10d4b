"""INC's self-distillation: shallow exits of a network learn from its deepest one, in groups of pairs.

    l2_distance       |s - t|, of the whole tensors, not squared          (s - t) / |s - t|, 0 where they are equal
    tempered          loss(s / T, t / T), without the T**2                 gradient 1 / T times that of the loss
    inc_self          sum_i (n - i) w_i sum_pairs loss, i = 0 ... n - 1   what INC computes
    inc_self_meant    sum_i w_i sum_pairs loss                            what it says

Three things to know of INC. The sum of all groups so far is added again after each group, so that of n groups the first
counts n times and the last once (``inc_self``). The temperature is applied to the second group only, whatever its type,
and without T**2. The deep exit is not detached, so it is also drawn towards the shallow ones; here the teacher is a
constant, as everywhere.

Defaults: types "CE" (``soft_cross_entropy`` at T = 1), w_i = 1 / n, T = 1; also "KL" (``kl_element_mean``) and "L2".
The loss of the task is added if ``add_origin_loss``.
Source: Intel Neural Compressor, compression/distillation/criterions.py, PyTorchSelfKnowledgeDistillationLoss.
"""

from collections.abc import Callable, Sequence

import numpy as np

from refimpl.distil.loss import Loss, check_pair, check_temperature, weighted_sum


def l2_distance(student: np.ndarray, teacher: np.ndarray) -> Loss:
    """Euclidean distance. float (...).

    >>> l2_distance(np.array([3.0, 4.0]), np.zeros(2))
    Loss(value=array(5.), gradient=array([0.6, 0.8]))
    """
    check_pair(student, teacher)
    difference = student - teacher
    distance = np.asarray(np.sqrt((difference * difference).sum()))
    return Loss(distance, difference / distance if distance > 0 else difference)


def tempered(
    loss: Callable[[np.ndarray, np.ndarray], Loss], student: np.ndarray, teacher: np.ndarray, temperature: float = 1.0
) -> Loss:
    """A loss of logits divided by T. float (N, C)."""
    check_temperature(temperature)
    t = student.dtype.type(temperature)
    value, gradient = loss(student / t, teacher / t)
    return Loss(value, gradient / t)


def inc_self(groups: Sequence[Sequence[Loss]], weights: Sequence[float] | None = None) -> tuple[np.ndarray, list]:
    """Value of the sum, and each loss times its factor, in the groups: their gradients belong to different exits."""
    n = len(groups)
    chosen = _weights(groups, weights)
    return _summed(groups, [(n - i) * weight for i, weight in enumerate(chosen)])


def inc_self_meant(groups: Sequence[Sequence[Loss]], weights: Sequence[float] | None = None) -> tuple[np.ndarray, list]:
    """The same with each group counted once."""
    return _summed(groups, _weights(groups, weights))


def _weights(groups: Sequence[Sequence[Loss]], weights: Sequence[float] | None) -> Sequence[float]:
    chosen = [1 / len(groups)] * len(groups) if weights is None else weights
    if len(chosen) != len(groups):
        raise ValueError(f"weights are {len(chosen)}, groups {len(groups)}; need one weight a group")
    return chosen


def _summed(groups: Sequence[Sequence[Loss]], factors: Sequence[float]) -> tuple[np.ndarray, list]:
    scaled = [[weighted_sum([f], [loss]) for loss in group] for f, group in zip(factors, groups, strict=True)]
    return np.asarray(sum(loss.value for group in scaled for loss in group)), scaled
