"""The training loop: updates until the epochs are over, an event after each of them and after each evaluation.

    for s in 0 ... S - 1:                                       S = epochs x updates an epoch
        loss, g = mean over A batches of gradients(parameters and extra arrays, batch, generator of update s)
        clip(g);  AdamW with t = s + 1, rate x schedule(s);  after(state)
        at the end of an epoch: evaluate                        also if it was only this that was missing

Contract. A function of the job, the settings and the state it begins with: from the state that update s left, the rest
gives the same bits as without a stop. Parameters, moments and extra arrays are changed in place. The mean is in the
gradients' dtype: (g_1 + ... + g_A) / A, in this order; the last update of an epoch may have fewer batches than A.
Losses and gradients must be finite: what is not ends the training before it reaches a parameter.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from refimpl.models.training.batches import Purpose, stream
from refimpl.models.training.checkpoint import State
from refimpl.models.training.clip import Clipping, clip
from refimpl.models.training.optimizer import Optimizer
from refimpl.models.training.parameters import Parameters
from refimpl.models.training.schedule import Schedule

Gradients = Callable[[Mapping[str, np.ndarray], Any, np.random.Generator], tuple[float, Parameters]]
Evaluate = Callable[[Mapping[str, np.ndarray]], dict[str, float]]


class Diverged(RuntimeError):
    """A loss or a gradient is not finite."""


def no_change(state: State) -> State:
    """What follows an update where nothing does."""
    return state


def _unknown(parameters: Mapping[str, np.ndarray], batch: Any, generator: np.random.Generator) -> str:
    return "a value"


@dataclass(frozen=True)
class Job:
    """What is trained, and on what.

    gradients : (parameters and extra arrays, batch, generator) -> mean loss of the batch, gradients by name, each
        after those that it was computed from; none are needed where the loss is not finite
    batches : epoch -> its batches, the same for the same epoch, and as many in each
    evaluate : parameters and extra arrays -> metrics by name
    tokens : batch -> how many tokens it has, for the speed that is shown
    after : what changes extra arrays (a mask, a scale) after each update; extra arrays are copied into checkpoints
    first_bad : as ``gradients``, of a batch whose loss is not finite -> what was not finite first, in words
    """

    gradients: Gradients
    batches: Callable[[int], Sequence[Any]]
    evaluate: Evaluate
    tokens: Callable[[Any], int] = len
    after: Callable[[State], State] = no_change
    first_bad: Callable[[Mapping[str, np.ndarray], Any, np.random.Generator], str] = _unknown


@dataclass(frozen=True)
class Settings:
    """epochs >= 0; accumulate: batches an update, A >= 1; rate: the schedule's peak."""

    epochs: int
    rate: float
    schedule: Schedule
    optimizer: Optimizer
    seed: int = 0
    accumulate: int = 1
    clipping: Clipping = Clipping()  # noqa: RUF009


class Updated(NamedTuple):
    """After one update. of: S; norm: of the gradient, before clipping; ends_epoch: an evaluation comes next."""

    state: State
    of: int
    loss: float
    norm: float
    rate: float
    tokens: int
    seconds: float
    ends_epoch: bool


class Evaluated(NamedTuple):
    """After the evaluation at the end of an epoch. of: S; metrics: those of the task."""

    state: State
    of: int
    metrics: dict[str, float]


Event = Updated | Evaluated


def updates(batches: int, epochs: int, accumulate: int = 1) -> int:
    """S, of epochs with so many batches."""
    return epochs * -(-batches // accumulate)


def train(job: Job, settings: Settings, state: State) -> Iterator[Event]:
    """Go on from a state to the end.

    Raises
    ------
    ValueError
        an epoch has no batches
    Diverged
        a loss or a gradient is NaN or infinite
    """
    groups, known = _groups(job, settings, 0), 0
    each = len(groups)
    total = settings.epochs * each
    while True:
        epoch, at = divmod(state.step, each)
        if len(state.history) < epoch:
            metrics = job.evaluate({**state.parameters, **state.extra})
            row = {"epoch": epoch, "loss": state.losses / each, **metrics}
            state = state._replace(losses=0.0, history=(*state.history, row))
            yield Evaluated(state, total, metrics)
        if state.step >= total:
            return
        if epoch != known:
            groups, known = _groups(job, settings, epoch), epoch
        begun = perf_counter()
        state, loss, norm, rate = _update(job, settings, state, groups[at])
        tokens, seconds = sum(map(job.tokens, groups[at])), perf_counter() - begun
        yield Updated(state, total, loss, norm, rate, tokens, seconds, at == each - 1)


def _groups(job: Job, settings: Settings, epoch: int) -> list[Sequence[Any]]:
    """The batches of each update of an epoch."""
    found, a = job.batches(epoch), settings.accumulate
    if a < 1 or not found:
        raise ValueError(f"an epoch has {len(found)} batches, {a} an update; need at least one of both")
    return [found[i : i + a] for i in range(0, len(found), a)]


def _update(job: Job, settings: Settings, state: State, group: Sequence[Any]) -> tuple[State, float, float, float]:
    """State, loss, norm of the gradient and rate after one more update."""
    arrays = {**state.parameters, **state.extra}
    generators = iter(stream(settings.seed, Purpose.UPDATE, state.step).spawn(len(group)))
    losses: list[float] = []
    gradients: Parameters = {}
    for batch in group:
        generator = next(generators)
        again = generator.bit_generator.state
        loss, new = job.gradients(arrays, batch, generator)
        if not isfinite(loss):
            generator.bit_generator.state = again
            bad = job.first_bad(arrays, batch, generator)
            raise Diverged(f"update {state.step + 1}: the loss is {loss}; {bad} was not finite first")
        losses.append(loss)
        for name, g in new.items():
            gradients[name] = np.asarray(gradients[name] + g) if name in gradients else g
    if len(group) > 1:
        gradients = {name: np.asarray(g / len(group)) for name, g in gradients.items()}
    norm = settings.clipping.norm(gradients)
    if not isfinite(norm):
        bad = next(name for name, g in gradients.items() if not np.isfinite(g).all())
        raise Diverged(f"update {state.step + 1}: the gradient of {bad} is not finite; the loss is {losses[-1]:.4g}")
    clip(gradients, norm, settings.clipping.most, settings.clipping.multiply)
    rate = settings.rate * settings.schedule(state.step)
    loss = sum(losses) / len(losses)
    state = state._replace(step=state.step + 1, losses=state.losses + loss)
    settings.optimizer.update(state.parameters, gradients, state.moments, state.step, rate)
    return job.after(state), loss, norm, rate
