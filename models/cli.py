"""The command-line program ``refimpl``.

An error of the user's is one line and exit status 2; ``verify`` exits with 1 where its verdict is negative.
Heavy imports (numba, the engines) wait until a command needs them.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from refimpl import __version__
from refimpl.models.bench import commands as bench_commands
from refimpl.models.explain import commands as explain_commands
from refimpl.models.loading import load
from refimpl.models.saturation import commands as saturation_commands
from refimpl.models.terminal import console, print_json, read_texts, say, sentence, show_warnings

if TYPE_CHECKING:
    from refimpl.models.compress import Dense

app = typer.Typer(
    help="A readable, bit-exact reference for compressed BERT on CPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelPath = Annotated[
    Path | None,
    typer.Argument(help="A Hugging Face directory or a packed file; if left out, the embedded MiniLM."),
]
TextFile = Annotated[Path | None, typer.Option("--text", help="A file of texts, one a line; if left out, our own.")]
Sparsity = Annotated[float, typer.Option(help="Share of the 4x1 blocks to prune, 0 to 1.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program instead of tables.")]


def main() -> None:
    """Entry point: run a command; turn what the user can mend into one line."""
    show_warnings()
    try:
        app()
    except (TypeError, ValueError, OSError, RuntimeError) as error:  # RuntimeError: what the engines raise
        say("error:", error, "red")
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def _load_dense(path: Path | None) -> "Dense":
    from refimpl.models.compress import Dense

    loaded = load(path)
    if not isinstance(loaded, Dense):
        raise ValueError(f"{path} is packed already; need a Hugging Face directory")
    return loaded


@app.command()
def verify(model: ModelPath = None, text: TextFile = None, sparsity: Sparsity = 0.8, as_json: AsJson = False) -> None:
    """Run a model in f32 and compressed, every way there is, and judge it against ONNX Runtime and OpenVINO."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from refimpl import check
    from refimpl.models.verify.show import show
    from refimpl.models.verify.steps import count_steps
    from refimpl.models.verify.steps import verify as run_steps

    check.fraction("sparsity", sparsity)
    texts, dense = read_texts(text), _load_dense(model)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("load", total=count_steps(), completed=-1)
        report = run_steps(
            dense, texts, str(model or "all-MiniLM-L6-v2"), sparsity,
            lambda step: progress.update(task, description=f"{step:32}", advance=1),
        )  # fmt: skip
    if as_json:
        print_json(report.to_json())
    else:
        show(report, console())
    raise typer.Exit(0 if report.passed else 1)


@app.command()
def run(
    model: ModelPath = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="A text; may be given more than once.")] = None,
    context: Annotated[str | None, typer.Option(help="Where to look for the answer to a question.")] = None,
    as_json: AsJson = False,
) -> None:
    """Give a text to a model: label and score, answer, missing word, or embedding and nearest sentence."""
    from refimpl.models import tasks
    from refimpl.models.runner import runner

    if not text:
        raise ValueError("no text was given; need --text at least once")
    loaded = load(model)
    ops, execution = runner(loaded)
    parts = (loaded.model, loaded.tokenizer, ops)
    head = loaded.model.config.head
    if context is not None and head != "question_answering":
        raise ValueError(f"--context is for question answering; this model does {head.replace('_', ' ')}")
    if head == "question_answering":
        if context is None:
            raise ValueError("the model answers questions about a text; need --context")
        results = [tasks.answer(*parts, question, context) for question in text]
    elif head == "classification":
        results = tasks.classify(*parts, text)
    elif head == "masked_lm":
        results = tasks.fill_mask(*parts, text)
    else:
        results = tasks.embed(*parts, text, text if len(set(text)) > 1 else read_texts(None))
        execution += "" if len(set(text)) > 1 else "; nearest of the sentences that ship with refimpl"
    if as_json:
        print_json({"execution": execution, "results": results})
        return
    screen = console()
    for result in results:
        screen.print(sentence(result))
    screen.print(f"[dim]ran: {execution}[/]")


@app.command()
def info(model: ModelPath = None, as_json: AsJson = False) -> None:
    """Show a model's shape, sparsity and bytes, and what this CPU can do."""
    from refimpl.models import information

    facts = information.gather(load(model), str(model or "all-MiniLM-L6-v2"))
    if as_json:
        print_json(facts)
    else:
        information.show(facts, console())


app.command()(explain_commands.explain)
app.command()(explain_commands.asm)
app.command()(bench_commands.bench)
app.command()(saturation_commands.saturation)


Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]


def _check_output(path: Path, force: bool) -> None:
    from refimpl.models.files import check_folder

    check_folder(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; need the name of a file")
    if path.exists() and not force:
        raise ValueError(f"{path} exists; name another file, or --force to replace it")


@app.command()
def compress(
    output: Output,
    model: ModelPath = None,
    text: TextFile = None,
    sparsity: Sparsity = 0.8,
    int8_attention: Annotated[bool, typer.Option("--int8-attention", help="Attention in INT8, not f32.")] = False,
    force: Force = False,
) -> None:
    """Prune, calibrate on the texts, quantize and pack a model, without training, into one file."""
    from refimpl import check
    from refimpl.models import compress as stages
    from refimpl.models import packed_file

    check.fraction("sparsity", sparsity)
    _check_output(output, force)
    quantizer = stages.quantize_with_attention if int8_attention else stages.quantize
    packed = stages.compress(_load_dense(model), read_texts(text), 1 - sparsity, quantizer=quantizer)
    packed_file.save(packed, output)
    console().print(f"{escape(str(output))}: {_megabytes(output)}, {sparsity:.0%} of the 4x1 blocks pruned")


@app.command()
def export(output: Output, model: ModelPath = None, force: Force = False) -> None:
    """Write a model as ONNX: f32 from a Hugging Face directory, INT8 (QDQ) from a packed file."""
    from refimpl.models import compress as stages
    from refimpl.models.export import export_onnx

    _check_output(output, force)
    loaded = load(model)
    packed = isinstance(loaded, stages.Packed)
    export_onnx(stages.unpack(loaded).model if packed else loaded.model, output)  # type: ignore[arg-type]
    console().print(f"{escape(str(output))}: {_megabytes(output)}, {'INT8 QDQ' if packed else 'f32'}")


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
