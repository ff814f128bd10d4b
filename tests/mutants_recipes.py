"""Plausible wrong versions of what the stages of a recipe do around each pass. tests/test_mutants.py runs them."""

from dataclasses import replace

import numpy as np
import test_8_recipe_methods as methods_test
import test_8_recipe_runs as runs
from mutants import Suite

from refimpl import distil
from refimpl.distil.mixing import ovtrainer
from refimpl.models.bert import linears
from refimpl.models.recipes import hybrid, methods, stages, tuned
from refimpl.models.recipes.distilling import distilled, distilled_beside, kd_of
from refimpl.models.recipes.matching import matched
from refimpl.models.recipes.setting import work_on
from refimpl.models.recipes.training_stage import rate_of
from refimpl.models.training.inner import Inner
from refimpl.models.training.method import PLAIN, Method, masked_backward
from refimpl.nn.losses import Loss
from refimpl.prune import expand, live_blocks, straight_through, topk_mask
from refimpl.prune.lock import lock_mask_inc
from refimpl.prune.rewinding import linear_rewinding


def lock_by(of_weight, of_bias=lambda p: np.ones(p.bias.shape, bool)):
    def locked(model, names):
        masks = {}
        for name, p in linears(model).items():
            masks |= {names[f"{name}.weight"]: of_weight(p.weight), names[f"{name}.bias"]: of_bias(p)}
        return Method(
            extra={methods.MASK + name: mask for name, mask in masks.items()},
            masks=methods.stored, stored=methods.stored,
        )  # fmt: skip

    return locked


def pruning_with(change):
    return lambda model, names, how, updates: change(methods.pruning(model, names, how, updates), how, updates)


def at_every_update(method, how, updates):
    """The masks anew from today's weights at each update."""

    def after(state):
        state = method.after(state)
        for name, mask in methods.stored(state.extra).items():
            if not mask.all():
                w = np.abs(state.parameters[name]).reshape(-1, 4, mask.shape[1]).mean(1)
                mask[...] = topk_mask(w, float(mask.mean())).repeat(4, 0)
        return state

    return replace(method, after=after)


def never_noted(method, how, updates):
    def after(state):
        before = state.extra[methods.SPARSITY].copy()
        state = method.after(state)
        state.extra[methods.SPARSITY][...] = before
        return state

    return replace(method, after=after)


def other_event(shift):
    """An update late or early."""
    return lambda model, names, how, updates: methods.pruning(
        model, names, replace(how, begin=how.begin + shift / updates, end=how.end + shift / updates), updates
    )


def half(method, *_):
    """Of half the gradient, as if it were a mean of two batches."""

    def more(gradients, values, masks):
        return method.more({name: g * np.float32(0.5) for name, g in gradients.items()}, values, masks)

    return replace(method, more=more)


def without_momentum(method, *_):
    def more(gradients, values, masks):
        for name, array in values.items():
            if name.startswith(methods.KEPT):
                array[...] = 0
        return method.more(gradients, values, masks)

    return replace(method, more=more)


def other_way(**change):
    return lambda model, names, how, updates: methods.pruning(model, names, replace(how, **change), updates)


def other_rates(change):
    def rates(stage, total):
        made = rate_of(stage, total)
        return None if made is None else lambda step: change(made.keywords["schedule"], step)

    return rates


def learned_with(change):
    return lambda *given: change(hybrid.learned(*given))


def a_step_late(method):
    """Evaluation sees the masks of the pass before: none are learned from the last update."""
    return replace(method, after=lambda state: state)


def unpulled(method):
    """The loss has regularization, the scores do not."""

    def more(gradients, values, masks):
        loss, _ = method.more(gradients, values, masks)
        held = values[methods.THRESHOLD][1]
        values[methods.THRESHOLD][1] = 0
        _, found = method.more(gradients, values, masks)
        values[methods.THRESHOLD][1] = held
        return loss, found

    return replace(method, more=more)


def top_with(gradient):
    def top(model, names, how, updates):
        method = methods.top_scores(model, names, how, updates)

        def more(gradients, values, masks):
            return 0.0, {methods.SCORE + name: gradient(gradients[name], values[name], mask, how.block)
                         for name, mask in masks.items()}  # fmt: skip

        return replace(method, more=more)

    return top


def tied_scores(model, names, how, updates):
    """What ties with the last goes too."""
    method = methods.top_scores(model, names, how, updates)

    def after(state):
        state = method.after(state)
        for name, mask in methods.stored(state.extra).items():
            mask[...] = topk_mask(state.parameters[methods.SCORE + name], float(mask.mean())).repeat(4, 0)
        return state

    return replace(method, after=after)


def moving_with(change):
    return lambda *given: change(methods.moving(*given))


