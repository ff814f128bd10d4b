"""Rung 8: criteria, block reductions, schedules, locks, and Intel Neural Compressor's rankings. Oracles: numbers worked
by hand, exact fractions, sorting in Python.

A ``check_*`` function takes the implementation under test, so that tests/mutants_prune.py can hand it wrong ones.
"""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_1_arithmetic import equal, rng

from refimpl import bounds
from refimpl.prune import block_max, block_mean, block_sum, expand, kth_mask, topk_mask
from refimpl.prune.blocks import block_count, block_total
from refimpl.prune.criteria import gradient, magnitude, movement, snip, snip_momentum_inc_code, snip_momentum_inc_readme
from refimpl.prune.inc_global import Ranked, inc_global_masks, unpruned
from refimpl.prune.lock import lock_mask, lock_mask_inc
from refimpl.prune.progressive import progressive_masks, progressive_step
from refimpl.prune.rewinding import Rewinding, linear_rewinding
from refimpl.prune.schedules import (
    inc_cos,
    inc_cube,
    inc_events,
    inc_exp,
    inc_linear,
    is_event,
    zhu_gupta_cubic,
)

# --- criteria and blocks ---------------------------------------------------------------------------------------------

W, DW, OLD = (np.float32(x) for x in ([[-2, 0.5], [0, 4]], [[3, -8], [7, 0.25]], [[10, 0], [20, 40]]))


def check_snip_momentum(function):
    """Two steps of Intel Neural Compressor's code, from zeros: dyadic but for 0.9."""
    first = function(np.zeros_like(W), W, DW)
    equal(first, np.float32([[6, 4], [0, 1]]))
    equal(function(OLD, W, DW), OLD * np.float32(0.9) + np.float32([[6, 4], [0, 1]]))


def check_snip_momentum_readme(function):
    equal(function(OLD, W, DW), OLD + np.float32([[6, 4], [0, 1]]) * np.float32(0.9))


def test_criteria():
    equal(magnitude(W), np.float32([[2, 0.5], [0, 4]]))
    equal(gradient(DW), np.float32([[3, 8], [7, 0.25]]))
    equal(snip(W, DW), np.float32([[6, 4], [0, 1]]))
    check_snip_momentum(snip_momentum_inc_code)
    check_snip_momentum_readme(snip_momentum_inc_readme)
    check_movement(movement)


def check_movement(function):
    """The sum of Sanh et al., section 3: signs stay, nothing is forgotten."""
    first = function(np.zeros_like(W), W, DW)
    equal(first, np.float32([[6, 4], [0, -1]]))
    equal(function(first, W, DW), np.float32([[12, 8], [0, -2]]))


def test_reductions():
    """Of blocks of four outputs, signs kept: what is reduced is a criterion's business."""
    scores = np.float32([[1, -1], [2, 5], [3, 0], [6, 4]])
    equal(block_mean(scores), np.array([[3.0, 2]]))
    equal(block_sum(scores), np.array([[12.0, 8]]))
    equal(block_max(scores), np.array([[6.0, 5]]))
    equal(block_max(scores, (2, 2)), np.array([[5.0], [6]]))
    equal(block_sum(scores[:, 0], (2,)), np.array([3.0, 9]))
    equal(block_total(scores, (4, 1)), np.float32([[12, 8]]))
    assert block_count(scores, (2, 1)) == (2, 2)


@pytest.mark.parametrize("block", [(4, 1), (1, 4), (2, 3), (3, 8)])
def test_mean_sum_and_max_on_any_block(block):
    w = np.abs(rng(5).normal(size=(12, 24)))
    for i, j in np.ndindex(12 // block[0], 24 // block[1]):
        part = w[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]].ravel().tolist()
        exact = float(sum(map(Fraction, part)))
        error = bounds.gamma(len(part), bounds.F64) * exact
        assert abs(block_sum(w, block)[i, j] - exact) <= error
        assert abs(block_mean(w, block)[i, j] - exact / len(part)) <= bounds.gamma(3, bounds.F64) * exact + error
        assert block_max(w, block)[i, j] == max(part)


def check_kth_mask(function):
    """int(sparsity n) go, and ties."""
    for n, percent in [(10, 90), (10, 10), (7, 50), (4, 75), (3, 0), (3, 100)]:
        scores = [float(i * 7 % n) for i in range(n)]
        gone = int(percent / 100 * n)
        want = [gone == 0 or s > sorted(scores)[gone - 1] for s in scores]
        assert function(np.array(scores), percent / 100).tolist() == want
    assert function(np.array([1.0, 1.0, 2.0]), 0.34).tolist() == [False, False, True]
    assert function(np.arange(10.0), 1 - 0.9).all()  # the trap: int(0.9999...)


