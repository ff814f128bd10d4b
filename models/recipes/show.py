"""A recipe's report as tables in the terminal: stages, layers, files, engines."""

from collections.abc import Iterable
from math import prod
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from refimpl.models.terminal import plain_table
from refimpl.models.training.evaluation import SMALLER_IS_BETTER

FEW = 5
"""Rows that are shown of those that an engine answers otherwise."""
MEGABYTE = 1e6
SATURATES = "without VNNI it clips sums of pairs to 16 bits; refimpl saturation tells what helps"


def show(report: dict[str, Any], screen: Console) -> None:
    """Everything but the epochs and the updates, which are in the JSON and on the page."""
    recipe = report["recipe"]
    screen.print(f"[bold]{escape(recipe['name'])}[/]: compressed for {report['task']}{_trial(report)}", soft_wrap=True)
    if recipe["about"]:
        screen.print(escape(recipe["about"]))
    for table in (_stages(report), _tuning(report), _layers(report), _files(report["sizes"]), _engines(report)):
        if table.row_count:
            screen.print(table)
    for engine in report["engines"]:
        if not engine["ran"]:
            screen.print(f"[red]{escape(engine['name'])} NOT RUN[/]: {escape(engine['why'])}")
            continue
        if engine["in_floats"]:
            words = f"{engine['in_floats']} of the quantized linear layers run in floats"
            screen.print(f"[red]{escape(engine['name'])} NOT IN INTEGERS[/]: {words}")
        if engine["saturates"]:
            screen.print(f"[yellow]{escape(engine['name'])} SATURATES[/]: {SATURATES}")
        if engine["differences"]:
            screen.print(_differences(engine))
    encoder = report["sizes"]["encoder"]
    ends = "  ".join(f"{name} {_two(x)}, was {_two(report['baseline'].get(name))}" for name, x in _last(report).items())
    screen.print(f"[bold]{escape(ends)}; the encoder is {encoder['ratio']:.2f} times smaller[/]")


def _trial(report: dict[str, Any]) -> str:
    return "" if report["limit"] is None else f", a trial on the first {report['limit']:,} rows of each file"


def _minutes(seconds: float | None) -> str:
    return "interrupted" if seconds is None else f"{seconds / 60:.1f}"


def _last(report: dict[str, Any]) -> dict[str, Any]:
    return (report["stages"] or [{"metrics": report["baseline"]}])[-1]["metrics"]


def _columns(table: Table, left: Iterable[str], right: Iterable[str]) -> Table:
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table


def _two(x: Any) -> str:
    return "-" if x is None else f"{x:.2f}"


def _stages(report: dict[str, Any]) -> Table:
    names = list(report["baseline"])
    columns = [column for name in names for column in (name, "change")]
    table = _columns(plain_table("Stages"), ["stage"], [*columns, "updates", "minutes"])
    table.add_column("notes")
    table.add_row("f32, before", *(cell for name in names for cell in (_two(report["baseline"][name]), "")), "", "", "")
    before = report["baseline"]
    for i, stage in enumerate(report["stages"], 1):
        cells = [cell for name in names for cell in _change(name, stage["metrics"].get(name), before.get(name))]
        notes = "\n".join(map(escape, stage["notes"]))
        table.add_row(
            f"{i}  {escape(stage['name'])}", *cells, f"{stage['updates']:,}", _minutes(stage["seconds"]), notes
        )
        before = stage["metrics"]
    return table


def _tuning(report: dict[str, Any]) -> Table:
    """metric: a score that is none, minus an error, where nncf-nmse ranks."""
    table = _columns(plain_table("Layers back in f32, as they were tried"), ["step"], ["in f32", "metric"])
    table.add_column("")
    for stage in report["stages"]:
        for row in stage["tuning"]:
            good = "[green]good enough[/]" if row["good"] else ""
            table.add_row(escape(row["step"]), str(len(row["kept"])), f"{row['metric']:.4g}", good)
    return table


