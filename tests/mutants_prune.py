"""Plausible wrong ways to rank, schedule and learn what is pruned. See tests/mutants.py."""

import math

import numpy as np
import test_8_prune_models as models
import test_8_prune_movement as movement
import test_8_prune_rules as rules
from mutants import Suite

from refimpl.models.pruning.removal import remove_dead
from refimpl.prune import binarizers, expand, fine_pruning, head_rules, kth_mask, live_blocks, resolution
from refimpl.prune import movement as nncf
from refimpl.prune import movement_schedule as plan
from refimpl.prune.criteria import movement as moved
from refimpl.prune.criteria import snip, snip_momentum_inc_code, snip_momentum_inc_readme
from refimpl.prune.inc_global import Ranked, inc_global_masks
from refimpl.prune.lock import lock_mask, lock_mask_inc
from refimpl.prune.masks import kth_smallest
from refimpl.prune.progressive import progressive_masks, progressive_step
from refimpl.prune.rewinding import linear_rewinding
from refimpl.prune.schedules import inc_cos, inc_cube, inc_events, inc_exp, inc_linear, is_event, zhu_gupta_cubic

# --- ranking ---------------------------------------------------------------------------------------------------------


def exact_count(scores, sparsity):
    """The first of equal scores go, not all."""
    gone = np.argsort(scores, kind="stable")[: int(sparsity * scores.size)]
    return ~np.isin(np.arange(scores.size), gone)


def ties_stay(scores, sparsity):
    return scores >= kth_smallest(scores, int(sparsity * scores.size) + 1) if sparsity < 1 else scores > np.inf


def rounded(scores, sparsity):
    return scores > kth_smallest(scores, round(sparsity * scores.size))


def uncapped(scores, before, sparsity, target):
    return inc_global_masks(scores, before, sparsity, target, cap=1.0)


def not_redistributed(scores, before, sparsity, target):
    """What a full layer lacks is not taken from the others."""
    pool = np.concatenate([layer.ravel() for layer in scores.values()])
    cut = kth_smallest(pool, int(pool.size * sparsity))
    made = {name: layer > cut for name, layer in scores.items()}
    full = {name for name, mask in made.items() if 1 - mask.mean() > 0.98}
    return Ranked(
        {name: kth_mask(scores[name], 0.98) if name in full else made[name] for name in made}, frozenset(full)
    )


def forgets_full_layers(scores, before, sparsity, target):
    return inc_global_masks(scores, Ranked(before.masks), sparsity, target)


def without_the_last_target(scores, before, sparsity, target):
    return inc_global_masks(scores, before, sparsity, 1.0)


# --- progressive -----------------------------------------------------------------------------------------------------


def per_layer(before, after, scores, step):
    return {
        name: progressive_masks({name: before[name]}, {name: after[name]}, {name: scores[name]}, step)[name]
        for name in scores
    }


def strongest_first(before, after, scores, step):
    most = max(layer.max() for layer in scores.values())
    return progressive_masks(before, after, {name: most - layer for name, layer in scores.items()}, step)


def all_elements_ranked(before, after, scores, step):
    """Also what lives on."""
    if step == 4:
        return dict(after)
    return progressive_masks(before, {name: np.zeros_like(mask) for name, mask in after.items()}, scores, step)


def one_behind(since, frequency):
    return max(progressive_step(since, frequency) - 1, 1)


# --- schedules -------------------------------------------------------------------------------------------------------


def unclipped(step, start, end, initial, final):
    return initial + (final - initial) * (1 - (1 - (step - start) / (end - start)) ** 3)


def slow_start(step, start, end, initial, final):
    return inc_cube(min(max((step - start) / (end - start), 0), 1), initial, final)


def per_event_from_the_start(progress, initial, final):
    return 1 - (1 - final) ** progress * (1 - initial)


def no_jump(step, schedule):
    """The rate falls through the pruning, as if no step were taken back."""
    return linear_rewinding(step, schedule._replace(interval=10**9))


def whole_length(step, schedule):
    """Pruning counts as time."""
    if step < schedule.warmup:
        return step / schedule.warmup
    return max(0.0, (schedule.steps - step) / (schedule.steps - schedule.warmup))


def after_by_the_shorter_length(step, schedule):
    if step < schedule.end:
        return linear_rewinding(step, schedule)
    shorter = schedule.steps - (schedule.end - schedule.start)
    return max(0.0, (shorter - step) / max(1, shorter - schedule.warmup))


