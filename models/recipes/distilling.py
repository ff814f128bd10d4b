"""A task with a teacher: what the teacher says of every training row is computed once, and joins the task's loss.

    loss = (1 - w) loss of the task + w kd(student, teacher)          ``refimpl.distil.mixing.ovtrainer``

Without dropout the teacher says the same of a row in every epoch. Rows of one length are put together, so that nothing
is padded. Answers to questions are logits of tokens: a padded token is none, for student and teacher alike (OVTrainer
and nn_pruning let the teacher's padding take part). A masked language model has other words hidden in each pass, so
that nothing could be kept: it cannot be distilled here.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from refimpl import distil
from refimpl.distil.mixing import ovtrainer
from refimpl.models.bert import Batch, Model, forward
from refimpl.models.recipes.recipe import Distillation
from refimpl.models.tasks import Say
from refimpl.models.training.task import Rows, Task
from refimpl.nn import Ops
from refimpl.nn.losses import Loss

Kd = Callable[[np.ndarray, np.ndarray], Loss]
BATCH = 64


def teach(task: Task, teacher: Model, ops: Ops, say: Say) -> list[np.ndarray]:
    """The teacher's logits of each training row, f32: (C,) of classes, (T, 2) of starts and ends."""
    if task.head == "masked_lm":
        raise ValueError("the task is a masked language model, which cannot be distilled here; need sst2 or squad")
    order = np.argsort(np.asarray(task.lengths), kind="stable")
    logits: list[np.ndarray] = [np.empty(0, np.float32)] * len(order)
    generator = np.random.default_rng(0)
    at = 0
    while at < len(order):
        rows = [i for i in order[at : at + BATCH].tolist() if task.lengths[i] == task.lengths[order[at]]]
        batch, _ = task.example(rows, generator)
        for row, y in zip(rows, forward(teacher, batch, ops), strict=True):
            logits[row] = np.array(y)
        at += len(rows)
        say(at, len(order))
    return logits


def distilled(task: Task, logits: list[np.ndarray], how: Distillation) -> Task:
    """The task with the loss of both."""
    kd = kd_of(how)

    def example(rows: Rows, generator: np.random.Generator) -> tuple[Batch, Any]:
        batch, target = task.example(rows, generator)
        return batch, (target, rows)

    def loss(y: np.ndarray, batch: Batch, target: Any) -> Loss:
        told, rows = target
        taught = [logits[i] for i in rows]
        similar = _of_tokens(kd, y, taught, batch.mask) if y.ndim == 3 else kd(y, np.stack(taught))
        if how.weight == 1:
            return similar
        return ovtrainer(task.loss(y, batch, told), similar, how.weight)

    return task._replace(example=example, loss=loss)


def kd_of(how: Distillation) -> Kd:
    """The loss of logits that a recipe names."""
    tempered: Mapping[str, Callable[..., Loss]] = {
        "kl_batchmean": distil.kl_batchmean,
        "kl_element_mean": distil.kl_element_mean,
        "soft_cross_entropy": distil.soft_cross_entropy,
    }
    if how.loss == "mse_logits":
        return distil.mse_logits
    return partial(tempered[how.loss], temperature=how.temperature)


def _of_tokens(kd: Kd, y: np.ndarray, taught: list[np.ndarray], mask: np.ndarray) -> Loss:
    """Of starts and ends. y: float (B, T, 2); taught: (tokens of the row, 2) each."""
    whole = np.zeros_like(y)
    for row, known in zip(whole, taught, strict=True):
        row[: len(known)] = known
    if kd is distil.mse_logits:
        return kd(y * mask[..., None].astype(y.dtype), whole)
    lowest = np.finfo(y.dtype).min / 2
    hidden = [np.where(mask[..., None] != 0, x, lowest) for x in (y, whole)]
    return distil.start_end(kd, *hidden)
