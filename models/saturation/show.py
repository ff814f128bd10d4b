"""The report as tables for 100 columns."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from refimpl.models.saturation.remedies import NOT_WRITTEN
from refimpl.models.saturation.report import LayerRow, RemedyRow, Report
from refimpl.models.terminal import plain_table

NOTHING = ("none", "first-layer")
"""Remedies that change nothing."""


def show(report: Report, console: Console) -> None:
    """Print everything."""
    pruned = f", {report.sparsity:.0%} of the 4x1 blocks pruned" if report.sparsity else ""
    console.print(
        f"[bold]{escape(report.model)}[/]: INT8{pruned}, pairs as a {report.layout} product has them, "
        f"on {report.texts} texts ({report.tokens} tokens)\n"
    )
    _print(console, _layers(report.layers), _proof(report))
    _print(console, _remedies(report), _legend(report))
    _print(console, _costs(report), _cost_legend(report))
    if report.file:
        _fix(report, console)


def _print(console: Console, table: Table, below: str) -> None:
    console.print(table)
    console.print(below + "\n", style="dim")


def _table(title: str, *columns: str) -> Table:
    table = plain_table(title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _layers(rows: Sequence[LayerRow]) -> Table:
    table = _table(
        "1  Without VNNI, pairs of products are added in 16 bits: what could saturate, and what did",
        "\nlayer",
        "\npairs",
        "unsafe:\nany codes",
        "largest\ncode",
        "unsafe:\nsuch codes",
        "sums\nclipped",
        "outputs\nwrong",
        "\nof",
    )
    for row in rows:
        table.add_row(
            row.layer,
            f"{row.pairs:,}",
            f"{row.unsafe_full:,}",
            str(row.most),
            f"{row.unsafe:,}" if row.unsafe else "[green]0: proved[/]",
            f"{row.clipped:,}",
            f"[red]{row.wrong:,}[/]" if row.wrong else "0",
            f"{row.outputs:,}",
        )
    all_of = [sum(getattr(row, name) for row in rows) for name in ("pairs", "unsafe_full", "unsafe", "clipped")]
    wrong, outputs = sum(row.wrong for row in rows), sum(row.outputs for row in rows)
    cells = [f"{n:,}" for n in all_of]
    table.add_section()
    table.add_row("all", cells[0], cells[1], "", cells[2], cells[3], f"{wrong:,}", f"{outputs:,}")
    return table


def _proof(report: Report) -> str:
    said = (
        "pairs: two weights of an output channel whose products are added in 16 bits. unsafe: some codes clip the "
        "pair, if they may have any value (as refimpl verify counts), or none beyond the largest; where no pair is, no "
        "input ever does. largest code: of the median input channel, proved for any input: a layer norm of D numbers "
        "is at most sqrt(D) |weight| + bias, and where none precedes it is 255. On the codes of the exact run of these "
        "texts: sums clipped, of pairs; outputs wrong, accumulators that this changes, of as many."
    )
    if report.dense:
        wrong, of = sum(row.wrong for row in report.dense), sum(row.outputs for row in report.dense)
        said += (
            f" Run dense, as other engines do, {sum(row.unsafe for row in report.dense):,} pairs of the same weights "
            f"could saturate and {wrong:,} of {of:,} outputs were wrong: see --layout dense."
        )
    return said


def _remedies(report: Report) -> Table:
    table = _table(
        "2  What the remedies give: the model run without VNNI",
        "\nremedy",
        "\n",
        "unsafe\npairs",
        "outputs\nwrong",
        "largest\nerror",
        "mean\nerror",
        "decisions\nchanged",
    )
    for row in report.remedies:
        table.add_row(
            row.name,
            _kind(row),
            _count(row.unsafe),
            _count(row.wrong),
            f"{row.largest:.2g}",
            f"{row.mean:.2g}",
            f"{row.changed} of {row.labels}",
        )
    return table


def _costs(report: Report) -> Table:
    timed = ["\ntime", "of which\nmoves"] if report.kernel else []
    title = "3  What they cost, in the linear layers"
    table = _table(title, "\nremedy", "\n", "more\nproducts", "more\nbytes", "\ngathers", *timed)
    plain = report.remedies[0]
    for row in report.remedies:
        more = _more(row.macs, plain.macs), _more(row.bytes, plain.bytes)
        times = [] if row.time is None else [f"x{row.time:.2f}", f"{row.moves:.2f}" if row.moves else ""]
        table.add_row(row.name, _kind(row), *more, str(row.gathers) if row.gathers else "", *times)
    return table


def _kind(row: RemedyRow) -> str:
    if not row.exact:
        return "[yellow]lossy[/]"
    return "" if row.name in NOTHING else "repair"


def _count(n: int) -> str:
    return f"{n:,}" if n else "[green]0[/]"


def _more(n: int, plain: int) -> str:
    return "" if n == plain else f"{n / plain - 1:+.2%}"


def _legend(report: Report) -> str:
    names = "; ".join(f"{row.name}: {row.what}" for row in report.remedies)
    return (
        "repair: no accumulator of the exact product changes; lossy: weights or activations are quantized again. "
        "unsafe pairs, outputs wrong: as in table 1, with the largest codes, of all layers together. Errors are of the "
        "model's output, run as without VNNI, against its exact run, whose largest value is "
        f"{report.largest_output:.3g}. decisions: classes, ends of answers, words, or which other text is nearest.\n"
        f"{names}.\nNot for --fix: {', '.join(row.name for row in report.remedies if row.name in NOT_WRITTEN)}."
    )


def _cost_legend(report: Report) -> str:
    words = "gathers: permutations of codes at run time."
    if not report.kernel:
        return f"{words} --time measures what it all takes."
    return (
        f"{words} time: of the products with what is moved for them, as a multiple of the model as it is; each product "
        f"checked, then timed in turns: {report.kernel}, one thread, {report.timed_tokens} tokens. moves: gathers, and "
        "codes and sums to and from another layout, by NumPy."
    )


def _fix(report: Report, console: Console) -> None:
    console.print(f"[bold]{escape(report.file)}[/]: {report.fix}\n")
    if not report.trials:
        console.print("OpenVINO is not installed: the file was not run without VNNI", style="yellow")
        return
    table = _table(
        "4  The file, really run with the instructions of a CPU without VNNI",
        "machine",
        "INT8 layers",
        "outputs",
        "wrong before",
        "wrong now",
    )
    for row in report.trials:
        table.add_row(
            row.engine, str(row.integer_layers), f"{row.outputs:,}", f"{row.wrong_before:,}", _count(row.wrong)
        )
    console.print(table)