# --- schedules -------------------------------------------------------------------------------------------------------


def check_zhu_gupta_cubic(function):
    """In fractions, and before and after."""
    for t in range(0, 120, 7):
        left = Fraction(min(max(100 - (t - 10), 0), 100), 100) ** 3 if t >= 10 else 1
        want = Fraction(1, 4) + Fraction(1, 2) * (1 - left)
        assert abs(Fraction(function(t, 10, 110, 0.25, 0.75)) - want) <= Fraction(1, 2**50)
    assert function(0, 10, 110, 0.25, 0.75) == 0.25
    assert function(10**6, 10, 110, 0.25, 0.75) == 0.75


def check_inc_cube(function):
    assert [function(t / 4, 0.0, 0.5) for t in range(5)] == [0.5 * (t / 4) ** 3 for t in range(5)]
    assert function(0.5, 0.5, 1.0) == 0.5625


def check_inc_exp(function):
    """Each event keeps the same share of what is left: the square root, after half the way."""
    assert function(0.0, 0.5, 0.875) == 0.5
    assert function(1.0, 0.5, 0.875) == 0.875
    assert function(0.5, 0.5, 0.875) == 0.75
    left = [1 - function(t / 5, 0.0, 0.9) for t in range(6)]
    shares = [b / a for a, b in pairwise(left)]
    assert max(shares) - min(shares) <= 200 * bounds.F64


def check_inc_cos(function):
    assert function(0.0, 0.25, 0.75) == 0.25
    assert abs(function(1.0, 0.25, 0.75) - 0.75) <= 4 * bounds.F64
    assert abs(function(1 / 3, 0.0, 1.0) - (1 - math.sqrt(3) / 2)) <= 8 * bounds.F64


def check_inc_events(function):
    assert [function(*case) for case in [(0, 1000, 100), (0, 999, 100), (10, 10, 5), (0, 4, 5), (1, 11, 5)]] == [
        10, 9, 0, 0, 2,
    ]  # fmt: skip


def check_is_event(function):
    assert [step for step in range(20) if function(step, 3, 13, 5)] == [3, 8, 13]
    assert [step for step in range(20) if function(step, 3, 12, 5)] == [3, 8]


def check_linear_rewinding(function):
    """Twelve steps, four of them pruning in two teeth: as long as eight."""
    plan = Rewinding(steps=14, warmup=2, start=4, end=8, interval=2)  # T' = 10, 8 after the warm-up
    want = [0, 1 / 2, 8 / 8, 7 / 8, 6 / 8, 5 / 8, 6 / 8, 5 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0, 0]
    assert [function(t, plan) for t in range(16)] == want
    late = Rewinding(steps=4, warmup=0, start=0, end=4, interval=3)
    assert [function(t, late) for t in range(5)] == [0.0, 0.0, 0.0, 0.0, 0.0]


def test_schedules():
    check_zhu_gupta_cubic(zhu_gupta_cubic)
    check_inc_cube(inc_cube)
    check_inc_exp(inc_exp)
    check_inc_cos(inc_cos)
    check_inc_events(inc_events)
    check_is_event(is_event)
    check_linear_rewinding(linear_rewinding)
    assert inc_linear(0.25, 0.5, 1.0) == 0.625


@pytest.mark.parametrize("schedule", [inc_exp, inc_cos, inc_linear, inc_cube])
def test_schedules_rise_from_the_first_to_the_last(schedule):
    values = [schedule(t / 50, 0.1, 0.9) for t in range(51)]
    assert values == sorted(values)
    assert abs(values[0] - 0.1) <= 4 * bounds.F64
    assert abs(values[-1] - 0.9) <= 4 * bounds.F64


# --- locks -----------------------------------------------------------------------------------------------------------

CANCELLING = np.array([[1, 0, 0], [-1, 0, 3], [0, 0, 0], [0, 0, 0]])


def check_lock_mask(function):
    for dtype in (np.int8, np.float32):
        equal(function(CANCELLING.astype(dtype)), np.array([[1, 0, 0], [1, 0, 1], [0, 0, 0], [0, 0, 0]], bool))


def test_locks():
    check_lock_mask(lock_mask)
    for dtype in (np.int8, np.float32):
        equal(lock_mask_inc(CANCELLING.astype(dtype)), np.tile([False, False, True], (4, 1)))
    w = rng(0).normal(size=(8, 6)).astype(np.float32)  # real weights do not cancel
    w[4:, 2] = 0
    equal(lock_mask_inc(w), lock_mask(w))
    assert lock_mask(w).sum() == 44


