"""Rung 3: SmoothQuant's scales, bias correction and the searches. Oracles: the formulas in f64, and hand-made cases."""

import numpy as np
import pytest

from refimpl import bounds
from refimpl.nn.layernorm import layernorm
from refimpl.nn.linear import linear
from refimpl.nn.params import Linear, Norm
from refimpl.quant import (
    QuantizedLinear,
    absmax,
    dequantize_weight,
    quantize_weight,
    quantized_linear,
    scale_of,
    smooth,
)
from refimpl.quant import bias_correction as biases
from refimpl.quant.tuning import absolute_goal, fall_back, nmse, relative_goal, restore_accuracy

F32 = np.float32


# --- SmoothQuant -----------------------------------------------------------------------------------------------------


def nncf_scale(activation, weight, alpha):
    a = np.maximum(activation.astype(np.float64), 1e-5)
    w = np.maximum(np.abs(weight.astype(np.float64)).max(0), 1e-5)
    s = a**alpha / w ** (1 - alpha)
    return np.minimum(np.maximum(s, np.quantile(s, 0.1)), 100)


def check_smoothing(function):
    """The formula; both clips; dead channels; the layer with the flattest proposal decides for all."""
    rng = np.random.default_rng(7)
    activation = (np.abs(rng.normal(size=20)) + 0.1).astype(F32)
    activation[[3, 5]] = 1e6, 0
    flat, steep = (rng.normal(size=(4, 20)).astype(F32) for _ in range(2))
    steep[:, 7] *= 1e-4
    for alpha in (0.95, 0.5):
        want = nncf_scale(activation, flat, alpha)
        assert (want == want.min()).sum() == 2  # the quantile lies beyond the second of 20
        np.testing.assert_allclose(function(activation, [flat], alpha), want, rtol=2.0**-20)
    assert function(activation, [flat], 0.95).max() == 100
    ratios = [nncf_scale(activation, w, 0.2) for w in (flat, steep)]
    assert ratios[0].min() / ratios[0].max() > ratios[1].min() / ratios[1].max()
    for weights in ([flat, steep], [steep, flat]):
        np.testing.assert_allclose(function(activation, weights, 0.2), ratios[0], rtol=2.0**-20)


def test_smoothing():
    check_smoothing(smooth.smoothing)


def test_folding_keeps_every_bit_where_s_is_a_power_of_two():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(3, 6)).astype(F32)
    first, second = (Linear(rng.normal(size=(6, 6)).astype(F32), rng.normal(size=6).astype(F32)) for _ in range(2))
    s = (2.0 ** rng.integers(-3, 4, 6)).astype(F32)
    smoothed = smooth.smooth_columns(second, s)
    rows = smooth.fold_into_rows(first, s)
    np.testing.assert_array_equal(linear(linear(x, rows), smoothed), linear(linear(x, first), second))
    norm = Norm(rng.normal(size=6).astype(F32), rng.normal(size=6).astype(F32), 1e-12)
    folded = smooth.fold_into_norm(norm, s)
    np.testing.assert_array_equal(linear(layernorm(x, folded), smoothed), linear(layernorm(x, norm), second))


def quantized(p, x):
    return quantized_linear(x, QuantizedLinear(*quantize_weight(p.weight), scale_of(absmax(x)), p.bias))


