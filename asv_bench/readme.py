"""Rewrite the measured parts of README.md: ``python asv_bench/readme.py``, on an otherwise idle machine.

``--only race`` (or another section's name, any number of times) rewrites that section alone. The race itself is run by
race.py; its section shows what was found last.
"""

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

from benchmarks.bsgemm_4x1 import ShareOfPeak
from race_report import table
from rich.console import Console

from refimpl.kernels import cpu
from refimpl.models import compress
from refimpl.models.embedded import embedded_model
from refimpl.models.terminal import WIDTH, read_texts
from refimpl.models.verify.show import show_verdict
from refimpl.models.verify.steps import verify

README = Path(__file__).parents[1] / "README.md"
RACE = Path(__file__).parent / "results" / "race.json"


def verdict() -> str:
    """The last tables of ``refimpl verify``, as text."""
    report = verify(compress.load(embedded_model()), read_texts(None), "all-MiniLM-L6-v2")
    console = Console(file=io.StringIO(), width=WIDTH)
    show_verdict(report, console)
    lines = (line.rstrip() for line in console.file.getvalue().splitlines())
    return "```text\n" + "\n".join(lines).strip("\n") + "\n```"


def peak() -> str:
    """The benchmark's figures as a table."""
    rows = []
    for shape in ShareOfPeak.params:
        benchmark = ShareOfPeak()
        benchmark.setup(shape)
        rows.append(f"| {shape} | {benchmark.track_share_of_peak(shape):.2f} |")
        benchmark.teardown(shape)
    return "\n".join([f"| out x in, on {cpu.name()} | share of peak |", "|---|---|", *rows])


def race() -> str:
    """What race.py found last, as tables and a picture."""
    picture = "![Share of the VNNI peak against arithmetic intensity](asv_bench/results/roofline.png)"
    return f"{table(json.loads(RACE.read_text()))}\n\n{picture}"


SECTIONS: dict[str, Callable[[], str]] = {"peak": peak, "verify": verdict, "race": race}


def rewrite(names: list[str]) -> None:
    """Make these sections anew. Raises ValueError for one without its pair of markers, before anything is measured."""
    for name in names:
        if not all(marker in README.read_text() for marker in (f"<!-- {name} -->\n", f"<!-- /{name} -->")):
            raise ValueError(f"README.md has no pair <!-- {name} --> and <!-- /{name} -->")
    for name in names:
        section = SECTIONS[name]()
        before, after = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        text = README.read_text()
        head, tail = text[: text.index(before) + len(before)], text[text.index(after) :]
        README.write_text(f"{head}{section}\n{tail}")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="rewrite the measured parts of README.md")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="this section alone; may be repeated")
    rewrite(parser.parse_args().only or list(SECTIONS))


if __name__ == "__main__":
    main()
