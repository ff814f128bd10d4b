"""The report as tables at 100 columns: totals, the layers that are asked for side by side, changes, and memory."""

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from refimpl.models.graph.chart import COLOURS, FREE, chart
from refimpl.models.graph.operators import HEAD
from refimpl.models.graph.report import Report
from refimpl.models.information import headline, size_line
from refimpl.models.runtime.lines import line
from refimpl.models.runtime.steps import Step
from refimpl.models.terminal import WIDTH, plain_table

LEFT = 34


def show(report: Report, layer: int | None, console: Console) -> None:
    """Print everything; side by side one layer, or all steps if there is none."""
    console.print(headline(report.model, report.config, report.density))
    console.print(f"{report.attention} attention; {size_line(report.lengths, report.plan.shape)}\n")
    show_totals(report, console)
    _side_by_side(report, "" if layer is None else f"layer.{layer}.", console)
    show_changes(report, console)
    _memory(report, console)


def show_totals(report: Report, console: Console) -> None:
    """Operators before, kernel calls after."""
    head, calls = sum(report.types(HEAD).values()), len(report.plan.steps)
    for name, words in (("f32", "in f32"), ("INT8", "in INT8 (QDQ)")):
        console.print(f"  {report.files[name].total():5,} operators in the ONNX file {words}")
    console.print(f"  {calls:5,} kernel calls in the plan, and the head in NumPy for {head} operators\n")


def _side_by_side(report: Report, prefix: str, console: Console) -> None:
    steps = [step for step in report.plan.steps if step.name.startswith(prefix)]
    operators = sum(len(report.absorbed[step.name]) for step in steps)
    table = plain_table(f"{prefix.removesuffix('.').replace('.', ' ').capitalize() or 'The whole encoder'}")
    table.add_column(f"{operators} operators of the INT8 file", width=LEFT, style="yellow")
    table.add_column(f"{len(steps)} kernel calls of the plan", ratio=1)
    for step in steps:
        counts = report.types(step.name).items()
        left = ", ".join(f"{count} {name}" if count > 1 else name for name, count in counts)
        table.add_row(left or "(none: moves only)", _step(step, report, prefix))
    console.print(table)


def _step(step: Step, report: Report, prefix: str) -> Text:
    """The names of the layer's tensors without its own."""
    found = line(step)
    cell = Text()
    cell.append(found.name.removeprefix(prefix), "bold").append(f"  {found.kernel}\n", "cyan")
    cell.append(f"{found.fused}\n", "green")
    cell.append(f"reads {', '.join(name.removeprefix(prefix) for name in found.reads)}\n", "dim")
    for made in found.writes:
        where = ", in place" if made.over else ""
        cell.append(f"writes {made.name.removeprefix(prefix)}, {made}, {made.nbytes / 1e3:,.0f} kB{where}\n", "dim")
    return cell


def show_changes(report: Report, console: Console) -> None:
    """What becomes of the operators, and of other things that are counted."""
    table = plain_table("What becomes of the operators")
    table.add_column("operators for")
    for column in ("in the file", "calls"):
        table.add_column(column, justify="right")
    table.add_column("how")
    for change in report.changes:
        table.add_row(change.what, f"{change.before:,}", f"{change.after:,}", change.how)
    head = sum(report.types(HEAD).values())
    table.add_row("the head", f"{head:,}", "", "in NumPy, after the plan", end_section=True)
    before, after = (sum(getattr(change, name) for change in report.changes) for name in ("before", "after"))
    table.add_row("all", f"{before + head:,}", f"{after:,}", "", style="bold", end_section=True)
    for change in report.counts:
        table.add_row(change.what, _short(change.before), _short(change.after), change.how)
    console.print(table)


def _short(number: int) -> str:
    return f"{number:,}" if number < 1e6 else f"{number / 1e6:,.0f} M"


def _memory(report: Report, console: Console) -> None:
    plan, arena = report.plan, report.plan.arena
    console.print("[bold]Memory[/]\n")
    _indented(
        console,
        f"{len(arena.offsets)} buffers of {arena.total / 1e6:.2f} MB together lie in one arena of "
        f"{arena.peak / 1e6:.2f} MB; the most that lives at any one step is {arena.bound / 1e6:.2f} MB.",
    )
    drawn, columns = chart(plan), WIDTH - 2
    wide = max(1, columns // len(plan.steps))
    colours = dict(zip(drawn.legend, COLOURS * len(drawn.legend), strict=False)) | {FREE: "dim"}
    for row in drawn.rows:
        text = Text("  ")
        for letter in row[:columns]:
            text.append(letter * wide, colours[letter])
        console.print(text)
    names = [f"{letter} {name}" for letter, name in drawn.legend.items() if any(letter in row for row in drawn.rows)]
    cut = f", the first {columns} of {len(plan.steps)}" if len(plan.steps) > columns else ""
    _indented(
        console,
        f"From left to right the steps{cut}, upwards the arena. {', '.join(names)}; what is written over a tensor "
        "keeps its letter.",
    )


def _indented(console: Console, text: str) -> None:
    """A paragraph."""
    console.print(Padding(Text(text, "dim"), (0, 0, 1, 2)))
