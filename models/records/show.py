"""What a replay says, as a table for 100 columns or as JSON."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from refimpl.models.engines import NAMES
from refimpl.models.records.file import Record
from refimpl.models.records.replay import Replay, Trial
from refimpl.models.records.semantics import UNKNOWN
from refimpl.models.terminal import plain_table

TENSORS = 8
"""Tensors outside their bounds that are listed."""


def show(found: Replay, record: Record, file: str, console: Console) -> None:
    """Print where the record is from, each product that was tried, and the verdict."""
    console.print(f"[bold]{escape(file)}[/]: {escape(_engine(record))}")
    console.print(escape(_cpu(record)))
    versions = ", ".join(f"{name} {version}" for name, version in record.info["versions"].items())
    console.print(f"written with {escape(versions)}\n", style="dim")
    console.print(_table(found))
    console.print(verdict(found), style="green" if found.inside else "red", markup=False)
    if not found.inside:
        console.print(_outside(found.best))


def _engine(record: Record) -> str:
    info = record.info
    words = [f"{NAMES.get(info['engine'], info['engine'])} {info['version']}".strip(), f"isa {info['isa']}"]
    words += [] if info["optimize"] else ["every node as written"]
    return ", ".join(words + [f"{name}={value}" for name, value in sorted(info["environment"].items())])


def _cpu(record: Record) -> str:
    cpu = record.info["cpu"]
    return record.info["emulator"] or f"on {cpu['model']} ({cpu['name']})"


def _table(found: Replay) -> Table:
    table = plain_table("If its u8 x s8 products are")
    for name in ("", "", "tensors", "values", "inside", "outside", "told apart"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for trial in (*found.may, *found.others):
        said = trial in found.may and found.said != UNKNOWN
        table.add_row(
            f"[bold]{trial.product}[/]" if said else trial.product,
            "this CPU's" if said else "",
            f"{trial.judged} of {len(trial.findings)}",
            f"{trial.values:,}",
            f"{trial.values - trial.outside:,}",
            f"[red]{trial.outside:,}[/]" if trial.outside else "[green]0[/]",
            "" if trial is found.best else f"{found.told_apart(trial):,}",
        )
    return table


def verdict(found: Replay) -> str:
    """The replay in a sentence or two."""
    best, trials = found.best, [*found.may, *found.others]
    explaining = [trial.product for trial in trials if trial.explains and trial is not best]
    if not found.inside:
        words = f"outside: {best.outside:,} of {best.values:,} values are not what {best.product} products make"
        words = words if best.values else "nothing in this record can be judged"
        first = f"; the first: {best.first}" if best.first else ""
        return words + first + (f". Explained by {', '.join(explaining)}" if explaining else "")
    words = f"inside: all {best.values:,} values of {best.judged} tensors are within their bounds"
    apart = {trial.product: found.told_apart(trial) for trial in trials if not trial.explains}
    words += "".join(f"; {count:,} of them can only be {best.product}, not {name}" for name, count in apart.items())
    return words + (f"; {' and '.join(explaining)} would explain them too" if explaining else "")


def _outside(trial: Trial) -> Table:
    table = plain_table(f"Outside, by {trial.product} products, in order of computation")
    for name in ("tensor", "made by", "outside", "of", "times the error allowed"):
        table.add_column(name, justify="left" if name in ("tensor", "made by") else "right")
    for each in [each for each in trial.findings if each.finding is not None and each.finding.outside][:TENSORS]:
        finding = each.finding
        assert finding is not None
        numbers = f"{finding.outside:,}", f"{finding.of:,}", f"{finding.worst:.3g}"
        table.add_row(escape(each.tensor), escape(f"{each.op} {each.node}"), *numbers)
    return table


def to_json(found: Replay, record: Record) -> dict[str, Any]:
    """Plain data: everything that is shown, and every tensor under every product."""
    return {
        "info": record.info,
        "said": found.said,
        "inside": found.inside,
        "best": found.best.product,
        "verdict": verdict(found),
        "products": {trial.product: _trial(found, trial) for trial in (*found.may, *found.others)},
    }


def _trial(found: Replay, trial: Trial) -> dict[str, Any]:
    return {
        "explains": trial.explains,
        "judged": trial.judged,
        "values": trial.values,
        "outside": trial.outside,
        "told_apart": found.told_apart(trial),
        "first_outside": trial.first,
        "tensors": {
            each.tensor: each.finding and {key: getattr(each.finding, key) for key in ("outside", "of", "worst", "at")}
            for each in trial.findings
        },
    }
