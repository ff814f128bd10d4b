"""One case: texts of one length in batches of one size. Every contestant is judged first; who is right is timed.

Of a contestant's candidates, those that are right are tried for a moment; the fastest, and all within NEAR of it, are
timed with the rest, and the best median counts.
"""

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np

from refimpl.models.bench.contestants import Candidate, Contestant
from refimpl.models.bench.gate import Agreement, agree, limit_of
from refimpl.models.bench.measuring import LONG, Samples, in_turns, timed
from refimpl.models.bench.plan import Budget, Case
from refimpl.models.bench.variants import Inputs
from refimpl.models.engines import Run

NEAR = 1.15
TRIES = 3
TIMED, WRONG, FAILED = "timed", "wrong", "failed"


class Result(NamedTuple):
    """What became of a contestant in a case. samples: if timed; setting: of the fastest; agreement: unless it failed;
    notes: what is wrong with a candidate."""

    name: str
    precision: str
    case: Case
    status: str
    setting: str = ""
    samples: Samples | None = None
    agreement: Agreement | None = None
    notes: tuple[str, ...] = ()


class Ready(NamedTuple):
    """A candidate that was right. once: one run; seconds: of it, roughly."""

    setting: str
    once: Callable[[], object]
    seconds: float
    agreement: Agreement


def measure(found: Sequence[Contestant], case: Case, inputs: Inputs, head: str, budget: Budget) -> list[Result]:
    """The results of all, in their order."""
    judged = {i: prepare(contestant, case, inputs, head) for i, contestant in enumerate(found)}
    runs = {(i, j): ready.once for i, (readies, _) in judged.items() for j, ready in enumerate(readies)}
    times = in_turns(runs, budget.seconds, budget.threads)
    results = []
    for i, (readies, refused) in judged.items():
        timed_here = [(times[i, j], ready) for j, ready in enumerate(readies)]
        samples, best = min(timed_here, key=lambda pair: pair[0].median, default=(None, None))
        wrong = next((agreement for agreement, _ in refused if agreement is not None), None)
        results.append(
            Result(
                name=found[i].name,
                precision=found[i].precision,
                case=case,
                status=TIMED if best else WRONG if wrong else FAILED,
                setting=best.setting if best else "",
                samples=samples,
                agreement=best.agreement if best else wrong,
                notes=tuple(note for _, note in refused),
            )
        )
    return results


Refused = tuple[Agreement | None, str]


def prepare(contestant: Contestant, case: Case, inputs: Inputs, head: str) -> tuple[list[Ready], list[Refused]]:
    """Open and judge each candidate; keep the right ones that are about the fastest."""
    right: list[Ready] = []
    refused: list[Refused] = []
    for candidate in contestant.candidates:
        label = candidate.setting or contestant.name
        try:
            run = candidate.open((case.batch, case.tokens))
            agreement = judge(run, candidate, case, inputs, head)
        except Exception as error:  # whatever an engine raises
            refused.append((None, f"{label}: {type(error).__name__}: {error}"))
            continue
        if agreement.right:
            tries = TRIES if len(contestant.candidates) > 1 else 0
            right.append(_try(candidate.setting, _once(run, inputs, case), agreement, tries))
        else:
            refused.append((agreement, f"{label}: {describe(agreement)}"))
    near = NEAR * min((ready.seconds for ready in right), default=0.0)
    return [ready for ready in right if ready.seconds <= near], refused


def describe(agreement: Agreement) -> str:
    """In words."""
    far = f"distance {agreement.distance:.3f}, at most {agreement.limit:.3f} allowed"
    decided = f"{agreement.same} of {agreement.of} decisions are the reference's, {agreement.tied} tied"
    return f"{decided}; {far}" if agreement.of else far


def judge(run: Run, candidate: Candidate, case: Case, inputs: Inputs, head: str) -> Agreement:
    """Run all texts, in batches of the case's size, and compare what comes out."""
    outputs, rows = [], []
    for batch, numbers in inputs.batches(case.batch):
        output = np.array(run(batch))  # a copy: the next run may write to the same memory
        if output.shape[:1] != (case.batch,):
            raise ValueError(f"the output has shape {output.shape}; need {case.batch} texts")
        outputs.append(output)
        rows.append(numbers)
    expected = inputs.expected[candidate.variant.path][np.concatenate(rows)]
    return agree(head, np.concatenate(outputs), expected, limit_of(inputs.blur))


def _once(run: Run, inputs: Inputs, case: Case) -> Callable[[], object]:
    """A run on one batch after the other, so that remembering an answer does not help."""
    batches = cycle([batch for batch, _ in inputs.batches(case.batch)])
    return lambda: run(next(batches))


def _try(setting: str, once: Callable[[], object], agreement: Agreement, tries: int) -> Ready:
    taken: list[float] = []
    while len(taken) < tries and sum(taken) < LONG:
        taken.append(timed(once))
    return Ready(setting, once, min(taken, default=0.0), agreement)
