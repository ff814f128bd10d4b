"""The settings of a recipe's run, in the words of the command line."""

from dataclasses import dataclass
from pathlib import Path

from refimpl.models.options import check_counts, check_seed, check_threads

TASKS = ("sst2", "squad", "mlm")


@dataclass(frozen=True)
class Options:
    """Of the command line, in its words. teacher: a Hugging Face directory; None for the model itself."""

    task: str
    teacher: Path | None = None
    seed: int = 0
    limit: int | None = None
    threads: int = 1
    save_every: int = 100


def check_options(options: Options) -> None:
    """Raise ValueError naming the option that cannot be."""
    if options.task not in TASKS:
        raise ValueError(f"--task is {options.task!r:.80}; need {', '.join(TASKS[:-1])} or {TASKS[-1]}")
    check_counts(save_every=options.save_every, limit=options.limit)
    check_threads(options.threads)
    check_seed(options.seed)
