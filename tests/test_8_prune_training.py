"""Rung 8: learned masks composed with the tape: as a type of linear layer, and as a change of parameters around a plain
model; a whole run from zero scores to a smaller model. Oracles: each other, and the judge of other engines."""

from typing import NamedTuple

import numpy as np
import tiny
from test_1_arithmetic import equal, rng

from refimpl.models.bert import Model, forward, linears, map_linears
from refimpl.models.judge import judge
from refimpl.models.pruning import movement
from refimpl.models.pruning.removal import remove_dead
from refimpl.nn import REFERENCE, Linear, Recorder
from refimpl.nn.linear import linear, linear_backward
from refimpl.nn.tape import LinearKind, Tape
from refimpl.prune import masked_weight_backward
from refimpl.prune.movement import movement_weight, movement_weight_backward
from refimpl.prune.movement_schedule import MovementSchedule, Stage, regularization_factor, stage, threshold
from refimpl.prune.sparsity_table import sparsity

NAME, BLOCK = "bert_classification", (4, 8)


class Moving(NamedTuple):
    """A linear layer with scores."""

    weight: np.ndarray
    bias: np.ndarray
    weight_scores: np.ndarray
    bias_scores: np.ndarray
    factors: tuple[int, int]


def kind_at(cut):
    """What the tape does with it at a threshold."""

    def run(x, p):
        weight, mask = movement_weight(p.weight, p.weight_scores, p.factors, cut)
        bias, bias_mask = movement_weight(p.bias, p.bias_scores, p.factors[:1], cut)
        effective = Linear(weight, bias)
        return linear(x, effective), (x, p, effective, mask, bias_mask)

    def back(dy, kept):
        x, p, effective, mask, bias_mask = kept
        dx, d = linear_backward(dy, x, effective)
        dweight, dscores = movement_weight_backward(d.weight, p.weight, mask, p.factors)
        dbias, dbias_scores = movement_weight_backward(d.bias, p.bias, bias_mask, p.factors[:1])
        arrays = (p.weight, p.bias, p.weight_scores, p.bias_scores)
        return dx, zip(arrays, (dweight, dbias, dscores, dbias_scores), strict=True)

    return LinearKind(run, back)


def parameters_of(model: Model):
    return {f"{name}.{part}": getattr(p, part) for name, p in linears(model).items() for part in Linear._fields}


def with_parameters(model: Model, values):
    return map_linears(model, lambda name, _: Linear(values[f"{name}.weight"], values[f"{name}.bias"]))


def taken(model, upstream, tape):
    value = forward(model, tiny.batch(NAME), tape.ops)
    return value.data, tape.backward([(value, upstream(value.data))])


def test_two_ways_give_the_same_gradients():
    model = tiny.dense(NAME).model
    factors = movement.factors_of(model, movement.jpqd(BLOCK))
    scores = movement.initial_scores(model, factors)
    scores = {name: rng(i).normal(size=s.shape).astype(np.float32) for i, (name, s) in enumerate(scores.items())}
    weights = parameters_of(model)

    def upstream(y):
        return rng(7).normal(size=y.shape).astype(np.float32)

    seen, masks = movement.effective(weights, scores, factors, 0.2)
    plain, by_id = taken(with_parameters(model, seen), upstream, Tape())
    gradients, of_scores = movement.effective_backward(
        {name: by_id[id(array)] for name, array in seen.items()}, weights, masks, factors
    )

    def moving(name, p):
        given = (scores[f"{name}.weight"], scores[f"{name}.bias"])
        return Moving(p.weight, p.bias, *given, factors[f"{name}.weight"])

    typed, by_id = taken(map_linears(model, moving), upstream, Tape(linears={Moving: kind_at(0.2)}))
    equal(typed, plain)
    for name in factors:
        equal(by_id[id(weights[name])], gradients[name])
        equal(by_id[id(scores[name])], of_scores[name])
        assert of_scores[name].shape == scores[name].shape
    assert any(
        (of_scores[name][~masks[name][:: factors[name][0]]] != 0).any() for name in scores if name.endswith("bias")
    )


def cross_entropy_gradient(logits, classes):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    probs = shifted / shifted.sum(-1, keepdims=True)
    probs[np.arange(len(classes)), classes] -= 1
    return (probs / len(classes)).astype(np.float32)


def train(lam):
    """From zero scores to frozen masks: the trained model, with zeros where they are."""
    model, classes = tiny.dense(NAME).model, np.array([0, 1, 2])
    plan = MovementSchedule(start_epoch=1, end_epoch=3, steps_per_epoch=4, factor=lam)
    factors = movement.factors_of(model, movement.jpqd(BLOCK))
    scores, weights = movement.initial_scores(model, factors), parameters_of(model)
    start, whole = 0.0, None
    for step in range(14):
        if stage(plan, step) is Stage.AFTER and whole is None:
            masks = movement.masks_of(scores, factors, threshold(plan, step, start))
            whole = movement.resolved(model, masks)
            assert sparsity(whole.values()) <= sparsity(masks.values())
        if step == 4:
            start = movement.automatic_threshold(scores, factors)
        if whole is None:
            seen, masks = movement.effective(weights, scores, factors, threshold(plan, step, start))
        else:
            seen = parameters_of(movement.apply_masks(with_parameters(model, weights), whole))
        _, by_id = taken(with_parameters(model, seen), lambda y: cross_entropy_gradient(y, classes), Tape())
        gradients = {name: by_id[id(array)] for name, array in seen.items()}
        if whole is None:
            gradients, of_scores = movement.effective_backward(gradients, weights, masks, factors)
            _, slopes = movement.regularization_loss(scores, factors, regularization_factor(plan, step))
            scores = {name: s - np.float32(0.5) * (of_scores[name] + slopes[name]) for name, s in scores.items()}
        else:
            gradients = {name: masked_weight_backward(gradients[name], whole[name]) for name in whole}
        weights = {name: w - np.float32(0.01) * gradients[name] for name, w in weights.items()}
    return movement.apply_masks(with_parameters(model, weights), whole)


def test_a_run_from_zero_scores_to_a_smaller_model():
    """More regularization, fewer weights; what is frozen is whole, and goes without a change of what is computed."""
    sizes = [1.0]
    for lam in (0.0, 30.0):
        trained, batch, taps = train(lam), tiny.batch(NAME), Recorder()
        small = remove_dead(trained, 1)
        before, after = (sum(w.size for w in parameters_of(model).values()) for model in (trained, small))
        assert 0.05 < after / before < sizes[-1]
        sizes.append(after / before)
        forward(small, batch, REFERENCE, taps)
        assert not judge(trained, batch, {"output": taps.values["output"]})["output"].outside
