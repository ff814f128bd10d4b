"""A training that keeps its state in a file, and goes on from it.

A checkpoint is written every ``save_every`` updates, at the end of every epoch, and when the training is told to stop.
A loss that is not finite leaves the last one as it is.
"""

import glob
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from refimpl.models.training import checkpoint
from refimpl.models.training.checkpoint import Run, State
from refimpl.models.training.loop import Diverged, Job, Progress, Settings, train


@dataclass(frozen=True)
class Keeping:
    """Where checkpoints go, what identifies their run, and how many updates are between two."""

    path: Path
    run: Run
    every: int = 100


def remove_parts(path: Path) -> None:
    """Remove what a process that was killed while it wrote ``path`` left beside it: ``files.atomic``'s own names."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.*"):
        if left.is_file() and re.fullmatch(r"[a-z0-9_]{8}", left.name.removeprefix(path.name + ".")):
            left.unlink()


class Stopped(RuntimeError):
    """Told to stop; the state is saved."""


def _never() -> bool:
    return False


def run_training(
    job: Job,
    settings: Settings,
    state: State,
    keeping: Keeping,
    report: Callable[[Progress], None],
    stop: Callable[[], bool] = _never,
) -> State:
    """The state after the last update.

    Raises
    ------
    Stopped
        ``stop`` said so; the state is saved
    Diverged
        as ``loop.train``; says which checkpoint there is
    OSError
        a checkpoint cannot be written; the one before it stays
    """
    saved = state.step if keeping.path.exists() else None
    try:
        for progress in train(job, settings, state):
            state = progress.state
            report(progress)
            stopping = stop()
            if stopping or progress.metrics is not None or state.step % keeping.every == 0:
                checkpoint.save(state, keeping.run, keeping.path)
                saved = state.step
            if stopping and state.step < progress.of:
                raise Stopped(f"stopped after update {state.step} of {progress.of}; saved in {keeping.path}")
    except Diverged as error:
        there = "there is no checkpoint" if saved is None else f"{keeping.path} has the state after update {saved}"
        raise Diverged(f"{error}; {there}") from None
    return state
