"""Rewrite the measured parts of README.md: ``python asv_bench/readme.py``.

Every part between ``<!-- NAME -->`` and ``<!-- /NAME -->`` is made anew, or those that ``--only NAME`` asks for. What
race.py measured is read from its results: of this machine's CPU, or of ``--cpu``; "peak" has a column for every CPU.
"verify" and "profile" are measured here, on an otherwise idle machine; "graph" is counted.
"""

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import embedded
import numpy as np
import scenario_tables
import scenarios
import tables
from race import RESULTS
from rich.console import Console
from roofline import plot

from refimpl.kernels import cpu
from refimpl.models.bench.plot import plot as draw
from refimpl.models.bench.synthetic import random_texts
from refimpl.models.bert import Batch
from refimpl.models.compress import Packed
from refimpl.models.graph.report import look
from refimpl.models.graph.show import show_changes, show_totals
from refimpl.models.information import machine, size_line
from refimpl.models.loading import EMBEDDED, load
from refimpl.models.options import TOKENS
from refimpl.models.profiling.measure import profile
from refimpl.models.profiling.show import times as show_times
from refimpl.models.terminal import WIDTH, read_texts
from refimpl.models.verify.show import show_verdict
from refimpl.models.verify.steps import verify_packed

README = Path(__file__).parents[1] / "README.md"


def verdict() -> str:
    """The last tables of ``refimpl verify``, as text."""
    report = verify_packed(load(None), read_texts(None), EMBEDDED)
    return printed(lambda console: show_verdict(report, console))


def graph() -> str:
    """The totals and the changes of ``refimpl graph``."""
    packed = load(None)
    report = look(packed, EMBEDDED, example(packed))

    def show(console: Console) -> None:
        show_totals(report, console)
        show_changes(report, console)

    return printed(show)


def times() -> str:
    """The table of ``refimpl profile``."""
    packed = load(None)
    report = profile(packed, EMBEDDED, example(packed), threads=1, seconds=10.0)
    where = f"{machine(report.shape.threads)}; {size_line(report.lengths, report.shape)}\n"
    return printed(lambda console: console.print(where, show_times(report, every=False), sep="\n"))


def example(packed: Packed) -> Batch:
    """What both commands take where nothing else is asked for."""
    return random_texts(np.random.default_rng(0), packed.model.config, [TOKENS])


def printed(show: Callable[[Console], None]) -> str:
    """As text, without blank lines around it."""
    console = Console(file=io.StringIO(), width=WIDTH)
    show(console)
    lines = (line.rstrip() for line in console.file.getvalue().splitlines())
    return "```text\n" + "\n".join(lines).strip("\n") + "\n```"


def measured(results: Path, name: str, part: str) -> dict[str, Any]:
    """The results of a CPU. Raises ValueError where they have no such part."""
    path = results / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if part not in found:
        raise ValueError(f"{path} has no {part!r}; race.py measures it on that CPU")
    return found


def race(results: Path, name: str) -> str:
    """Tables and a picture."""
    found = measured(results, name, "cases")
    plot(found, results / "roofline.png")
    picture = "![Share of the VNNI peak against arithmetic intensity](asv_bench/results/roofline.png)"
    return f"{tables.race(found)}\n\n{picture}"


def bench(results: Path, name: str) -> str:
    """Tables and a picture."""
    found = measured(results, name, "bench")
    draw(found["bench"][scenarios.PRODUCTION][0], results / "production.png")
    picture = "![Texts a second relative to ONNX Runtime in INT8, by length](asv_bench/results/production.png)"
    return f"{scenario_tables.tables(found)}\n\n{picture}"


def peak(results: Path) -> str:
    """Of every CPU that has run the race. Raises ValueError where there is none."""
    every = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    raced = [found for found in every if "cases" in found]
    if not raced:
        raise ValueError(f"{results} has no race; race.py measures it")
    return tables.peak(raced)


def sections(results: Path, name: str) -> dict[str, Callable[[], str]]:
    """Name -> what makes its Markdown."""
    return {
        "bench": lambda: bench(results, name),
        "peak": lambda: peak(results),
        "race": lambda: race(results, name),
        "threads": lambda: tables.threads(measured(results, name, "threads")),
        "bitmask": lambda: tables.bitmask(measured(results, name, "bitmask")),
        "operations": lambda: tables.operations(measured(results, name, "operations")),
        "embedded": embedded.told,
        "verify": verdict,
        "graph": graph,
        "profile": times,
    }


def rewrite(readme: Path, made: dict[str, Callable[[], str]]) -> None:
    """Make these sections anew. Raises ValueError for one without its pair of markers, before anything is measured."""
    for name in made:
        if not has_markers(readme, name):
            raise ValueError(f"{readme} has no pair <!-- {name} --> and <!-- /{name} -->")
    for name, make in made.items():
        section = make()
        before, after = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        text = readme.read_text()
        head, tail = text[: text.index(before) + len(before)], text[text.index(after) :]
        readme.write_text(f"{head}{section}\n{tail}")


def has_markers(readme: Path, name: str) -> bool:
    """Whether there is a place for the section."""
    text = readme.read_text()
    return all(marker in text for marker in (f"<!-- {name} -->\n", f"<!-- /{name} -->"))


def main() -> None:
    """Read, measure and write."""
    parser = argparse.ArgumentParser(description="rewrite the measured parts of README.md")
    parser.add_argument("--only", action="append", choices=sections(RESULTS, ""), help="this section; may be repeated")
    parser.add_argument("--cpu", default=cpu.name(), help="whose results to show, LLVM's name; by default this one")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--readme", type=Path, default=README, help="the file to rewrite")
    given = parser.parse_args()
    made = sections(given.results, given.cpu)
    names = given.only or [name for name in made if has_markers(given.readme, name)]
    rewrite(given.readme, {name: made[name] for name in names})


if __name__ == "__main__":
    main()
