"""Small runs of recipes, in the tests' process or, to be killed, in their own: ``python recipe_child.py FOLDER``.

FOLDER has model/ and data/. The engines of others are left out: they take seconds to start.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import tiny

from refimpl.models import engines
from refimpl.models.compress import Dense
from refimpl.models.directory import save_directory
from refimpl.models.recipes import agreement, run
from refimpl.models.recipes.kinds import Distillation, FineTune, Movement, Quantize, QuantizeAware, Student, Training
from refimpl.models.recipes.options import Options
from refimpl.models.recipes.prune_kind import Prune
from refimpl.models.recipes.recipe import Recipe
from refimpl.models.tokenizer import Tokenizer
from refimpl.models.training.evaluation import HEADS
from refimpl.models.training.new_heads import load_for
from refimpl.models.training.show import Bar

SMALL = {"epochs": 2, "batch": 8, "learning_rate": 0.01, "distil": Distillation()}
MOVES = {"warmup_start_epoch": 0.5, "warmup_end_epoch": 1.5, "factor": 2.0, "block": (8, 8)}
OWN = {"warmup": 0.1, "factor": 30.0, "final_threshold": 0.45, "score_rate": 10.0, "block": (8, 8)}
KILLED = Recipe(
    "killed", "", (
        Prune(**SMALL, sparsity=0.5, method="inc", every=1),
        FineTune(**(SMALL | {"epochs": 1}), lock=True),
        Movement(**SMALL, **MOVES, quantize=True, samples=4),
    ),
)  # fmt: skip

LONG = replace(KILLED, stages=tuple(replace(stage, epochs=20) for stage in KILLED.stages))
"""With more updates than ten processes can do before they are killed."""


def small(recipe):
    """The recipe with little to do."""

    def change(stage):
        if isinstance(stage, Student):
            return Student(layers=(1,))
        if isinstance(stage, Movement):
            stage = replace(stage, epochs=2, **MOVES)
        if isinstance(stage, Training):
            stage = replace(stage, epochs=2, batch=8, learning_rate=0.01)
        return replace(stage, samples=4) if isinstance(stage, Movement | Quantize | QuantizeAware) else stage

    return replace(recipe, stages=tuple(map(change, recipe.stages)))


def prepare(folder, task="sst2", name="bert_classification", labels=None):
    """model/ with a head for the task, and data/."""
    copied = tiny.with_positions(tiny.copy(name, folder), 512)
    model = load_for(copied, HEADS[task][0], labels or HEADS[task][1], np.random.default_rng(0))
    save_directory(Dense(model, Tokenizer.load(copied, model.config)), folder / "model", {})
    if not (folder / "data").exists():
        tiny.write_data(folder / "data")
    return folder


def missing(*_):
    raise RuntimeError("left out")


def alone(patch):
    """Without other engines. patch: (object, name, value) -> None."""
    patch(agreement, "FILES", {})
    patch(engines, "write_ir", missing)


def main(folder):
    def told(method):
        def tell(*arguments):
            print(method.__name__, flush=True)
            time.sleep(0.005)
            return method(*arguments)

        return tell

    alone(setattr)
    for name in ("report", "teaching", "telling", "evaluated"):
        setattr(Bar, name, told(getattr(Bar, name)))
    output = folder / "out"
    resume = (folder / "out.stages").exists()
    run.compress_by(LONG, folder / "model", folder / "data", output, Options("sst2", save_every=1), resume)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
