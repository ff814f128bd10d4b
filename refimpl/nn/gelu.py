"""GELU with the error function: y = x/2 (1 + erf(x / sqrt 2)). BERT's own, not the tanh approximation.

Contract. erf is SciPy's, in the dtype of x. Error: ``bounds.gelu``. Source: Hendrycks, Gimpel, arXiv 1606.08415,
section 2.
"""

import numpy as np
from scipy.special import erf

from refimpl import check

SQRT_HALF = 0.5**0.5


def gelu(x: np.ndarray) -> np.ndarray:
    """x: float (...); returns float (...).

    >>> gelu(np.array([-1.0, 0.0, 1.0]))
    array([-0.15865525,  0.        ,  0.84134475])
    """
    check.dtype("x", x, *check.FLOATS)
    return 0.5 * x * (1 + erf(x * x.dtype.type(SQRT_HALF)))