def moving_as(**change):
    return lambda model, names, how, each, updates: methods.moving(model, names, replace(how, **change), each, updates)


def masked_scores(method):
    """The scores' gradient sees the mask."""
    return replace(
        method, more=lambda gradients, values, masks: method.more(masked_backward(gradients, masks), values, masks)
    )


def without_regularization(method):
    def more(gradients, values, masks):
        held = values[methods.THRESHOLD][1]
        values[methods.THRESHOLD][1] = 0
        found = method.more(gradients, values, masks)
        values[methods.THRESHOLD][1] = held
        return found

    return replace(method, more=more)


def summed_regularization(method):
    """The sum over layers, not their mean."""

    def more(gradients, values, masks):
        layers = len(linears(methods_test.MODEL))
        values[methods.THRESHOLD][1] *= layers
        loss, found = method.more(gradients, values, masks)
        values[methods.THRESHOLD][1] /= layers
        return loss, found

    return replace(method, more=more)


def distilled_by(mix):
    def make(task, logits, how):
        kd = kd_of(how)

        def loss(y, batch, target):
            told, rows = target
            return mix(task.loss(y, batch, told), kd(y, np.stack([logits[i] for i in rows])), how.weight)

        return distilled(task, logits, how)._replace(loss=loss)

    return make


def padded(task, logits, how):
    """Padding is a token like the others, of which the teacher says 0."""
    kd = kd_of(how)

    def loss(y, batch, target):
        whole = np.zeros_like(y)
        for row, i in zip(whole, target[1], strict=True):
            row[: len(logits[i])] = logits[i]
        return distil.start_end(kd, y, whole)

    return distilled(task, logits, how)._replace(loss=loss)


def of_all_tokens(task, logits, how):
    """Padded logits hidden, but counted by the losses that are means over elements."""
    kd = kd_of(how)

    def loss(y, batch, target):
        whole = np.zeros_like(y)
        for row, i in zip(whole, target[1], strict=True):
            row[: len(logits[i])] = logits[i]
        live = batch.mask[..., None] != 0
        return distil.start_end(kd, np.where(live, y, np.float32(-1e4)), np.where(live, whole, np.float32(-1e4)))

    return distilled(task, logits, how)._replace(loss=loss)


def padding_beside(task, ask, how):
    """Padding is a token like the others."""

    def loss(y, batch, target):
        made = distilled_beside(task, lambda _: ask(batch), how)
        return made.loss(y, batch._replace(mask=np.ones_like(batch.mask)), target)

    return task._replace(loss=loss)


def summed(task, kd, weight):
    return Loss(task.value + kd.value, task.gradient + kd.gradient)


def matched_with(change):
    """change: (loss, gradients) -> the same."""

    def make(task, ask, of, how):
        made = matched(task, ask, of, how)
        return made._replace(inner=Inner(made.inner.names, lambda *given: change(*made.inner.loss(*given))))

    return make