@pytest.mark.parametrize("block", [(4, 1), (1, 1), (8, 16), (64, 1)])
def test_a_lock_keeps_what_a_mask_pruned(block):
    w = rng(1).normal(size=(64, 32)).astype(np.float32)
    mask = expand(topk_mask(block_mean(np.abs(w), block), 0.3), block)
    equal(lock_mask(w * mask), mask)


# --- all layers together ---------------------------------------------------------------------------------------------


def lists(masks):
    return {name: mask.tolist() for name, mask in masks.items()}


def inc_by_sorting(scores, before, full, sparsity, target, cap):
    """The rule of Intel Neural Compressor in Python lists: scores and masks by layer, flat."""
    masks, full = {name: list(mask) for name, mask in before.items()}, set(full)
    gone = {name: mask.count(False) for name, mask in masks.items()}
    total = sum(map(len, masks.values()))
    left = int(total * sparsity) - sum(gone[name] for name in full)
    if left <= 0:
        return masks, full
    last = None
    while (now := [name for name in scores if name not in full]) and now != last:
        last = now
        pool = sorted(s for name in now for s in scores[name])
        cut = pool[min(left, len(pool)) - 1] if left > 0 else -math.inf
        for name in now:
            n = len(scores[name])
            count = sum(s <= cut for s in scores[name])
            share, wrong = count / n, count / n > cap
            if wrong:
                share, count = cap, int(n * cap)
            over = count + sum(gone[other] for other in gone if other != name) - int(total * target)
            if over > 0:
                share, wrong = (count - over) / n, True
            own = int(max(share, 0.0) * n)
            own_cut = (sorted(scores[name])[own - 1] if own else -math.inf) if wrong else cut
            masks[name] = [s > own_cut for s in scores[name]]
            gone[name] = masks[name].count(False)
            if wrong:
                full.add(name)
                left -= gone[name]
    return masks, full


def check_inc_global_masks(function):
    low, high = np.arange(100.0) / 1000, np.arange(100.0) + 1
    scores = {"a": low.reshape(10, 10), "b": high.reshape(10, 10)}
    got = function(scores, unpruned(scores), 0.6, 0.9)
    assert {name: int((~mask).sum()) for name, mask in got.masks.items()} == {"a": 98, "b": 22}
    assert got.full == {"a"}
    later = function({"a": scores["a"][::-1], "b": scores["b"]}, got, 0.9, 0.9)  # a is full: its scores do not matter
    equal(later.masks["a"], got.masks["a"])
    assert int((~later.masks["b"]).sum()) == 180 - 98
    assert function(scores, got, 0.4, 0.9) is got  # 80 are fewer than a has already lost
    plain = function({"a": np.array([[1.0, 2.0, 2.0, 3.0]])}, unpruned({"a": np.zeros((1, 4))}), 0.5, 0.9)
    assert lists(plain.masks) == {"a": [[False, False, False, True]]}  # a tie goes: 3 of 4, not more than 0.9 * 4 = 3
    ties = {"x": np.ones((1, 4)), "y": np.array([[1.0, 1.0, 5.0, 6.0]])}
    got = function(ties, unpruned(ties), 0.5, 0.5)  # x is over the cap, ties make it all; then y must give all back
    assert lists(got.masks) == {"x": [[False] * 4], "y": [[True] * 4]}
    assert got.full == {"x", "y"}


LAYERS = st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 9), min_size=1, max_size=60), min_size=1)


@settings(max_examples=150, deadline=None)
@given(LAYERS, st.lists(st.floats(0, 1), min_size=1, max_size=4), st.sampled_from([0.98, 0.7, 0.5]))
def test_inc_global_masks_by_sorting(layers, events, cap):
    scores = {name: np.array([values], np.float64) for name, values in layers.items()}
    state, events = unpruned(scores), sorted(events)
    want, full = {name: mask[0].tolist() for name, mask in state.masks.items()}, set()
    for sparsity in events:
        state = inc_global_masks(scores, state, sparsity, events[-1], cap)
        want, full = inc_by_sorting(layers, want, full, sparsity, events[-1], cap)
        assert {name: mask[0].tolist() for name, mask in state.masks.items()} == want
        assert state.full == full


def test_without_ties_the_count_is_exact():
    scores = {name: rng(i).normal(size=(40, 50)) for i, name in enumerate("abc")}
    scores["a"] -= 3  # more than 98 % of it would go
    state = unpruned(scores)
    for sparsity in (0.2, 0.4, 0.6, 0.8):
        state = inc_global_masks(scores, state, sparsity, 0.8)
        assert sum(int((~mask).sum()) for mask in state.masks.values()) == int(6000 * sparsity)
        assert max(1 - mask.mean() for mask in state.masks.values()) <= 0.98


