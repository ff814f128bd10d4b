"""The stages of a recipe, each a function from a model to a model; those that train go on after an interruption.

    Work(dense)  ->  train(stage)  ->  Work(dense, masked weights as zeros)  ->  ...  ->  Work(dense, quantized)

The checkpoint of a stage stays until the whole recipe is done: a recipe that goes on finds the finished stages in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from refimpl.models.bert import Model, map_linears
from refimpl.models.compress import Calibrated, Dense, quantize
from refimpl.models.pruning.names import names_in
from refimpl.models.pruning.removal import remove_dead, with_layers
from refimpl.models.recipes import methods
from refimpl.models.recipes.kinds import FineTune, Movement, Prune, Quantize, QuantizeAware, Student
from refimpl.models.recipes.quantizing import INITIAL, WIDTH, post_training, prepared
from refimpl.models.recipes.recipe import Stage
from refimpl.models.recipes.setting import Done, Setting, Work
from refimpl.models.recipes.training_stage import number_of_updates, trained
from refimpl.models.training.checkpoint import State
from refimpl.models.training.method import PLAIN, Method
from refimpl.models.training.parameters import named
from refimpl.nn import Linear

FEW_STEPS = 10
"""Of a gradual pruning: fewer are worth a note."""


def run_stage(setting: Setting, number: int, stage: Stage, work: Work) -> Done:
    """Stage ``number`` of a recipe. Raises as ``run_training``, and ValueError for what the model does not allow."""
    if isinstance(stage, Student):
        return Done(Work(student(work.dense, stage)))
    if isinstance(stage, Quantize):
        return post_training(setting, stage, work.dense)
    if isinstance(stage, Movement):
        return _movement(setting, number, stage, work.dense)
    if isinstance(stage, QuantizeAware):
        calibrated = prepared(setting, stage, work.dense, INITIAL[stage.initial])
        names = names_in(named(calibrated.model), calibrated.model)
        setting = replace(setting, new_tape=partial(setting.new_tape, WIDTH[stage.gradient]))
        return _quantized(
            calibrated, *trained(setting, number, stage, calibrated.model, _locked(stage, calibrated.model, names))
        )
    model = work.dense.model
    names = names_in(named(model), model)
    if isinstance(stage, Prune):
        by = methods.top_scores if stage.method == "movement" else methods.pruning
        method = by(model, names, stage, number_of_updates(setting, stage))
    else:
        method = _locked(stage, model, names)
    state, made = trained(setting, number, stage, model, method)
    done = _done(Work(replace(work.dense, model=made)), state)
    return done._replace(notes=too_few_steps(stage, done.sparsity)) if isinstance(stage, Prune) else done


def too_few_steps(stage: Prune, sparsity: Sequence[tuple[int, float]]) -> tuple[str, ...]:
    """Of masks that should change gradually."""
    steps = len({share for _, share in sparsity})
    if stage.method == "one-shot" or steps >= FEW_STEPS:
        return ()
    return (f"masks change in {steps} steps; a smaller every, more epochs or more rows prune more gradually",)


def student(dense: Dense, stage: Student) -> Dense:
    """Some of the layers, as they are."""
    model = dense.model
    if stage.layers[-1] >= len(model.layers):
        raise ValueError(f"layers has {stage.layers[-1]}; need numbers below {len(model.layers)}, the model's layers")
    chosen = tuple(model.layers[i] for i in stage.layers)
    fewer = replace(model, config=replace(model.config, layers=len(chosen)))
    return replace(dense, model=with_layers(fewer, chosen))


def _movement(setting: Setting, number: int, stage: Movement, dense: Dense) -> Done:
    calibrated = prepared(setting, stage, dense) if stage.quantize else None
    model = dense.model if calibrated is None else calibrated.model
    each = number_of_updates(setting, stage) // stage.epochs
    method = methods.moving(model, names_in(named(model), model), stage, each, number_of_updates(setting, stage))
    state, made = trained(setting, number, stage, model, method)
    if calibrated is not None:
        done = _quantized(calibrated, state, made)
    else:
        done = _done(Work(replace(dense, model=made)), state)
    if not stage.structured:
        return done
    whole, quantized = done.work
    smaller = replace(whole, model=remove_dead(whole.model))
    if quantized is not None:
        quantized = replace(quantized, model=remove_dead(quantized.model))
    return done._replace(work=Work(smaller, quantized))


def _quantized(calibrated: Calibrated, state: State, made: Model) -> Done:
    """Of a model that was trained under fake quantization."""
    plain = map_linears(made, lambda _, p: Linear(p.weight, p.bias))
    quantized = quantize(replace(calibrated, model=made))
    return _done(Work(Dense(plain, calibrated.tokenizer), quantized), state)


def _done(work: Work, state: State) -> Done:
    noted = state.extra.get(methods.SPARSITY, np.full(1, np.nan))
    rows = tuple((int(i), float(noted[i])) for i in np.flatnonzero(~np.isnan(noted)))
    return Done(work, state.step, state.history, rows)


def _locked(stage: FineTune | QuantizeAware, model: Model, names: Mapping[str, str]) -> Method:
    return methods.locked(model, names) if stage.lock else PLAIN
