"""The stages of a recipe, each a function from a model to a model; those that train go on after an interruption.

    Work(dense)  ->  train(stage)  ->  Work(dense, masked weights as zeros)  ->  ...  ->  Work(dense, quantized)

The checkpoint of a stage stays until the whole recipe is done: a recipe that goes on finds the finished stages in it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refimpl.models import sealed
from refimpl.models.bert import Batch, Model, linears, map_linears
from refimpl.models.compress import Calibrated, Dense, Masked, Packed, Quantized, calibrate_with, quantize
from refimpl.models.files import remove_parts
from refimpl.models.pruning.names import names_in
from refimpl.models.pruning.removal import remove_dead, with_layers
from refimpl.models.quantization.biases import correct_biases, correct_biases_in_order
from refimpl.models.quantization.learned import prepare
from refimpl.models.recipes import methods, tuned
from refimpl.models.recipes.distilling import distilled
from refimpl.models.recipes.matching import matched
from refimpl.models.recipes.recipe import FineTune, Movement, Prune, Quantize, QuantizeAware, Stage, Student, Training
from refimpl.models.training import checkpoint
from refimpl.models.training.batches import Purpose, stream
from refimpl.models.training.checkpoint import Run, State
from refimpl.models.training.loop import updates
from refimpl.models.training.method import PLAIN, Method, masked
from refimpl.models.training.parameters import named, with_parameters
from refimpl.models.training.run import Keeping, run_training
from refimpl.models.training.settings import by_kernels
from refimpl.models.training.show import Bar
from refimpl.models.training.task import How, Task, job
from refimpl.nn import Linear, Ops
from refimpl.nn.tape import Tape
from refimpl.quant import fake_linear, quantize_weight
from refimpl.quant.observers import MEAN_MIN_MAX, MIN_MAX, MSE_OPTIMAL, Observer, percentiles
from refimpl.saturation.reduced_range import nncf_ptq_enable

FEW_STEPS = 10
"""Of a gradual pruning: fewer are worth a note."""
PERCENTILE = 99.99
"""Of NNCF's configurations for BERT."""
OBSERVERS: dict[str, Observer] = {
    "min-max": MIN_MAX,
    "mean-min-max": MEAN_MIN_MAX,
    "percentile": percentiles(PERCENTILE),
    "mse": MSE_OPTIMAL,
}
LEVELS = {
    "disable": fake_linear.overflow_fix_disable,
    "enable": fake_linear.overflow_fix_enable,
    "first_layer_only": fake_linear.overflow_fix_first_layer_only,
}
CORRECT = {"fast": correct_biases, "full": correct_biases_in_order}


@dataclass(frozen=True)
class Setting:
    """What all stages of a run share.

    task : the plain task; teacher, logits : who teaches, what it says of each training row; None without; ops : for it
    folder, identity : where checkpoints go, and what they must be of
    new_tape : of a pass, with all kinds of linear layers
    measure : metrics of a model on the engine
    """

    task: Task
    logits: list[np.ndarray] | None
    teacher: Model | None
    ops: Ops
    folder: Path
    identity: Run
    new_tape: Callable[[], Tape]
    measure: Callable[[Dense | Packed], dict[str, float]]
    bar: Bar
    seed: int
    threads: int
    save_every: int


class Work(NamedTuple):
    """dense: f32, what is pruned as zeros or gone; quantized: after the stage that quantizes."""

    dense: Dense
    quantized: Quantized | None = None


class Done(NamedTuple):
    """What a stage leaves: for the report, its updates, epochs, sparsity by update, and what is worth a note."""

    work: Work
    updates: int = 0
    history: tuple[dict[str, float], ...] = ()
    sparsity: tuple[tuple[int, float], ...] = ()
    notes: tuple[str, ...] = ()


def kept_of(setting: Setting, number: int) -> Path:
    """Where a stage's checkpoint is."""
    return setting.folder / f"{number}.training"


