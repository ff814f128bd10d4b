"""A task with a teacher whose hidden states are met as well, layer by layer.

    inner = w mean over pairs of loss(student's layer j, teacher's layer (j + 1) N / n - 1),  j = 0 ... n - 1

n and N: layers of both; each layer's end (``output_norm``), over the tokens that are not padding; of hidden_layers
"last" only j = n - 1. The teacher runs beside the student, without dropout.

    hidden_loss    "mse"  hidden_mse      "l1"  hidden_l1      "kl"  hidden_kl      "cosine"  cosine_tokens

Source: Intel Neural Compressor's intermediate layers, types MSE, L1 and KL, weights 1 / n (``refimpl.distil.hidden``,
``mixing.inc_intermediate``); the cosine is DistilBERT's, of its last layer (``tokens``); the pairs are those of
PKD-skip, arXiv 1908.09355.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from refimpl.distil import cosine_tokens, hidden_kl, hidden_l1, hidden_mse, of_tokens
from refimpl.distil.mixing import inc_intermediate
from refimpl.models.bert import Batch
from refimpl.models.config import Config
from refimpl.models.recipes.kinds import Distillation
from refimpl.models.recipes.teacher import END, Ask
from refimpl.models.training.inner import Inner
from refimpl.models.training.task import Task
from refimpl.nn.losses import Loss

OF_HIDDEN: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], Loss]] = {
    "mse": partial(of_tokens, hidden_mse),
    "l1": partial(of_tokens, hidden_l1),
    "kl": partial(of_tokens, hidden_kl),
    "cosine": cosine_tokens,
}
"""By ``hidden_loss``: of student and teacher, (B, T, D), and the mask."""


def matched(task: Task, ask: Ask, of: Mapping[str, str], how: Distillation) -> Task:
    """The task with the loss inside. of: what meets what, as ``meeting`` says."""
    between = OF_HIDDEN[how.hidden_loss]

    def loss(batch: Batch, values: Mapping[str, np.ndarray]) -> tuple[float, Mapping[str, np.ndarray]]:
        ends = ask(batch).ends
        losses = [between(values[name], ends[want], batch.mask) for name, want in of.items()]
        value, scaled = inc_intermediate(losses)
        gradients = {name: how.hidden * part.gradient for name, part in zip(of, scaled, strict=True)}
        return how.hidden * float(value), gradients

    return task._replace(inner=Inner(frozenset(of), loss))


def meeting(student: Config, teacher: Config, which: str) -> dict[str, str]:
    """``pairs`` of two models, "all" or the "last". Raises ValueError for another width than the teacher's, or more
    layers."""
    if student.hidden != teacher.hidden:
        wrong = f"the student's hidden states have the width {student.hidden}, the teacher's {teacher.hidden}"
        raise ValueError(f"{wrong}; need the same, or hidden = 0")
    found = pairs(student.layers, teacher.layers)
    return found if which == "all" else dict([found.popitem()])


def pairs(layers: int, of: int) -> dict[str, str]:
    """The end of each of the student's layers -> that of the teacher's which it meets.

    >>> pairs(2, 6)
    {'layer.0.output_norm': 'layer.2.output_norm', 'layer.1.output_norm': 'layer.5.output_norm'}
    """
    if not 1 <= layers <= of:
        raise ValueError(f"the student has {layers} layers, the teacher {of}; need at most as many as the teacher's")
    return {END.format(j): END.format((j + 1) * of // layers - 1) for j in range(layers)}
