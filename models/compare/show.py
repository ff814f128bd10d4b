"""A comparison for a person, at 100 columns: one table, then why."""

from textwrap import shorten

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from refimpl.models.compare.report import JUDGED, NOT_EXPOSED, UNJUDGED, Report, Run, Why
from refimpl.models.engines import NAMES
from refimpl.models.terminal import plain_table

LEGEND = (
    "judged: tensors that the engine shows, each against the exact result of that engine's own inputs. codes equal: "
    "of 8-bit codes, those that are ours; outside: tensors beyond their bound. Right, the engine's whole run when "
    "nobody looks, against our own: it drifts, so it is not judged; step is the largest difference of two codes, "
    "argmax where rows of the output are largest."
)
LONGEST = 300
"""Characters of why an engine did not run."""
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
    """Engine and ISA; a command without the places of its files.

    >>> label(Run("command ./program {model} {inputs} {outputs}", "native"))
    'command ./program native'
    """
    return f"{_name(run)} {run.isa}"


def _name(run: Run) -> str:
    return NAMES.get(run.engine, " ".join(word for word in run.engine.split() if not word.startswith("{")))


def versions(report: Report) -> str:
    """Of the engines that ran."""
    ran = {_name(run): run.info["version"] for run in report.runs if run.info}
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
        console.print(f"[bold]{name}[/]: [red]not run[/]: {escape(shorten(run.failed, LONGEST))}")
        return
    style = "red" if run.outside else "default" if run.causes or not run.passed else "green"
    console.print(f"[bold]{name}[/]: [{style}]{escape(said(run))}[/]")
    for why in run.causes:
        console.print(escape(f"  {sentence(why)}"))
    for note in run.notes:
        console.print(f"  [yellow]note:[/] {escape(note)}")


def said(run: Run) -> str:
    """The verdict on a run in words: where it is first outside, or that nothing differs and what that leaves out."""
    if run.outside:
        first = run.outside[0]
        where = f"first outside {first.tensor} ({first.op}, {first.group})"
        if first.reason:
            return f"{where}: {first.reason}"
        return f"{where}: {first.outside:,} of {first.of:,} elements, up to {first.worst:.3g} times the error allowed"
    if not run.count(JUDGED):
        return "nothing was judged: it shows no tensor of which something can be said"
    inside = (
        "inside its bounds; some codes are not ours, as a rounding may have it" if run.causes else "nothing differs"
    )
    hidden = [row.followed for row in run.rows if row.state == NOT_EXPOSED]
    told = [
        (sum(hidden), "{} tensors that it does not show were judged with the next that it shows"),
        (len(hidden) - sum(hidden), "{} that it does not show lead to nothing that it shows, so they were not judged"),
        (run.count(UNJUDGED), "of {} that it shows nothing can be said"),
    ]
    return "; ".join([inside, *(words.format(count) for count, words in told if count)])


def sentence(why: Why) -> str:
    """A cause, and how much else is outside."""
    return why.sentence + (f"; {why.more} more of its kind are outside" if why.more else "")


def _conclude(report: Report, console: Console) -> None:
    blank = [run for run in report.runs if not (run.passed or run.failed or run.outside)]
    for word, runs in [
        ("OUTSIDE", [run for run in report.runs if run.outside]),
        ("NOT RUN", [run for run in report.runs if run.failed]),
        ("NOTHING JUDGED", blank),
    ]:
        if runs:
            console.print(f"[bold red]{word}[/]: {escape(', '.join(map(label, runs)))}")
    if report.passed:
        console.print("[bold green]INSIDE[/]: every tensor that was judged is within its bound.")
