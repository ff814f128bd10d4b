"""Measuring the cases of a plan, and what counts of them in each scenario."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from refimpl.models.bench.case import TIMED, WRONG, Result, measure
from refimpl.models.bench.contestants import Contestant
from refimpl.models.bench.plan import LATENCY, PRODUCTION, Case, Plan
from refimpl.models.bench.variants import Variant, make_inputs

Key = tuple[str, str]
"""A contestant: name and precision."""


def run(
    plan: Plan, contestants: Sequence[Contestant], variants: Sequence[Variant], say: Callable[[Case], None]
) -> Iterator[Result]:
    """Measure every case, with those whose last batch of that length did not take too long; ``say`` is told each."""
    head = variants[0].model.config.head
    left, inputs = list(contestants), None
    for case in plan.cases():
        say(case)
        if inputs is None or case.tokens != inputs.texts.ids.shape[1]:
            left, inputs = list(contestants), make_inputs(variants, case.tokens)
        results = measure(left, case, inputs, head, plan.budget)
        left = [
            contestant
            for contestant, result in zip(left, results, strict=True)
            if result.samples is None or result.samples.median <= plan.longest
        ]
        yield from results


class Entry(NamedTuple):
    """A contestant in a scenario at a length. best: the result that counts, None if there is none; value: seconds, or
    texts a second; times: how many times as fast ours is; status: of ``case``."""

    status: str
    best: Result | None = None
    value: float | None = None
    times: float | None = None


def standings(plan: Plan, scenario: str, results: Sequence[Result]) -> dict[int, dict[Key, Entry]]:
    """Length -> contestant -> what counts; ours is first."""
    table: dict[int, dict[Key, Entry]] = {}
    for tokens in plan.tokens[scenario]:
        groups: dict[Key, list[Result]] = {}
        for result in results:
            if result.case.tokens == tokens and result.case.batch in plan.sizes(scenario):
                groups.setdefault((result.name, result.precision), []).append(result)
        entries = {key: _entry(plan, scenario, group) for key, group in groups.items()}
        ours = next(iter(entries.values())).value
        table[tokens] = {key: _compared(entry, ours, scenario) for key, entry in entries.items()}
    return table


def _entry(plan: Plan, scenario: str, group: Sequence[Result]) -> Entry:
    bad = [result.status for result in group if result.status != TIMED]
    if bad:
        return Entry(WRONG if WRONG in bad else bad[0])
    if scenario == PRODUCTION:
        group = [result for result in group if seconds(result) < plan.budget.limit]
    if not group:
        return Entry(TIMED)
    best = max(group, key=rate)
    return Entry(TIMED, best, seconds(best) if scenario == LATENCY else rate(best))


def _compared(entry: Entry, ours: float | None, scenario: str) -> Entry:
    if entry.value is None or ours is None:
        return entry
    return entry._replace(times=entry.value / ours if scenario == LATENCY else ours / entry.value)


def seconds(result: Result) -> float:
    """Median of a timed result."""
    assert result.samples is not None
    return result.samples.median


def rate(result: Result) -> float:
    """Texts a second of a timed result."""
    return result.case.batch / seconds(result)
