"""One profile: passes with and without looks at the clock, and the yardsticks, in turns."""

from collections.abc import Callable

from refimpl.models.bench.measuring import in_turns
from refimpl.models.bert import Batch
from refimpl.models.compress import Packed
from refimpl.models.information import attention_of, density_of
from refimpl.models.profiling.passes import Passes, look_seconds, parts
from refimpl.models.profiling.report import Report, rows_of
from refimpl.models.profiling.yardsticks import yardsticks
from refimpl.models.runtime.session import Session, fill

WHOLE, WATCHED = "whole", "watched"


def profile(packed: Packed, name: str, texts: Batch, threads: int, seconds: float) -> Report:
    """Measure for so many seconds in all. texts: of the batch that runs again and again.

    Watched passes follow the others in each round, so that they find the caches as passes leave them, not as the
    yardsticks do. A roof is what a yardstick's fastest tenth reaches, whoever else is at work on the machine.
    """
    session = Session(packed, threads=threads)
    session(*texts)
    ready = session.ready(session.shape(texts.mask))
    fill(ready, *texts)
    sticks, passes = yardsticks(ready), Passes(session, texts)
    runs: dict[str, Callable[[], object]] = {**sticks.runs, WHOLE: lambda: session(*texts), WATCHED: passes}
    for run in runs.values():
        run()
    passes.marks.clear()
    times = in_turns(runs, seconds, threads)
    steps = [step.name for step in ready.plan.steps]
    spent = parts(passes.marks, steps, look_seconds(ready.plan.steps[0], ready))
    roofs = sticks.roofs({name: times[name].p10 for name in sticks.runs}, threads)
    return Report(
        name,
        packed.model.config,
        density_of(packed.model),
        attention_of(packed.model),
        texts.mask.sum(1).tolist(),
        ready.plan.shape,
        rows_of(spent, ready),
        len(passes.marks),
        times[WHOLE],
        roofs,
    )
