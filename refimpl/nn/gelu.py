"""GELU with the error function, BERT's own, and the two approximations in use.

    gelu          x/2 (1 + erf(x / sqrt 2))
    gelu_tanh     x/2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3)))
    gelu_quick    x / (1 + exp(-alpha x)), alpha = 1.702

The derivative of the first: Phi(x) + x phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2, phi(x) = exp(-x²/2) / sqrt(2 pi).

Contract. erf and the logistic function are SciPy's, in the dtype of x; x**3 is two products. Errors: the bounds of the
same names. Source: Hendrycks, Gimpel, arXiv 1606.08415, section 2.
"""

import numpy as np
from scipy.special import erf, expit

from refimpl import check

SQRT_HALF = 0.5**0.5
DENSITY_0 = (2 * np.pi) ** -0.5
"""phi(0)."""
SQRT_2_OVER_PI = (2 / np.pi) ** 0.5
CUBIC = 0.044715


def gelu(x: np.ndarray) -> np.ndarray:
    """x: float (...); returns float (...).

    >>> gelu(np.array([-1.0, 0.0, 1.0]))
    array([-0.15865525,  0.        ,  0.84134475])
    """
    check.dtype("x", x, *check.FLOATS)
    return 0.5 * x * (1 + erf(x * x.dtype.type(SQRT_HALF)))


def gelu_backward(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dy, x: float (...) -> dx (...).

    >>> gelu_backward(np.ones(3), np.array([-1.0, 0.0, 1.0]))
    array([-0.08331547,  0.5       ,  1.08331547])
    """
    check.dtype("x", x, *check.FLOATS)
    check.same_dtype("dy", dy, x)
    below = 0.5 * (1 + erf(x * x.dtype.type(SQRT_HALF)))
    return dy * (below + x * np.exp(-0.5 * x * x) * x.dtype.type(DENSITY_0))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """x: float (...); returns float (...).

    >>> gelu_tanh(np.array([-1.0, 0.0, 1.0]))
    array([-0.15880801,  0.        ,  0.84119199])
    """
    check.dtype("x", x, *check.FLOATS)
    inner = x.dtype.type(SQRT_2_OVER_PI) * (x + x.dtype.type(CUBIC) * (x * x * x))
    return 0.5 * x * (1 + np.tanh(inner))


def gelu_quick(x: np.ndarray, alpha: float = 1.702) -> np.ndarray:
    """x: float (...); returns float (...).

    >>> gelu_quick(np.array([-1.0, 0.0, 1.0]))
    array([-0.15420423,  0.        ,  0.84579577])
    """
    check.dtype("x", x, *check.FLOATS)
    return x * expit(x * x.dtype.type(alpha))
