"""The command ``compare``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from refimpl.models.options import AsJson, Force, Inputs, Optimize, Tensors, Threads, Timeout, TokenizerPath
from refimpl.models.terminal import console, print_json, steps_bar

if TYPE_CHECKING:
    from refimpl.models.compare.report import Report
    from refimpl.models.compare.run import Plan
    from refimpl.models.compare.subject import Feed

Model = Annotated[
    Path | None,
    typer.Argument(help="An ONNX file, a Hugging Face directory or a packed file; if left out, the embedded one."),
]
Engines = Annotated[
    list[str] | None,
    typer.Option(
        "--engine",
        help="onnxruntime, openvino, module:function, ./lib.so:symbol or 'command PROGRAM ...'; repeatable; "
        "if left out, those that are installed.",
    ),
]
Isas = Annotated[
    list[str] | None,
    typer.Option("--isa", help="native, avx512 (without VNNI), avx2 or qemu-haswell; repeatable; native if left out."),
]
Against = Annotated[
    str,
    typer.Option(help="The product of codes that is right: exact, pair_saturating, s8s8_shifted, acc16 or neon_wrap."),
]
TextFile = Annotated[
    Path | None,
    typer.Option("--file", "--text", help="A file of texts, one a line; if left out, our own, unless --inputs."),
]
Html = Annotated[Path | None, typer.Option("--html", help="Write a page with every tensor, too, in one file.")]


def compare(
    model: Model = None,
    engine: Engines = None,
    isa: Isas = None,
    against: Against = "exact",
    inputs: Inputs = None,
    text: TextFile = None,
    tokenizer: TokenizerPath = None,
    tensors: Tensors = None,
    threads: Threads = 1,
    optimize: Optimize = True,
    timeout: Timeout = 300.0,
    html: Html = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Which engine is wrong, at which node, and why: every tensor of each, judged on that engine's own inputs.

    Exit status: 0 if every engine ran on every ISA inside its bounds; 1 if one did not, be it that it cannot run; 2 for
    an error in what was asked.
    """
    from refimpl.models.compare import page
    from refimpl.models.compare.run import plan
    from refimpl.models.compare.show import show
    from refimpl.models.compare.subject import Feed
    from refimpl.models.engines import installed
    from refimpl.models.engines.isolated import Conditions
    from refimpl.models.files import atomic, check_output

    if html is not None:
        check_output(html, force)
    conditions = Conditions(threads=threads, optimize=optimize, timeout=timeout)
    planned = plan(engine or installed(), isa or ["native"], conditions)
    report = _compared(model, Feed(inputs, text, tokenizer, tensors), planned, against)
    if html is not None:
        with atomic(html) as path:
            path.write_text(page.page(report), "utf-8")
    if as_json:
        print_json(report.to_json())
    else:
        show(report, console())
        if html is not None:
            console().print(f"{escape(str(html))}: every tensor; open it in a browser")
    raise typer.Exit(0 if report.passed else 1)


def _compared(model: Path | None, feed: "Feed", planned: "Plan", against: str) -> "Report":
    from refimpl.models.compare.run import compare as run
    from refimpl.models.compare.subject import opened

    with opened(model, feed) as subject, steps_bar("our own run", len(planned) + 1) as begin:
        begin("our own run")
        return run(subject, planned, against, begin)
