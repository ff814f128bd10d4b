"""A training that keeps its state in a file, and goes on from it.

A checkpoint is written every ``Keeping.every`` updates, at the end of every epoch before and after its evaluation, and
when the training is told to stop; that may be in the midst of an evaluation, which then begins anew.
A loss that is not finite leaves the last one as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from refimpl.models.training import checkpoint
from refimpl.models.training.checkpoint import Run, State
from refimpl.models.training.loop import Diverged, Evaluated, Event, Job, Settings, train


@dataclass(frozen=True)
class Keeping:
    """Where checkpoints go, what identifies their run, and how many updates are between two."""

    path: Path
    run: Run
    every: int = 100


class Stopped(RuntimeError):
    """Told to stop; the state is saved."""


class Interrupted(Exception):
    """Told to stop in the midst of an evaluation: ``Job.evaluate`` may raise it."""


def _never() -> bool:
    return False


def run_training(
    job: Job,
    settings: Settings,
    state: State,
    keeping: Keeping,
    report: Callable[[Event], None],
    stop: Callable[[], bool] = _never,
) -> State:
    """The state after the last update.

    Raises
    ------
    Stopped
        ``stop`` said so, or an evaluation was interrupted; the state is saved
    Diverged
        as ``loop.train``; says which checkpoint there is
    OSError
        a checkpoint cannot be written; the one before it stays
    """
    saved = state.step if keeping.path.exists() else None
    try:
        for event in train(job, settings, state):
            state = event.state
            report(event)
            stopping = stop()
            if stopping or isinstance(event, Evaluated) or event.ends_epoch or state.step % keeping.every == 0:
                checkpoint.save(state, keeping.run, keeping.path)
                saved = state.step
            if stopping and not (isinstance(event, Evaluated) and state.step == event.of):
                raise Interrupted
    except Interrupted:
        raise Stopped(f"stopped after update {state.step}; saved in {keeping.path}") from None
    except Diverged as error:
        there = "there is no checkpoint" if saved is None else f"{keeping.path} has the state after update {saved}"
        raise Diverged(f"{error}; {there}") from None
    return state
