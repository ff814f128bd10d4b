"""The command ``run``: what a person types, and how results are shown."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refimpl.models.options import AsJson, ModelPath
from refimpl.models.terminal import console, late_bar, print_json, read_texts, sentence

if TYPE_CHECKING:
    from refimpl.models.runner import Runner
    from refimpl.models.tasks import Say

Texts = Annotated[list[str] | None, typer.Option("--text", help="A text; may be given more than once.")]
TextFile = Annotated[Path | None, typer.Option("--file", help="A file of texts, one a line.")]
Context = Annotated[str | None, typer.Option(help="Where to look for the answer to a question.")]
Threads = Annotated[int, typer.Option(help="How many threads compute.")]


def run(
    model: ModelPath = None,
    text: Texts = None,
    file: TextFile = None,
    context: Context = None,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Give texts to a model: label and score, answer, missing word, or embedding and nearest sentence."""
    from refimpl.models.loading import load
    from refimpl.models.runner import runner

    texts = [*(text or []), *(read_texts(file) if file else [])]
    if not texts:
        raise ValueError("no text was given; need --text at least once, or --file")
    loaded = load(model)
    _check_context(loaded.model.config.head, context)
    with late_bar("texts") as say:
        ready = runner(loaded, threads, lambda done, of: say(done, of, "compiling kernels"))
        results = _results(ready, texts, context, say)
    execution = ready.execution
    if "nearest" in results[0] and len(set(texts)) == 1:
        execution += "; nearest of the sentences that ship with refimpl"
    if as_json:
        print_json({"execution": execution, "results": results})
        return
    screen = console()
    for result in results:
        screen.print(sentence(result))
    screen.print(f"[dim]ran: {execution}[/]")


def _check_context(head: str, context: str | None) -> None:
    if context is not None and head != "question_answering":
        raise ValueError(f"--context is for question answering; this model does {head.replace('_', ' ')}")
    if context is None and head == "question_answering":
        raise ValueError("the model answers questions about a text; need --context")


def _results(ready: "Runner", texts: list[str], context: str | None, say: "Say") -> list[dict[str, Any]]:
    from refimpl.models import tasks

    if context is not None:
        return tasks.answer(ready, texts, context, say)
    if ready.config.head == "classification":
        return tasks.classify(ready, texts, say)
    if ready.config.head == "masked_lm":
        return tasks.fill_mask(ready, texts, say=say)
    return tasks.embed(ready, texts, texts if len(set(texts)) > 1 else read_texts(None), say)
