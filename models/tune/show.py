"""The measurements as a table at 100 columns and as JSON, and the lines of Python to use."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from refimpl.kernels import cpu
from refimpl.models.bench.report import MILLISECONDS
from refimpl.models.terminal import plain_table
from refimpl.models.tune.splits import Row, fastest, quickest


class Report(NamedTuple):
    """limit: seconds."""

    model: str
    cores: int
    tokens: int
    limit: float
    rows: Sequence[Row]


def to_json(report: Report) -> dict[str, Any]:
    """Times in milliseconds; what is best is null where nothing is within the limit."""
    within, best = fastest(report.rows, report.limit), fastest(report.rows)
    return {
        "model": report.model,
        "cpu": cpu.name(),
        "cores": report.cores,
        "tokens": report.tokens,
        "limit_ms": report.limit * MILLISECONDS,
        "best_within_limit": within and _row(within),
        "best": best and _row(best),
        "rows": [_row(row) for row in report.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    samples = row.samples
    return {
        "instances": row.split.instances,
        "threads": row.split.threads,
        "processes": row.split.processes,
        "batch": row.batch,
        "texts_per_second": row.rate,
        "median_ms": samples.median * MILLISECONDS,
        "p90_ms": samples.p90 * MILLISECONDS,
        "runs": samples.runs,
    }


def show(report: Report, console: Console) -> None:
    """Print everything."""
    limit = f"{report.limit * MILLISECONDS:g} ms"
    console.print(f"[bold]{escape(report.model)}[/], {report.tokens} tokens a text")
    console.print(f"{escape(cpu.name())}, {report.cores} core{'s' * (report.cores != 1)}\n")
    console.print(_table(report))
    console.print(
        "Every instance always has a batch. Latency as its caller in Python sees it. *: 90 % of the batches take at "
        f"most {limit}.\n",
        style="dim",
    )
    within, best = fastest(report.rows, report.limit), fastest(report.rows)
    if within is None:
        console.print(_advice(f"Nothing is within {limit}; the quickest", quickest(report.rows)))
    else:
        console.print(_advice(f"Best within {limit}", within))
    if best is not None and best != within:
        console.print(_advice("Best without a limit", best))


def _advice(title: str, row: Row) -> str:
    took = f"{row.rate:,.0f} texts a second, 90 % of the batches in {row.samples.p90 * MILLISECONDS:.3g} ms"
    return f"[bold]{title}:[/] {took}\n    {row.split.python()}  # batches of {row.batch}"


def _table(report: Report) -> Table:
    title = "Texts a second; milliseconds of a batch, median and 90th percentile"
    table = plain_table(title)
    table.add_column("instances\nx threads")
    sizes = sorted({row.batch for row in report.rows})
    for size in sizes:
        table.add_column(f"batch\n{size}", justify="right")
    cells = {(row.split, row.batch): _cell(row, report.limit) for row in report.rows}
    for split in dict.fromkeys(row.split for row in report.rows):
        name = f"{split.instances} x {split.threads}\n[dim]{'processes' if split.processes else ''}[/]"
        table.add_row(name, *(cells.get((split, size), "") for size in sizes))
    return table


def _cell(row: Row, limit: float) -> str:
    color, mark = ("green", "*") if row.samples.p90 <= limit else ("default", " ")
    median, p90 = (f"{seconds * MILLISECONDS:.3g}" for seconds in (row.samples.median, row.samples.p90))
    return f"[{color}]{row.rate:,.0f}{mark}[/]\n[dim]{median} {p90} [/]"
