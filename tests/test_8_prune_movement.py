"""Rung 8: movement sparsity. Oracles: NNCF's formulas in plain Python (nncf_formulas.py), cases worked by hand, central
differences.

A ``check_*`` function takes the implementation under test, so that tests/mutants_prune.py can hand it wrong ones.
"""

import math

import nncf_formulas as nncf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_1_arithmetic import equal, rng

from refimpl import bounds
from refimpl.nn import EncoderLayer, Linear
from refimpl.prune import binarizers, expand, fine_pruning, live_heads
from refimpl.prune.fine_pruning import FinePruning
from refimpl.prune.head_rules import nn_pruning_heads, nncf_heads
from refimpl.prune.masked import masked_weight, masked_weight_backward, straight_through
from refimpl.prune.movement import (
    FINE,
    guarded_threshold,
    movement_mask,
    movement_weight,
    movement_weight_backward,
    per_dim,
    regularization,
    regularization_backward,
    zero_scores,
)
from refimpl.prune.movement_schedule import (
    MovementSchedule,
    Stage,
    initial_threshold,
    regularization_factor,
    stage,
    threshold,
)
from refimpl.prune.resolution import ATTENTION, FEED_FORWARD, Masks, independent, populate, resolve, resolve_layer
from refimpl.prune.sparsity_table import rows_of, sparsity, to_csv

SHAPE = (8, 12)
STRUCTURES = {"fine": FINE, "block": (4, 3), "rows": per_dim(SHAPE, 0), "columns": per_dim(SHAPE, 1)}
PLAN = MovementSchedule(start_epoch=1, end_epoch=3, steps_per_epoch=4, factor=0.1, power=3)
U = bounds.F64


def close(got, want, bound):
    assert (np.abs(np.asarray(got) - np.asarray(want)) <= np.asarray(bound)).all()


# --- NNCF, step by step ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factors", STRUCTURES.values(), ids=STRUCTURES)
def test_training_follows_nncf_step_by_step(factors):
    """A linear layer learns; at each step the oracle is given our state, so bounds are of one step. Masks are equal."""
    seed = rng(3)
    x, weight, bias = seed.normal(size=(16, 12)), seed.normal(size=SHAPE), seed.normal(size=8)
    scores, of_bias = zero_scores(weight, factors), zero_scores(bias, factors[:1])
    grows = np.arange(scores.size).reshape(scores.shape) % 3 > 0  # the others shall go
    y = x @ (weight * expand(grows, factors) * 2).T
    start, seen = None, []
    for step in range(14):
        if stage(PLAN, step) is Stage.WARMUP and start is None:
            pairs = [(scores, math.prod(factors)), (of_bias, factors[0])]
            start = initial_threshold(pairs)
            flat = [s for row in nncf.expanded(scores.tolist(), *factors) for s in row]
            assert start == nncf.first_threshold(flat + np.repeat(of_bias, factors[0]).tolist())
        cut, factor = threshold(PLAN, step, start or 0.0), regularization_factor(PLAN, step)
        assert (cut, factor) == nncf.schedule(step, PLAN, start)  # exact: quarters of epochs
        w, mask = movement_weight(weight, scores, factors, cut)
        b, bias_mask = movement_weight(bias, of_bias, factors[:1], cut)
        assert mask.tolist() == nncf.mask(scores.tolist(), *factors, cut)
        assert bias_mask.tolist() == [row[0] for row in nncf.mask(of_bias[:, None].tolist(), factors[0], 1, cut)]
        assert w.tolist() == nncf.masked(weight.tolist(), mask.tolist())
        error = (x @ w.T + b - y) / 16
        upstream, of_b = error.T @ x, error.sum(0)
        dweight, dscores = movement_weight_backward(upstream, weight, mask, factors)
        dbias, dof_bias = movement_weight_backward(of_b, bias, bias_mask, factors[:1])
        equal(dweight, np.where(mask, upstream, upstream * 0))
        equal(dbias, np.where(bias_mask, of_b, of_b * 0))
        exact, size = nncf.score_gradient(upstream.tolist(), weight.tolist(), *factors)
        close(dscores, exact, bounds.gamma(math.prod(factors) + 1, U) * np.array(size))
        exact, size = nncf.score_gradient(of_b[:, None].tolist(), bias[:, None].tolist(), factors[0], 1)
        close(dof_bias[:, None], exact, bounds.gamma(factors[0] + 1, U) * np.array(size))
        loss = regularization(scores, factors, factor) + regularization(of_bias, factors[:1], factor)
        want = nncf.loss(scores.tolist(), of_bias.tolist(), *factors, factor)
        assert abs(loss - want) <= bounds.gamma(scores.size + 20, U) * want
        seen.append(sparsity([mask]))
        if stage(PLAN, step) is not Stage.AFTER:
            scores = scores - 0.5 * (dscores + regularization_backward(scores, factors, factor))
            of_bias = of_bias - 0.5 * (dof_bias + regularization_backward(of_bias, factors[:1], factor))
        weight, bias = weight - 0.1 * dweight, bias - 0.1 * dbias
    assert seen[:4] == [0] * 4
    assert 0 < seen[-1] < 1
    assert seen[-1] == seen[-2]  # frozen


