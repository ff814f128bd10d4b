"""How far the exact result of an operator moves when its input does: for values that an engine keeps to itself.

    |f(x + d) - f(x)| <= moved                for every d with |d_i| <= error_i

Contract. Bounds, not estimates: first-order terms and all beyond. ``bounds`` says what rounding adds; its softmax
and layer norm take the error of their input themselves. Everything f64.
"""

import numpy as np

GELU_SLOPE = 1.13
"""The largest slope of GELU, 1.12890..., at x = sqrt 2."""


def gelu(error: np.ndarray) -> np.ndarray:
    """x / 2 (1 + erf(x / sqrt 2))."""
    return GELU_SLOPE * error


def product(a: np.ndarray, a_error: np.ndarray, b: np.ndarray, b_error: np.ndarray) -> np.ndarray:
    """a b, a (..., M, K), b (..., K, N); an error may be 0 for all: f64 ()."""
    if not (a_error.any() or b_error.any()):
        return np.zeros(())
    moved = a_error @ (np.abs(b) + b_error)
    return moved + np.abs(a) @ b_error if b_error.any() else moved


def l2_normalize(x: np.ndarray, error: np.ndarray) -> np.ndarray:
    """x / |x|, x (..., D); infinite where the error is as long as x.

    x'/|x'| - x/|x| = (x' - x)/|x'| + x (|x| - |x'|)/(|x| |x'|), and lengths differ by at most the length of the error.
    """
    length, most = (np.sqrt((part * part).sum(-1, keepdims=True)) for part in (x, error))
    least = np.maximum(length - most, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(least > 0, (error + np.abs(x) * most / length) / least, np.inf)


def codes(quotient: np.ndarray, bound: np.ndarray, code: np.ndarray) -> np.ndarray:
    """How many steps another u8 code within ``bound`` of the quotient may be from this one; bound is 1/2 and more.

    >>> codes(np.array([7.2, 7.4999]), np.array([0.501, 0.501]), np.array([7, 7], np.uint8))
    array([0., 1.])
    """
    return np.minimum(np.floor(np.abs(quotient - code) + bound), 255)