# --- movement --------------------------------------------------------------------------------------------------------


def not_strict(scores, factors, threshold):
    return expand(scores >= np.float64(nncf.guarded_threshold(scores, factors, threshold)), factors)


def unguarded(scores, factors, threshold):
    return expand(scores > np.float64(threshold), factors)


def guard_of_blocks(scores, factors, threshold):
    """The quantile counts a score once, whatever its block."""
    return expand(scores > min(threshold, float(np.quantile(scores, 0.98))), factors)


def threshold_in_f32(scores, factors, threshold):
    return expand(scores > scores.dtype.type(nncf.guarded_threshold(scores, factors, threshold)), factors)


def dense_gradient(dweight, weight, mask, factors):
    """Straight through to the weight as well."""
    return dweight, nncf.straight_through(dweight, weight, factors)


def masked_scores(dweight, weight, mask, factors):
    """A pruned weight's score gets nothing, so that it never comes back."""
    return dweight * mask, nncf.straight_through(dweight * mask, weight, factors)


def mean_of_block(dweight, weight, mask, factors):
    return dweight * mask, nncf.straight_through(dweight, weight, factors) / math.prod(factors)


def wrong_sign(dweight, weight, mask, factors):
    return dweight * mask, -nncf.straight_through(dweight, weight, factors)


def per_score(scores, factors, factor):
    """Not times the size of a block."""
    return nncf.regularization(scores, (1, 1), factor)


def convex(schedule, step, initial):
    if plan.stage(schedule, step) is not plan.Stage.WARMUP:
        return plan.threshold(schedule, step, initial)
    start, end, steps, *_ = schedule
    share = ((step - int(start * steps)) / steps / (end - start)) ** schedule.power
    return initial + share * (schedule.final_threshold - initial)


def a_step_ahead(schedule, step, initial):
    if plan.stage(schedule, step) is not plan.Stage.WARMUP:
        return plan.threshold(schedule, step, initial)
    return plan.threshold(schedule, step + 1, initial)


def full_afterwards(schedule, step):
    return (
        schedule.factor
        if plan.stage(schedule, step) is plan.Stage.AFTER
        else plan.regularization_factor(schedule, step)
    )


def full_at_once(schedule, step):
    return schedule.factor if plan.stage(schedule, step) is plan.Stage.WARMUP else 0.0


def of_blocks(layers):
    return plan.initial_threshold([(scores, 1) for scores, _ in layers])


def one_less(layers):
    expanded = np.sort(np.concatenate([scores.ravel().repeat(size) for scores, size in layers]))
    return float(expanded[max(int(expanded.size * 0.001) - 1, 0)])


# --- heads and neurons -----------------------------------------------------------------------------------------------


def all_must_keep(masks, members, size):
    return np.all([resolution.independent(masks[name], rows, size) for name, rows in members.items()], axis=0)


def without_attention_output(masks, members, size):
    return resolution.resolve(masks, {name: rows for name, rows in members.items() if rows}, size)


def biases_alone_keep(masks, members, size):
    found = [masks[name].weight.any(1) | masks[name].bias if rows else masks[name].weight.any(0)
             for name, rows in members.items()]  # fmt: skip
    return np.any(found, axis=0).reshape(-1, size).any(1)


def biases_ignored(masks, members, size):
    return resolution.resolve(
        {name: pair._replace(bias=np.zeros_like(pair.bias)) for name, pair in masks.items()}, members, size
    )


def not_filled(live, masks, members):
    made = resolution.populate(live, masks, members)
    return {name: resolution.Masks(made[name].weight & masks[name].weight, made[name].bias) for name in made}


def biases_as_they_were(live, masks, members):
    made = resolution.populate(live, masks, members)
    return {name: made[name]._replace(bias=masks[name].bias) for name in made}


def always_one_head(layer, heads):
    live = head_rules.nncf_heads(layer, heads)
    live[0] |= not live.any()
    return live


def without_o(layer, heads):
    zero = layer.attention_output._replace(weight=np.zeros_like(layer.attention_output.weight))
    return head_rules.nncf_heads(layer._replace(attention_output=zero), heads)


def weights_alone(layer, heads):
    parts = {name: getattr(layer, name)._replace(bias=np.zeros(4)) for name in "qkv"}
    return head_rules.nncf_heads(layer._replace(**parts), heads)


