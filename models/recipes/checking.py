"""What the stages of a recipe ask of the model, found before anything is trained, by the stages' own checks.

    Dense  ->  student: fewer layers  ->  movement, hybrid: the fewest heads and neurons that may be left  ->  ...

Each stage is checked on the model as it will be by then. How many heads and neurons these leave nobody knows before:
what divides the fewest, one head and four neurons a layer, divides all that there may be.
"""

from dataclasses import replace

import numpy as np

from refimpl.models.bert import Model, map_linears
from refimpl.models.compress import Dense
from refimpl.models.pruning.removal import remove_dead
from refimpl.models.recipes.kinds import Hybrid, Movement, Student, Training
from refimpl.models.recipes.matching import meeting
from refimpl.models.recipes.recipe import Recipe
from refimpl.models.recipes.setting import work_on
from refimpl.models.recipes.stages import method_of, named_in_errors, notes_before, student
from refimpl.models.terminal import say


def check_stages(recipe: Recipe, dense: Dense, teacher: Dense | None, rows: int) -> None:
    """Raise ValueError naming the first stage that the model does not allow; then say what is worth a note before
    anything is trained. rows: for training."""
    work, left = work_on(dense), ""
    begun = work, left
    for number, stage in enumerate(recipe.stages, 1):
        if isinstance(stage, Hybrid):
            begun = work, left = begun if stage.filled else (work, left)
        with named_in_errors(number, stage, left):
            if isinstance(stage, Student):
                work = student(work, stage)
            if isinstance(stage, Training):
                _check(stage, work.dense.model, teacher, rows)
        if isinstance(stage, Hybrid) or (isinstance(stage, Movement) and stage.structured):
            work = work_on(replace(work.dense, model=fewest(work.dense.model)))
            left = f", whatever the {stage.do} before it leaves"
    for number, stage in enumerate(recipe.stages, 1):
        for note in notes_before(stage, rows) if isinstance(stage, Training) else ():
            say("note:", f"stage {number}, {stage.do}: {note}", "yellow")


def _check(stage: Training, model: Model, teacher: Dense | None, rows: int) -> None:
    method_of(stage, model, rows)
    if stage.distil is not None and stage.distil.hidden:
        assert teacher is not None
        meeting(model.config, teacher.model.config, stage.distil.hidden_layers)


def fewest(model: Model) -> Model:
    """What is left at least. Linear layers: f32 ``Linear``."""
    return remove_dead(map_linears(model, lambda _, p: p._make(np.zeros_like(array) for array in p)))
