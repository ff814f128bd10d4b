"""Rung 3: how far results move. Oracle: the operators themselves in f64, at inputs that have been moved."""

import numpy as np
import pytest

from refimpl import bounds, propagation
from refimpl.nn.gelu import gelu
from refimpl.nn.mean_pooling import l2_normalize
from refimpl.nn.softmax import softmax

ERRORS = [1e-9, 1e-4, 0.05, 0.5]
ROUNDING = 1e-12


def moves(rng, shape, error):
    """Errors, some of them 0, and inputs' moves within them: to the corners, where the most is reached."""
    errors = error * rng.choice([0, 0.3, 1], shape)
    return errors, [errors * rng.choice([-1, 1], shape) for _ in range(20)] + [errors, -errors]


def within(moved, far):
    assert (np.abs(moved) <= far + ROUNDING).all()


def check_gelu(bound):
    rng = np.random.default_rng(0)
    for error in ERRORS:
        x = np.concatenate([rng.normal(0, 2, 400), np.full(50, np.sqrt(2))])
        errors, all_moves = moves(rng, x.shape, error)
        for d in all_moves:
            within(gelu(x + d) - gelu(x), bound(errors))


def check_softmax(bound):
    rng = np.random.default_rng(0)
    for error in ERRORS:
        x = rng.normal(0, 2, (30, 5))
        x[:, 3:] -= np.array([0, np.finfo(np.float32).max])  # a masked key
        errors, all_moves = moves(rng, x.shape, error)
        errors[:, 4] = 1e31
        for d in all_moves:
            within(softmax(x + d) - softmax(x), bound(x, errors))


def check_product(bound):
    rng = np.random.default_rng(0)
    for error in ERRORS:
        a, b = rng.normal(0, 0.3, (2, 7, 5)), rng.normal(0, 0.3, (2, 5, 3))
        (a_errors, a_moves), (b_errors, b_moves) = moves(rng, a.shape, error), moves(rng, b.shape, error)
        # the corner that moves element 0, 0 the furthest
        row, column = np.sign(b[:, :, 0] + 1e-9), np.sign(a[:, 0, :] + 1e-9)
        corner_a, corner_b = a_errors * row[:, None, :], b_errors * column[:, :, None]
        for da, db in [*zip(a_moves, b_moves, strict=True), (corner_a, corner_b)]:
            within((a + da) @ (b + db) - a @ b, bound(a, a_errors, b, b_errors))
        within((a + a_errors) @ b - a @ b, bound(a, a_errors, b, np.zeros(())))


def check_l2_normalize(bound):
    rng = np.random.default_rng(0)
    for error in ERRORS:
        x = rng.normal(0, 1, (40, 4))
        errors, all_moves = moves(rng, x.shape, error)
        far = bound(x, errors)
        assert np.isfinite(far).any()
        for d in all_moves:
            within(l2_normalize(x + d) - l2_normalize(x), far)
    assert np.isinf(bound(np.ones((1, 2)), np.ones((1, 2)))).all()


def check_codes(bound):
    rng = np.random.default_rng(0)
    quotient = np.concatenate([rng.uniform(0, 255, 400), [7.4999, 7.5, 7.5001]])
    code = np.rint(quotient)
    for extra in (1e-3, 0.3, 1.2):
        steps = bound(quotient, np.full(quotient.shape, 0.5 + extra), code)
        furthest = np.maximum(code - np.ceil(quotient - 0.5 - extra), np.floor(quotient + 0.5 + extra) - code)
        assert (furthest <= steps).all()
        assert (steps <= furthest + 1).all()
    assert (bound(np.array([7.2]), np.array([0.501]), np.array([7.0])) == 0).all()


@pytest.mark.parametrize("name", ["gelu", "product", "l2_normalize", "codes"])
def test_no_move_is_beyond_the_bound(name):
    globals()[f"check_{name}"](getattr(propagation, name))


def test_no_move_of_scores_is_beyond_the_bound():
    check_softmax(bounds.softmax)
