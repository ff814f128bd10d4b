"""Rung 8: pruning. Oracles: matrices worked by hand, sorting in Python, exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.prune import BLOCK_4X1, block_scores, expand, global_topk_masks, live_blocks, topk_mask
from refimpl.prune.masks import cutoff

BLOCKS = [(4, 1), (1, 4), (1, 1), (2, 3), (32, 32)]

# Eight output channels, four input channels. A block is four consecutive outputs of one input: a column's half.
BY_HAND = np.array(
    [
        [1, 0, -8, 0],
        [1, 0, 0, 0],
        [-1, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 2, 0, 5],
        [0, -2, 0, -5],
        [0, 2, 0, 5],
        [0, 2, 0, 5],
    ],
    np.float32,
)
BY_HAND_SCORES = [[1, 0, 2, 0], [0, 2, 0, 5]]
BY_HAND_LIVE = [[True, False, True, False], [False, True, False, True]]


def check_block_scores(function):
    np.testing.assert_array_equal(function(BY_HAND), BY_HAND_SCORES)
    for rows, columns in BLOCKS:
        w = np.random.default_rng(rows).normal(size=(2 * rows, 3 * columns)).astype(np.float32)
        got = function(w, (rows, columns))
        assert got.dtype == np.float64
        assert got.shape == (2, 3)
        for i, j in np.ndindex(2, 3):
            block = w[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].ravel().tolist()
            exact = sum(map(Fraction, map(abs, block))) / len(block)
            n = len(block)  # n - 1 additions and one division, in f64
            assert abs(Fraction(float(got[i, j])) - exact) <= exact * n * Fraction(1, 2**53 - n)


def check_live_blocks(function):
    np.testing.assert_array_equal(function(BY_HAND), BY_HAND_LIVE)
    np.testing.assert_array_equal(function(BY_HAND.astype(np.int8)), BY_HAND_LIVE)
    cancelling = np.array([[1], [-1], [0], [0]], np.int8)
    assert function(cancelling).tolist() == [[True]]


def check_expand(function):
    mask = np.array([[True, False, True], [False, True, True]])
    for rows, columns in BLOCKS:
        got = function(mask, (rows, columns))
        assert got.shape == (2 * rows, 3 * columns)
        for i, j in np.ndindex(got.shape):
            assert got[i, j] == mask[i // rows, j // columns]
    np.testing.assert_array_equal(function(np.array(BY_HAND_LIVE)) & (BY_HAND != 0), BY_HAND != 0)


def keep_by_sorting(scores, density):
    """The rule in Python: sort, take the last pruned score, keep what is greater."""
    pruned = len(scores) - round(density * len(scores))
    return [pruned == 0 or s > sorted(scores)[pruned - 1] for s in scores]


def check_topk_mask(function):
    cases = [([3.0, 1.0, 2.0, 1.0], d / 8) for d in range(9)]  # ties
    cases += [([1.0] * 5, 0.4), ([0.0, 0.0, 0.0, 1.0], 0.5)]
    cases += [([float(i * 7 % n) for i in range(n)], d / 10) for n in (1, 2, 3, 5, 7, 10, 100) for d in range(11)]
    for scores, density in cases:
        for dtype in (np.float32, np.float64):
            got = function(np.array(scores, dtype), density)
            assert got.dtype == np.bool_
            assert got.tolist() == keep_by_sorting(scores, density), (scores, density)


def check_global_topk_masks(function):
    """The second layer has the larger scores, so it keeps more; a rule per layer would keep half of each."""
    layers = {"a": np.array([[1.0, 2.0], [3.0, 9.0]]), "b": np.array([4.0, 5.0, 6.0, 7.0])}
    got = function(layers, 0.5)
    assert list(got) == ["a", "b"]
    assert got["a"].tolist() == [[False, False], [False, True]]
    assert got["b"].tolist() == [False, True, True, True]
    near = {"f32": np.array([1], np.float32), "f64": np.array([1 - 1e-12, 2.0])}  # f32(1 - 1e-12) is 1
    assert {k: v.tolist() for k, v in function(near, 2 / 3).items()} == {"f32": [True], "f64": [False, True]}


def test_pruning():
    check_block_scores(block_scores)
    check_live_blocks(live_blocks)
    check_expand(expand)
    check_topk_mask(topk_mask)
    check_global_topk_masks(global_topk_masks)


def test_blocks_lie_along_the_output():
    assert BLOCK_4X1 == (4, 1)
    w = np.zeros((8, 8), np.float32)
    w[:4, 2] = 1  # four outputs of input 2: one block
    assert live_blocks(w).sum() == 1
    w = np.zeros((8, 8), np.float32)
    w[2, :4] = 1  # four inputs of output 2: four blocks
    assert live_blocks(w).sum() == 4


def test_density_0_and_1():
    scores = np.array([0.0, -1.0, 5.0, 5.0], np.float32)
    assert not topk_mask(scores, 0).any()
    assert topk_mask(scores, 1).all()
    assert cutoff(scores, 1) == -np.inf


@pytest.mark.parametrize("n", [10, 20, 50, 100, 1000])
def test_the_kept_share_is_what_was_asked(n):
    """Without ties, exactly: 1 - 0.9 is 0.0999..., and int(sparsity n) would prune one too few."""
    for percent in range(0, 101, 10):
        assert topk_mask(np.arange(n, dtype=np.float64), percent / 100).sum() == percent * n // 100


def test_half_a_score_rounds_to_even():
    assert topk_mask(np.arange(5.0), 0.5).sum() == 2
    assert topk_mask(np.arange(7.0), 0.5).sum() == 4


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.floats(0, 1))
def test_topk_mask_on_any_scores(scores, density):
    got = topk_mask(np.array(scores, np.float64), density)
    assert got.tolist() == keep_by_sorting(scores, density)
    assert got.sum() <= round(density * len(scores))  # ties prune more, never less


def test_prune_to_4x1_at_a_bert_shape():
    """Scores -> mask -> expanded -> live blocks is the mask again, at 20 % density."""
    w = np.random.default_rng(0).normal(size=(1536, 384)).astype(np.float32)
    mask = topk_mask(block_scores(w), 0.2)
    assert mask.sum() == round(0.2 * mask.size)
    pruned = np.where(expand(mask), w, 0)
    np.testing.assert_array_equal(live_blocks(pruned), mask)
    assert block_scores(w)[mask].min() > block_scores(w)[~mask].max()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: block_scores(np.zeros((4, 4), int)), TypeError, "w has dtype int64; need float32 or float64"),
        (lambda: block_scores(np.full((4, 1), np.nan)), ValueError, r"w is nan at \[0, 0\]; need finite numbers"),
        (lambda: block_scores(np.zeros(4)), ValueError, r"w has shape \(4,\); need \(M, K\)"),
        (lambda: block_scores(np.zeros((6, 4))), ValueError, r"w has shape \(6, 4\); need multiples of the block 4x1"),
        (lambda: live_blocks(np.zeros((4, 6)), (1, 4)), ValueError, "need multiples of the block 1x4"),
        (lambda: expand(np.zeros((1, 1), int)), TypeError, "mask has dtype int64; need bool"),
        (lambda: topk_mask(np.zeros(2, int), 0.5), TypeError, "scores has dtype int64; need float32 or float64"),
        (lambda: topk_mask(np.array([np.inf]), 0.5), ValueError, r"scores is inf at \[0\]; need finite numbers"),
        (lambda: topk_mask(np.zeros(2), 1.5), ValueError, "density is 1.5; need 0 to 1"),
        (lambda: topk_mask(np.zeros(2), float("nan")), ValueError, "density is nan; need 0 to 1"),
        (lambda: global_topk_masks({"a": np.zeros(2)}, -0.1), ValueError, "density is -0.1; need 0 to 1"),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