def test_an_outlier_channel_costs_less_when_smoothed():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(64, 32)).astype(F32)
    x[:, 4] *= 60
    p = Linear(rng.normal(size=(16, 32)).astype(F32), np.zeros(16, F32))
    s = smooth.smoothing(np.abs(x).max(0), [p.weight])
    exact = linear(x, p)
    plain, smoothed = quantized(p, x), quantized(smooth.smooth_columns(p, s), x * smooth.inverse_of(s))
    assert nmse(exact, smoothed) < nmse(exact, plain) / 4


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: smooth.smoothing(np.ones(2), [np.ones((1, 2), F32)]), TypeError, "activation has dtype float64"),
        (lambda: smooth.smoothing(np.ones(2, F32), []), ValueError, "weights is empty; need at least one layer"),
        (lambda: smooth.smoothing(np.ones(2, F32), [np.ones((1, 2), F32)], 1.5), ValueError, "alpha is 1.5; need 0 to"),
        (lambda: smooth.inverse_of(np.zeros(2, F32)), ValueError, "s has the element 0.0; need every element > 0"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- bias correction -------------------------------------------------------------------------------------------------


def check_rule(rule):
    """Small shifts are added, large ones not; zero and tiny elements say nothing."""
    for bias in ([1, -2, 4], [1, 0, 4], [1, 1e-30, 4], [4, 4, 4]):
        for shift in ([0.5, 0.5, -7], [0.5, 7, 0.25]):
            np.testing.assert_array_equal(rule(F32(bias), F32(shift), 2.0), F32(bias) + F32(shift))
        np.testing.assert_array_equal(rule(F32(bias), F32([0.5, 0.5, -8]), 2.0), F32(bias))
    np.testing.assert_array_equal(rule(np.zeros(2, F32), F32([5, 6]), 2.0), F32([5, 6]))


def check_rule_nncf(rule):
    """The largest ratio decides, and one zero is infinite."""
    np.testing.assert_array_equal(rule(F32([1, 2]), F32([1.5, -3.5]), 2.0), F32([2.5, -1.5]))
    for bias, shift in (([1, 2], [2, 0.5]), ([1, 0], [0.5, 0]), ([1, 1e-30], [0.5, 0.5])):
        np.testing.assert_array_equal(rule(F32(bias), F32(shift), 2.0), F32(bias))


def test_rules():
    check_rule(biases.corrected_bias)
    check_rule_nncf(biases.corrected_bias_nncf)


def test_means_have_one_weight_a_token():
    rng = np.random.default_rng(7)
    state = biases.CHANNEL_MEAN.start
    parts = [rng.normal(size=shape).astype(F32) for shape in [(1, 5, 3), (2, 1, 3)]]
    for part in parts:
        state = biases.CHANNEL_MEAN.see(state, part)
    rows = np.concatenate([part.reshape(-1, 3) for part in parts]).astype(np.float64)
    np.testing.assert_allclose(biases.mean_of(state), rows.mean(0), rtol=0, atol=bounds.gamma(10, bounds.F64) * 4)
    with pytest.raises(ValueError, match="nothing was observed"):
        biases.mean_of(biases.CHANNEL_MEAN.start)


def check_shift_of_weight(function):
    """(W - W_q) mean x; what the quantizer of the input does is not in it."""
    rng = np.random.default_rng(7)
    x = np.abs(rng.normal(size=(50, 8))).astype(F32)
    w = rng.normal(size=(4, 8)).astype(F32)
    q = QuantizedLinear(*quantize_weight(w), F32(0.5)[...], rng.normal(size=4).astype(F32))
    mean_x = x.mean(0, dtype=np.float64)
    mean_y = mean_x @ w.astype(np.float64).T + q.bias
    lost = (w - dequantize_weight(q.codes, q.weight_scale)).astype(np.float64) @ mean_x
    assert np.abs(lost).min() > 1e-5
    np.testing.assert_allclose(function(mean_x, mean_y, q), lost, rtol=0, atol=bounds.gamma(12) * np.abs(lost).max())


def test_shift_of_weight():
    check_shift_of_weight(biases.shift_of_weight)


# --- searches --------------------------------------------------------------------------------------------------------

GAINS = {"a": 0.01, "b": 0.03, "c": -0.02, "d": 0.02}
NAMES = list(GAINS)


def additive(kept):
    return 0.8 + sum(GAINS[name] for name in kept)


def steps(tuned):
    return [trial.step for trial in tuned.trials]


RANKING = [f"rank {name}" for name in NAMES]


def check_restore(search):
    """Best first by the ranking; one worsening step is taken, a second is taken back and the rest ranked again."""
    tuned = search(NAMES, additive, 0.845)
    assert (tuned.kept, tuned.reached) == (frozenset("bd"), True)
    assert steps(tuned) == ["all quantized", *RANKING, "keep b", "keep d"]
    good = search(NAMES, additive, 0.8)
    assert (good.kept, good.reached, steps(good)) == (frozenset(), True, ["all quantized"])
    fail = search(NAMES, additive, 2)
    assert (fail.kept, fail.reached) == (frozenset(NAMES), False)

    values = {"": 0.5, "a": 0.4, "ab": 0.3, "ac": 0.2, "abc": 0.1, "acd": 0.9}
    scores = {"a": 4, "b": 3, "c": 2, "d": 1, "ab": 1, "ac": 2, "ad": 0, "abc": 0, "acd": 1}
    tuned = search(NAMES, lambda kept: values["".join(sorted(kept))], 0.85, lambda kept: scores["".join(sorted(kept))])
    first, second = ["rank d", "rank c", "rank b"], ["rank d", "rank b"]
    tried = ["all quantized", *RANKING, "keep a", "keep b", *first, "keep c", "keep b", *second, "keep d"]
    assert steps(tuned) == tried
    assert (tuned.kept, tuned.reached) == (frozenset("acd"), True)


def test_restore_accuracy():
    check_restore(restore_accuracy)


def test_when_no_layer_is_left_the_result_says_whether_it_is_good():
    tuned = restore_accuracy(["a"], additive, 0.805)
    assert (tuned.kept, tuned.reached) == (frozenset("a"), True)


def check_fall_back(search):
    """Alone, last first; then added up in the order of the best; the best of all if nothing is good enough."""
    tuned = search(NAMES, additive, 0.855)
    assert steps(tuned) == ["all quantized", "d alone", "c alone", "b alone", "a alone", "and d", "and a"]
    assert (tuned.kept, tuned.reached) == (frozenset("bda"), True)
    assert steps(search(NAMES, additive, 0.825)) == ["all quantized", "d alone", "c alone", "b alone"]
    assert search(NAMES, additive, 0.825).kept == frozenset("b")
    fail = search(NAMES, additive, 2)
    assert (fail.kept, fail.reached, len(fail.trials)) == (frozenset("bda"), False, 8)
    for most in (1, 3, 6):
        assert len(search(NAMES, additive, 2, most).trials) == most


def test_fall_back():
    check_fall_back(fall_back)


def test_goals():
    assert absolute_goal(0.9) == pytest.approx(0.89)
    assert relative_goal(0.9) == pytest.approx(0.891)
    with pytest.raises(ValueError, match="reference is -1; need >= 0, or an absolute goal"):
        relative_goal(-1)
