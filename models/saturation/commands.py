"""The command ``saturation``."""

from pathlib import Path
from typing import Annotated

import typer

from refimpl.models.options import AsJson, Force, ModelPath, TextFile
from refimpl.models.terminal import console, print_json, read_texts, steps_bar

Sparsity = Annotated[float | None, typer.Option(help="Share of the 4x1 blocks to prune first; none if left out.")]
LayoutName = Annotated[
    str | None,
    typer.Option("--layout", help="dense, as engines run any weight, or 4x1; if left out, as the model is stored."),
]
Fix = Annotated[
    str | None, typer.Option("--fix", metavar="NAME", help="Write the model under that remedy of the table to -o.")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="For --fix: FILE.onnx is dense, any other a packed file.")
]
Time = Annotated[
    bool,
    typer.Option(
        "--time", metavar="", help="Measure what the remedies cost, on our own saturating kernels: about a minute."
    ),
]


def saturation(
    model: ModelPath = None,
    text: TextFile = None,
    sparsity: Sparsity = None,
    layout: LayoutName = None,
    fix: Fix = None,
    output: Output = None,
    force: Force = False,
    time: Time = False,
    as_json: AsJson = False,
) -> None:
    """Show what CPUs without VNNI do to an INT8 model, prove which layers are safe, and compare or apply remedies."""
    from refimpl.models.bert import linears
    from refimpl.models.loading import load, name_of
    from refimpl.models.saturation.show import show
    from refimpl.models.saturation.steps import Request, count_steps, examine

    texts = read_texts(text)
    loaded = load(model)
    request = Request(name_of(model), texts, text is not None, sparsity, layout, fix, output, force, time).checked(
        loaded
    )
    with steps_bar("start", count_steps(request, len(linears(loaded.model)))) as begin:
        report = examine(loaded, request, begin)
    if as_json:
        print_json(report.to_json())
    else:
        show(report, console())
