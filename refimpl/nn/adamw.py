"""AdamW: Adam with decoupled weight decay, one update of one parameter.

    m = b1 m + (1 - b1) g
    v = b2 v + (1 - b2) g²
    w = w - r d w                                              decay, decoupled from the gradient
    w = w - r (m / (1 - b1ᵗ)) / (sqrt(v / (1 - b2ᵗ)) + eps)      t = 1, 2, ...

Contract. Arithmetic in the dtype of the parameter; the scalars 1 - b1, 1 - b2, r d, r / (1 - b1ᵗ) and sqrt(1 - b2ᵗ)
are computed in f64 and rounded once to that dtype. The decay comes before the step, as in the paper's line 12 (with
the schedule multiplied into r), and is r d w, not d w.

Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv 1711.05101, algorithm 2;
Kingma and Ba, Adam, arXiv 1412.6980, algorithm 1.
"""

from math import sqrt
from typing import NamedTuple

import numpy as np

from refimpl import check


class AdamW(NamedTuple):
    """b1, b2, eps and d of the equations. BERT's fine-tuning has decay 0.01 and eps 1e-6; PyTorch's eps is 1e-8."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    decay: float = 0.01


def adamw(
    w: np.ndarray, g: np.ndarray, moments: tuple[np.ndarray, np.ndarray], t: int, rate: float, p: AdamW
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """w, m and v after update ``t``.

    Parameters
    ----------
    w, g : f32 or f64, one shape; the parameter and the loss's gradient
    moments : m and v of the same dtype and shape, zeros before the first update
    t : 1 for the first update
    rate : the learning rate r of this update
    """
    check.dtype("w", w, *check.FLOATS)
    if t < 1:
        raise ValueError(f"t is {t}; need 1 or more")
    m, v = moments
    for name, array in (("g", g), ("m", m), ("v", v)):
        check.same_dtype(name, array, w)
        check.shape(name, array, w.shape)
    m = p.beta1 * m + (1 - p.beta1) * g
    v = p.beta2 * v + (1 - p.beta2) * (g * g)
    step = rate / (1 - p.beta1**t)
    size = np.sqrt(v) / sqrt(1 - p.beta2**t) + p.eps
    return w - (rate * p.decay) * w - step * m / size, m, v
