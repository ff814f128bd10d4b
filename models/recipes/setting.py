"""What the stages of a run share, what goes from one to the next, and what one leaves."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refimpl.models.bert import Model
from refimpl.models.compress import Dense, Packed, Quantized
from refimpl.models.training.checkpoint import Run
from refimpl.models.training.show import Bar
from refimpl.models.training.task import Task
from refimpl.nn import Ops
from refimpl.nn.tape import Tape
from refimpl.prune.sparsity_table import Row
from refimpl.quant.tuning import Trial


@dataclass(frozen=True)
class Setting:
    """What all stages of a run share.

    task : the plain task; teacher, logits : who teaches, what it says of each training row; None without, the logits
        until it is asked, too, and where it is asked of each batch; ops : for it
    folder, identity : where checkpoints go, and what they must be of
    new_tape : of a pass, with all kinds of linear layers; given ``width_of_step``, ranges have another gradient
    measure : metrics of a model on the engine
    """

    task: Task
    logits: list[np.ndarray] | None
    teacher: Model | None
    ops: Ops
    folder: Path
    identity: Run
    new_tape: Callable[..., Tape]
    measure: Callable[[Dense | Packed], dict[str, float]]
    bar: Bar
    seed: int
    threads: int
    save_every: int


class Work(NamedTuple):
    """dense: f32, what is pruned as zeros or gone; quantized: after the stage that quantizes.

    heads : of each layer those that are left, by their numbers in the model that the recipe was given
    begun : what the last hybrid stage began with
    table : NNCF's, of the last stage that ended in whole heads and neurons; its ids are of the model before that stage
    """

    dense: Dense
    heads: tuple[tuple[int, ...], ...]
    quantized: Quantized | None = None
    table: tuple[Row, ...] = ()
    begun: "Work | None" = None


def work_on(dense: Dense) -> Work:
    """Before the first stage."""
    config = dense.model.config
    return Work(dense, tuple(tuple(range(config.heads_of(i))) for i in range(config.layers)))


class Done(NamedTuple):
    """What a stage leaves: for the report, its updates, epochs, sparsity by update, what is worth a note, and which
    layers in f32 were tried."""

    work: Work
    updates: int = 0
    history: tuple[dict[str, float], ...] = ()
    sparsity: tuple[tuple[int, float], ...] = ()
    notes: tuple[str, ...] = ()
    tuning: tuple[Trial, ...] = ()


def kept_of(setting: Setting, number: int) -> Path:
    """Where a stage's checkpoint is."""
    return setting.folder / f"{number}.training"
