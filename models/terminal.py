"""What the command line reads and writes: texts in; lines, results and JSON out."""

import json
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from refimpl.models.files import utf8

WIDTH = 100
SENTENCES = Path(__file__).with_name("sentences.txt")


def read_texts(path: Path | None) -> list[str]:
    """Lines of a UTF-8 file that are not empty, or the sentences that ship with the package."""
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"{path} is no file; need a file of texts, one a line")
    given = path or SENTENCES
    lines = utf8(given.read_bytes(), given).splitlines()
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{path} has no text; need one a line")
    return texts


def say(kind: str, message: object, style: str) -> None:
    """One line on stderr, exactly as it is."""
    screen = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    screen.print(kind, " ".join(str(message).split()), style=style)


def console() -> Console:
    """For tables: at most 100 columns, text exactly as it is but for the markup that we put in."""
    screen = Console()
    width = min(WIDTH, screen.width) if screen.is_terminal else WIDTH
    return Console(highlight=False, emoji=False, width=width)


def working(what: str) -> AbstractContextManager[object]:
    """A sign on stderr that something goes on, if that is a terminal."""
    screen = Console(stderr=True)
    return screen.status(what) if screen.is_terminal else nullcontext()


def plain_table(title: str) -> Table:
    """With a bold title and a line below the head."""
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def print_json(value: Any) -> None:
    """JSON proper: what is not a finite number becomes null."""
    print(json.dumps(json.loads(json.dumps(value), parse_constant=lambda name: None)))


@cache
def progress_console() -> Console:
    """Stderr, for what shows progress: the same for all, which knows of what is shown already."""
    return Console(stderr=True)


@contextmanager
def steps_bar(title: str, steps: int, remaining: bool = False) -> Iterator[Callable[[str], None]]:
    """A bar on stderr of work in so many steps; none where stderr is no terminal. It is told the name of each step as
    that begins, and counts those that have ended. remaining: with a guess of the time that is left."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    screen = progress_console()
    left = (TextColumn("left"), TimeRemainingColumn()) if remaining else ()
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), *left)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task, ended = bar.add_task(title, total=steps), count()
        yield lambda name: bar.update(task, description=name, completed=next(ended))


@contextmanager
def late_bar(title: str, after: float = 1.0) -> Iterator[Callable[..., None]]:
    """A bar on stderr for who has waited ``after`` seconds; none where stderr is no terminal. (done, of all) moves it,
    (done, of all, title) renames it, too."""
    from rich.errors import LiveError
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    screen = progress_console()
    bar = Progress(
        TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(), console=screen, transient=True,
        disable=not screen.is_terminal,
    )  # fmt: skip

    def start() -> None:
        with suppress(LiveError):  # there is another bar
            bar.start()

    task, timer = bar.add_task(title, total=None), threading.Timer(after, start)
    timer.daemon = True
    timer.start()

    def move(done: int, of: int, name: str = title) -> None:
        bar.update(task, description=name, completed=done, total=of)

    try:
        yield move
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


def show_warnings() -> None:
    """From now on a warning is one line on stderr, and none is said twice."""
    said: set[str] = set()

    def note(message: object, *rest: Any, **more: Any) -> None:
        if str(message) not in said:
            said.add(str(message))
            say("note:", message, "yellow")

    warnings.showwarning = note


def _short(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 4] + " ..."


def sentence(result: dict[str, Any]) -> str:
    """One result for a person."""
    if "label" in result:
        return f"[bold]{escape(result['label'])}[/]  {result['score']:.4f}  {escape(_short(result['text']))}"
    if "answer" in result:
        return f"[bold]{escape(result['answer'])}[/]  (character {result['start']}, score {result['score']:.2f})"
    if "words" in result:
        return "  ".join(f"[bold]{escape(word['word'])}[/] {word['score']:.3f}" for word in result["words"])
    start = ", ".join(f"{x:.4f}" for x in result["embedding"][:4])
    return (
        f"{escape(_short(result['text']))}\n  embedding  [{start}, ... ] of {len(result['embedding'])}\n"
        f"  nearest    [bold]{escape(result['nearest'])}[/]  cosine {result['cosine']:.4f}"
    )
