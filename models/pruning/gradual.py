"""Gradual pruning of the encoder's linear layers: at an event new masks from the scores, between events the same masks.

    before an update    kept   = collect(kept, w, dw)                            w as it is behind the mask
    at an event         masks  = rank(reduce(score(kept, w)) per block, sparsity(step))
    at every step       the model runs on w mask                                 ``refimpl.prune.masked``

A plan is what tools differ in, as functions of ``refimpl.prune``; the two below are theirs. One-shot pruning is a plan
with a single event. State is a tuple of dicts of arrays, which a checkpoint can hold. Contract: blocks are those that
``Plan.block`` makes of every layer; what it does not divide is a ValueError (Intel Neural Compressor leaves such a
layer out).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from refimpl.prune import BLOCK_4X1, block_mean, expand, kth_mask
from refimpl.prune.criteria import magnitude, snip_momentum_inc_code
from refimpl.prune.inc_global import CAP, Ranked, inc_global_masks
from refimpl.prune.schedules import inc_events, inc_exp, is_event, zhu_gupta_cubic

Arrays = Mapping[str, np.ndarray]


class Plan(NamedTuple):
    """What a tool does.

    collect: what is kept of earlier steps, w, dw -> what is kept; score: that, w -> scores; reduce: scores, block ->
    one a block; rank: scores of blocks by layer, masks before, sparsity -> masks; sparsity and event: of the step.
    """

    collect: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    score: Callable[[np.ndarray, np.ndarray], np.ndarray]
    reduce: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    rank: Callable[[Arrays, Ranked, float], Ranked]
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


def prune_ofa(start_step: int, end_step: int, frequency: int, sparsity: float) -> Plan:
    """PruneOFA's: magnitude, each layer alike, the cubic schedule.

    Pruning once for all, 90 %: 0 to 50 000, every 1000 steps.
    """
    return Plan(
        collect=lambda kept, _, __: kept,
        score=lambda _, w: magnitude(w),
        reduce=block_mean,
        rank=each_layer,
        sparsity=partial(zhu_gupta_cubic, start=start_step, end=end_step, initial=0.0, final=sparsity),
        event=partial(is_event, start=start_step, end=end_step, frequency=frequency),
    )


def one_shot(step: int, sparsity: float) -> Plan:
    """PruneOFA's magnitude with a single event."""
    plan = prune_ofa(step, step + 1, 1, sparsity)
    return plan._replace(sparsity=lambda _: sparsity, event=lambda now: now == step)


def inc(start_step: int, end_step: int, frequency: int, sparsity: float) -> Plan:
    """Intel Neural Compressor's defaults: snip_momentum, all layers ranked together, exponential decay."""
    events = inc_events(start_step, end_step, frequency)

    def sparsity_at(step: int) -> float:
        progress = (step - start_step) // frequency / events if events else 1.0
        return min(sparsity, inc_exp(progress, 0.0, min(sparsity, CAP)))

    return Plan(
        collect=snip_momentum_inc_code,
        score=lambda kept, _: kept,
        reduce=block_mean,
        rank=partial(inc_global_masks, target=sparsity),
        sparsity=sparsity_at,
        event=partial(is_event, start=start_step, end=end_step, frequency=frequency),
    )
