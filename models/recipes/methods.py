"""What the stages of a recipe do around each pass, as ``training.method.Method``: locks, gradual pruning, movement.

State that a method has is in extra arrays, so that an interrupted stage goes on:

    mask.NAME       bool (M, K) or (M,), of the parameter NAME, in force
    kept.NAME       what a criterion remembers of earlier steps
    full            which layers Intel Neural Compressor's ranking has closed
    threshold       of movement, f64 (3,): importance threshold and regularization factor of the next step, NaN once
                    masks are frozen; and the threshold at which the warm-up began
    sparsity        f64 (S + 1,): share of the encoder's weights that is masked, by update; NaN where it was not noted
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from refimpl.models.bert import Model, linears
from refimpl.models.pruning import gradual, movement
from refimpl.models.recipes.kinds import Movement
from refimpl.models.recipes.prune_kind import Prune
from refimpl.models.training.checkpoint import State
from refimpl.models.training.method import Arrays, Method, More
from refimpl.models.training.parameters import Parameters
from refimpl.prune import expand, straight_through
from refimpl.prune.binarizers import topk_exact_mask
from refimpl.prune.inc_global import CAP
from refimpl.prune.lock import lock_mask
from refimpl.prune.movement import zero_scores
from refimpl.prune.movement_schedule import MovementSchedule, Stage, regularization_factor, stage, threshold
from refimpl.prune.schedules import inc_cos, inc_cube, inc_exp, inc_linear, is_event

MASK, KEPT, SCORE = "mask.", "kept.", "score."
FULL, THRESHOLD, SPARSITY = "full", "threshold", "sparsity"

CRITERIA = {
    "magnitude": gradual.MAGNITUDE,
    "gradient": gradual.GRADIENT,
    "snip": gradual.SNIP,
    "snip_momentum": gradual.SNIP_MOMENTUM,
    "movement": gradual.MOVEMENT,
}
SCHEDULES: dict[str, Callable[[gradual.Events, float], Callable[[int], float]]] = {
    "zhu_gupta_cubic": gradual.cubic,
    "inc_exp": partial(gradual.by_progress, inc_exp),
    "inc_cos": partial(gradual.by_progress, inc_cos),
    "inc_linear": partial(gradual.by_progress, inc_linear),
    "inc_cube": partial(gradual.by_progress, inc_cube),
}


def stored(values: Arrays) -> Parameters:
    """The masks in force."""
    return {name.removeprefix(MASK): mask for name, mask in values.items() if name.startswith(MASK)}


def share(masks: Arrays) -> float:
    """Of the masked weights, what is pruned; biases do not count."""
    weights = [mask for name, mask in masks.items() if mask.ndim == 2]
    return 1 - sum(int(mask.sum()) for mask in weights) / sum(mask.size for mask in weights)


def locked(model: Model, names: Mapping[str, str]) -> Method:
    """What is zero stays zero: each weight, and a bias whose whole row is zero, weights and bias alike.

    So a lock keeps what any stage has pruned, whatever its blocks, and what ``remove_dead`` took for dead stays dead.
    names: ours of weights and biases -> those of the training's parameters.
    """
    masks: Parameters = {}
    for name, p in linears(model).items():
        live = lock_mask(p.weight)
        masks |= {names[f"{name}.weight"]: live, names[f"{name}.bias"]: live.any(1) | (p.bias != 0)}
    return Method(extra={MASK + name: mask for name, mask in masks.items()}, masks=stored, stored=stored)


def pruning(model: Model, names: Mapping[str, str], how: Prune, updates: int) -> Method:
    """updates: of the whole stage."""
    plan = _plan(how, updates)
    weights = _weights(model, names)
    _check_block(how.block, weights)
    begun = gradual.advance(plan, gradual.start(plan, weights), weights, 0)
    order = list(weights)

    def state_of(values: Arrays) -> gradual.State:
        rows, columns = plan.block
        blocks = {name: values[MASK + name][::rows, ::columns] for name in order}
        full = frozenset(name for name, closed in zip(order, values[FULL], strict=True) if closed)
        return gradual.State({name: values[KEPT + name] for name in order}, gradual.Ranked(blocks, full))

    def more(gradients: Arrays, values: Arrays, masks: Arrays) -> More:
        new = gradual.observe(plan, state_of(values), values, gradients).kept
        for name, array in new.items():
            if array is not values[KEPT + name]:
                values[KEPT + name][...] = array
        return 0.0, {}

    def after(state: State) -> State:
        if plan.event(state.step):
            new = gradual.advance(plan, state_of(state.extra), state.parameters, state.step)
            _put(state.extra, gradual.masks_of(plan, new))
            state.extra[FULL][...] = [name in new.ranked.full for name in order]
            state.extra[SPARSITY][state.step] = share(stored(state.extra))
        return state

    extra = {KEPT + name: kept for name, kept in begun.kept.items()}
    extra |= {MASK + name: mask for name, mask in gradual.masks_of(plan, begun).items()}
    extra[FULL] = np.array([name in begun.ranked.full for name in order])
    extra[SPARSITY] = noted(updates, share(stored(extra)))
    return Method(extra=extra, masks=stored, stored=stored, more=more, after=after)


def _check_block(block: tuple[int, int], weights: Parameters) -> None:
    for name, w in weights.items():
        if w.shape[0] % block[0] or w.shape[1] % block[1]:
            wrong = f"block {block[0]}x{block[1]} does not divide {name}, {w.shape[0]}x{w.shape[1]}"
            raise ValueError(f"{wrong}; need one that divides every layer")


def events_of(how: Prune, updates: int) -> gradual.Events:
    """The first and the last update at which masks change, the last to the whole sparsity; and how many lie between."""
    first = min(round(how.begin * updates), updates - 1)
    last = max(round(how.end * updates), first + 1)
    every = min(how.every, last - first)
    return first, first + (last - first) // every * every, every


def _plan(how: Prune, updates: int) -> gradual.Plan:
    ways, events, sparsity = how.ways, events_of(how, updates), how.sparsity
    assert ways.criterion is not None
    criterion = CRITERIA[ways.criterion]
    rank: gradual.Rank = gradual.each_layer
    if ways.ranking == "global":
        rank, sparsity = gradual.all_layers(how.sparsity), min(how.sparsity, CAP)
    if ways.schedule is not None:
        return gradual.plan_of(criterion, rank, SCHEDULES[ways.schedule](events, sparsity), events, how.block)
    once = events[0] if criterion is gradual.MAGNITUDE else max(events[0], 1)  # there is no gradient before it
    return gradual.plan_of(criterion, rank, lambda _: sparsity, (once, once, 1), how.block)


def top_scores(model: Model, names: Mapping[str, str], how: Prune, updates: int) -> Method:
    """Movement pruning as Sanh et al. have it: a score a block is learned, and the highest of each layer are kept.

    The share that is kept falls as ``schedule`` says, cubic if nothing is said, at every ``every``-th update and up to
    ``end`` (Sanh et al.: cubic, at every update, to the last). Source: arXiv 2005.07683, sections 3 and 4.
    """
    weights = _weights(model, names)
    assert how.ways.schedule is not None
    events = events_of(how, updates)
    sparsity_at = SCHEDULES[how.ways.schedule](events, how.sparsity)

    def more(gradients: Arrays, values: Arrays, masks: Arrays) -> More:
        return 0.0, {SCORE + name: straight_through(gradients[name], values[name], how.block) for name in weights}

    def after(state: State) -> State:
        if not is_event(state.step, *events):
            return state
        density = 1 - sparsity_at(state.step)
        scores = {name: state.parameters[SCORE + name] for name in weights}
        _put(state.extra, {name: expand(topk_exact_mask(each, density), how.block) for name, each in scores.items()})
        state.extra[SPARSITY][state.step] = share(stored(state.extra))
        return state

    _check_block(how.block, weights)
    trained = {SCORE + name: zero_scores(w, how.block) for name, w in weights.items()}
    extra = {MASK + name: np.ones(w.shape, bool) for name, w in weights.items()}
    extra[SPARSITY] = noted(updates, 0.0)
    return Method(trained, extra, stored, stored, more, after)


def moving(model: Model, names: Mapping[str, str], how: Movement, each: int, updates: int) -> Method:
    """each: updates of an epoch."""
    schedule = _schedule(how, each)
    factors = movement.factors_of(model, movement.jpqd(how.block))
    of = {ours: names[ours] for ours in factors}

    def masks(values: Arrays) -> Parameters:
        if frozen(values):
            return stored(values)
        found = movement.masks_of(_ours(values, of, SCORE), factors, float(values[THRESHOLD][0]))
        return {of[ours]: mask for ours, mask in found.items()}

    def more(gradients: Arrays, values: Arrays, masks: Arrays) -> More:
        if frozen(values):
            return 0.0, {}
        _put(values, masks)
        _, found = movement.effective_backward(_ours(gradients, of), _ours(values, of), _ours(masks, of), factors)
        loss, pull = movement.regularization_loss(_ours(values, of, SCORE), factors, float(values[THRESHOLD][1]))
        return loss, {SCORE + of[ours]: g + pull[ours] for ours, g in found.items()}

    def after(state: State) -> State:
        if frozen(state.extra):
            return state
        at, now = stage(schedule, state.step), state.extra[THRESHOLD]
        if at is Stage.WARMUP:
            if np.isinf(now[0]):  # its first step
                now[2] = _first_threshold(how, _ours(state.parameters, of, SCORE), factors)
            now[:2] = threshold(schedule, state.step, float(now[2])), regularization_factor(schedule, state.step)
        elif at is Stage.AFTER:
            now[:2] = how.final_threshold, np.nan
            if how.structured:
                whole = movement.resolved(model, _ours(state.extra, of, MASK))
                _put(state.extra, {of[ours]: mask for ours, mask in whole.items()})
        state.extra[SPARSITY][state.step] = share(stored(state.extra))
        return state

    begun = movement.initial_scores(model, factors)
    extra = {MASK + of[ours]: m for ours, m in movement.masks_of(begun, factors, -np.inf).items()}
    extra |= {THRESHOLD: np.array([-np.inf, 0.0, 0.0]), SPARSITY: noted(updates, 0.0)}
    return Method({SCORE + of[ours]: array for ours, array in begun.items()}, extra, masks, stored, more, after)


def _schedule(how: Movement, each: int) -> MovementSchedule:
    start, end = how.warmup_start_epoch, how.warmup_end_epoch
    if not 1 <= int(start * each) < int(end * each):
        need = f"an update or more before it and within it, {each} an epoch"
        raise ValueError(f"the warm-up is from epoch {start:g} to {end:g}; need {need}")
    return MovementSchedule(start, end, each, how.factor, how.final_threshold, how.power)


def _first_threshold(how: Movement, scores: Parameters, factors: Mapping[str, tuple[int, ...]]) -> float:
    return movement.automatic_threshold(scores, factors) if how.initial_threshold is None else how.initial_threshold


def _ours(values: Arrays, of: Mapping[str, str], prefix: str = "") -> Parameters:
    """By our names."""
    return {ours: values[prefix + name] for ours, name in of.items()}


def frozen(values: Arrays) -> bool:
    """Whether the masks of movement are final: there is no regularization any more."""
    return bool(np.isnan(values[THRESHOLD][1]))


def _put(values: Arrays, masks: Arrays) -> None:
    for name, mask in masks.items():
        values[MASK + name][...] = mask


def _weights(model: Model, names: Mapping[str, str]) -> Parameters:
    return {names[f"{name}.weight"]: p.weight for name, p in linears(model).items()}


def noted(updates: int, first: float) -> np.ndarray:
    """Where sparsity will be noted, with that before the first update."""
    noted = np.full(updates + 1, np.nan)
    noted[0] = first
    return noted
