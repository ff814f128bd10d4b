"""Rung 8: proofs that a layer cannot saturate, and repairs. Oracles: brute force, the products of rung 1, MiniLM."""

import itertools

import numpy as np
import pytest
from test_1_arithmetic import equal

from refimpl.integer.gemm import gemm_u8s8s32, gemm_u8s8s32_pair_saturating
from refimpl.integer.pairs import add_excess, checked, count_saturated, dense_pairs, unsafe_pairs
from refimpl.nn.layernorm import layernorm
from refimpl.nn.params import Norm
from refimpl.quant import quantize_activation, quantize_weight
from refimpl.saturation import matching, ranges, reduced_range, repairs, u7
from refimpl.saturation.pair_costs import pair_costs
from refimpl.saturation.slots import Slots, as_stored, slot_pairs, weight_of

EDGES = [-128, -127, -65, -64, -63, -1, 0, 1, 63, 64, 65, 127]
LIMITS = [  # largest codes, weights, and whether the pair is unsafe: 32767, 32768, -32768 and -32769 exactly
    ((254, 201), (38, 115), False),
    ((254, 252), (4, 126), True),
    ((254, 252), (-4, -126), False),
    ((254, 241), (-18, -117), True),
]
MOST = [0, 1, 127, 128, 129, 186, 254, 255]


def rng(seed=0):
    return np.random.default_rng(seed)


def weights(m=8, k=32, seed=0):
    """Whole range, with many weights near the ends and at the edges of the test."""
    w = rng(seed).integers(-128, 128, (m, k)).astype(np.int8)
    return np.where(rng(seed + 1).random((m, k)) < 0.4, rng(seed + 2).choice(EDGES, (m, k)), w).astype(np.int8)


def extreme_codes(k, n=64, seed=3):
    """0 and 255 in every combination that matters, and codes between."""
    a = rng(seed).choice([0, 1, 128, 254, 255], (n, k)).astype(np.uint8)
    a[0], a[1] = 255, 0
    return a


# --- the static test -------------------------------------------------------------------------------------------------


def check_unsafe_pairs_below(function):
    """Two pairs a row, every edge weight with every largest code, against Python integers at the corners."""
    for high in itertools.product(MOST, repeat=2):
        w = np.array([[1, *pair, 1] for pair in itertools.product(EDGES, repeat=2)], np.int8)[:, [1, 2, 0, 3]]
        most = np.array([*high, 255, 255])
        corners = list(itertools.product(*([0, top] for top in high)))
        want = [any(not -32768 <= a * x + b * y <= 32767 for a, b in corners) for x, y in w[:, :2].tolist()]
        equal(function(w, most), np.stack([np.array(want), np.zeros(len(w), bool)], 1))
        shifted = function(np.pad(w, ((0, 0), (2, 0))), np.append([0, 0], most))
        equal(shifted[:, 1], np.array(want))
    for most, pair, want in LIMITS:
        equal(function(np.array([pair], np.int8), np.array(most)), np.array([[want]]))


def test_unsafe_pairs_below():
    check_unsafe_pairs_below(unsafe_pairs)


def test_unsafe_pairs_are_those_that_saturate():
    """At the worst codes of each pair an unsafe one is clipped; a safe one never is."""
    w = weights(64, 64)
    unsafe = unsafe_pairs(w)
    for m in range(len(w)):
        for sign in (1, -1):
            a = np.where(w[m] * sign > 0, 255, 0).astype(np.uint8)[None]
            pairs = dense_pairs(w[m : m + 1])
            assert count_saturated(a, pairs) == sum(
                not -32768 <= int(x) <= 32767 for x in (a[0].astype(int) * w[m]).reshape(-1, 2).sum(1)
            )
        assert unsafe[m].sum() == pairs.row.size


@pytest.mark.parametrize(
    ("most", "error", "message"),
    [(1.5, TypeError, "most has dtype float64"), (256, ValueError, "256; need 0 to 255"), (-1, ValueError, "-1; need")],
)
def test_most_is_checked(most, error, message):
    with pytest.raises(error, match=message):
        checked(most)


