"""A comparison for a person, at 100 columns: one table, then why."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from refimpl.models.compare.report import JUDGED, NOT_EXPOSED, UNJUDGED, Report, Run
from refimpl.models.engines import NAMES
from refimpl.models.terminal import plain_table

LEGEND = (
    "judged: tensors that the engine shows, each against the exact result of that engine's own inputs. codes equal: "
    "of 8-bit codes, those that are ours; outside: tensors beyond their bound. Right, the engine's whole run when "
    "nobody looks, against our own: it drifts, so it is not judged; step is the largest difference of two codes, "
    "argmax where rows of the output are largest."
)
HEADINGS = ("\nengine and ISA", "\njudged", "not\nshown", "un-\njudged", "codes\nequal", "\noutside",
            "end to end:\ncodes equal", "\nstep", "output\noff by", "\nargmax")  # fmt: skip


def show(report: Report, console: Console) -> None:
    """Print everything but the tensors."""
    console.print(f"[bold]{escape(report.model)}[/]: {report.nodes} nodes, {escape(report.fed)}")
    console.print(escape(f"{versions(report) or 'nothing ran'}; products of codes should be {report.against}\n"))
    console.print(_table(report))
    console.print(LEGEND, style="dim")
    for run in report.runs:
        console.print()
        _why(run, console)
    console.print()
    _conclude(report, console)


def label(run: Run) -> str:
    """Engine and ISA."""
    return f"{NAMES.get(run.engine, run.engine)} {run.isa}"


def versions(report: Report) -> str:
    """Of the engines that ran."""
    ran = {NAMES.get(run.engine, run.engine): run.info["version"] for run in report.runs if run.info}
    return ", ".join(f"{name} {version}".strip() for name, version in ran.items())


def percent(part: int, of: int) -> str:
    """Never 100 % unless it is all.

    >>> percent(99_999_999, 100_000_000), percent(5, 5), percent(0, 0)
    ('99.9999%', '100%', '-')
    """
    if not of:
        return "-"
    return "100%" if part == of else f"{min(100 * part / of, 99.9999):.4f}%"


def _table(report: Report) -> Table:
    table = plain_table("Every tensor on the engine's own inputs, and the whole run")
    for i, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if i else "left", no_wrap=bool(i), overflow="fold")
    for run in report.runs:
        table.add_row(*_cells(run))
    return table


def _cells(run: Run) -> list[str]:
    name = escape(label(run))
    if run.failed or run.ends is None:
        return [name, "[red]not run[/]", *["-"] * 8]
    codes, equal = run.codes()
    outside, ends = len(run.outside), run.ends
    counts = [f"{run.count(state)}" for state in (JUDGED, NOT_EXPOSED, UNJUDGED)]
    return [
        name, *counts, percent(equal, codes), f"[red]{outside}[/]" if outside else "[green]0[/]",
        percent(ends.codes_equal, ends.codes), str(ends.largest_step) if ends.codes else "-",
        f"{ends.difference:.1e}", f"{ends.same_place}/{ends.rows}" if ends.rows else "-",
    ]  # fmt: skip


def _why(run: Run, console: Console) -> None:
    name = escape(label(run))
    if run.failed:
        console.print(f"[bold]{name}[/]: [red]not run[/]: {escape(run.failed)}")
        return
    outside = run.outside
    if outside:
        first = outside[0]
        console.print(
            f"[bold]{name}[/]: [red]first outside {escape(first.tensor)}[/] ({escape(first.op)}, {first.group}): "
            f"{first.outside:,} of {first.of:,} elements, up to {first.worst:.3g} times the error allowed"
        )
    elif run.causes:
        console.print(f"[bold]{name}[/]: inside its bounds; some codes are not ours, which a rounding allows")
    else:
        console.print(f"[bold]{name}[/]: [green]nothing differs[/]{_silent(run)}")
    for why in run.causes:
        more = f"; {why.more} more of its kind are outside" if why.more else ""
        console.print(f"  {escape(why.sentence)}{more}")
    for note in run.notes:
        console.print(f"  [yellow]note:[/] {escape(note)}")


def _silent(run: Run) -> str:
    """What was not judged by itself."""
    hidden, unjudged = run.count(NOT_EXPOSED), run.count(UNJUDGED)
    told = f"; {hidden} tensors that it does not show were judged with the next that it shows" if hidden else ""
    return told + (f"; of {unjudged} that it shows nothing can be said" if unjudged else "")


def _conclude(report: Report, console: Console) -> None:
    failed = [run for run in report.runs if run.failed]
    wrong = [run for run in report.runs if run.outside]
    if wrong:
        console.print(f"[bold red]OUTSIDE[/]: {escape(', '.join(map(label, wrong)))}")
    if failed:
        console.print(f"[bold red]NOT RUN[/]: {escape(', '.join(map(label, failed)))}")
    if report.passed:
        console.print("[bold green]INSIDE[/]: every tensor that was judged is within its bound.")
