"""A task with a teacher, whose logits join the task's loss.

    loss = (1 - w) loss of the task + w kd(student, teacher)          ``refimpl.distil.mixing.ovtrainer``

Without dropout the teacher says the same of a row in every epoch, so it is asked once, before the training. Rows of one
length are put together, so that nothing is padded. Answers to questions are logits of tokens: a row's loss is over its
own tokens, the batch's is the mean over rows, and a padded token takes no part (in OVTrainer and nn_pruning it does).
A masked language model has other tokens hidden in each pass: its teacher is asked beside it, and kd is over the tokens
that are not padding, as DistilBERT's (``refimpl.distil.tokens``).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from refimpl import distil
from refimpl.distil.mixing import ovtrainer
from refimpl.models.bert import Batch, Model, forward
from refimpl.models.recipes.kinds import Distillation
from refimpl.models.recipes.teacher import Ask
from refimpl.models.tasks import Say
from refimpl.models.training.task import Rows, Task
from refimpl.nn import Ops
from refimpl.nn.losses import Loss

Kd = Callable[[np.ndarray, np.ndarray], Loss]
BATCH = 64


def check_lengths(task: Task, teacher: Model) -> None:
    """Raise ValueError for a training row that the teacher cannot read."""
    longest, most = max(task.lengths), teacher.config.positions
    if longest > most:
        raise ValueError(f"a training row has {longest} tokens, the teacher {most} positions; need a position a token")


def teach(task: Task, teacher: Model, ops: Ops, say: Say) -> list[np.ndarray]:
    """The teacher's logits of each training row, f32: (C,) of classes, (T, 2) of starts and ends."""
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
        similar = _of_tokens(kd, y, taught) if y.ndim == 3 else kd(y, np.stack(taught))
        return _joined(task, y, batch, told, similar, how.weight)

    return task._replace(example=example, loss=loss)


def asked_beside(task: Task) -> bool:
    """Whether the teacher cannot be asked before the training."""
    return task.head == "masked_lm"


def distilled_beside(task: Task, ask: Ask, how: Distillation) -> Task:
    """The same for logits of tokens, where the teacher is asked of each batch."""
    kd = kd_of(how)

    def loss(y: np.ndarray, batch: Batch, target: Any) -> Loss:
        similar = distil.of_tokens(kd, y, ask(batch).logits, batch.mask)
        return _joined(task, y, batch, target, similar, how.weight)

    return task._replace(loss=loss)


def _joined(task: Task, y: np.ndarray, batch: Batch, target: Any, similar: Loss, weight: float) -> Loss:
    return similar if weight == 1 else ovtrainer(task.loss(y, batch, target), similar, weight)


def kd_of(how: Distillation) -> Kd:
    """The loss of logits that a recipe names."""
    tempered: Mapping[str, Callable[..., Loss]] = {
        "kl_batchmean": distil.kl_batchmean,
        "kl_element_mean": distil.kl_element_mean,
        "soft_cross_entropy": distil.soft_cross_entropy,
    }
    plain: Mapping[str, Kd] = {"mse_logits": distil.mse_logits, "l2_distance": distil.l2_distance}
    if how.loss in plain:
        return plain[how.loss]
    return partial(tempered[how.loss], temperature=how.temperature)


def _of_tokens(kd: Kd, y: np.ndarray, taught: list[np.ndarray]) -> Loss:
    """Of starts and ends. y: float (B, T, 2); taught: (tokens of the row, 2) each."""
    value, gradient, n = y.dtype.type(0), np.zeros_like(y), y.dtype.type(len(y))
    for row, known, own in zip(y, taught, gradient, strict=True):
        found = distil.start_end(kd, row[None, : len(known)], known[None])
        value += found.value / n
        own[: len(known)] = found.gradient[0] / n
    return Loss(np.asarray(value), gradient)
