"""Observers: what is kept of an activation from batch to batch, and the range that is made of it.

    MIN_MAX         low = min x, high = max x over all that came
    MEAN_MIN_MAX    the means over samples (first axis) of each sample's min and max
    percentiles(q, most)
                    the q-th percentile of |x|, exact: of at most ``most`` values the largest are kept that decide it
    MSE_OPTIMAL     the range of absmax i / n, i = 1 ... n, that loses least: sum (dequantize(quantize(x)) - x)**2 is
                    smallest; of equals the largest. In two passes: MIN_MAX, then ``squared_errors`` of its range

    range = max(|low|, |high|)

Contract. A state is a NamedTuple of arrays that goes in and comes out, so that it can be saved; f32 values; means are
sums in f64 divided once, the squares too. Padding would be observed like anything else: leave it out.

MEAN_MIN_MAX is NNCF's default for activations (300 samples), MIN_MAX its choice for weights and ours for both: the mean
of maxima clips the largest values of most samples, which is the point of it and, for BERT's outliers, the danger.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl import check
from refimpl.quant.calibrate import absmax, deciding, percentile_of_largest
from refimpl.quant.symmetric import dequantize_activation, quantize_activation, scale_of

SEARCH_STEPS = 100


class Observer(NamedTuple):
    """start: the state before anything came; see: state and x, f32 (B, ...), to the next; range: state to f32 ().

    then: from the range to the observer of a second pass over the same values, whose range counts; None for no second.
    """

    start: Any
    see: Callable[[Any, np.ndarray], Any]
    range: Callable[[Any], np.ndarray]
    then: "Callable[[np.ndarray], Observer] | None" = None


class MinMax(NamedTuple):
    """low, high: f32 (); infinite, the wrong way round, before anything came."""

    low: np.ndarray
    high: np.ndarray


class MeanMinMax(NamedTuple):
    """Sums over samples. low, high: f64 (); samples: s64 ()."""

    low: np.ndarray
    high: np.ndarray
    samples: np.ndarray


class Largest(NamedTuple):
    """values: the largest magnitudes, f32 (n,), the smallest of them first once there are all that are kept; total: how
    many came, s64 ()."""

    values: np.ndarray
    total: np.ndarray


def see_min_max(state: MinMax, x: np.ndarray) -> MinMax:
    """x: f32, any shape, not empty."""
    _check(x)
    return MinMax(np.minimum(state.low, x.min())[...], np.maximum(state.high, x.max())[...])


def see_mean_min_max(state: MeanMinMax, x: np.ndarray) -> MeanMinMax:
    """x: f32 (B, ...), each of the B a sample."""
    _check(x)
    if x.ndim < 2:
        raise ValueError(f"x has shape {x.shape}; need (B, ...)")
    rows = x.reshape(len(x), -1)
    low, high = (ends.sum(dtype=np.float64) for ends in (rows.min(1), rows.max(1)))
    return MeanMinMax(state.low + low, state.high + high, state.samples + len(x))


def range_min_max(state: MinMax) -> np.ndarray:
    """f32 ()."""
    if state.high < state.low:
        raise ValueError("nothing was observed; need at least one batch")
    return np.maximum(np.abs(state.low), np.abs(state.high))[...]


def means(state: MeanMinMax) -> MinMax:
    """The mean extremes, f32 ()."""
    if not state.samples:
        raise ValueError("nothing was observed; need at least one batch")
    return MinMax(*(np.asarray(end / state.samples, np.float32) for end in (state.low, state.high)))


def range_mean_min_max(state: MeanMinMax) -> np.ndarray:
    """f32 ()."""
    return range_min_max(means(state))


MIN_MAX = Observer(MinMax(np.asarray(np.inf, np.float32), np.asarray(-np.inf, np.float32)), see_min_max, range_min_max)
MEAN_MIN_MAX = Observer(
    MeanMinMax(np.zeros(()), np.zeros(()), np.zeros((), np.int64)), see_mean_min_max, range_mean_min_max
)


def percentiles(q: float, most: int) -> Observer:
    """``calibrate.percentile`` of all values. most: no more will come; for q = 99.99 one in 10,000 of them is kept."""
    kept = deciding(most, q)

    def see(state: Largest, x: np.ndarray) -> Largest:
        _check(x)
        values, came = state.values, np.abs(x).ravel()
        if len(values) == kept:
            came = came[came > values[0]]
        values = np.concatenate([values, came])
        if len(values) >= kept:
            values = np.partition(values, -kept)[-kept:].copy()
        return Largest(values, state.total + x.size)

    def range_of(state: Largest) -> np.ndarray:
        if not 0 < state.total <= most:
            raise ValueError(f"{state.total} values were observed; need 1 to {most}")
        return percentile_of_largest(state.values, int(state.total), q)

    return Observer(Largest(np.zeros(0, np.float32), np.zeros((), np.int64)), see, range_of)


def squared_errors(largest: np.ndarray, steps: int = SEARCH_STEPS) -> Observer:
    """The best of the ranges up to ``largest``, f32 (). The state: the losses, f64 (steps,), summed batch by batch."""
    candidates = [np.asarray(largest * np.float32(i / steps)) for i in range(steps, 0, -1)]

    def see(state: np.ndarray, x: np.ndarray) -> np.ndarray:
        return state + [_squared_error(x, high) for high in candidates]

    return Observer(np.zeros(steps), see, lambda state: candidates[int(np.argmin(state))])


MSE_OPTIMAL = MIN_MAX._replace(then=squared_errors)


def mse_optimal(x: np.ndarray) -> np.ndarray:
    """The range that quantizes x best. f32, any shape -> f32 ().

    >>> round(float(mse_optimal(np.append(np.linspace(-1, 1, 30001), 1.1).astype(np.float32))), 3)
    1.001
    """
    observer = squared_errors(absmax(x))
    return observer.range(observer.see(observer.start, x))


def _squared_error(x: np.ndarray, high: np.ndarray) -> float:
    scale = scale_of(high)
    error = dequantize_activation(quantize_activation(x, scale), scale).astype(np.float64) - x
    return float((error * error).sum())


def _check(x: np.ndarray) -> None:
    check.dtype("x", x, np.float32)
    if x.size == 0:
        raise ValueError(f"x has shape {x.shape}; need at least one value")
    check.finite("x", x)
