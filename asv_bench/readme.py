"""Rewrite the measured parts of README.md: ``python asv_bench/readme.py``, on an otherwise idle machine."""

import io
import re
from pathlib import Path

from benchmarks.bsgemm_4x1 import ShareOfPeak
from rich.console import Console

from refimpl.kernels import cpu
from refimpl.models import compress
from refimpl.models.embedded import embedded_model
from refimpl.models.terminal import WIDTH, read_texts
from refimpl.models.verify.show import show_verdict
from refimpl.models.verify.steps import verify

README = Path(__file__).parents[1] / "README.md"


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
    return "\n".join([f"| out x in, on {cpu.name()} | share of peak |", "|---|---|", *rows])


def main() -> None:
    """Measure and write."""
    text = README.read_text()
    for name, section in (("peak", peak()), ("verify", verdict())):
        between = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text = re.sub(between, lambda found, section=section: f"{found[1]}{section}\n{found[2]}", text, flags=re.DOTALL)
    README.write_text(text)


if __name__ == "__main__":
    main()
