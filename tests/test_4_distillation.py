"""Rung 4: distillation losses. Oracles: torch autograd (a golden file), and central differences in f64.

A central difference D = (f(x + h) - f(x - h)) / 2h is off by at most h**2 / 6 max |f'''|, and by the rounding of f,
r F / h, where F sums the magnitudes of all terms of f and r = gamma(number of operations that a term goes through).
Along one logit, log sum exp(s / T) has the third derivative p (1 - p) (1 - 2 p) / T**3, at most 0.1 / T**3. Along one
state, cos = u.s / |s| has at most 12 / |s|**3 (u.s times 6 / |s|**4, and 3 u_i times 2 / |s|**3; |u| = 1), and |s| at
most 1.2 / |s|**2 (3 c**2 x / |s|**5, x the state, c the rest).
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file

from refimpl import distil
from refimpl.bounds import F64, gamma
from refimpl.distil import mixing
from refimpl.distil.loss import Loss
from refimpl.nn.params import Linear

H = 2.0**-12


class Case(NamedTuple):
    """inputs: names in the golden file of student and teacher; third: bound of |f'''|; arguments: those of the loss."""

    function: Callable
    inputs: tuple[str, str]
    third: Callable[[np.ndarray], float]
    arguments: tuple = ()
    masked: bool = False


def quadratic(s):
    return 0.0


def tempered_cross_entropy(student, teacher, temperature=1.0):
    return distil.tempered(distil.soft_cross_entropy, student, teacher, temperature)


CASES = {
    "kl_batchmean": Case(distil.kl_batchmean, ("s", "t"), lambda s: 0.1 / (len(s) * 2), (2.0,)),
    "kl_element_mean": Case(distil.kl_element_mean, ("s", "t"), lambda s: 0.1 / (s.size * 3), (3.0,)),
    "soft_cross_entropy": Case(distil.soft_cross_entropy, ("s", "t"), lambda s: 0.1 / (len(s) * 2), (2.0,)),
    "mse_logits": Case(distil.mse_logits, ("s", "t"), quadratic),
    "mse_inc": Case(distil.mse_logits, ("s", "t"), quadratic),
    "kl_tokens": Case(distil.kl_tokens, ("s3", "t3"), lambda s: 0.1 / 2, (2.0,), masked=True),
    "mse_tokens": Case(distil.mse_tokens, ("s3", "t3"), quadratic, masked=True),
    "cosine_tokens": Case(
        distil.cosine_tokens, ("s3", "t3"), lambda s: 12 / (np.linalg.norm(s, axis=-1).min() - H) ** 3, masked=True
    ),
    "hidden_mse": Case(distil.hidden_mse, ("s3", "t3"), quadratic),
    "hidden_l1": Case(distil.hidden_l1, ("s3", "t3"), quadratic),
    "l2_distance": Case(
        distil.l2_distance, ("s3", "t3"), lambda s: 1.2 / (np.linalg.norm(s - golden()["t3"]) - H) ** 2
    ),
    "tempered": Case(tempered_cross_entropy, ("s", "t"), lambda s: 0.1 / (len(s) * 8), (2.0,)),
    "hidden_kl": Case(distil.hidden_kl, ("s3", "t3"), lambda s: 0.1 / s.size),
    "hidden_kl_unmatched_inc": Case(distil.hidden_kl_unmatched_inc, ("s3", "t3"), lambda s: 0.2 / s.size),
}


@cache
def golden() -> dict[str, np.ndarray]:
    return load_file(Path(__file__).parent / "golden" / "distillation" / "losses.safetensors")


def run(case: Case, student: np.ndarray, function: Callable | None = None) -> Loss:
    tensors = golden()
    masks = (tensors["mask"],) if case.masked else ()
    return (function or case.function)(student, tensors[case.inputs[1]].astype(student.dtype), *masks, *case.arguments)


def rounding(case: Case) -> float:
    """Magnitude of all terms times gamma: no logit, log probability or square in the file is beyond 8, 16 or 64."""
    s, t = (golden()[name] for name in case.inputs)
    largest = max(np.abs(s).max(), np.abs(t).max())
    assert largest < 8
    return gamma(4 * s.size + 100, F64) * 9 * (4 * largest**2 + 2 * largest + np.log(s.size))


def check_loss(name: str, function: Callable) -> None:
    """Value and gradient of torch, and every element against a central difference."""
    case, student = CASES[name], golden()[CASES[name].inputs[0]]
    loss = run(case, student, function)
    bound = rounding(case)
    assert loss.value.shape == ()
    assert abs(loss.value - golden()[f"{name}.value"]) <= bound
    assert loss.gradient.shape == student.shape
    np.testing.assert_allclose(loss.gradient, golden()[f"{name}.gradient"], rtol=0, atol=bound)
    difference = np.empty_like(student)
    for at in np.ndindex(student.shape):
        step = np.zeros_like(student)
        step[at] = H
        above, below = (run(case, student + sign * step, function).value for sign in (1, -1))
        difference[at] = (above - below) / (2 * H)
    np.testing.assert_allclose(loss.gradient, difference, rtol=0, atol=H**2 / 6 * case.third(student) + bound / H)


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name):
    check_loss(name, CASES[name].function)


@pytest.mark.parametrize("name", CASES)
def test_f32_in_f32_out(name):
    case = CASES[name]
    loss = run(case, golden()[case.inputs[0]].astype(np.float32))
    assert (loss.value.dtype, loss.gradient.dtype) == (np.float32, np.float32)
    exact = run(case, golden()[case.inputs[0]].astype(np.float32).astype(np.float64))
    wide = 2.0**29 * rounding(case) * 2  # the same count of roundings in f32, and the teacher rounded too
    assert abs(loss.value - exact.value) <= wide
    np.testing.assert_allclose(loss.gradient, exact.gradient, rtol=0, atol=wide)


def test_probabilities_stay_what_they_are_in_incs_divergence():
    tensors = golden()
    loss = distil.hidden_kl_unmatched_inc(tensors["probs_s"], tensors["probs_t"])
    name = "hidden_kl_unmatched_inc_probabilities"
    np.testing.assert_allclose(loss.value, tensors[f"{name}.value"], rtol=gamma(200, F64))
    np.testing.assert_allclose(loss.gradient, tensors[f"{name}.gradient"], rtol=gamma(10, F64))


def test_start_and_end_are_averaged():
    tensors = golden()
    loss = distil.start_end(distil.kl_batchmean, tensors["s3"], tensors["t3"])
    np.testing.assert_allclose(loss.value, tensors["start_end.value"], rtol=gamma(1000, F64))
    bound = rounding(CASES["kl_tokens"])
    np.testing.assert_allclose(loss.gradient, tensors["start_end.gradient"], rtol=0, atol=bound)


def test_the_matcher_gets_gradients():
    tensors = golden()
    matcher = Linear(tensors["matcher"], tensors["matcher_bias"])
    loss = distil.matched(distil.hidden_mse, tensors["s3"], tensors["wide"], matcher)
    for field in loss._fields:
        want = tensors[f"matched.{field}"]
        np.testing.assert_allclose(getattr(loss, field), want, rtol=0, atol=gamma(200, F64) * 100)


def test_a_student_that_equals_its_teacher_has_no_gradient():
    tensors = golden()
    for name, case in CASES.items():
        if name == "hidden_kl_unmatched_inc":
            continue  # its log(q + 1e-9) is smallest beside the teacher's
        loss = case.function(*(tensors[case.inputs[1]],) * 2, *((tensors["mask"],) if case.masked else ()))
        np.testing.assert_allclose(loss.gradient, 0, rtol=0, atol=rounding(case))
        if name not in ("soft_cross_entropy", "tempered"):
            assert abs(loss.value) <= rounding(case)


def test_classes_that_the_teacher_excludes():
    s, t = np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 1e4, 0.0]])
    loss = distil.kl_batchmean(s, t, 1)
    assert np.isclose(loss.value, np.log(np.exp(s).sum()) - 2, rtol=gamma(20, F64))


def test_padding_does_not_matter():
    tensors = golden()
    other = tensors["s3"].copy()
    other[tensors["mask"] == 0] += 1
    for function in (distil.kl_tokens, distil.mse_tokens, distil.cosine_tokens):
        first, second = (function(s, tensors["t3"], tensors["mask"]) for s in (tensors["s3"], other))
        assert first.value == second.value
        np.testing.assert_array_equal(first.gradient, second.gradient)
        assert not first.gradient[tensors["mask"] == 0].any()


# --- mixtures --------------------------------------------------------------------------------------------------------

TASK, KD = Loss(np.array(3.0), np.array([1.0, 2.0])), Loss(np.array(5.0), np.array([10.0, 20.0]))


@pytest.mark.parametrize(
    ("mixed", "value", "gradient"),
    [
        (mixing.ovtrainer(TASK, KD), 4, [5.5, 11]),
        (mixing.ovtrainer(TASK, KD, 0.25, compression=7), 10.5, [3.25, 6.5]),
        (mixing.model_compression(TASK, [KD]), 4, [5.5, 11]),
        (mixing.model_compression(TASK, [KD, KD], 0, (1, 1)), 10, [20, 40]),
        (mixing.nn_pruning(TASK, KD, 0.5, 2), 11.5, [20.5, 41]),
        (mixing.inc(TASK, KD, (0.75, 0.25)), 3.5, [3.25, 6.5]),
    ],
)
def test_mixtures(mixed, value, gradient):
    assert mixed.value == value
    np.testing.assert_array_equal(mixed.gradient, gradient)


def test_intermediate_losses_are_averaged_each_with_its_gradient():
    value, losses = mixing.inc_intermediate([TASK, KD])
    assert value == 4
    np.testing.assert_array_equal(losses[1].gradient, [5, 10])


def test_groups_of_inc_count_as_often_as_groups_follow():
    value, groups = distil.inc_self([[TASK], [KD, KD]])
    assert value == (2 * 3 + 1 * 10) / 2
    np.testing.assert_array_equal(groups[0][0].gradient, [1, 2])
    np.testing.assert_array_equal(groups[1][1].gradient, [5, 10])
    assert distil.inc_self_meant([[TASK], [KD, KD]])[0] == 13 / 2
    assert distil.inc_self_meant([[TASK], [KD]], [0.25, 1])[0] == 5.75
    with pytest.raises(ValueError, match="weights are 1, groups 2; need one weight a group"):
        distil.inc_self([[TASK], [KD]], [1])


def test_the_triple_loss():
    loss = distil.distilbert(TASK, KD, TASK)
    assert loss.value == 5 * 3 + 2 * 5 + 3
    np.testing.assert_array_equal(loss.d_logits, [25, 50])
    np.testing.assert_array_equal(loss.d_hidden, [1, 2])


# --- refusals --------------------------------------------------------------------------------------------------------

ONES = np.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: distil.kl_batchmean(ONES, ONES.astype(np.float32)), TypeError, "teacher has dtype float32; need"),
        (lambda: distil.kl_batchmean(ONES, np.ones((2, 4))), ValueError, r"teacher has shape \(2, 4\); need \(2, 3\)"),
        (lambda: distil.kl_batchmean(ONES, ONES, 0), ValueError, "temperature is 0; need a finite number above 0"),
        (lambda: distil.mse_logits(ONES * np.nan, ONES), ValueError, "student is nan at"),
        (lambda: distil.mse_logits(ONES[:0], ONES[:0]), ValueError, r"student has shape \(0, 3\); need at least one"),
        (
            lambda: distil.kl_tokens(ONES[None], ONES[None], np.zeros((1, 2), int)),
            ValueError,
            "mask is 0 everywhere; need at least one token",
        ),
        (lambda: mixing.inc(TASK, KD, (0.5, 0.6)), ValueError, "weights sum to 1.1; need 1"),
        (lambda: mixing.ovtrainer(TASK, KD, 2), ValueError, "weight is 2; need 0 to 1"),
        (lambda: distil.weighted_sum([1], []), ValueError, "weights are 1, losses 0"),
        (
            lambda: distil.hidden_kl_unmatched_inc(np.eye(2), np.array([[2.0, -1.0], [0.5, 0.5]])),
            ValueError,
            "teacher has the element -1.0 in rows that sum to 1",
        ),
    ],
)  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
