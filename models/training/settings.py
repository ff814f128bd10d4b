"""What every training of this package has in common: its settings by kernels, and what its checkpoints must be of."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Protocol

from refimpl import __version__
from refimpl.kernels.training import clip
from refimpl.kernels.training.adamw import in_place
from refimpl.models import sealed
from refimpl.models.compress import Dense
from refimpl.models.training.checkpoint import Run
from refimpl.models.training.clip import Clipping
from refimpl.models.training.loop import Settings
from refimpl.models.training.optimizer import Optimizer
from refimpl.models.training.parameters import named
from refimpl.models.training.schedule import Schedule, linear
from refimpl.models.training.task import Task
from refimpl.nn.adamw import AdamW


class Rates(Protocol):
    """warmup: a share of the updates."""

    @property
    def epochs(self) -> int: ...
    @property
    def accumulate(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def by_kernels(
    rates: Rates,
    total: int,
    seed: int,
    threads: int,
    factors: Mapping[str, float] | None = None,
    schedule: Schedule | None = None,
) -> Settings:
    """AdamW, gradients clipped at a norm of 1; the schedule, or warm-up and a straight line down. total: updates;
    factors: as ``Optimizer``."""
    optimizer = Optimizer(AdamW(decay=rates.weight_decay), factors or {}, in_place(threads))
    schedule = schedule or linear(total, round(rates.warmup * total))
    clipping = Clipping(norm=clip.global_norm(threads), multiply=clip.multiply(threads))
    return Settings(rates.epochs, rates.learning_rate, schedule, optimizer, seed, rates.accumulate, clipping)


def identity(dense: Dense, task: Task) -> Run:
    """Of the program, the data and the model that a run begins with."""
    return {
        "version": __version__,
        "data": task.digest,
        "model": sealed.digest([], named(dense.model)),
        "tokenizer": sha256(dense.tokenizer.to_bytes()).hexdigest(),
    }
