"""The report as a table at 100 columns, and what its roofs are."""

from rich.console import Console
from rich.table import Table

from refimpl.models.information import headline, machine, size_line
from refimpl.models.profiling.report import Report, Row
from refimpl.models.profiling.roofs import HALF, Roofs, Shares
from refimpl.models.runtime.work import Work
from refimpl.models.terminal import plain_table

STYLES = {"compute": "green", "memory": "yellow", "calls": "red", "instructions": "cyan"}


def show(report: Report, every: bool, console: Console) -> None:
    """every: each step alone, not those of all layers in one row."""
    console.print(headline(report.model, report.config, report.density))
    where = f"{report.attention} attention; {machine(report.shape.threads)}"
    console.print(f"{where}; {size_line(report.lengths, report.shape)}\n")
    console.print(times(report, every))
    console.print(_notes(report), style="dim")


def times(report: Report, every: bool) -> Table:
    """A row a step, or for the same step of all layers, and one for the whole pass."""
    table = plain_table("Where the time of a pass goes")
    table.add_column("step" if every else "step, of all layers", overflow="fold")
    for column in ("µs", "share", "MMAC", "GMAC/s", "of peak", "MB", "GB/s", "limit"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("bound by")
    rows = report.rows if every else report.grouped()
    for i, row in enumerate(rows):
        table.add_row(row.name.removeprefix("layer."), *_cells(row, report), end_section=i == len(rows) - 1)
    done = Work()
    for row in report.rows:
        done = done.plus(row.work)
    whole = Row("pass", "", sum(row.calls for row in report.rows), report.seconds, done)
    table.add_row("a pass", *_cells(whole, report)[:-1], "", style="bold")
    return table


def _cells(row: Row, report: Report) -> list[str]:
    seconds, done, found = row.seconds, row.work, row.shares(report.roofs)
    macs, size = done.integer + done.floating, done.parameters + done.activations
    cells = [f"{seconds * 1e6:,.0f}", f"{seconds / report.seconds:.1%}"]
    if found is None:
        return [*cells, *[""] * 7]
    cells += [_short(macs / 1e6, 1), f"{macs / seconds / 1e9:,.0f}", _compute(found, done)] if macs else [""] * 3
    cells += [_short(size / 1e6, 2), f"{size / seconds / 1e9:,.0f}", f"{found.memory:.0%}"]
    word = found.bound
    return [*cells, f"[{STYLES[word]}]{word}[/]" if word else "-"]


def _short(number: float, digits: int) -> str:
    """Three digits or more."""
    return f"{number:,.{digits}f}" if number < 100 else f"{number:,.0f}"


def _compute(found: Shares, done: Work) -> str:
    """f32 is marked: its peak is another."""
    if found.compute is None:
        return "-"
    return f"{found.compute:.0%}{' f32' if done.floating and not done.integer else ''}"


def _notes(report: Report) -> str:
    looking, whole = report.rows[-1], report.whole
    return (
        f"The rows are averages of the fastest quarter of {report.passes:,} passes, and add up; {looking.name} takes "
        f"{looking.seconds / report.seconds:.1%} of them. Of {whole.runs:,} passes without looks at the clock, one in "
        f"ten takes less than {whole.p10 * 1e6:,.0f} µs, half less than {whole.median * 1e6:,.0f}.\n"
        f"{_roofs(report.roofs)}\n"
        "Bound by: products at the peak, bytes at the limit or calls from Python, whichever takes the largest share of "
        f"the time, if it is {HALF:.0%} or more; otherwise by other instructions: interleaving, exponentials, GELU, "
        "norms, stores. These have no peak here: they do not use VNNI. A step is called after the tensor that it "
        "writes, as in refimpl graph, which shows the operators that it stands for. Of peak: VNNI's for products of "
        "codes, f32's for those marked f32; where a row has both, the time that both would take at their own peaks."
    )


def _roofs(roofs: Roofs) -> str:
    integer = "no VNNI" if roofs.integer is None else f"{roofs.integer / 1e9:,.0f} GMAC/s of codes by VNNI"
    reads = [
        f"{what}, {place.holds / 1e6:.1f} MB, from {place.name} at {roofs.reads[place.name] / 1e9:.0f} GB/s"
        for what, place in (("parameters", roofs.parameters), ("activations", roofs.activations))
    ]
    return (
        f"In this run: {integer}; {roofs.floating / 1e9:,.0f} GMAC/s of f32; {'; '.join(reads)}; a "
        f"call, {roofs.call * 1e6:.1f} µs."
    )
