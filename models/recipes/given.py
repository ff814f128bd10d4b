"""The models that a recipe is given, checked against the task and against each other: its own, and its teacher.

Contract. A class's name is the task's, in the task's order, in capitals or not, or one that says nothing: LABEL_0,
LABEL_1, as Hugging Face makes them. A teacher reads the same ids: its tokenizer does the same, whatever its file says
of truncation and padding, which are done here.
"""

from pathlib import Path

from refimpl.models.compress import Dense
from refimpl.models.config import read_config
from refimpl.models.recipes.artifacts import HUGGING_FACE
from refimpl.models.recipes.kinds import Training
from refimpl.models.recipes.options import Options
from refimpl.models.recipes.recipe import Recipe
from refimpl.models.tokenizer import Tokenizer
from refimpl.models.training.batches import Purpose, stream
from refimpl.models.training.evaluation import HEADS, fits, head_words, needed
from refimpl.models.training.new_heads import load_for


def load_models(recipe: Recipe, model: Path, options: Options) -> tuple[Dense, Dense | None]:
    """The model to be compressed, and the teacher if there is need of one.

    Raises
    ------
    FileNotFoundError, ValueError
        one cannot be read, is not for the task, or the teacher not for the model
    """
    trains = any(isinstance(stage, Training) for stage in recipe.stages)
    dense = _load(model, options, not trains or (recipe.distils and options.teacher is None))
    if not recipe.distils:
        if options.teacher is not None:
            raise ValueError(f"the recipe {recipe.name} distils in no stage; leave --teacher out")
        return dense, None
    if options.teacher is None:
        return dense, dense
    teacher = _load(options.teacher, options, True)
    if not teacher.tokenizer.reads_as(dense.tokenizer):
        raise ValueError(
            f"{options.teacher} has another tokenizer than {model}; need a teacher that reads the same ids"
        )
    words, own = teacher.model.config.vocabulary, dense.model.config.vocabulary
    if options.task == "mlm" and words != own:
        raise ValueError(f"{options.teacher} has {words:,} words, {model} {own:,}; need as many to tell them apart")
    return dense, teacher


def _load(path: Path, options: Options, as_it_is: bool) -> Dense:
    """as_it_is: its head is not to be trained, or before that it teaches."""
    head, labels = HEADS[options.task]
    if path.is_file():
        raise ValueError(
            f"{path} is a file; need a Hugging Face directory, in f32: a recipe leaves one, {HUGGING_FACE}/"
        )
    config = read_config(path)
    fitting = fits(config, options.task)
    if as_it_is and not fitting:
        found = head_words(config.head, len(config.labels))
        raise ValueError(f"{path} is for {found}; need one for {needed(options.task)}; refimpl train makes one")
    if fitting and not same_labels(config.labels, labels):
        need = f"{', '.join(labels)}, in this order, or LABEL_0, LABEL_1"
        raise ValueError(f"{path} has the labels {', '.join(config.labels)}; need {need}")
    return Dense(load_for(path, head, labels, stream(options.seed, Purpose.HEAD)), Tokenizer.load(path, config))


def same_labels(found: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether these may be the task's classes, which are as many.

    >>> [same_labels(found, ("no", "yes")) for found in (("NO", "Yes"), ("label_0", "LABEL_1"), ("yes", "no"))]
    [True, True, False]
    """
    folded = tuple(name.casefold() for name in found)
    return folded in (tuple(name.casefold() for name in wanted), tuple(f"label_{i}" for i in range(len(wanted))))