def possibly_none(layer, heads):
    return np.all([head_rules._any_of_head((p.weight != 0).any(1), heads) for p in layer[:3]], axis=0)


def biases_too(layer, heads):
    return np.all([head_rules._any_of_head((p.weight != 0).any(1) | (p.bias != 0), heads) for p in layer[:3]], axis=0)


# --- nn_pruning ------------------------------------------------------------------------------------------------------


def topk_with_ties(scores, density):
    kept = int(density * scores.size)
    return scores >= np.sort(scores)[::-1][kept - 1] if kept else np.zeros(scores.shape, bool)


def no_least_count(scores, threshold):
    return scores > threshold


def one_short(scores, threshold):
    mask = scores > threshold
    least = int(0.005 * scores.size)
    return mask if mask.sum() >= least else scores > kth_smallest(scores, scores.size - least)


def raw(scores, threshold):
    return binarizers.threshold_mask(scores, threshold)


def least_by_sigmoid_threshold(scores, threshold):
    return binarizers.threshold_mask(scores, math.log(threshold))


def unstretched(scores, u):
    cache = binarizers.l0_mask(scores, u)[1]
    return cache.s, cache


def without_beta(scores, u):
    return (np.clip(1.2 / (1 + np.exp(-(np.log(u) - np.log(1 - u) + scores))) - 0.1, 0, 1), None)


def swapped(dscores, row, column):
    return row @ dscores, dscores @ column


def all_kept(mask, live, by_rows):
    return fine_pruning.filled_heads(mask, np.ones_like(live), by_rows)


def kept_alone(mask, live, by_rows):
    return fine_pruning.filled_heads(np.zeros_like(mask), live, by_rows)


def transposed(mask, live, by_rows):
    return fine_pruning.filled_heads(mask, live, not by_rows)


def other_end(schedule, step):
    swap = schedule._replace(initial_warmup=schedule.final_warmup, final_warmup=schedule.initial_warmup)
    return fine_pruning.fine_pruning_threshold(swap, step)


def linear(schedule, step):
    found = fine_pruning.fine_pruning_threshold(schedule, step)
    span = schedule.initial_threshold - schedule.final_threshold
    return schedule.final_threshold + span * abs((found - schedule.final_threshold) / span) ** (1 / 3)


# --- models ----------------------------------------------------------------------------------------------------------


def odd_neurons(model, multiple=4):
    return remove_dead(model, 1)