def run_stage(setting: Setting, number: int, stage: Stage, work: Work) -> Done:
    """Stage ``number`` of a recipe. Raises as ``run_training``, and ValueError for what the model does not allow."""
    if isinstance(stage, Student):
        return Done(Work(student(work.dense, stage)))
    if isinstance(stage, Quantize):
        return post_training(setting, stage, work.dense)
    if isinstance(stage, Movement):
        return _movement(setting, number, stage, work.dense)
    if isinstance(stage, QuantizeAware):
        calibrated = _prepared(setting, stage, work.dense)
        names = names_in(named(calibrated.model), calibrated.model)
        return _quantized(
            calibrated, *_train(setting, number, stage, calibrated.model, _locked(stage, calibrated.model, names))
        )
    model = work.dense.model
    names = names_in(named(model), model)
    if isinstance(stage, Prune):
        by = methods.top_scores if stage.method == "movement" else methods.pruning
        method = by(model, names, stage, _updates(setting, stage))
    else:
        method = _locked(stage, model, names)
    state, made = _train(setting, number, stage, model, method)
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


def post_training(setting: Setting, stage: Quantize, dense: Dense) -> Done:
    """Calibrate, quantize, correct biases, and keep layers in f32 where that is asked for."""
    batches = samples(setting.task, stage.samples, setting.seed)
    calibrated = calibrate_with(_masked(dense), batches, OBSERVERS[stage.observer])
    of_weight = nncf_ptq_enable if stage.overflow_fix == "enable" else quantize_weight
    quantized = quantize(calibrated, of_weight)
    if stage.bias_correction != "none":
        quantized = CORRECT[stage.bias_correction](quantized, calibrated, batches)
    notes: tuple[str, ...] = ()
    if stage.max_drop is not None:
        quantized, notes = tuned.restored(quantized, calibrated, setting.measure, stage.max_drop)
    return Done(Work(dense, quantized), notes=notes)


def _movement(setting: Setting, number: int, stage: Movement, dense: Dense) -> Done:
    calibrated = _prepared(setting, stage, dense) if stage.quantize else None
    model = dense.model if calibrated is None else calibrated.model
    each = _updates(setting, stage) // stage.epochs
    method = methods.moving(model, names_in(named(model), model), stage, each, _updates(setting, stage))
    state, made = _train(setting, number, stage, model, method)
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


def _train(setting: Setting, number: int, stage: Training, model: Model, method: Method) -> tuple[State, Model]:
    """The last state, and the model under its masks."""
    task = setting.task
    if stage.distil is not None:
        assert setting.logits is not None
        task = distilled(task, setting.logits, stage.distil)
        if stage.distil.hidden:
            assert setting.teacher is not None
            task = matched(task, setting.teacher, setting.ops, len(model.layers), stage.distil.hidden)
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
    total = _updates(setting, stage)
    settings = by_kernels(stage, total, setting.seed, setting.threads, _rates(stage, method.trained))
    setting.bar.begin(total, state.step, stage.do)
    keeping = Keeping(kept, run, setting.save_every)
    state = run_training(work, settings, state, keeping, setting.bar.report, setting.bar.stop)
    values = {**state.parameters, **state.extra}
    return state, with_parameters(model, masked(values, method.stored(values)))


def _updates(setting: Setting, stage: Training) -> int:
    batches = -(-len(setting.task.lengths) // stage.batch)
    return updates(batches, stage.epochs, stage.accumulate)


def _rates(stage: Training, trained: Mapping[str, np.ndarray]) -> dict[str, float]:
    return dict.fromkeys(trained, stage.score_rate) if isinstance(stage, Movement) else {}


def _locked(stage: FineTune | QuantizeAware, model: Model, names: Mapping[str, str]) -> Method:
    return methods.locked(model, names) if stage.lock else PLAIN


def _prepared(setting: Setting, stage: Movement | QuantizeAware, dense: Dense) -> Calibrated:
    """Under fake quantization, with observed ranges."""
    batches = samples(setting.task, stage.samples, setting.seed)
    calibrated = calibrate_with(_masked(dense), batches, OBSERVERS[stage.observer])
    return prepare(calibrated, levels=LEVELS[stage.overflow_fix](linears(dense.model)))


def samples(task: Task, count: int, seed: int) -> list[Batch]:
    """So many training rows, drawn without return, one a batch."""
    generator = stream(seed, Purpose.CALIBRATION)
    rows = generator.permutation(len(task.lengths))[:count].tolist()
    return [task.example([row], generator)[0] for row in rows]


def _masked(dense: Dense) -> Masked:
    return Masked(dense.model, dense.tokenizer, {name: p.weight != 0 for name, p in linears(dense.model).items()})