def check_movement_mask(function):
    scores = np.array([[1.0, 0.0, -1.0], [2.0, -0.0, 3.0]])
    equal(function(scores, (2, 1), 0.0), np.array([[True, False, False]] * 2 + [[True, False, True]] * 2))
    equal(function(scores, (1, 2), -np.inf), np.ones((2, 6), bool))
    hundred = np.arange(100.0).reshape(10, 10)
    assert function(hundred, (1, 1), 1e9).sum() == 2  # at most 98 % go: 0.98 * 99 lies between 97 and 98
    assert not function(np.zeros((3, 3)), (1, 1), 0.0).any()  # a tie with the guard
    two = np.array([[0.0], [1.0]])  # the quantile of 25 + 25 elements is the last; of two scores it is 0.98
    assert not function(two, (5, 5), 2.0).any()
    assert function(two, (1, 1), 2.0).sum() == 1
    low = np.float32([[1.0, 1 + 2**-23]])
    equal(function(low, (1, 1), 1 + 0.9 * 2**-23), np.array([[False, True]]))  # not rounded to f32


def check_movement_weight_backward(function):
    weight, mask = np.array([[1.0, 2.0], [4.0, 8.0]]), np.array([[True, False], [True, False]])
    dweight, dscores = function(np.array([[1.0, 10.0], [100.0, 1000.0]]), weight, mask, (2, 1))
    equal(dweight, np.array([[1.0, 0.0], [100.0, 0.0]]))  # what is pruned gets no gradient
    equal(dscores, np.array([[401.0, 8020.0]]))  # its score does


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=40),
    st.sampled_from([(1, 1), (2, 3), (7, 1), (1, 32)]),
    st.floats(-4, 4),
)
def test_the_guard_counts_every_element(scores, factors, cut):
    array = np.array([scores], np.float64)
    assert movement_mask(array, factors, cut).tolist() == nncf.mask(array.tolist(), *factors, cut)
    assert guarded_threshold(array, factors, -5.0) == -5


def check_regularization(function):
    scores = np.array([[0.0, 1.0, -2.0]])
    want = 0.25 * 0.5 * 6 * (0.5 + nncf.sigmoid(1) + nncf.sigmoid(-2)) / 3
    assert abs(function(scores, (2, 3), 0.25) - want) <= bounds.gamma(20, U) * want


def slope_of(function, at, step=1e-5):
    """Central differences, every element."""
    found = np.zeros_like(at)
    for i in np.ndindex(at.shape):
        move = np.zeros_like(at)
        move[i] = step
        found[i] = (function(at + move) - function(at - move)) / (2 * step)
    return found


def test_gradients_of_the_regularizations():
    """The third derivative of a sigmoid is at most 1/8: h² / 48, and what the difference loses: u / h."""
    scores = rng(0).normal(size=(3, 4))
    for value, gradient, scale in [
        (lambda s: regularization(s, (2, 5), 0.3), lambda s: regularization_backward(s, (2, 5), 0.3), 1.5),
        (fine_pruning.l1, fine_pruning.l1_backward, 1),
        (fine_pruning.l0, fine_pruning.l0_backward, 1),
    ]:
        close(gradient(scores), slope_of(value, scores), scale * (1e-10 / 48 + 40 * U / 1e-5))
        assert gradient(scores.astype(np.float32)).dtype == np.float32


# --- the schedule ----------------------------------------------------------------------------------------------------


