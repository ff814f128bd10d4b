"""SmoothQuant: scales moved from the channels of an activation to the columns of the weight it meets.

    s_k = a_k**alpha / (w_k**(1 - alpha) + eps)                       a, w: largest magnitudes of channel k, >= 1e-5
    s   = clip(s, 10 % quantile of s, 100)
    x Wᵀ = (x / s) (W s)ᵀ                                             exact but for rounding

Of several layers that read one activation (q, k and v) each proposes its s, and the one whose min s / max s is largest
is taken for all: NNCF's rule. alpha 0.95 (NNCF, for matrix products). The quantile keeps channels that are small or
dead from being blown up.

Where 1 / s goes. NNCF multiplies the activation by it, a node of its own. It costs nothing where what comes before can
take it:
* a layer norm: its weight and bias divided by s (``fold_into_norm``), if the norm's output is read by these layers
  only. That is so in models with the norm first; in BERT, with the norm last, the same output is also the residual, so
  folding would divide the residual too and is *not* exact. q, k, v and intermediate need the multiplication.
* ``attention_output`` reads sums over tokens of v's channels, which commute with s: the rows of v and its bias divided
  by s (``fold_into_rows``), exactly, for f32 attention; the ranges of v in INT8 attention change.
* ``output`` reads GELU of ``intermediate``, which does not commute with s: it needs the multiplication.

``SmoothedLinear`` is a layer behind such a multiplication. The reference runs it; the engine has no such step.

Contract. s is computed in f64 and rounded to f32; x is multiplied by f32(1 / s), as NNCF's node does.
Source: Xiao et al., arXiv 2211.10438, equation 4; NNCF nncf/quantization/algorithms/smooth_quant (clip_statistics,
calculate_scale_and_ratio).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl import check
from refimpl.nn.params import Linear, Norm
from refimpl.quant.observers import Observer

ALPHA, QUANTILE, MOST, LEAST_STATISTIC = 0.95, 0.1, 100.0, 1e-5
EPS = float(np.finfo(np.float64).eps)


def see_channel_absmax(state: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Running largest magnitude of each channel. state: f32 (K,) or (), x: f32 (..., K) -> f32 (K,)."""
    check.dtype("x", x, np.float32)
    check.finite("x", x)
    return np.maximum(state, np.abs(x).reshape(-1, x.shape[-1]).max(0))


CHANNEL_ABSMAX = Observer(np.zeros((), np.float32), see_channel_absmax, lambda state: state)


class SmoothedLinear(NamedTuple):
    """inverse: f32 (K,), what the input is multiplied by; linear: the layer, of any type, that then reads it."""

    inverse: np.ndarray
    linear: Any


def smoothing(activation: np.ndarray, weights: Sequence[np.ndarray], alpha: float = ALPHA) -> np.ndarray:
    """s for all layers that read one activation, f32 (K,).

    Parameters
    ----------
    activation : f32 (K,), largest magnitude of each channel
    weights : f32 (M, K) of each layer
    alpha : 0 to 1; 0 leaves all to the weight

    >>> smoothing(np.float32([1, 4, 16]), [np.ones((2, 3), np.float32)], alpha=0.5)
    array([1.2, 2. , 4. ], dtype=float32)
    """
    check.dtype("activation", activation, np.float32)
    check.shape("activation", activation, ("K",))
    check.finite("activation", activation)
    check.fraction("alpha", alpha)
    if not weights:
        raise ValueError("weights is empty; need at least one layer")
    best, best_ratio = np.ones(0), -1.0
    for weight in weights:
        check.shape("weight", weight, ("M", activation.shape[0]))
        a, w = (np.maximum(x.astype(np.float64), LEAST_STATISTIC) for x in (activation, np.abs(weight).max(0)))
        s = a**alpha / (w ** (1 - alpha) + EPS)
        s = np.clip(s, np.quantile(s, QUANTILE), MOST)
        ratio = s.min() / (s.max() + EPS)
        if ratio > best_ratio:
            best, best_ratio = s, ratio
    return best.astype(np.float32)


def inverse_of(s: np.ndarray) -> np.ndarray:
    """f32(1 / s). f32 (K,)."""
    check.dtype("s", s, np.float32)
    check.positive("s", s)
    return 1 / s


def smooth_columns(p: Linear, s: np.ndarray) -> Linear:
    """The layer for x / s. weight: f32 (M, K); s: f32 (K,)."""
    check.positive("s", s)
    check.shape("s", s, (p.weight.shape[1],))
    return p._replace(weight=p.weight * s)


def fold_into_rows(p: Linear, s: np.ndarray) -> Linear:
    """The layer whose outputs are divided by s. weight: f32 (M, K); s: f32 (M,)."""
    inverse = inverse_of(s)
    check.shape("s", s, (p.weight.shape[0],))
    return p._replace(weight=p.weight * inverse[:, None], bias=p.bias * inverse)


def fold_into_norm(p: Norm, s: np.ndarray) -> Norm:
    """The norm whose outputs are divided by s, f32 (D,). Exact only if nothing else reads them: not in BERT."""
    inverse = inverse_of(s)
    check.shape("s", s, p.weight.shape)
    return p._replace(weight=p.weight * inverse, bias=p.bias * inverse)