RECIPES = [
    Suite(
        methods_test.check_matched,
        matched,
        {
            "the loss alone": matched_with(lambda loss, of: (loss, {name: 0 * g for name, g in of.items()})),
            "the gradient alone": matched_with(lambda loss, of: (0.0, of)),
            "summed over layers": matched_with(lambda loss, of: (2 * loss, {name: 2 * g for name, g in of.items()})),
            "the last layer alone": matched_with(lambda loss, of: (loss, dict([list(of.items())[-1]]))),
            "always squared": lambda *given: matched(*given[:-1], replace(given[-1], hidden_loss="mse")),
            "crosswise": lambda task, ask, of, how: matched(
                task, ask, dict(zip(of, reversed(of.values()), strict=True)), how
            ),
        },
    ),
    Suite(
        methods_test.check_triple,
        distilled_beside,
        {
            "padding is a token": padding_beside,
            "weights of both are swapped": lambda task, ask, how: distilled_beside(
                task, ask, replace(how, weight=1 - how.weight)
            ),
            "the temperature is 1": lambda task, ask, how: distilled_beside(task, ask, replace(how, temperature=1.0)),
            "the teacher alone": lambda task, ask, how: distilled_beside(task, ask, replace(how, weight=1.0)),
        },
    ),
    Suite(
        methods_test.check_masked_backward,
        masked_backward,
        {
            "the gradient is not masked": lambda gradients, masks: dict(gradients),
            "the mask is turned": lambda gradients, masks: masked_backward(
                gradients, {name: ~mask for name, mask in masks.items()}
            ),
        },
    ),
    Suite(
        methods_test.check_locked,
        methods.locked,
        {
            "whole blocks": lock_by(lambda w: expand(live_blocks(w))),
            "blocks whose sum is 0": lock_by(lock_mask_inc),
            "a dead row's bias lives": lock_by(lambda w: w != 0),
            "a row without weights is dead": lock_by(lambda w: w != 0, lambda p: (p.weight != 0).any(1)),
            "every bias of 0": lock_by(lambda w: w != 0, lambda p: p.bias != 0),
            "none": lambda model, names: PLAIN,
        },
    ),
    Suite(
        methods_test.check_pruning,
        methods.pruning,
        {
            "at every update": pruning_with(at_every_update),
            "an update late": other_event(1),
            "an update early": other_event(-1),
            "not noted": pruning_with(never_noted),
        },
    ),
    Suite(
        methods_test.check_criteria,
        methods.pruning,
        {
            "half the gradient": pruning_with(half),
            "no momentum": pruning_with(without_momentum),
            "always snip_momentum": other_way(criterion="snip_momentum"),
            "always snip": other_way(criterion="snip"),
        },
    ),
    Suite(
        methods_test.check_ways,
        methods.pruning,
        {
            "INC's cube is PruneOFA's cubic": lambda model, names, how, updates: methods.pruning(
                model,
                names,
                replace(how, schedule={"inc_cube": "zhu_gupta_cubic"}.get(how.schedule, how.schedule)),
                updates,
            ),
            "each layer alike": other_way(ranking="layer"),
            "all layers together": other_way(ranking="global"),
        },
    ),
    Suite(
        methods_test.check_rates,
        rate_of,
        {
            "never": lambda stage, total: None,
            "no jump back": other_rates(lambda saw, step: linear_rewinding(step, saw._replace(interval=saw.end))),
            "at every update": other_rates(lambda saw, step: linear_rewinding(step, saw._replace(interval=1))),
        },
    ),
    Suite(
        methods_test.check_hybrid,
        hybrid.learned,
        {
            "the mask applied to the scores": learned_with(masked_scores),
            "no regularization": learned_with(without_regularization),
            "regularization in the loss alone": learned_with(unpulled),
            "a threshold that stays": learned_with(a_step_late),
            "never filled": lambda model, names, how, updates, kept=None: hybrid.learned(model, names, how, updates),
        },
    ),
    Suite(
        methods_test.check_to_fill,
        hybrid.to_fill,
        {
            "what is not dead": lambda begun, work: {
                f"layer.{i}": np.isin(had, left)
                for i, (had, left) in enumerate(zip(begun.heads, work.heads, strict=True))
            },
            "numbered anew": lambda begun, work: hybrid.to_fill(
                begun, work._replace(heads=tuple(tuple(range(len(left))) for left in work.heads))
            ),
        },
    ),
    Suite(
        methods_test.check_top_scores,
        methods.top_scores,
        {
            "the mask applied to the scores": top_with(lambda g, w, mask, block: straight_through(g * mask, w, block)),
            "the masked weight": top_with(lambda g, w, mask, block: straight_through(g, w * mask, block)),
            "the other sign": top_with(lambda g, w, mask, block: -straight_through(g, w, block)),
            "ties go": tied_scores,
        },
    ),
    Suite(
        methods_test.check_schedule,
        methods.moving,
        {
            "of power 3, whatever is said": moving_as(power=3.0),
            "from the threshold that is found, whatever is said": moving_as(initial_threshold=None),
        },
    ),
    Suite(
        methods_test.check_moving,
        methods.moving,
        {
            "the mask applied to the scores": moving_with(masked_scores),
            "no regularization": moving_with(without_regularization),
            "regularization summed": moving_with(summed_regularization),
        },
    ),
    Suite(
        methods_test.check_distilled,
        distilled,
        {
            "weights of both are swapped": distilled_by(lambda task, kd, w: ovtrainer(task, kd, 1 - w)),
            "a plain sum": distilled_by(summed),
            "the task alone": distilled_by(lambda task, kd, w: task),
            "the task whole": distilled_by(
                lambda task, kd, w: Loss(
                    task.value + np.float32(w) * kd.value, task.gradient + np.float32(w) * kd.gradient
                )
            ),
        },
    ),
    Suite(methods_test.check_padding, distilled, {"padding is a token": padded, "padding is counted": of_all_tokens}),
    Suite(
        runs.check_numbers,
        stages._without_dead,
        {
            "numbered anew": lambda work: stages._without_dead(work_on(work.dense)),
            "all that it came with": lambda work: stages._without_dead(work)._replace(heads=work.heads),
        },
    ),
    Suite(
        runs.check_units,
        tuned._units,
        {
            "each layer alone": lambda names: {name: [name] for name in names},
            "all layers' q, k and v": lambda names: {
                "qkv": [name for name in names if name.rpartition(".")[2] in tuned.TOGETHER]
            },
        },
    ),
]
