"""A recipe: the stages of a compression, checked before any of them begins.

    fine-tune         train; what is zero may stay so (lock)
    student           fewer layers of the model, to be trained by the stages that follow
    prune             train while blocks are pruned: one-shot, PruneOFA's, Intel Neural Compressor's or Sanh's way
    movement          train scores that prune blocks, heads and neurons; with quantize under fake quantization (JPQD)
    hybrid            train scores as nn_pruning does; filled: again, with the heads that the first run kept whole
    quantize-aware    train under fake quantization, then quantize
    quantize          calibrate and quantize, without training

Contract. What quantizes comes last, and once; an epoch is one of the task's data. Where a stage distils, the teacher is
the model that the recipe is given, unless the command names another.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from refimpl.models.recipes.kinds import FineTune, Hybrid, Movement, Quantize, QuantizeAware, Student, Training
from refimpl.models.recipes.prune_kind import Prune

Stage = FineTune | Student | Prune | Movement | Hybrid | QuantizeAware | Quantize
KINDS: dict[str, Callable[..., Stage]] = {
    kind.do: kind for kind in (FineTune, Student, Prune, Movement, Hybrid, QuantizeAware, Quantize)
}


def quantizes(stage: Stage) -> bool:
    """Whether what comes out is INT8."""
    return isinstance(stage, Quantize | QuantizeAware) or (isinstance(stage, Movement) and stage.quantize)


@dataclass(frozen=True)
class Recipe:
    """name and about: for people."""

    name: str
    about: str
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a recipe has no stage; need at least one")
        for i, stage in enumerate(self.stages[:-1]):
            if quantizes(stage):
                raise ValueError(f"stage {i + 1}, {stage.do}, quantizes; need it as the last stage")
        for i, stage in enumerate(self.stages):
            if isinstance(stage, Hybrid) and stage.filled and not (i and isinstance(self.stages[i - 1], Hybrid)):
                raise ValueError(f"stage {i + 1}, hybrid, is filled; need it just after another hybrid")

    @property
    def distils(self) -> bool:
        """Whether there is need of a teacher."""
        return any(isinstance(stage, Training) and stage.distil is not None for stage in self.stages)


def to_json(recipe: Recipe) -> dict[str, Any]:
    """For reports and for what identifies a run."""
    return {
        "name": recipe.name,
        "about": recipe.about,
        "stages": [{"do": stage.do} | asdict(stage) for stage in recipe.stages],
    }
