"""What a person sees of a training: a bar while it runs, a table of the epochs afterwards."""

from collections.abc import Callable
from math import isnan
from typing import Any

from rich.console import Console
from rich.markup import escape

from refimpl.models.terminal import plain_table, progress_console
from refimpl.models.training.loop import Evaluated, Event
from refimpl.models.training.run import Interrupted

SMOOTH = 0.9
"""Of the loss and of the speed that are shown: new = 0.9 old + 0.1 this update's."""


class Bar:
    """A bar on stderr with loss, metrics, speed and time left; where that is no terminal, a line an epoch."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.screen = progress_console()
        columns = (
            TextColumn("{task.fields[what]}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
        )
        self.bar = Progress(
            *columns, TextColumn("left"), TimeRemainingColumn(), console=self.screen, transient=True,
            disable=not self.screen.is_terminal,
        )  # fmt: skip
        self.task = self.bar.add_task("getting ready", total=None, what="train")
        self.loss = self.speed = float("nan")
        self.metrics, self.what = "", "train"
        self.stop: Callable[[], bool] = bool

    def __enter__(self) -> "Bar":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def begin(self, total: int, done: int, what: str = "train") -> None:
        """Before the first update of this process, or of a stage."""
        self.loss = self.speed = float("nan")
        self.what, self.metrics = what, ""
        self.bar.update(self.task, total=total, completed=done, what=what)

    def evaluated(self, done: int, of: int) -> None:
        """So many rows of those for evaluation. Raises Interrupted if the training is to stop."""
        self.bar.update(self.task, description=f"{self.words()}  evaluating {done} of {of}")
        if self.stop():
            raise Interrupted

    def teaching(self, done: int, of: int) -> None:
        """So many rows of those that a teacher is asked."""
        self.telling(done, of, "teacher")

    def tuning(self, tried: int) -> None:
        """So many models tried, of nobody knows how many. Raises Interrupted if it is to stop."""
        if not self.screen.is_terminal and tried:
            self.screen.print(f"tuning: {tried} tried", highlight=False)
        self.telling(0, 0, f"tuning, {tried} tried")

    def telling(self, done: int, of: int, what: str) -> None:
        """So many rows of all, of something else than a training. Raises Interrupted if it is to stop."""
        self.bar.update(self.task, total=of, completed=done, what=what, description="")
        if self.stop():
            raise Interrupted

    def report(self, event: Event) -> None:
        """After an update or an evaluation."""
        if isinstance(event, Evaluated):
            self.metrics = "".join(f"  {name} {value:.2f}" for name, value in event.metrics.items())
            if not self.screen.is_terminal:
                line = f"{self.what}: update {event.state.step} of {event.of}: {self.words()}"
                self.screen.print(line, highlight=False, soft_wrap=True)
        else:
            self.loss = _smooth(self.loss, event.loss)
            self.speed = _smooth(self.speed, event.tokens / max(event.seconds, 1e-9))
        self.bar.update(self.task, completed=event.state.step, description=self.words())

    def words(self) -> str:
        """Loss and speed, each smoothed, once there are some, and the last metrics."""
        if isnan(self.loss):
            return self.metrics.strip()
        return f"loss {self.loss:.4f}{self.metrics}  {self.speed:,.0f} tokens/s"


def _smooth(old: float, new: float) -> float:
    return new if isnan(old) else SMOOTH * old + (1 - SMOOTH) * new


def show(report: dict[str, Any], screen: Console) -> None:
    """The epochs, and where the model is."""
    history = report["history"]
    table = plain_table(f"{report['run']['task']}: {report['updates']} updates")
    for name in history[0]:
        table.add_column(name, justify="right")
    for row in history:
        table.add_row(*(str(value) if name == "epoch" else f"{value:.4g}" for name, value in row.items()))
    screen.print(table)
    screen.print(
        f"{escape(report['output'])}: a Hugging Face directory; try: refimpl run {escape(report['output'])} --text ..."
    )
