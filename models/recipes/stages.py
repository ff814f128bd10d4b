"""The stages of a recipe, each a function from a model to a model; those that train go on after an interruption.

    dense  ->  train(stage)  ->  dense, masked weights as zeros  ->  ...  ->  dense and quantized

The checkpoint of a stage stays until the whole recipe is done: a recipe that goes on finds the finished stages in it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import compress

import numpy as np

from refimpl.models.bert import Model, map_linears
from refimpl.models.compress import Calibrated, quantize
from refimpl.models.pruning.movement import by_layer
from refimpl.models.pruning.names import names_in
from refimpl.models.pruning.removal import kept_heads, remove_dead, with_layers
from refimpl.models.pruning.statistics import statistics
from refimpl.models.recipes import hybrid, methods
from refimpl.models.recipes.kinds import FineTune, Hybrid, Movement, Quantize, QuantizeAware, Student, Training
from refimpl.models.recipes.prune_kind import Prune
from refimpl.models.recipes.quantizing import INITIAL, WIDTH, post_training, prepared
from refimpl.models.recipes.recipe import Stage
from refimpl.models.recipes.setting import Done, Setting, Work
from refimpl.models.recipes.training_stage import number_of_updates, trained
from refimpl.models.training.checkpoint import State
from refimpl.models.training.method import PLAIN, Arrays, Method
from refimpl.models.training.parameters import named
from refimpl.nn import Linear
from refimpl.prune.sparsity_table import rows_of

FEW_STEPS = 10
"""Of a gradual pruning: fewer are worth a note."""


def run_stage(setting: Setting, number: int, stage: Stage, work: Work) -> Done:
    """Stage ``number`` of a recipe. Raises as ``run_training``, and ValueError for what the model does not allow."""
    if isinstance(stage, Student):
        return Done(student(work, stage))
    if isinstance(stage, Quantize):
        return post_training(setting, stage, work)
    if isinstance(stage, Movement):
        return _movement(setting, number, stage, work)
    if isinstance(stage, Hybrid):
        return _hybrid(setting, number, stage, work)
    if isinstance(stage, QuantizeAware):
        calibrated = prepared(setting, stage, work.dense, INITIAL[stage.initial])
        setting = replace(setting, new_tape=partial(setting.new_tape, WIDTH[stage.gradient]))
        state, made = _trained(setting, number, stage, calibrated.model)
        return _done(_quantized(work, calibrated, made), state)
    state, made = _trained(setting, number, stage, work.dense.model)
    return _done(_with_model(work, made), state)._replace(notes=notes_before(stage, len(setting.task.lengths)))


@contextmanager
def named_in_errors(number: int, stage: Stage, more: str = "") -> Iterator[None]:
    """What is a ValueError within says which stage of the recipe it is of, and ends with ``more``."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"stage {number}, {stage.do}: {error}{more}") from None


def method_of(stage: Training, model: Model, rows: int, filled: Arrays | None = None) -> Method:
    """What a stage does around each pass. rows: of an epoch; filled: of ``hybrid.learned``.

    Raises ValueError for what the model does not allow.
    """
    names, total = names_in(named(model), model), number_of_updates(stage, rows)
    if isinstance(stage, Movement):
        return methods.moving(model, names, stage, total // stage.epochs, total)
    if isinstance(stage, Hybrid):
        return hybrid.learned(model, names, stage, total, filled)
    if isinstance(stage, Prune):
        by = methods.top_scores if stage.method == "movement" else methods.pruning
        return by(model, names, stage, total)
    assert isinstance(stage, FineTune | QuantizeAware)
    return methods.locked(model, names) if stage.lock else PLAIN


def notes_before(stage: Training, rows: int) -> tuple[str, ...]:
    """What is worth a note before anything is trained: masks that hardly change gradually. rows: of an epoch."""
    if not isinstance(stage, Prune) or stage.method == "one-shot":
        return ()
    first, last, every = methods.events_of(stage, number_of_updates(stage, rows))
    steps = (last - first) // every + 1
    if steps >= FEW_STEPS:
        return ()
    return (f"masks change in {steps} steps; a smaller every, more epochs or more rows prune more gradually",)


def student(work: Work, stage: Student) -> Work:
    """Some of the layers, as they are."""
    model = work.dense.model
    if stage.layers[-1] >= len(model.layers):
        raise ValueError(f"layers has {stage.layers[-1]}; need numbers below {len(model.layers)}, the model's layers")
    chosen, heads = zip(*((model.layers[i], work.heads[i]) for i in stage.layers), strict=True)
    fewer = replace(model, config=replace(model.config, layers=len(chosen)))
    return _with_model(work, with_layers(fewer, chosen))._replace(heads=heads)


def _trained(
    setting: Setting, number: int, stage: Training, model: Model, filled: Arrays | None = None
) -> tuple[State, Model]:
    return trained(setting, number, stage, model, method_of(stage, model, len(setting.task.lengths), filled))


def _movement(setting: Setting, number: int, stage: Movement, work: Work) -> Done:
    calibrated = prepared(setting, stage, work.dense) if stage.quantize else None
    model = work.dense.model if calibrated is None else calibrated.model
    state, made = _trained(setting, number, stage, model)
    names = names_in(named(model), model)
    masks = {ours: methods.stored(state.extra)[name] for ours, name in names.items()}
    size = sum(array.size for array in named(work.dense.model).values())
    found = statistics(masks, size, stage.final_threshold, stage.factor)
    shares = f"{found.layers_sparsity:.1%} of the weights with scores and {found.model_sparsity:.1%} of the whole model"
    work = _with_model(work, made) if calibrated is None else _quantized(work, calibrated, made)
    if stage.structured:
        layers = by_layer(masks, len(model.layers))
        work = _without_dead(work)._replace(table=tuple(rows_of(layers, model.config.head_size)))
    return _done(work, state)._replace(notes=(f"NNCF counts {shares} as zero",))


def _hybrid(setting: Setting, number: int, stage: Hybrid, work: Work) -> Done:
    begun = (stage.filled and work.begun) or work
    filled = hybrid.to_fill(begun, work) if stage.filled else None
    state, made = _trained(setting, number, stage, begun.dense.model, filled)
    done = _done(_without_dead(_with_model(begun, made))._replace(begun=begun), state)
    note = "nothing is pruned; a larger factor or score_rate, or more epochs, prune more"
    return done._replace(notes=() if done.sparsity[-1][1] else (note,))


def _without_dead(work: Work) -> Work:
    """Without heads and neurons that are dead."""
    heads = tuple(
        tuple(compress(had, kept)) for had, kept in zip(work.heads, kept_heads(work.dense.model), strict=True)
    )
    quantized = work.quantized and replace(work.quantized, model=remove_dead(work.quantized.model))
    return _with_model(work, remove_dead(work.dense.model))._replace(heads=heads, quantized=quantized)


def _with_model(work: Work, model: Model) -> Work:
    return work._replace(dense=replace(work.dense, model=model))


def _quantized(work: Work, calibrated: Calibrated, made: Model) -> Work:
    """Of a model that was trained under fake quantization."""
    plain = map_linears(made, lambda _, p: Linear(p.weight, p.bias))
    return _with_model(work, plain)._replace(quantized=quantize(replace(calibrated, model=made)))


def _done(work: Work, state: State) -> Done:
    noted = state.extra.get(methods.SPARSITY, np.full(1, np.nan))
    rows = tuple((int(i), float(noted[i])) for i in np.flatnonzero(~np.isnan(noted)))
    return Done(work, state.step, state.history, rows)