def check_threshold(function):
    plan = MovementSchedule(start_epoch=1, end_epoch=3, steps_per_epoch=2, factor=0.05, final_threshold=0.5, power=2)
    want = [-math.inf] * 2 + [0.5 - 1.5 * ((4 - k) / 4) ** 2 for k in range(4)] + [0.5, 0.5]
    assert [function(plan, step, -1.0) for step in range(8)] == want
    half = MovementSchedule(start_epoch=0.5, end_epoch=1.3, steps_per_epoch=5, factor=0)  # int(2.5), int(6.5)
    assert [math.isinf(function(half, step, -1.0)) for step in range(4)] == [True, True, False, False]
    assert function(half, 2, -1.0) == -1
    assert function(half, 5, -1.0) < 0
    assert function(half, 6, -1.0) == 0


def check_regularization_factor(function):
    want = [0.0] * 4 + [0.1 * (1 - ((8 - k) / 8) ** 3) for k in range(8)] + [0.0] * 3
    assert [function(PLAN, step) for step in range(15)] == want


def check_initial_threshold(function):
    layers = [(np.arange(500.0)[:, None], 2), (np.full(3, -7.0), 1)]
    assert function(layers) == -7  # int(1003 / 1000) + 1 = 2nd
    assert function([(np.arange(500.0), 4)]) == 0  # 2000 elements: the 3rd, of four zeros
    assert function([(np.arange(500.0), 2), (np.arange(1000.0, 2999.0), 1)]) == 1  # 2999: the 3rd, 0 0 1
    assert function([(np.arange(3.0), 1)]) == 0


def test_nncf():
    check_movement_mask(movement_mask)
    check_movement_weight_backward(movement_weight_backward)
    check_regularization(regularization)
    check_threshold(threshold)
    check_regularization_factor(regularization_factor)
    check_initial_threshold(initial_threshold)


# --- whole heads and neurons -----------------------------------------------------------------------------------------


def nothing(m, k):
    return Masks(np.zeros((m, k), bool), np.zeros(m, bool))


def attention_masks(**alive):
    """D = 6, two heads of three; name -> what lives: (row, column) of the weight, or a row of the bias."""
    masks = {name: nothing(6, 6) for name in ATTENTION}
    for name, places in alive.items():
        for place in places:
            masks[name][isinstance(place, int)][place] = True
    return masks


RESOLVED = [
    ({"q": [(0, 5)]}, [True, False]),
    ({"k": [(5, 0)]}, [False, True]),
    ({"v": [(2, 2)], "q": [(3, 3)]}, [True, True]),
    ({"attention_output": [(0, 3)]}, [False, True]),  # its columns are heads, not its rows
    ({"attention_output": [(5, 0)]}, [True, False]),
    ({}, [False, False]),
    ({"v": [4]}, [False, False]),  # a bias alone keeps nothing ...
    ({"v": [(0, 0), 4]}, [True, True]),  # ... but counts where any weight of its layer lives
    ({"attention_output": [4]}, [False, False]),
]


def check_resolve(function):
    for alive, want in RESOLVED:
        masks = attention_masks(**alive)
        equal(function(masks, ATTENTION, 3), np.array(want))
        members = [(*(part.tolist() for part in masks[name]), rows) for name, rows in ATTENTION.items()]
        assert nncf.structured(members, 3) == want
    masks = {"intermediate": nothing(3, 2), "output": nothing(2, 3)}
    masks["intermediate"].weight[0, 1] = masks["output"].weight[1, 2] = True
    equal(function(masks, FEED_FORWARD, 1), np.array([True, False, True]))


def check_populate(function):
    live = np.array([False, True])
    made = function(live, attention_masks(q=[(0, 0)]), ATTENTION)
    channels = live.repeat(3)
    for name in "qkv":
        equal(made[name].weight, np.tile(channels[:, None], (1, 6)))
        equal(made[name].bias, channels)
    equal(made["attention_output"].weight, np.tile(channels, (6, 1)))
    equal(made["attention_output"].bias, np.ones(6, bool))
    gone = function(np.zeros(2, bool), attention_masks(), ATTENTION)
    assert not any(part.any() for masks in gone.values() for part in masks)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.floats(0, 0.3), st.integers(0, 2**16))
def test_resolution_on_any_masks(heads, size, density, seed):
    d, random = heads * size, rng(seed)
    masks = {
        name: Masks(random.random((d, d)) < density, random.random(d) < density) for name in [*ATTENTION, *FEED_FORWARD]
    }
    for members, unit in ((ATTENTION, size), (FEED_FORWARD, 1)):
        given_ = [(*(part.tolist() for part in masks[name]), rows) for name, rows in members.items()]
        assert resolve(masks, members, unit).tolist() == nncf.structured(given_, unit)
    made = resolve_layer(masks, size)
    for name, old in masks.items():
        rows = {**ATTENTION, **FEED_FORWARD}[name]
        assert not (old.weight & ~made[name].weight).any()  # nothing that lived goes
        assert not rows or not old.weight.any() or not (old.bias & ~made[name].bias).any()


