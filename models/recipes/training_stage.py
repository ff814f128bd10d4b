"""One training of a recipe: from its checkpoint, if it is there, to its last update."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial

import numpy as np

from refimpl.models import sealed
from refimpl.models.bert import Model
from refimpl.models.files import remove_parts
from refimpl.models.recipes.distilling import asked_beside, distilled, distilled_beside
from refimpl.models.recipes.kinds import Distillation, Hybrid, Movement, Training
from refimpl.models.recipes.matching import matched, meeting
from refimpl.models.recipes.methods import events_of
from refimpl.models.recipes.prune_kind import Prune
from refimpl.models.recipes.setting import Setting, kept_of
from refimpl.models.recipes.teacher import asker
from refimpl.models.training import checkpoint
from refimpl.models.training.checkpoint import Run, State
from refimpl.models.training.loop import updates
from refimpl.models.training.method import Method, masked
from refimpl.models.training.parameters import named, with_parameters
from refimpl.models.training.run import Keeping, run_training
from refimpl.models.training.schedule import Schedule
from refimpl.models.training.settings import by_kernels
from refimpl.models.training.task import How, Task, job
from refimpl.prune.rewinding import Rewinding, linear_rewinding


def trained(setting: Setting, number: int, stage: Training, model: Model, method: Method) -> tuple[State, Model]:
    """The last state, and the model under its masks."""
    task = setting.task
    if stage.distil is not None:
        task = _with_teacher(setting, stage.distil, model)
    work = job(task, model, How(stage.batch, setting.seed, stage.dropout, setting.new_tape, method))
    state = checkpoint.begin({**named(model), **method.trained}, method.extra)
    own: Run = {
        "stage": number,
        **json.loads(json.dumps(asdict(stage))),  # tuples as they come back from a file
        "begins_with": sealed.digest([], state.parameters),
    }
    run = setting.identity | own
    kept = kept_of(setting, number)
    remove_parts(kept)
    if kept.exists():
        state = checkpoint.load(kept, run, state)
    total = number_of_updates(stage, len(task.lengths))
    factors, schedule = _rates(stage, method.trained), rate_of(stage, total)
    settings = by_kernels(stage, total, setting.seed, setting.threads, factors, schedule)
    setting.bar.begin(total, state.step, stage.do)
    keeping = Keeping(kept, run, setting.save_every)
    state = run_training(work, settings, state, keeping, setting.bar.report, setting.bar.stop)
    values = {**state.parameters, **state.extra}
    return state, with_parameters(model, masked(values, method.stored(values)))


def _with_teacher(setting: Setting, how: Distillation, model: Model) -> Task:
    task, teacher = setting.task, setting.teacher
    assert teacher is not None
    met = meeting(model.config, teacher.config, how.hidden_layers) if how.hidden else {}
    beside = asked_beside(task)
    ask = asker(teacher, setting.ops, frozenset(met.values()), beside and bool(met))
    if beside:
        task = distilled_beside(task, ask, how)
    else:
        assert setting.logits is not None
        task = distilled(task, setting.logits, how)
    return matched(task, ask, met, how) if met else task


def number_of_updates(stage: Training, rows: int) -> int:
    """Of the whole stage. rows: of an epoch."""
    return updates(-(-rows // stage.batch), stage.epochs, stage.accumulate)


def rate_of(stage: Training, total: int) -> Schedule | None:
    """The learning rate's, if it is not the plain one. total: updates of the stage."""
    if not isinstance(stage, Prune) or not stage.rewind:
        return None
    return partial(linear_rewinding, schedule=Rewinding(total, round(stage.warmup * total), *events_of(stage, total)))


def _rates(stage: Training, trained: Mapping[str, np.ndarray]) -> dict[str, float]:
    return dict.fromkeys(trained, stage.score_rate) if isinstance(stage, Movement | Hybrid) else {}