def check_most_after_norm(function):
    """Inputs that push one channel as far as a layer norm lets it, through the real quantizer."""
    for d in (2, 8, 384):
        p = Norm(rng(d).normal(0, 1, d).astype(np.float32), rng(d + 1).normal(0, 1, d).astype(np.float32), 1e-12)
        x = np.concatenate([np.eye(d), -np.eye(d), 1e6 + np.eye(d), rng(2).normal(size=(50, d))]).astype(np.float32)
        for scale in np.float32([0.02, 0.3, 40]):
            codes = quantize_activation(layernorm(x, p), scale[...])
            most = function(p, scale[...])
            assert (codes <= most).all()
            assert d < 384 or (codes.max(0) >= most - 1).all()  # and no bound is wasteful: sqrt(D - 1) is reached


def test_most_after_norm():
    check_most_after_norm(ranges.most_after_norm)


# --- matching --------------------------------------------------------------------------------------------------------


def check_pair_costs(function):
    w = weights(20, 12)
    for most in (255, rng().choice(MOST, 12)):
        tops = np.broadcast_to(most, 12)
        want = np.zeros((12, 12), np.int32)
        for i, j in itertools.permutations(range(12), 2):
            want[i, j] = unsafe_pairs(w[:, [i, j]], tops[[i, j]]).sum()
        equal(function(w, most), want)


def test_pair_costs():
    check_pair_costs(pair_costs)


def all_matchings(columns):
    if not columns:
        yield []
        return
    for other in columns[1:]:
        rest = [c for c in columns[1:] if c != other]
        yield from ([(columns[0], other), *more] for more in all_matchings(rest))


def test_matching_reaches_the_best_of_all_and_the_bound_is_one():
    for seed in range(20):
        cost = rng(seed).integers(0, 9, (8, 8)).astype(np.int32)
        cost = np.triu(cost, 1) + np.triu(cost, 1).T
        best = min(sum(int(cost[i, j]) for i, j in pairs) for pairs in all_matchings(list(range(8))))
        pairs = matching.match(cost, 30)
        assert sorted(pairs.ravel()) == list(range(8))
        assert matching.lower_bound(cost) <= best == cost[tuple(pairs.T)].sum()


def test_matching_rejects():
    with pytest.raises(ValueError, match="cost has 3 columns; need an even number"):
        matching.match(np.zeros((3, 3), int))
    with pytest.raises(TypeError, match="cost has dtype float64; need integers"):
        matching.match(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"cost has shape \(2, 4\)"):
        matching.lower_bound(np.zeros((2, 4), int))


# --- repairs ---------------------------------------------------------------------------------------------------------


def unsafe_count(slots, most=255):
    return slot_pairs(slots, most).row.size