def test_the_table(tmp_path):
    masks = attention_masks(q=[(0, 5)]) | {"intermediate": nothing(24, 6), "output": nothing(6, 24)}
    masks["output"].weight[0, :21] = True
    made = resolve_layer(masks, 3)
    rows = rows_of([made, made], 3)
    assert rows[0] == (0, "layer.0.q", (6, 6), (3, 6), (6,), (3,), "[0]")
    assert rows[3] == (0, "layer.0.attention_output", (6, 6), (6, 3), (6,), (6,), "[0]")
    assert rows[4] == (1, "layer.0.intermediate", (24, 6), (21, 6), (24,), (21,), "[21 items]")
    assert [row.group_id for row in rows] == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3]
    lines = to_csv(rows).splitlines()
    assert lines[0] == (
        ",group_id,torch_module,weight_shape,pruned_weight_shape,bias_shape,pruned_bias_shape,head_or_channel_id_to_keep"
    )
    assert lines[2] == '1,0,layer.0.k,"(6, 6)","(3, 6)","(6,)","(3,)",[0]'
    assert sparsity([made["q"].weight, made["output"].weight]) == (18 + 18) / (36 + 144)


# --- the two rules for heads -----------------------------------------------------------------------------------------


def layer_of(**zero):
    """Two heads of two in D = 4, all ones; name -> heads whose weights, and biases if a name ends in _, are zero."""
    parts = {name: Linear(np.ones((4, 4)), np.ones(4)) for name in ATTENTION}
    for name, heads in zero.items():
        for head in heads:
            at = slice(2 * head, 2 * head + 2)
            p = parts[name.rstrip("_")]
            p.weight[(slice(None), at) if "output" in name else at] = 0
            if name.endswith("_"):
                p.bias[at] = 0
    return EncoderLayer(**parts, attention_norm=None, intermediate=None, output=None, output_norm=None)


HEAD_RULES = [  # what is zero, NNCF, nn_pruning, what may go without a change
    ({}, [1, 1], [1, 1], [1, 1]),
    ({"q": [0]}, [1, 1], [0, 1], [1, 1]),
    ({"k": [1]}, [1, 1], [1, 0], [1, 1]),
    ({"v": [1]}, [1, 1], [1, 0], [1, 1]),
    ({"v_": [1]}, [1, 1], [1, 0], [1, 0]),
    ({"attention_output": [1]}, [1, 1], [1, 1], [1, 0]),
    ({"q": [0], "k": [1]}, [1, 1], [1, 0], [1, 1]),  # none is left: head 0 stays
    ({"q_": [1], "k_": [1], "v_": [1]}, [1, 1], [1, 0], [1, 0]),
    ({"q_": [1], "k_": [1], "v_": [1], "attention_output": [1]}, [1, 0], [1, 0], [1, 0]),
    ({"q": [1], "k": [1], "v": [1], "attention_output": [1]}, [1, 1], [1, 0], [1, 0]),  # biases are left
    ({"q_": [0, 1], "k_": [0, 1], "v_": [0, 1], "attention_output": [0, 1]}, [0, 0], [1, 0], [0, 0]),
]


def check_nncf_heads(function):
    for zero, want, _, _ in HEAD_RULES[:6] + HEAD_RULES[7:]:
        equal(function(layer_of(**zero), 2), np.array(want, bool))


def check_nn_pruning_heads(function):
    for zero, _, want, _ in HEAD_RULES:
        equal(function(layer_of(**zero), 2), np.array(want, bool))


def test_heads():
    check_resolve(resolve)
    check_populate(populate)
    check_nncf_heads(nncf_heads)
    check_nn_pruning_heads(nn_pruning_heads)
    for zero, nncf_keeps, _, computes in HEAD_RULES:
        equal(live_heads(layer_of(**zero), 2), np.array(computes, bool))
        assert (np.array(nncf_keeps) >= computes).all()  # NNCF's rule removes nothing that computes


# --- nn_pruning ------------------------------------------------------------------------------------------------------


