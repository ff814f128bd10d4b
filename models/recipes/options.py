"""The settings of a recipe's run, in the words of the command line."""

from dataclasses import dataclass
from pathlib import Path

from refimpl.models.options import check_threads

TASKS = ("sst2", "squad")


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
        raise ValueError(f"--task is {options.task!r:.80}; need {' or '.join(TASKS)}")
    for name in ("save_every", *(["limit"] if options.limit is not None else [])):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}; need 1 or more")
    check_threads(options.threads)
    if not 0 <= options.seed < 2**63:
        raise ValueError(f"--seed is {options.seed}; need 0 to 2**63 - 1")
