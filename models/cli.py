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
from refimpl.models.loading import load, name_of
from refimpl.models.options import AsJson, Force, ModelPath
from refimpl.models.profiling import commands as profiling_commands
from refimpl.models.recipes import commands as recipes_commands
from refimpl.models.records import commands as records_commands
from refimpl.models.run import commands as run_commands
from refimpl.models.saturation import commands as saturation_commands
from refimpl.models.terminal import console, print_json, say, show_warnings
from refimpl.models.training import commands as training_commands
from refimpl.models.tune import commands as tune_commands
from refimpl.models.vectors import commands as vectors_commands
from refimpl.models.verify import commands as verify_commands

app = typer.Typer(
    help="A readable, bit-exact reference for compressed BERT on CPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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


app.command()(verify_commands.verify)


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