def check_topk_exact_mask(function):
    for scores, density, want in [
        ([1.0, 3.0, 1.0, 1.0], 0.5, [1, 1, 0, 0]),
        ([0.0] * 4, 0.75, [1, 1, 1, 0]),
        ([4.0, 3.0, 2.0], 0.5, [1, 0, 0]),
        ([-1.0, -2.0], 1.0, [1, 1]),
        ([1.0, 2.0], 0.0, [0, 0]),
    ]:
        equal(function(np.array(scores), density), np.array(want, bool))


def check_threshold_mask(function):
    equal(function(np.array([0.1, 0.2, 0.3]), 0.2), np.array([False, False, True]))
    assert function(np.arange(1000.0), 2000.0).nonzero()[0].tolist() == list(range(994, 1000))  # int(5) + 1
    assert function(np.arange(999.0), 997.5).nonzero()[0].tolist() == list(range(994, 999))  # int(4.995) + 1
    assert function(np.array([1.0, 2.0]), 5.0).tolist() == [False, True]
    assert not function(np.zeros(10), 0.0).any()  # a tie


def check_sigmoid_threshold_mask(function):
    scores = np.array([-3.0, 0.0, 0.001, 4.0])
    equal(function(scores, 0.5), np.array([False, False, True, True]))
    equal(function(scores, 0.04), np.array([True, True, True, True]))
    equal(function(scores, 0.99), np.array([False, False, False, True]))


def check_l0_mask(function):
    scores, u = np.array([0.0, 3.0, -3.0, 0.5]), np.array([0.5, 0.9, 0.1, 0.25])
    want = [
        min(max(1.2 * nncf.sigmoid((math.log(a) - math.log(1 - a) + s) * 1.5) - 0.1, 0), 1)
        for s, a in zip(scores, u, strict=True)
    ]
    assert want[1:3] == [1, 0]
    close(function(scores, u)[0], want, bounds.gamma(40, U))


def test_l0_gradient():
    """Central differences: the third derivative of the mask is below 1.2 1.5³ / 8 = 0.51."""
    scores, u, upstream = rng(1).normal(size=(4, 5)) * 2, rng(2).uniform(0.01, 0.99, (4, 5)), rng(3).normal(size=(4, 5))
    for function in (lambda s: binarizers.l0_mask(s, u), binarizers.l0_mask_evaluated):
        mask, cache = function(scores)
        assert ((mask >= 0) & (mask <= 1)).all()
        away = (np.abs(1.2 * cache.s - 0.6) > 0.5) == (np.abs(1.2 * cache.s - 0.6) > 0.4999)
        got = binarizers.l0_mask_backward(upstream, cache)
        want = slope_of(lambda s: float((function(s)[0] * upstream).sum()), scores)  # noqa: B023
        assert away.all()
        close(got, want, np.abs(upstream) * 0.51e-10 / 6 + 400 * U / 1e-5)
    assert (binarizers.l0_mask_backward(upstream, binarizers.l0_mask(scores, u)[1]) == 0).any()


def check_row_column_scores_backward(function):
    row, column, upstream = np.array([1.0, -2.0]), np.array([3.0, 5.0, 7.0]), np.arange(6.0).reshape(2, 3)
    drow, dcolumn = function(upstream, row, column)
    equal(drow, np.array([19.0, 64.0]))
    equal(dcolumn, np.array([-6.0, -7.0, -8.0]))
    equal(fine_pruning.row_column_scores(row, column), np.array([[3.0, 5, 7], [-6, -10, -14]]))


def check_filled_heads(function):
    mask = np.zeros((4, 6), bool)
    mask[0, 0] = True
    live = np.array([False, True])
    equal(function(mask, live, True), np.array([[1, 0, 0, 0, 0, 0], [0] * 6, [1] * 6, [1] * 6], bool))
    equal(function(mask, live, False), np.array([[1, 0, 0, 1, 1, 1]] + [[0, 0, 0, 1, 1, 1]] * 3, bool))


def check_fine_pruning_threshold(function):
    plan = FinePruning(steps=20, warmup_steps=4, initial_threshold=0.0, final_threshold=0.1)  # w1 = 4, w2 = 8
    want = [0.0] * 5 + [0.1 + (0.0 - 0.1) * (1 - (t - 4) / 8) ** 3 for t in range(5, 13)] + [0.1] * 8
    assert [function(plan, t) for t in range(21)] == want


