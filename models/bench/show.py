"""The report as tables at 100 columns: one a scenario, ours first, and what ran."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from refimpl.models.bench.case import TIMED, Result, Samples
from refimpl.models.bench.contestants import OURS
from refimpl.models.bench.plan import LATENCY, PRODUCTION, THROUGHPUT
from refimpl.models.bench.report import MILLISECONDS, Report, versions
from refimpl.models.bench.standings import Entry, standings
from refimpl.models.information import headline, machine
from refimpl.models.terminal import plain_table

TITLES = {
    LATENCY: "Latency: milliseconds for one text",
    THROUGHPUT: "Throughput: texts a second, at the best batch size B",
    PRODUCTION: "Production: texts a second, at the best batch size B that takes less than {limit:g} ms",
}


def show(report: Report, console: Console) -> None:
    """Print everything."""
    console.print(headline(report.model, report.config, report.density))
    console.print(f"{report.attention} attention; {machine(report.plan.budget.threads)}")
    for scenario in report.plan.scenarios:
        console.print()
        console.print(_scenario(report, scenario))
    console.print(
        "Median, and half of what lies between the 10th and the 90th percentile. x: how many times as fast "
        f"{OURS} is in INT8. Measured in turns in one run, by the clock of a caller in Python.",
        style="dim",
    )
    console.print()
    console.print(_contestants(report.results))
    console.print(
        "fastest setting: of the engine's own. decisions: labels, answers or words that are the reference's; tied: "
        "others, between which the reference's own scores leave too little to tell. distance: of the outputs from the "
        "reference, relative; an engine beyond what is allowed, or that decides otherwise, is not timed.",
        style="dim",
    )
    for note in dict.fromkeys(f"{r.name} {r.precision}: {note}" for r in report.results for note in r.notes):
        console.print(note, style="dim" if report.passed else "red", markup=False)


def _scenario(report: Report, scenario: str) -> Table:
    found = standings(report.plan, scenario, report.results)
    limit = report.plan.budget.limit * MILLISECONDS
    table = plain_table(TITLES[scenario].format(limit=limit))
    table.add_column("tokens", justify="right")
    names = list(dict.fromkeys(key for entries in found.values() for key in entries))
    for name, precision in names:
        table.add_column(f"{escape(name)}\n{precision}", justify="right", overflow="fold")
    for tokens, entries in found.items():
        here = [entries.get(name, Entry(TIMED)) for name in names]
        table.add_row(str(tokens), *(_cell(entry, scenario, f"> {limit:g} ms", i > 0) for i, entry in enumerate(here)))
    return table


def _cell(entry: Entry, scenario: str, too_slow: str, other: bool) -> str:
    """other: than ours, so that it says how many times as fast ours is."""
    if entry.status != TIMED:
        return f"[red]{entry.status}[/]"
    if entry.best is None or entry.best.samples is None or entry.value is None:
        return f"[dim]{too_slow if scenario == PRODUCTION else '-'}[/]"
    about, times = spread(entry.best.samples), ""
    if other and entry.times is not None:
        times = f" [green]{entry.times:.2f}x[/]"
    if scenario == LATENCY:
        return f"{entry.value * MILLISECONDS:.2f}{times}\n[dim]{about}[/]"
    return f"{entry.value:,.0f}{times}\n[dim]B {entry.best.case.batch} {about}[/]"


def spread(samples: Samples) -> str:
    """Half of what lies between the 10th and the 90th percentile, relative to the median."""
    return f"±{(samples.p90 - samples.p10) / 2 / samples.median:.0%}"


def _contestants(results: Sequence[Result]) -> Table:
    table = plain_table("What ran, and how it agrees with the reference")
    for column in ("", "version", "fastest setting", "decisions", "tied", "distance", "allowed"):
        table.add_column(column, justify="left" if column in ("", "version", "fastest setting") else "right")
    known = versions()
    for name, precision in dict.fromkeys((result.name, result.precision) for result in results):
        mine = [result for result in results if (result.name, result.precision) == (name, precision)]
        table.add_row(escape(f"{name} {precision}"), known.get(name, ""), _settings(mine), *_agreement(mine))
    return table


def _settings(mine: Sequence[Result]) -> str:
    counts = Counter(result.setting for result in mine if result.setting)
    total = sum(counts.values())
    return ", ".join(name if n == total else f"{name} in {n} of {total} cases" for name, n in counts.most_common())


def _agreement(mine: Sequence[Result]) -> list[str]:
    found = [result.agreement for result in mine if result.agreement is not None]
    if not found:
        return ["", "", "", ""]
    same, tied, of = (sum(getattr(agreement, field) for agreement in found) for field in ("same", "tied", "of"))
    worst = max(found, key=lambda agreement: agreement.distance / agreement.limit)
    decisions = f"{same} of {of}" if of else ""
    return [decisions, str(tied) if of else "", f"{worst.distance:.4f}", f"{worst.limit:.4f}"]
