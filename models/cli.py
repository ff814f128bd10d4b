"""The command-line program ``refimpl``.

An error of the user's is one line and exit status 2; ``verify`` and ``replay`` exit with 1 if the verdict is negative.
Heavy imports (numba, the engines) wait until a command needs them.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from refimpl import __version__
from refimpl.models.bench import commands as bench_commands
from refimpl.models.compare import commands as compare_commands
from refimpl.models.explain import commands as explain_commands
from refimpl.models.graph import commands as graph_commands
from refimpl.models.loading import load, load_dense, name_of
from refimpl.models.options import AsJson, DirectoryPath, Force, ModelPath, TextFile
from refimpl.models.profiling import commands as profiling_commands
from refimpl.models.recipes import commands as recipes_commands
from refimpl.models.records import commands as records_commands
from refimpl.models.run import commands as run_commands
from refimpl.models.saturation import commands as saturation_commands
from refimpl.models.terminal import console, print_json, read_texts, say, show_warnings, steps_bar
from refimpl.models.training import commands as training_commands
from refimpl.models.tune import commands as tune_commands
from refimpl.models.vectors import commands as vectors_commands

app = typer.Typer(
    help="A readable, bit-exact reference for compressed BERT on CPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

IntegerAttention = Annotated[bool, typer.Option("--int8-attention", metavar="", help="Attention in INT8, not f32.")]
Sparsity = Annotated[float, typer.Option(help="Share of the 4x1 blocks to prune, 0 to 1.")]


def main() -> None:
    """Entry point: run a command; turn what the user can mend into one line."""
    show_warnings()
    try:
        app()
    except (TypeError, ValueError, OSError, RuntimeError) as error:  # RuntimeError: what the engines raise
        say("error:", error, "red")
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", metavar="", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def verify(
    model: DirectoryPath = None,
    text: TextFile = None,
    sparsity: Sparsity = 0.8,
    int8_attention: IntegerAttention = False,
    as_json: AsJson = False,
) -> None:
    """Run a model in f32 and compressed, every way there is, and judge it against ONNX Runtime and OpenVINO."""
    from refimpl import check
    from refimpl.models import compress as stages
    from refimpl.models.verify.show import show
    from refimpl.models.verify.steps import count_steps
    from refimpl.models.verify.steps import verify as run_steps

    check.fraction("sparsity", sparsity)
    texts, dense = read_texts(text), load_dense(model)
    quantizer = stages.quantize_with_attention if int8_attention else stages.quantize
    with steps_bar("load", count_steps()) as begin:
        report = run_steps(dense, texts, name_of(model), sparsity, begin, quantizer)
    if as_json:
        print_json(report.to_json())
    else:
        show(report, console())
    raise typer.Exit(0 if report.passed else 1)


@app.command()
def info(model: ModelPath = None, as_json: AsJson = False) -> None:
    """Show a model's shape, sparsity and bytes, and what this CPU can do."""
    from refimpl.models import information

    facts = information.gather(load(model), name_of(model))
    if as_json:
        print_json(facts)
    else:
        information.show(facts, console())


app.command()(run_commands.run)
app.command()(explain_commands.explain)
app.command()(explain_commands.asm)
app.command()(bench_commands.bench)
app.command()(records_commands.record)
app.command()(records_commands.replay)
app.command()(vectors_commands.vectors)
app.command()(tune_commands.tune)
app.command()(recipes_commands.compress)
app.command()(training_commands.train)
app.command()(training_commands.evaluate)
app.command()(graph_commands.graph)
app.command()(profiling_commands.profile)
app.command()(saturation_commands.saturation)
app.command()(compare_commands.compare)


Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write.")]


@app.command()
def export(output: Output, model: ModelPath = None, force: Force = False) -> None:
    """Write a model as ONNX: f32 from a Hugging Face directory, INT8 (QDQ) from a packed file."""
    from refimpl.models import compress as stages
    from refimpl.models.export import export_onnx
    from refimpl.models.files import check_output

    check_output(output, force)
    loaded = load(model)
    packed = isinstance(loaded, stages.Packed)
    export_onnx(stages.unpack(loaded).model if packed else loaded.model, output)  # type: ignore[arg-type]
    console().print(f"{escape(str(output))}: {_megabytes(output)}, {'INT8 QDQ' if packed else 'f32'}")


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