def test_nn_pruning():
    check_topk_exact_mask(binarizers.topk_exact_mask)
    check_threshold_mask(binarizers.threshold_mask)
    check_sigmoid_threshold_mask(binarizers.sigmoid_threshold_mask)
    check_l0_mask(binarizers.l0_mask)
    check_row_column_scores_backward(fine_pruning.row_column_scores_backward)
    check_filled_heads(fine_pruning.filled_heads)
    check_fine_pruning_threshold(fine_pruning.fine_pruning_threshold)
    equal(binarizers.magnitude_exact_mask(np.array([[-3.0, 1.0], [2.0, -0.5]]), 0.5), np.array([[1, 0], [1, 0]], bool))
    plan = FinePruning(steps=20, warmup_steps=4, initial_threshold=0.0, final_threshold=0.1, final_lambda=8.0)
    assert [fine_pruning.regu_lambda(plan, t) for t in (0, 20)] == [0, 8]
    equal(fine_pruning.bias_mask(np.array([[False, True], [False, False]])), np.array([True, False]))
    # l0 is the chance that the mask is not 0: 1 - P(s <= 1/12), s = sigmoid((logit u + S) 3/2)
    chance = 1 / (1 + math.exp(2 / 3 * math.log(0.1 / 1.1) - 0.7))
    assert abs(fine_pruning.l0(np.array([0.7])) - chance) <= 20 * U


# --- a mask in training ----------------------------------------------------------------------------------------------


def test_a_full_mask_is_dense_and_an_empty_one_is_nothing():
    w, dw = rng(0).normal(size=(4, 6)).astype(np.float32), rng(1).normal(size=(4, 6)).astype(np.float32)
    for mask, factor in ((np.ones((4, 6), bool), 1), (np.zeros((4, 6), bool), 0)):
        assert masked_weight(w, mask).dtype == np.float32
        equal(masked_weight(w, mask), w * factor)
        equal(masked_weight_backward(dw, mask), dw * factor)
    equal(movement_weight(w, zero_scores(w, (2, 2)), (2, 2), -np.inf)[0], w)
    soft = np.full((4, 6), 0.5, np.float32)
    equal(masked_weight(w, soft), w / 2)
    equal(straight_through(dw, w, (1, 1)), dw * w)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: per_dim((2, 2), 2), ValueError, "axis is 2; need 0 or 1"),
        (lambda: zero_scores(np.ones((3, 4)), (2, 2)), ValueError, "need multiples of the block 2x2"),
        (lambda: movement_mask(np.array([[np.nan]]), (1, 1), 0.0), ValueError, "scores is nan"),
        (lambda: movement_weight(np.ones((2, 2)), np.ones((2, 1)), (1, 1), 0.0), ValueError, "scores has shape"),
        (lambda: movement_weight(np.ones((2, 2)), np.ones((2, 2), np.float32), (1, 1), 0.0), TypeError, "float32"),
        (lambda: masked_weight(np.ones(2), np.ones(2, int)), TypeError, "mask has dtype int64; need bool or float64"),
        (lambda: masked_weight(np.ones(2), np.ones(3, bool)), ValueError, r"mask has shape \(3,\); need \(2,\)"),
        (lambda: stage(PLAN._replace(end_epoch=1), 0), ValueError, "need 0 <= start_epoch < end_epoch"),
        (lambda: stage(PLAN._replace(factor=math.nan), 0), ValueError, "factor >= 0"),
        (lambda: stage(PLAN, -1), ValueError, "step is -1; need at least 0"),
        (lambda: initial_threshold([]), ValueError, "scores is empty"),
        (lambda: independent(nothing(6, 6), True, 4), ValueError, "size is 4; need a divisor of 6"),
        (lambda: independent(Masks(np.ones((2, 2)), np.ones(2)), True, 1), TypeError, "need bool"),
        (lambda: nncf_heads(layer_of(), 3), ValueError, "heads is 3; need a divisor of the 4 rows"),
        (lambda: sparsity([]), ValueError, "masks hold no element"),
        (lambda: binarizers.l0_mask(np.ones(2), np.array([0.0, 0.5])), ValueError, "need 0 < u < 1"),
        (lambda: fine_pruning.fine_pruning_threshold(FinePruning(3, 1), 0), ValueError, "steps is 3; need more than"),
        (lambda: fine_pruning.regu_lambda(FinePruning(9, 1, final_threshold=0), 0), ValueError, "final_threshold is 0"),
        (
            lambda: fine_pruning.filled_heads(np.ones((3, 3), bool), np.ones(2, bool), True),
            ValueError,
            "live has 2 heads; need a divisor of the mask's 3 channels",
        ),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
