"""The command ``verify``."""

from typing import Annotated

import typer

from refimpl.models.loading import DENSITY, load, name_of
from refimpl.models.options import AsJson, ModelPath, TextFile
from refimpl.models.terminal import console, print_json, read_texts, steps_bar

SPARSITY = 1 - DENSITY
IntegerAttention = Annotated[
    bool, typer.Option("--int8-attention", metavar="", help="Of a directory: attention in INT8, not f32.")
]
Sparsity = Annotated[
    float | None,
    typer.Option(help=f"Of a directory: share of the 4x1 blocks to prune, 0 to 1; {SPARSITY} if left out."),
]


def verify(
    model: ModelPath = None,
    text: TextFile = None,
    sparsity: Sparsity = None,
    int8_attention: IntegerAttention = False,
    as_json: AsJson = False,
) -> None:
    """Run a packed model, or a directory in f32 and compressed, every way there is, and judge it against ONNX Runtime
    and OpenVINO."""
    from refimpl import check
    from refimpl.models import compress
    from refimpl.models.compress import Packed
    from refimpl.models.verify.show import show
    from refimpl.models.verify.steps import count_steps, verify_packed
    from refimpl.models.verify.steps import verify as verify_dense

    pruned = SPARSITY if sparsity is None else sparsity
    check.fraction("sparsity", pruned)
    texts, loaded, name = read_texts(text), load(model), name_of(model)
    if isinstance(loaded, Packed) and (sparsity is not None or int8_attention):
        raise ValueError(f"{name} is packed already; leave --sparsity and --int8-attention out, or name a directory")
    quantizer = compress.quantize_with_attention if int8_attention else compress.quantize
    with steps_bar("load", count_steps(loaded)) as begin:
        if isinstance(loaded, Packed):
            report = verify_packed(loaded, texts, name, begin)
        else:
            report = verify_dense(loaded, texts, name, pruned, begin, quantizer)
    if as_json:
        print_json(report.to_json())
    else:
        show(report, console())
    raise typer.Exit(0 if report.passed else 1)
