"""Gradual pruning of the encoder's linear layers: at an event new masks from the scores, between events the same masks.

    before an update    kept   = collect(kept, w, dw)                            w as it is behind the mask
    at an event         masks  = rank(reduce(score(kept, w)) per block, sparsity(step))
    at every step       the model runs on w mask                                 ``refimpl.prune.masked``

A plan is what tools differ in, as functions of ``refimpl.prune``; any criterion goes with any ranking and schedule.
One-shot pruning is a plan with a single event. State is a tuple of dicts of arrays, which a checkpoint can hold.
Contract: blocks are those that ``Plan.block`` makes of every layer; what it does not divide is a ValueError (Intel
Neural Compressor leaves such a layer out).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from refimpl.prune import BLOCK_4X1, block_mean, expand, kth_mask
from refimpl.prune.criteria import gradient, magnitude, movement, snip, snip_momentum_inc_code
from refimpl.prune.inc_global import Ranked, inc_global_masks
from refimpl.prune.schedules import inc_events, is_event, zhu_gupta_cubic

Arrays = Mapping[str, np.ndarray]
Rank = Callable[[Arrays, Ranked, float], Ranked]
Events = tuple[int, int, int]
"""The steps of the first and of the last, and how many lie between two."""


class Criterion(NamedTuple):
    """What is kept of earlier steps, and the scores from it, as ``Plan`` has them."""

    collect: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    score: Callable[[np.ndarray, np.ndarray], np.ndarray]


MAGNITUDE = Criterion(lambda kept, _, __: kept, lambda _, w: magnitude(w))
GRADIENT = Criterion(lambda _, __, dw: gradient(dw), lambda kept, _: kept)
SNIP = Criterion(lambda _, w, dw: snip(w, dw), lambda kept, _: kept)
SNIP_MOMENTUM = Criterion(snip_momentum_inc_code, lambda kept, _: kept)
MOVEMENT = Criterion(movement, lambda kept, _: kept)


class Plan(NamedTuple):
    """What a tool does.

    collect: what is kept of earlier steps, w, dw -> what is kept; score: that, w -> scores; reduce: scores, block ->
    one a block; rank: scores of blocks by layer, masks before, sparsity -> masks; sparsity and event: of the step.
    """

    collect: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    score: Callable[[np.ndarray, np.ndarray], np.ndarray]
    reduce: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    rank: Rank
    sparsity: Callable[[int], float]
    event: Callable[[int], bool]
    block: tuple[int, int] = BLOCK_4X1


class State(NamedTuple):
    """kept: float (M, K), and masks: of blocks, bool (m, k), both by name."""

    kept: dict[str, np.ndarray]
    ranked: Ranked


def start(plan: Plan, weights: Arrays) -> State:
    """Zeros and whole masks. weights: name -> float (M, K)."""
    whole = {name: np.ones(plan.reduce(w, plan.block).shape, bool) for name, w in weights.items()}
    return State({name: np.zeros_like(w) for name, w in weights.items()}, Ranked(whole))


def observe(plan: Plan, state: State, weights: Arrays, gradients: Arrays) -> State:
    """After a backward, before the update. gradients: of the masked weights, by the same names."""
    kept = {name: plan.collect(old, weights[name], gradients[name]) for name, old in state.kept.items()}
    return state._replace(kept=kept)


def advance(plan: Plan, state: State, weights: Arrays, step: int) -> State:
    """At the begin of step ``step``: new masks, if it is an event."""
    if not plan.event(step):
        return state
    blocks = {name: plan.reduce(plan.score(kept, weights[name]), plan.block) for name, kept in state.kept.items()}
    return state._replace(ranked=plan.rank(blocks, state.ranked, plan.sparsity(step)))


def masks_of(plan: Plan, state: State) -> dict[str, np.ndarray]:
    """The masks of elements, bool (M, K)."""
    return {name: expand(mask, plan.block) for name, mask in state.ranked.masks.items()}


def each_layer(scores: Arrays, _: Ranked, sparsity: float) -> Ranked:
    """The same sparsity in every layer, counted as the Model Compression Research Package does."""
    return Ranked({name: kth_mask(layer, sparsity) for name, layer in scores.items()})


def all_layers(target: float) -> Rank:
    """One ranking of all layers, Intel Neural Compressor's. target: the sparsity of the last event."""
    return partial(inc_global_masks, target=target)


def cubic(events: Events, final: float) -> Callable[[int], float]:
    """Zhu and Gupta's, as PruneOFA has it."""
    start, end, _ = events
    return partial(zhu_gupta_cubic, start=start, end=end, initial=0.0, final=final)


def by_progress(
    formula: Callable[[float, float, float], float], events: Events, final: float
) -> Callable[[int], float]:
    """One of Intel Neural Compressor's, ``inc_exp`` and others, each event as far as the last."""
    start, _, frequency = events
    count = inc_events(*events)

    def sparsity_at(step: int) -> float:
        return min(final, formula((step - start) // frequency / count if count else 1.0, 0.0, final))

    return sparsity_at


def plan_of(
    criterion: Criterion, rank: Rank, sparsity: Callable[[int], float], events: Events, block: tuple[int, int]
) -> Plan:
    """PruneOFA's is magnitude, ``each_layer`` and ``cubic``; Intel Neural Compressor's default snip_momentum,
    ``all_layers`` and ``inc_exp``."""
    start, end, frequency = events
    event = partial(is_event, start=start, end=end, frequency=frequency)
    return Plan(*criterion, block_mean, rank, sparsity, event, block)
