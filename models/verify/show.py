"""A report as tables that a person reads at 100 columns."""

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from refimpl.models.verify.fp32 import OURS
from refimpl.models.verify.report import Report

MEGABYTE = 1e6


def show(report: Report, console: Console) -> None:
    """Print everything, the verdict last."""
    engines = ", ".join(f"{name} {version}" for name, version in report.engines.items())
    console.print(f"[bold]{escape(report.model)}[/]: {report.shape}, {report.attention} attention")
    calibrated = f", calibrated on {report.calibration_texts}" if report.calibration_texts else ""
    console.print(f"judged on {_texts(report.texts)} ({report.tokens} tokens){calibrated}")
    if engines:
        console.print(f"against {engines}")
    for table in (_fp32(report), _bits(report), _int8(report), _saturation(report)):
        if table.row_count:
            console.print()
            _print(table, console)
    console.print()
    show_verdict(report, console)


def show_verdict(report: Report, console: Console) -> None:
    """Print the last part: sizes, times and what may be said."""
    for table in (_costs(report), _verdict(report)):
        _print(table, console)
        console.print()
    _conclude(report, console)


def _print(table: Table, console: Console) -> None:
    """The table, then its caption over the full width (a table would wrap it to its own)."""
    caption, table.caption = table.caption, None
    console.print(table)
    if caption:
        console.print(caption, style="dim")


def _texts(count: int) -> str:
    return f"{count} text{'s' * (count != 1)}"


def _table(title: str, caption: str, *columns: str) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", title_style="bold")
    table.box = box.SIMPLE_HEAD
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def _fp32(report: Report) -> Table:
    headings = [f"{OURS}\nerror / bound"]
    for name in report.engines:
        headings += [f"{name}\nerror / bound", "\nfrom ours"]
    table = _table(
        "1  f32: every tap against its derived bound",
        "A tap is a named value inside the model, here gathered over all layers. error / bound: the "
        "worst element against the exact result of the engine's own inputs to that operator; at most 1 "
        "is right, and near 1 is usual after a single rounding. from ours: the largest difference of the "
        "two runs.",
        "\ntap",
        *headings,
    )
    found = {(row.tap, row.engine): row for row in report.fp32}
    for tap in dict.fromkeys(row.tap for row in report.fp32):
        cells = [tap]
        for name in (OURS, *report.engines):
            row = found[tap, name]
            cells.append(f"[red]{row.worst:.3f}[/]" if row.outside else f"{row.worst:.3f}")
            if name != OURS:
                cells.append(f"{row.difference:.1e}")
        table.add_row(*cells)
    return table


def _bits(report: Report) -> Table:
    table = _table(
        f"2  INT8, {report.sparsity:.0%} of the 4x1 blocks pruned: every bit against the NumPy reference",
        "Codes are the 8-bit activations, accumulators the 32-bit sums of products. The emulated kernel runs "
        "one linear layer on a few tokens' codes, instruction by instruction. Tokens include padding, but for the "
        "engine, whose codes are compared with NumPy's of the f32 values that it made them of.",
        "execution",
        "layers",
        "tokens",
        "codes",
        "different",
        "accumulators",
        "different",
    )
    for row in report.bits:
        codes = [f"{row.codes:,}", _count(row.different_codes)] if row.codes else ["-", "-"]
        sums = row.accumulators
        accumulators = [f"{sums:,}", _count(row.different_accumulators)] if sums else ["-", "-"]
        table.add_row(row.execution, str(row.layers), str(row.tokens), *codes, *accumulators)
    return table


def _count(different: int) -> str:
    return f"[red]{different:,}[/]" if different else "[green]0[/]"


def _int8(report: Report) -> Table:
    table = _table(
        "3  INT8 in engines, layer by layer",
        "Left, the engine's run and NumPy's, end to end: one code that rounds the other way changes all that "
        "follows, so engines drift apart, and that is not judged. Right, each operator on the engine's own inputs: "
        "no drift, so this is judged. step: the largest difference of two codes.",
        "\nengine and layer",
        "codes equal\nend to end",
        "largest\nstep",
        "output\nfrom NumPy's",
        "\ncosine",
        "codes equal\nown inputs",
        "out of\nbounds",
    )
    for row in report.int8:
        table.add_row(
            f"{row.engine}  {row.layer}",
            f"{row.codes_equal:.3%}",
            str(row.largest_step),
            f"{row.difference:.1e}",
            f"{row.cosine:.6f}",
            f"{row.own_equal:.4%}",
            _count(row.outside),
        )
    return table


def _saturation(report: Report) -> Table:
    table = _table(
        "4  The same codes on CPUs without VNNI",
        "u8 x s8 products are added in pairs in 16 bits there: 255*127 + 255*127 becomes 32767. could "
        "saturate: pairs of weights that some codes would clip, if they may have any value (refimpl saturation proves "
        "for how many the layer's own can); differ: accumulators that this changed here. "
        f"Through the whole model this moves the output (largest value {report.largest_output:.3g}) by up to "
        f"{report.saturated_output_difference:.3g}.",
        "layer",
        "weight pairs",
        "could saturate",
        "accumulators",
        "differ",
        "share",
    )
    for row in report.saturation:
        share = row.different / row.accumulators
        table.add_row(
            str(row.layer),
            f"{row.pairs:,}",
            f"{row.unsafe_pairs:,}",
            f"{row.accumulators:,}",
            f"{row.different:,}",
            f"{share:.4%}",
        )
    return table


def _costs(report: Report) -> Table:
    table = _table(
        "5  Size and time",
        f"Median of a pass over {_texts(report.timed_texts)}, one thread, in turns in one run."
        + ("" if report.fp32 else " f32: the same weights as numbers, zeros included."),
        "what",
        "MB",
        "ms",
    )
    for name, size in report.sizes.items():
        table.add_row(name, f"{size / MEGABYTE:.1f}", "")
    for name, seconds in report.seconds.items():
        table.add_row(name, "", f"{1000 * seconds:.1f}")
    return table


def _verdict(report: Report) -> Table:
    table = _table("6  Verdict", "", "check", "    found")
    table.columns[0].no_wrap = True
    table.columns[1].justify = "left"
    for check in report.checks:
        mark = "[green]yes[/]" if check.passed else "[red]NO[/] "
        table.add_row(check.name, f"{mark} {check.detail}")
    return table


def _conclude(report: Report, console: Console) -> None:
    if not report.engines:
        console.print("[yellow]No engine to compare with is installed: python -m pip install 'refimpl[engines]'[/]")
    if not report.execution.startswith("native"):
        console.print(f"[yellow]This CPU lacks AVX-512 VNNI: {report.execution} ran.[/]")
    failed = [check.name for check in report.checks if not check.passed]
    if failed:
        console.print(f"[bold red]FAILED[/]: {'; '.join(failed)}")
        if any(row.clipped for row in report.accumulators):
            console.print(
                "Engines clip sums of pairs to 16 bits where a CPU lacks VNNI; refimpl saturation has remedies."
            )
        return
    console.print("[bold green]PASSED[/]: the arithmetic agrees.")
    if report.compression_cosine is None:
        console.print(
            "Judged was the packed model as it is, not what it was made of; how accurate it is, refimpl evaluate tells."
        )
    else:
        console.print(
            "Accuracy is another matter: pruned without training, the compressed outputs have a cosine of "
            f"{report.compression_cosine:.3f} with the f32 model's."
        )