def _change(name: str, now: Any, before: Any) -> tuple[str, str]:
    if now is None or before is None:
        return _two(now), "-"
    colour = "green" if (now < before if name in SMALLER_IS_BETTER else now > before) else "red"
    return _two(now), f"[{colour}]{now - before:+.2f}[/]" if now != before else "+0.00"


def _layers(report: dict[str, Any]) -> Table:
    """An encoder layer a row."""
    table = _columns(plain_table("Layers"), ["layer"], ["heads", "neurons", "weights before", "not zero", "sparsity"])
    layers = [(each["name"].split(".")[1], prod(each["shape"]), each["nonzero"]) for each in report["layers"]]
    for each in report["heads"]:
        here = [sizes for number, *sizes in layers if number == str(each["layer"])]
        before, nonzero = (sum(column) for column in zip(*here, strict=True)) if here else (0, 0)
        table.add_row(
            str(each["layer"]),
            f"{each['kept']} of {each['of']}",
            f"{each['neurons']:,} of {each['of_neurons']:,}",
            f"{before:,}",
            f"{nonzero:,}",
            f"{1 - nonzero / before:.1%}" if before else "-",
        )
    return table


def _files(sizes: dict[str, Any]) -> Table:
    table = _columns(plain_table("Files"), ["what"], ["MB"])
    table.add_column("")
    for name, size in sizes["files"].items():
        table.add_row(escape(name), f"{size / MEGABYTE:.1f}", "")
    for name, why in sizes["missing"].items():
        table.add_row(escape(name), "[red]NOT WRITTEN[/]", escape(why))
    encoder = sizes["encoder"]
    table.add_row(
        "encoder, before",
        f"{encoder['before'] / MEGABYTE:.1f}",
        "its linear layers in f32, all layers, heads and neurons",
    )
    forms = "" if encoder["dense"] == encoder["blocks"] else (
        f"; of each layer the smaller of INT8 without blocks, {encoder['dense'] / MEGABYTE:.1f} MB in all, "
        f"and 4x1 blocks, {encoder['blocks'] / MEGABYTE:.1f} MB"
    )  # fmt: skip
    table.add_row(
        "encoder, after", f"{encoder['after'] / MEGABYTE:.1f}", f"{encoder['ratio']:.2f} times smaller{forms}"
    )
    return table


def _engines(report: dict[str, Any]) -> Table:
    names = list(report["baseline"])
    table = _columns(
        plain_table("Engines, over the dev set"),
        ["engine", "file"],
        [*names, "in INT8,\nof quantized", "answers\nnot ours"],
    )
    for engine in report["engines"]:
        if not engine["ran"]:
            table.add_row(
                escape(engine["name"]), escape(engine["file"]), *["[red]NOT RUN[/]", *["-"] * (len(names) + 1)]
            )
            continue
        table.add_row(
            f"{escape(engine['name'])} {engine['version']}",
            escape(engine["file"]),
            *(_two(engine["metrics"].get(name)) for name in names),
            f"[{'red' if engine['in_floats'] else 'none'}]{engine['integer_layers']} of {engine['products']}[/]",
            f"{engine['different']} of {engine['rows']:,}",
        )
    return table


def _differences(engine: dict[str, Any]) -> Table:
    """leads by: logits over the next answer."""
    table = plain_table(f"{engine['name']}: what it answers otherwise")
    table.add_column("row", justify="right")
    for name, width in (("text", 40), ("ours", 16), ("leads by", 8), ("theirs", 16), ("leads by", 8)):
        justify: Any = "right" if name == "leads by" else "left"
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis", max_width=width)
    for row in engine["differences"][:FEW]:
        margins = ["-" if row[key] is None else f"{row[key]:.2g}" for key in ("our_margin", "their_margin")]
        ours, theirs = (_mark(row[key], row["wanted"]) for key in ("ours", "theirs"))
        table.add_row(str(row["row"]), escape(row["text"]), ours, margins[0], theirs, margins[1])
    if engine["different"] > FEW:
        table.add_row("", f"... and {engine['different'] - FEW} more, in report.json", "", "", "", "")
    return table


def _mark(said: str, wanted: str) -> str:
    return f"[green]{escape(said)}[/]" if said == wanted else escape(said)
