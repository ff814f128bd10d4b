"""The command-line program ``refimpl``.

An error of the user's is one line and exit status 2; ``verify`` exits with 1 where its verdict is negative.
Heavy imports (numba, the engines) wait until a command needs them.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from refimpl import __version__
from refimpl.models.explain import commands as explain_commands

if TYPE_CHECKING:
    from refimpl.models.compress import Dense, Packed

WIDTH = 100
SENTENCES = Path(__file__).with_name("sentences.txt")

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
    warnings.showwarning = lambda message, *rest, **more: _say("note:", message, "yellow")
    try:
        app()
    except (TypeError, ValueError, OSError, RuntimeError) as error:  # RuntimeError: what the engines raise
        _say("error:", error, "red")
        sys.exit(2)


def _say(kind: str, message: object, style: str) -> None:
    """One line on stderr, exactly as it is."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    console.print(kind, " ".join(str(message).split()), style=style)


def _console() -> Console:
    console = Console()
    width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    return Console(highlight=False, emoji=False, width=width)


def _print_json(value: Any) -> None:
    """JSON proper: what is not a finite number becomes null."""
    print(json.dumps(json.loads(json.dumps(value), parse_constant=lambda name: None)))


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def read_texts(path: Path | None) -> list[str]:
    """Lines of a UTF-8 file that are not empty, or the sentences that ship with the package."""
    try:
        lines = (path or SENTENCES).read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{path} has no text; need one a line")
    return texts


def _locate(path: Path | None) -> Path:
    from refimpl.models.embedded import embedded_model

    found = path or embedded_model()
    if not found.exists():
        raise FileNotFoundError(f"{found} does not exist; need a Hugging Face directory or a packed file")
    return found


def _load(path: Path | None) -> "Dense | Packed":
    from refimpl.models import compress, packed_file

    found = _locate(path)
    return packed_file.load(found) if found.is_file() else compress.load(found)


def _load_dense(path: Path | None) -> "Dense":
    from refimpl.models.compress import Dense

    loaded = _load(path)
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
        _print_json(report.to_json())
    else:
        show(report, _console())
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
    loaded = _load(model)
    ops, execution = runner(loaded)
    parts = (loaded.model, loaded.tokenizer, ops)
    head = loaded.model.config.head
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
    if as_json:
        _print_json({"execution": execution, "results": results})
        return
    console = _console()
    for result in results:
        console.print(_sentence(result))
    console.print(f"[dim]ran: {execution}[/]")


def _sentence(result: dict[str, Any]) -> str:
    """One result for a person."""
    if "label" in result:
        return f"[bold]{escape(result['label'])}[/]  {result['score']:.4f}  {escape(result['text'])}"
    if "answer" in result:
        return f"[bold]{escape(result['answer'])}[/]  (character {result['start']}, score {result['score']:.2f})"
    if "words" in result:
        return "  ".join(f"[bold]{escape(word['word'])}[/] {word['score']:.3f}" for word in result["words"])
    start = ", ".join(f"{x:.4f}" for x in result["embedding"][:4])
    return (
        f"{escape(result['text'])}\n  embedding  [{start}, ... ] of {len(result['embedding'])}\n"
        f"  nearest    [bold]{escape(result['nearest'])}[/]  cosine {result['cosine']:.4f}"
    )


@app.command()
def info(model: ModelPath = None, as_json: AsJson = False) -> None:
    """Show a model's shape, sparsity and bytes, and what this CPU can do."""
    from refimpl.models import information

    facts = information.gather(_load(model), str(model or "all-MiniLM-L6-v2"))
    if as_json:
        _print_json(facts)
    else:
        information.show(facts, _console())


app.command()(explain_commands.explain)
app.command()(explain_commands.asm)


Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write.")]


@app.command()
def compress(
    output: Output,
    model: ModelPath = None,
    text: TextFile = None,
    sparsity: Sparsity = 0.8,
) -> None:
    """Prune, calibrate on the texts, quantize and pack a model, without training, into one file."""
    from refimpl import check
    from refimpl.models import compress as stages
    from refimpl.models import packed_file
    from refimpl.models.files import check_folder

    check.fraction("sparsity", sparsity)
    check_folder(output)
    packed = stages.compress(_load_dense(model), read_texts(text), 1 - sparsity)
    packed_file.save(packed, output)
    _console().print(f"{escape(str(output))}: {_megabytes(output)}, {sparsity:.0%} of the 4x1 blocks pruned")


@app.command()
def export(output: Output, model: ModelPath = None) -> None:
    """Write a model as ONNX: f32 from a Hugging Face directory, INT8 (QDQ) from a packed file."""
    from refimpl.models import compress as stages
    from refimpl.models.export import export_onnx

    loaded = _load(model)
    packed = isinstance(loaded, stages.Packed)
    export_onnx(stages.unpack(loaded).model if packed else loaded.model, output)  # type: ignore[arg-type]
    _console().print(f"{escape(str(output))}: {_megabytes(output)}, {'INT8 QDQ' if packed else 'f32'}")


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
