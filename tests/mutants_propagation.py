"""Plausible wrong bounds of how far results move. tests/test_mutants.py runs them."""

import numpy as np
import test_3_propagation as moving
from mutants import Suite

from refimpl import bounds, propagation
from refimpl.nn.softmax import softmax


def most(p, error):
    return error.max(-1, keepdims=True, where=p > 0, initial=0)


def of_probs(bound):
    """A bound that is told the probabilities, of the scores."""
    return lambda x, error: bound(softmax(x), error)


PROPAGATION = [
    Suite(moving.check_gelu, propagation.gelu, {"slope 1": lambda error: error}),
    Suite(
        moving.check_softmax,
        bounds.softmax,
        {
            "first order": of_probs(lambda p, error: p * most(p, error)),
            "the sum does not move": of_probs(lambda p, error: p * np.expm1(most(p, error))),
            "each its own error": of_probs(lambda p, error: p * np.expm1(2 * np.where(p > 0, error, 0))),
        },
    ),
    Suite(
        moving.check_product,
        propagation.product,
        {
            "first order": lambda a, da, b, db: np.abs(a) @ db + da @ np.abs(b) if db.ndim else da @ np.abs(b),
            "signed": lambda a, da, b, db: np.abs(a @ db + da @ b) if db.ndim else np.abs(da @ b),
            "one operand": lambda a, da, b, db: da @ (np.abs(b) + db),
        },
    ),
    Suite(
        moving.check_l2_normalize,
        propagation.l2_normalize,
        {
            "the length does not move": lambda x, error: error / np.linalg.norm(x, axis=-1, keepdims=True),
            "over the old length": lambda x, error: (
                propagation.l2_normalize(x, error)
                * (1 - np.linalg.norm(error, axis=-1, keepdims=True) / np.linalg.norm(x, axis=-1, keepdims=True))
            ),
        },
    ),
    Suite(
        moving.check_codes,
        propagation.codes,
        {
            "none": lambda quotient, bound, code: np.zeros(quotient.shape),
            "one at most": lambda quotient, bound, code: np.minimum(propagation.codes(quotient, bound, code), 1),
            "always one": lambda quotient, bound, code: np.ones(quotient.shape),
        },
    ),
]
