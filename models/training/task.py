"""What a model is trained for, and the gradient of it: a task's batches, loss and metrics around one forward pass.

batch, target = example(rows, generator)
y             = forward(model with these parameters under the method's masks, batch)      on a tape, with dropout
value, dy     = loss(y, batch, target)
gradients     = backward of the tape and of the masks, by the parameters' names
"""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite, nan
from typing import Any, NamedTuple

import numpy as np

from refimpl.models.bert import Batch, Model, forward
from refimpl.models.training.batches import batches
from refimpl.models.training.first_bad import Found, Watch, bad_parameter
from refimpl.models.training.inner import Inner, Keep
from refimpl.models.training.loop import Job
from refimpl.models.training.method import PLAIN, Method, masked, masked_backward
from refimpl.models.training.parameters import Parameters, with_parameters
from refimpl.nn.losses import Loss
from refimpl.nn.tape import Dropping, Tape, Value
from refimpl.nn.taps import NO_TAP, Tap

Rows = Sequence[int]


class Task(NamedTuple):
    """One task with its data.

    head, labels : what the model must have on top, one of ``config.HEADS``, and its classes' names
    lengths : tokens of each training row
    example : (numbers of rows, generator) -> what the model is given, and what it should say
    loss : (the head's output, batch, target) -> mean over the batch, and its gradient
    evaluate : model -> metrics by name, of the rows for evaluation
    digest : of the data, for checkpoints
    inner : a further loss, of values inside the pass
    """

    head: str
    labels: tuple[str, ...]
    lengths: Sequence[int]
    example: Callable[[Rows, np.random.Generator], tuple[Batch, Any]]
    loss: Callable[[np.ndarray, Batch, Any], Loss]
    evaluate: Callable[[Model], dict[str, float]]
    digest: str
    inner: Inner | None = None


class How(NamedTuple):
    """Beside the task and the model. size: rows of a batch; dropout: a probability; new_tape: what a pass runs on."""

    size: int
    seed: int
    dropout: float
    new_tape: Callable[[], Tape] = Tape
    method: Method = PLAIN


def _loss(
    task: Task, y: Value, inside: Mapping[str, Value], batch: Batch, target: Any
) -> tuple[float, list[tuple[Value, np.ndarray]]]:
    """Of the output and of what is inside, and where gradients begin; NaN and nowhere if one of these is not finite,
    which distillation would refuse."""
    if not all(np.isfinite(value.data).all() for value in (y, *inside.values())):
        return nan, []
    loss = task.loss(y.data, batch, target)
    value, ends = float(loss.value), [(y, loss.gradient)]
    if task.inner is None:
        return value, ends
    further, of = task.inner.loss(batch, {name: each.data for name, each in inside.items()})
    return value + further, [*ends, *((inside[name], g) for name, g in of.items())]


def job(task: Task, model: Model, how: How) -> Job:
    """What the loop needs to train a model of the task's head."""
    method = how.method

    def run(values: Mapping[str, np.ndarray], rows: Rows, generator: np.random.Generator, tap: Tap) -> Any:
        batch, target = task.example(rows, generator)
        tape, masks = how.new_tape(), method.masks(values)
        made = masked(values, masks)
        kept = Keep({}, task.inner.names if task.inner else frozenset(), tap)
        y = forward(with_parameters(model, made), batch, tape.ops, Dropping(tape, how.dropout, generator, kept))
        return tape, *_loss(task, y, kept.values, batch, target), masks, made

    def gradients(
        values: Mapping[str, np.ndarray], rows: Rows, generator: np.random.Generator
    ) -> tuple[float, Parameters]:
        tape, loss, ends, masks, made = run(values, rows, generator, NO_TAP)
        if not isfinite(loss):
            return loss, {}
        names = {id(x): name for name, x in made.items()}
        found = {names[x]: g for x, g in tape.backward(ends).items() if x in names}
        more, of_more = method.more(found, values, masks)
        return loss + more, masked_backward(found, masks) | of_more

    def first_bad(values: Mapping[str, np.ndarray], rows: Rows, generator: np.random.Generator) -> str:
        bad = bad_parameter(values, method.extra)
        if bad is not None:
            return f"the parameter {bad}"
        try:
            run(values, rows, generator, Watch())
        except Found as found:
            return str(found)
        return "the loss"

    return Job(
        gradients=gradients,
        batches=lambda epoch: batches(task.lengths, how.size, how.seed, epoch),
        evaluate=lambda values: task.evaluate(with_parameters(model, masked(values, method.stored(values)))),
        tokens=lambda rows: sum(task.lengths[i] for i in rows),
        after=method.after,
        first_bad=first_bad,
    )