PRUNE = [
    Suite(rules.check_kth_mask, kth_mask, {
        "an exact count": exact_count, "ties stay": ties_stay, "rounded": rounded,
    }),
    Suite(rules.check_inc_global_masks, inc_global_masks, {
        "no cap": uncapped, "the rest is not redistributed": not_redistributed,
        "full layers reopen": forgets_full_layers, "ties of a full layer stay on top": without_the_last_target,
    }),
    Suite(rules.check_progressive_masks, progressive_masks, {
        "each layer by itself": per_layer, "strongest first": strongest_first, "all elements": all_elements_ranked,
    }),
    Suite(rules.check_progressive_step, progressive_step, {"one behind": one_behind}),
    Suite(rules.check_snip_momentum, snip_momentum_inc_code, {
        "as the README says": snip_momentum_inc_readme, "a mean": lambda s, w, d: s * np.float32(0.9) + snip(w, d) / 10,
        "signed": lambda s, w, d: s * np.float32(0.9) + w * d,
    }),
    Suite(rules.check_movement, moved, {
        "towards 0 is kept": lambda s, w, d: s + w * d, "no sign": lambda s, w, d: s + snip(w, d),
        "forgets": lambda s, w, d: s * np.float32(0.9) - w * d, "the last step": lambda s, w, d: -w * d,
    }),
    Suite(rules.check_snip_momentum_readme, snip_momentum_inc_readme, {"as the code does": snip_momentum_inc_code}),
    Suite(rules.check_zhu_gupta_cubic, zhu_gupta_cubic, {"not clipped": unclipped, "INC's cube": slow_start}),
    Suite(rules.check_inc_cube, inc_cube, {
        "the fast cubic": lambda r, a, b: a + (b - a) * (1 - (1 - r) ** 3), "linear": inc_linear, "cosine": inc_cos,
    }),
    Suite(rules.check_inc_exp, inc_exp, {"linear": inc_linear, "without the start": per_event_from_the_start}),
    Suite(rules.check_inc_cos, inc_cos, {
        "half a wave": lambda r, a, b: (b - a) * (1 - math.cos(r * math.pi)) / 2 + a,
        "a sine": lambda r, a, b: (b - a) * math.sin(r * math.pi / 2) + a,
    }),
    Suite(rules.check_inc_events, inc_events, {"with the first": lambda a, b, f: (b - a) // f + 1}),
    Suite(rules.check_is_event, is_event, {
        "without the end": lambda t, a, b, f: is_event(t, a, b, f) and t < b,
        "counted from 0": lambda t, a, b, f: a <= t <= b and t % f == 0,
    }),
    Suite(rules.check_linear_rewinding, linear_rewinding, {
        "no jump back": no_jump, "pruning takes time": whole_length, "short after the end": after_by_the_shorter_length,
    }),
    Suite(rules.check_lock_mask, lock_mask, {
        "INC's signed sum": lock_mask_inc, "whole blocks": lambda w: expand(live_blocks(w)),
        "the positive": lambda w: w > 0,
    }),
    Suite(movement.check_movement_mask, nncf.movement_mask, {
        "not strict": not_strict, "no guard": unguarded, "the guard counts blocks": guard_of_blocks,
        "the threshold in f32": threshold_in_f32,
    }),
    Suite(movement.check_movement_weight_backward, nncf.movement_weight_backward, {
        "a dense gradient": dense_gradient, "scores masked too": masked_scores, "a mean": mean_of_block,
        "the wrong sign": wrong_sign,
    }),
    Suite(movement.check_regularization, nncf.regularization, {
        "per score": per_score, "without a half": lambda s, f, x: 2 * nncf.regularization(s, f, x),
        "a sum": lambda s, f, x: s.size * nncf.regularization(s, f, x),
    }),
    Suite(movement.check_threshold, plan.threshold, {"convex": convex, "a step ahead": a_step_ahead}),
    Suite(movement.check_regularization_factor, plan.regularization_factor, {
        "after freezing too": full_afterwards, "at once": full_at_once,
    }),
    Suite(movement.check_initial_threshold, plan.initial_threshold, {"of blocks": of_blocks, "one less": one_less}),
    Suite(movement.check_resolve, resolution.resolve, {
        "all members must": all_must_keep, "without attention_output": without_attention_output,
        "a bias alone": biases_alone_keep, "no biases": biases_ignored,
    }),
    Suite(movement.check_populate, resolution.populate, {
        "not filled": not_filled, "biases as they were": biases_as_they_were,
    }),
    Suite(movement.check_nncf_heads, head_rules.nncf_heads, {
        "nn_pruning's": head_rules.nn_pruning_heads, "without attention_output": without_o,
        "without biases": weights_alone, "at least one": always_one_head,
    }),
    Suite(movement.check_nn_pruning_heads, head_rules.nn_pruning_heads, {
        "NNCF's": head_rules.nncf_heads, "possibly none": possibly_none, "with biases": biases_too,
    }),
    Suite(movement.check_topk_exact_mask, binarizers.topk_exact_mask, {
        "ties stay": topk_with_ties,
        "rounded up": lambda s, d: binarizers.topk_exact_mask(s, min(math.ceil(d * s.size) / s.size, 1)),
        "the lowest": lambda s, d: binarizers.topk_exact_mask(-s, d),
    }),
    Suite(movement.check_threshold_mask, binarizers.threshold_mask, {
        "no least count": no_least_count, "one short": one_short,
        "not strict": lambda s, t: binarizers.threshold_mask(s, np.nextafter(t, -np.inf)),
    }),
    Suite(movement.check_sigmoid_threshold_mask, binarizers.sigmoid_threshold_mask, {
        "no sigmoid": raw, "a logarithm": least_by_sigmoid_threshold,
    }),
    Suite(movement.check_l0_mask, binarizers.l0_mask, {"not stretched": unstretched, "no temperature": without_beta}),
    Suite(movement.check_row_column_scores_backward, fine_pruning.row_column_scores_backward, {"swapped": swapped}),
    Suite(movement.check_filled_heads, fine_pruning.filled_heads, {
        "all heads": all_kept, "only the heads": kept_alone, "transposed": transposed,
    }),
    Suite(movement.check_fine_pruning_threshold, fine_pruning.fine_pruning_threshold, {
        "warm-ups swapped": other_end, "linear": linear,
    }),
    Suite(models.check_sizes, remove_dead, {"neurons not in fours": odd_neurons, "nothing": lambda model: model}),
]  # fmt: skip
