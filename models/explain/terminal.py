"""A story on a terminal of 100 columns: every step with its line, its registers and its reason."""

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from refimpl.models.explain.sums import number

SLOTS = ("bold blue", "bold yellow", "bold green", "bold magenta")
DWORDS, SUMS = 4, 6


def show(story: dict[str, Any], console: Console) -> None:
    """Print the layout, the steps and the results."""
    shape = ", ".join(f"{name} = {size}" for name, size in story["shape"].items())
    console.print(Text(story["kernel"], "bold"), Text(f"{len(story['steps'])} steps, {shape}"))
    console.print(Text("\n" + story["layout"] + "\n", "dim"), soft_wrap=True)
    for name, array in story["arrays"].items():
        if isinstance(array["values"], list) and not array["written"]:
            console.print(_packed(name, array))
    used = {slot for array in story["arrays"].values() for slot in array.get("slots", []) if slot is not None}
    legend = [piece for slot in sorted(used) for piece in ((str(slot), SLOTS[slot]), "  ")]
    console.print(Text.assemble("\nPlace in the dword of the dot product: ", *legend, "  padding is dim\n"))
    _steps(story, console)
    console.print(_outputs(story))


def _packed(name: str, array: dict[str, Any]) -> Text:
    """The bytes of an argument, each with the element that it is, as far as there are any; then how many more."""
    known = [i for i, element in enumerate(array["names"]) if element]
    stop = min(len(array["values"]), known[-1] + 1 if known else 64, 64)
    text = Text(f"{name}  {array['dtype']} x {len(array['values'])}:", "bold")
    for i in range(stop):
        element, slot = array["names"][i], array["slots"][i]
        shown = f"{element}={number(array['values'][i])}" if element else number(array["values"][i])
        text.append(" ").append(shown, SLOTS[slot] if slot is not None else "dim")
    rest = len(array["values"]) - stop
    return text.append(f" … {rest} more" if rest else "", "dim")


def _steps(story: dict[str, Any], console: Console) -> None:
    """Every step; neighbours that only touch padding in one line."""
    for matters, group in groupby(enumerate(story["steps"]), lambda item: item[1]["matters"]):
        numbered = list(group)
        if matters:
            for number, step in numbered:
                _step(story, number, step, console)
        else:
            counts = Counter(step["instruction"] for _, step in numbered)
            what = ", ".join(f"{count} {instruction}" for instruction, count in counts.items())
            console.print(Text(f"{numbered[0][0]:4} … {numbered[-1][0]}  only padding: {what}", "dim"))


def _step(story: dict[str, Any], at: int, step: dict[str, Any], console: Console) -> None:
    site = step["sites"][-1]
    style = "bold red" if step["lossy"] else "bold"
    heading = Text.assemble((f"{at:4} ", style), (step["instruction"], style), f"  {site['function']}, line ")
    heading.append(f"{site['line']}: ").append(step["text"], "cyan")
    console.print(heading, no_wrap=True, overflow="ellipsis")
    numbers = [operand["register"] for operand in step["operands"] if "register" in operand]
    for made in [*numbers, *([at] if step["result"] else [])]:
        for line in _register(story["steps"][made], made):
            console.print(line, no_wrap=True, overflow="ellipsis")
    console.print(Padding(Text(step["why"]), (0, 0, 0, 7)))
    for line in _sums(step):
        console.print(Padding(line, (0, 0, 0, 7)))


def _register(step: dict[str, Any], at: int) -> Iterator[Text]:
    """The first dwords of a register, or of each row of a tile; the rest where it is not all zero."""
    result = step["result"]
    head = f"       r{at} {result['dtype']}"
    if result["dtype"] == "scalar":
        yield Text(f"{head.ljust(20)} {result['values'][0]}")
        return
    size = len(result["values"]) // result["rows"]
    rows = [range(start, start + size) for start in range(0, len(result["values"]), size)]
    shown = [row for row, lanes in enumerate(rows) if row == 0 or any(result["values"][i] for i in lanes)]
    for row in shown:
        yield _row(step, f"{f'row {row}':>19}" if row else head, rows[row])
    if len(shown) < len(rows):
        yield Text(f"{'':20}… {len(rows) - len(shown)} more rows of 0", "dim")


def _row(step: dict[str, Any], head: str, lanes: range) -> Text:
    result = step["result"]
    values, slots, per = result["values"], result["slots"], result["per"]
    text = Text(head.ljust(20))
    shown = lanes[: DWORDS * per]
    for i in shown:
        text.append("" if i % per else "|")
        style = SLOTS[slots[i]] if i < len(slots) and slots[i] is not None else "" if values[i] else "dim"
        cell = number(values[i]).rjust((17 - per) // per)
        text.append(cell, "bold red" if i in step["lossy"] else style).append(" " if i % per < per - 1 else "")
    rest = [values[i] for i in lanes[len(shown) :]]
    return text.append("|" if not rest else "| …" if any(rest) else "| 0 …", "dim")


def _sums(step: dict[str, Any]) -> list[Text]:
    """The lanes of results: those that lose something first."""
    lossy = set(step["lossy"])
    lanes = [i for i, text in enumerate(step["lanes"]) if text and not text.startswith("padding")]
    lanes.sort(key=lambda i: i not in lossy)
    lines = [Text(step["lanes"][i], "red" if i in lossy else "") for i in lanes[:SUMS]]
    return [*lines, Text(f"… {len(lanes) - SUMS} more lanes", "dim")] if len(lanes) > SUMS else lines


def _outputs(story: dict[str, Any]) -> Table:
    table = Table(
        title="\nEvery result, from its products", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    for name in ("result", "kernel", "exact"):
        table.add_column(name, justify="left" if name == "result" else "right")
    table.add_column("from")
    for output in story["outputs"]:
        style = "" if output["value"] == output["exact"] else "red"
        cells = (Text(number(output["value"]), style), Text(number(output["exact"])), Text(output["sum"]))
        table.add_row(Text(output["name"]), *cells)
    return table