# --- progressive -----------------------------------------------------------------------------------------------------


def check_progressive_masks(function):
    """Eight new elements in two blocks of two layers: two a step, the weakest of all first."""
    before = {"a": np.array([[True, False]] * 4), "b": np.ones((4, 1), bool)}
    after = {"a": np.zeros((4, 2), bool), "b": np.zeros((4, 1), bool)}
    scores = {"a": np.array([[1.0, 0], [2, 0], [3, 0], [9, 0]]), "b": np.array([[8.0], [7], [0.5], [6]])}
    order = [("b", 2), ("a", 0), ("a", 1), ("a", 2), ("b", 3), ("b", 1), ("b", 0), ("a", 3)]
    for step in (1, 2, 3, 4):
        got = function(before, after, scores, step)
        gone = [(name, i) for name, i in order if not got[name][i, 0]]
        assert gone == order[: 2 * step]
        assert not got["a"][:, 1].any()
    tie = {"a": np.ones((4, 2)), "b": np.full((4, 1), 2.0)}
    assert [int(mask.sum()) for mask in function(before, after, tie, 1).values()] == [0, 4]
    same = function(before, before, scores, 2)
    equal(same["a"], before["a"])
    kept = {"a": before["a"].copy(), "b": after["b"]}  # what lives on is not touched, however weak
    assert function(before, kept, scores, 3)["a"].sum() == 4


def check_progressive_step(function):
    assert [function(step, 8) for step in range(8)] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [function(step, 11) for step in range(11)] == [1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 4]
    assert [function(step, 4) for step in range(4)] == [1, 2, 3, 4]
    assert [function(step, 3) for step in range(3)] == [1, 1, 1]


def test_inc():
    check_kth_mask(kth_mask)
    check_inc_global_masks(inc_global_masks)
    check_progressive_masks(progressive_masks)
    check_progressive_step(progressive_step)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: magnitude(np.ones(2, int)), TypeError, "w has dtype int64"),
        (lambda: snip(W, DW.astype(np.float64)), TypeError, "dw has dtype float64; need float32"),
        (lambda: snip(W, DW[0]), ValueError, r"dw has shape \(2,\); need \(2, 2\)"),
        (lambda: snip_momentum_inc_code(OLD[0], W, DW), ValueError, r"scores has shape \(2,\)"),
        (lambda: block_sum(np.full((4, 1), np.inf)), ValueError, "w is inf at"),
        (lambda: kth_mask(np.ones(2), 2), ValueError, "sparsity is 2; need 0 to 1"),
        (lambda: zhu_gupta_cubic(0, 5, 5, 0, 1), ValueError, "start and end are 5 and 5; need start < end"),
        (lambda: zhu_gupta_cubic(0, 0, 5, 0, 1.5), ValueError, "final is 1.5; need 0 to 1"),
        (lambda: inc_cos(2, 0, 1), ValueError, "progress is 2; need 0 to 1"),
        (lambda: inc_exp(0.5, 1, 1), ValueError, "initial is 1; need less"),
        (lambda: inc_events(5, 4, 1), ValueError, "start, end and frequency are 5, 4, 1; need"),
        (lambda: is_event(0, 0, 4, 0), ValueError, "need start <= end, frequency >= 1"),
        (lambda: linear_rewinding(0, Rewinding(9, 0, 2, 2, 1)), ValueError, "need start < end"),
        (lambda: linear_rewinding(0, Rewinding(9, 0, 2, 4, 0)), ValueError, "interval is 0; need at least 1"),
        (lambda: inc_global_masks({"a": W}, Ranked({}), 0.5, 0.5), ValueError, "before has masks for"),
        (lambda: inc_global_masks({"a": W}, unpruned({"a": W[0]}), 0.5, 0.5), ValueError, r"mask of a has shape \(2,"),
        (lambda: inc_global_masks({"a": W}, unpruned({"a": W}), 0.5, 2), ValueError, "target is 2; need 0 to 1"),
        (lambda: progressive_step(8, 8), ValueError, "since_event is 8; need 0 to 7"),
        (lambda: progressive_masks({}, {}, {}, 5), ValueError, "step is 5; need 1 to 4"),
        (lambda: progressive_masks({"a": W > 0}, {"a": W > 0}, {"a": W}, 1), ValueError, "need every element >= 0"),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
