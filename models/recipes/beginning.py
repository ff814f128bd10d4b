"""What comes before the first stage: what the teacher says of every training row, and the baseline.

Both are kept as the checkpoint of stage 0, the logits one below the other and the baseline as a row of its history, so
that a run that goes on asks for neither again.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from refimpl.models.bert import Model
from refimpl.models.files import remove_parts
from refimpl.models.recipes.distilling import asked_beside, check_lengths, teach
from refimpl.models.recipes.setting import Setting, kept_of
from refimpl.models.training import checkpoint
from refimpl.models.training.task import Task

LOGITS = "logits"


def begin(setting: Setting, model: Model) -> tuple[Setting, dict[str, float]]:
    """The setting with what the teacher says, and the metrics of a model, which the recipe's end is beside.

    Raises as ``checkpoint.load``, ``checkpoint.save`` and ``check_lengths``, and Interrupted if it is told to stop.
    """
    path, run = kept_of(setting, 0), setting.identity | {"stage": 0}
    remove_parts(path)
    if path.exists():
        state = checkpoint.load(path, run, checkpoint.begin({}, _room(setting)))
        if _keeps(setting):
            setting = replace(setting, logits=_apart(state.extra[LOGITS], setting.task))
    else:
        setting = taught(setting)
        state = checkpoint.begin({}, {} if setting.logits is None else {LOGITS: _together(setting.logits)})
        if state.extra:
            checkpoint.save(state, run, path)
    if not state.history:
        setting.bar.begin(0, 0, "baseline")
        state = state._replace(history=(setting.task.evaluate(model),))
        checkpoint.save(state, run, path)
    return setting, state.history[0]


def taught(setting: Setting) -> Setting:
    """With what the teacher, if there is one, says of every training row, where that can be kept.

    Raises as ``check_lengths``.
    """
    if setting.teacher is None:
        return setting
    check_lengths(setting.task, setting.teacher)
    if not _keeps(setting):
        return setting
    return replace(setting, logits=teach(setting.task, setting.teacher, setting.ops, setting.bar.teaching))


def _keeps(setting: Setting) -> bool:
    """What the teacher says."""
    return setting.teacher is not None and not asked_beside(setting.task)


def _of_tokens(task: Task) -> bool:
    return task.head == "question_answering"


def _room(setting: Setting) -> dict[str, np.ndarray]:
    """As large as what is kept."""
    task = setting.task
    shape = (sum(task.lengths), 2) if _of_tokens(task) else (len(task.lengths), len(task.labels))
    return {LOGITS: np.empty(shape, np.float32)} if _keeps(setting) else {}


def _together(logits: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([y.reshape(-1, y.shape[-1]) for y in logits])


def _apart(whole: np.ndarray, task: Task) -> list[np.ndarray]:
    return np.split(whole, np.cumsum(task.lengths)[:-1]) if _of_tokens(task) else list(whole)
