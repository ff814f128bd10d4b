"""Passes of a session with a look at the clock after each part.

The parts are the checks of the input, filling it into the plan, every step, and the head. They are averaged over the
fastest quarter of the passes, which nobody disturbed: unlike medians, one a part, averages of the same passes add up.
What a look itself takes is measured alone, taken off every part, and put into a part of its own.
"""

import time
from collections.abc import Sequence
from functools import partial

import numpy as np

from refimpl.models.bench.measuring import timed
from refimpl.models.bert import Batch
from refimpl.models.runtime.session import Ready, Session, fill
from refimpl.models.runtime.steps import Step

CHECKS, FILLING, HEAD, LOOKING = "checks", "filling", "head", "timing itself"
LOOKS, TRIES = 1000, 5
FRACTION = 4
"""One pass in so many counts."""


class Passes:
    """Calling it runs one pass. marks: of each pass, the clock at its beginning and after each part."""

    def __init__(self, session: Session, texts: Batch):
        self.session, self.texts = session, texts
        self.marks: list[list[float]] = []

    def __call__(self) -> None:
        """The stages of ``Session.__call__``."""
        session, mask, marks = self.session, self.texts.mask, [time.perf_counter()]
        session.check(*self.texts)
        marks.append(time.perf_counter())
        with session.lock:
            ready = session.ready(session.shape(mask))
            fill(ready, *self.texts)
            marks.append(time.perf_counter())
            session.run(ready, partial(_look, marks))
            session.head(ready, mask)
        marks.append(time.perf_counter())
        self.marks.append(marks)


def _look(marks: list[float], step: Step, ready: Ready) -> None:
    marks.append(time.perf_counter())


def look_seconds(step: Step, ready: Ready) -> float:
    """That one look takes; the best of TRIES."""

    def looks() -> None:
        look = partial(_look, [])
        for _ in range(LOOKS):
            look(step, ready)

    return min(timed(looks) for _ in range(TRIES)) / LOOKS


def parts(marks: Sequence[Sequence[float]], steps: Sequence[str], look: float) -> dict[str, float]:
    """Part -> seconds, in order. look: seconds of one."""
    spent = np.diff(np.array(marks), axis=1)
    fastest = np.argsort(spent.sum(1), kind="stable")[: -(-len(spent) // FRACTION)]
    names = (CHECKS, FILLING, *steps, HEAD)
    mean = spent[fastest].mean(0) - look
    return dict(zip(names, mean.tolist(), strict=True)) | {LOOKING: look * len(names)}