REPAIRS = {
    "re-paired": (repairs.re_paired, False),
    "within runs": (lambda s, most: repairs.re_paired_within(s, s.columns.size // 2, most), False),
    "zero-paired": (repairs.zero_paired, True),
    "split": (repairs.split, True),
    "re-paired, then split": (lambda s, most: repairs.split(repairs.re_paired(s, most), most), True),
    "re-paired, then zero-paired": (lambda s, most: repairs.zero_paired(repairs.re_paired(s, most), most), True),
}


def check_repair(function, complete):
    """The exact product of the slots is the weight's; what saturates is what the slots' pairs say; none if complete."""
    for m, k in [(4, 8), (1, 8), (12, 36), (5, 64)]:
        w = weights(m, k, seed=k)
        a = extreme_codes(k)
        for most in (255, np.resize(MOST, k)):
            slots = function(as_stored(w), most)
            equal(weight_of(slots, k), w)
            gathered, below = a[:, slots.columns], np.minimum(a, most).astype(np.uint8)
            equal(gemm_u8s8s32(gathered, slots.codes), gemm_u8s8s32(a, w))
            acc = gemm_u8s8s32(below, w)
            add_excess(acc, below, slot_pairs(slots, most))
            equal(acc, gemm_u8s8s32_pair_saturating(below[:, slots.columns], slots.codes))
            assert unsafe_count(slots, most) <= unsafe_count(as_stored(w), most)
            if complete:
                assert unsafe_count(slots, most) == 0
                equal(acc, gemm_u8s8s32(below, w))


@pytest.mark.parametrize("name", REPAIRS)
def test_repairs(name):
    check_repair(*REPAIRS[name])


def test_repairs_of_odd_and_empty_layers():
    for k in (1, 3, 5, 6):
        w = weights(4, k)
        for repair in (repairs.re_paired, repairs.zero_paired, repairs.split):
            slots = repair(as_stored(w))
            equal(weight_of(slots, k), w)
            assert slots.columns.size % 4 == 0
    with pytest.raises(ValueError, match="size is 3; need an even number that divides 6"):
        repairs.re_paired_within(as_stored(weights(4, 6)), 3)


def test_slots_reject():
    with pytest.raises(ValueError, match="columns reach from 0 to 4; need 0 to 3"):
        weight_of(Slots(np.array([0, 4]), weights(2, 2)), 4)
    with pytest.raises(ValueError, match="add up to more than an s8"):
        weight_of(Slots(np.array([0, 0]), np.full((1, 2), 127, np.int8)), 1)


# --- lossy remedies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [reduced_range.nncf_ptq_enable, reduced_range.nncf_legacy_enable])
def test_nncf_ranges(function):
    w = rng().normal(0, 0.2, (40, 50)).astype(np.float32)
    w[3] = 0
    codes, scale = function(w)
    assert codes.min() >= -64
    assert codes.max() <= 63
    assert not unsafe_pairs(codes).any()
    inside = np.abs(codes) < 63
    assert (
        np.abs(codes * scale[:, None] - w)[inside] <= 0.5001 * np.broadcast_to(scale[:, None], w.shape)[inside]
    ).all()


def test_ort_reduce_range():
    w = rng().normal(0, 0.2, (40, 50)).astype(np.float32)
    codes, scale = reduced_range.ort_reduce_range(w)
    assert (np.abs(codes.astype(int)).max(1) == 64).all()
    assert not unsafe_pairs(codes).any()
    assert (np.abs(codes * scale[:, None] - w) <= 0.5001 * scale[:, None]).all()


def test_u7_makes_every_weight_safe():
    assert not unsafe_pairs(weights(64, 64), u7.U7_MOST).any()
    assert unsafe_pairs(np.full((1, 2), -128, np.int8), u7.U7_MOST + 2).all()
    x = rng().normal(size=1000).astype(np.float32)
    codes = u7.quantize_u7(x, u7.u7_scale(np.abs(x).max()[...]))
    assert (codes.min(), codes.max()) in {(1, 127), (1, 126), (2, 127)} or 127 in (codes.max(), 128 - codes.min())


# --- a real model ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm():
    from refimpl.models import compress
    from refimpl.models.embedded import demo_model

    try:
        return compress.load(demo_model())
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_dense_minilm(minilm):
    """Full range weights and u8 activations; every accumulator of an extreme input keeps its bits."""
    from refimpl.models.bert import linears

    before = after = 0
    for name, layer in linears(minilm.model).items():
        w = quantize_weight(layer.weight)[0]
        paired = repairs.re_paired(as_stored(w), rounds=4)
        before, after = before + unsafe_count(as_stored(w)), after + unsafe_count(paired)
        if name.endswith(("0.q", "0.attention_output")):
            assert unsafe_count(paired) <= 1.06 * matching.lower_bound(pair_costs(w))
        complete = repairs.split(paired)
        assert unsafe_count(complete) == 0
        equal(weight_of(complete, w.shape[1]), w)
        if name.startswith("layer.0"):
            a = extreme_codes(w.shape[1], 8)
            exact = gemm_u8s8s32(a, w)
            assert (gemm_u8s8s32_pair_saturating(a, w) != exact).any()
            equal(gemm_u8s8s32_pair_saturating(a[:, complete.columns], complete.codes), exact)
    assert before == 85_238
    assert after <= 0.4 * before
