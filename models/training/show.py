"""What a person sees of a training: a bar while it runs, a table of the epochs afterwards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape

from refimpl.models.terminal import plain_table, progress_console
from refimpl.models.training.loop import Progress

SMOOTH = 0.9
"""Of the loss and of the speed that are shown: new = 0.9 old + 0.1 this update's."""


@contextmanager
def progress_bar(total: int, done: int) -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr with loss, metrics, speed and time left; where that is no terminal, a line an epoch."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    screen = progress_console()
    columns = (TextColumn("train"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"))
    bar = Bar(*columns, TextColumn("left"), TimeRemainingColumn(), console=screen, transient=True)
    shown: dict[str, Any] = {"metrics": "", "loss": None, "speed": None}

    def report(progress: Progress) -> None:
        for key, value in (("loss", progress.loss), ("speed", progress.tokens / max(progress.seconds, 1e-9))):
            shown[key] = value if shown[key] is None else SMOOTH * shown[key] + (1 - SMOOTH) * value
        if progress.metrics is not None:
            shown["metrics"] = "".join(f"  {name} {value:.2f}" for name, value in progress.metrics.items())
            if not screen.is_terminal:
                screen.print(
                    f"update {progress.state.step} of {progress.of}: {words()}", highlight=False, soft_wrap=True
                )
        bar.update(task, completed=progress.state.step, description=words())

    def words() -> str:
        return f"loss {shown['loss']:.4f}{shown['metrics']}  {shown['speed']:,.0f} tokens/s"

    task = bar.add_task("", total=total, completed=done)
    if screen.is_terminal:
        bar.start()
    try:
        yield report
    finally:
        bar.stop()


def show(report: dict[str, Any], screen: Console) -> None:
    """The epochs, and where the model is."""
    history = report["history"]
    table = plain_table(f"{report['run']['task']}: {report['updates']} updates")
    for name in history[0]:
        table.add_column(name, justify="right")
    for row in history:
        table.add_row(*(str(value) if name == "epoch" else f"{value:.4g}" for name, value in row.items()))
    screen.print(table)
    screen.print(f"{escape(report['output'])}: a Hugging Face directory; try: refimpl run {escape(report['output'])}")
