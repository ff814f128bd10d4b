"""What the stages of a recipe ask of the model, found before anything is trained, by the stages' own checks.

    Dense  ->  student: fewer layers  ->  movement: the fewest heads and neurons that it may leave  ->  ...

Each stage is checked on the model as it will be by then. How many heads and neurons a structured movement leaves nobody
knows before: what divides the fewest, one head and four neurons a layer, divides all that there may be.
"""

from dataclasses import replace

import numpy as np

from refimpl.models.bert import Model, map_linears
from refimpl.models.compress import Dense
from refimpl.models.pruning.removal import remove_dead
from refimpl.models.recipes.kinds import Movement, Student, Training
from refimpl.models.recipes.matching import meeting
from refimpl.models.recipes.recipe import Recipe
from refimpl.models.recipes.stages import method_of, named_in_errors, student


def check_stages(recipe: Recipe, dense: Dense, teacher: Dense | None, rows: int) -> None:
    """Raise ValueError naming the first stage that the model does not allow. rows: for training."""
    left = ""
    for number, stage in enumerate(recipe.stages, 1):
        with named_in_errors(number, stage, left):
            if isinstance(stage, Student):
                dense = student(dense, stage)
            if isinstance(stage, Training):
                _check(stage, dense.model, teacher, rows)
        if isinstance(stage, Movement) and stage.structured:
            dense, left = replace(dense, model=fewest(dense.model)), ", whatever the movement before it leaves"


def _check(stage: Training, model: Model, teacher: Dense | None, rows: int) -> None:
    method_of(stage, model, rows)
    if stage.distil is not None and stage.distil.hidden:
        assert teacher is not None
        meeting(model.config, teacher.model.config)


def fewest(model: Model) -> Model:
    """What a structured movement leaves at least. Linear layers: f32 ``Linear``."""
    return remove_dead(map_linears(model, lambda _, p: p._make(np.zeros_like(array) for array in p)))
