"""Plausible wrong fake quantizers and observers. See tests/mutants.py."""

from functools import partial

import numpy as np
import test_3_calibration as calibration
import test_4_fake_quantization as fakes
import test_5_fake_quantization as fake_kernels
from mutants import Suite
from mutants_kernels import swap

from refimpl.isa import f32 as isa
from refimpl.kernels.training import fake_quantize as kernels
from refimpl.nn.tape import LinearKind
from refimpl.quant import calibrate, nncf_ranges, observers
from refimpl.quant.calibrate import absmax
from refimpl.quant.fake import (
    FakeCache,
    fake_quantize,
    fake_quantize_backward,
    fake_quantize_backward_of_step,
    sign_of,
    slopes,
    width_nncf,
    width_of_step,
)
from refimpl.quant.fake_linear import fake_quantized_kind, fake_quantized_linear_backward

# --- forward ---------------------------------------------------------------------------------------------------------


def forward(rounded, zero=0):
    """A forward whose rounding is another."""

    def mutant(x, high, levels):
        step = high / high.dtype.type(levels.highest)
        y = (rounded(x, step, levels) + x.dtype.type(zero)) * step
        return y, FakeCache(x, y, high, levels)

    return mutant


def clipped(x, levels):
    return np.clip(x, levels.lowest, levels.highest)


def reciprocal(x, step, levels):
    return np.rint(clipped(x * (1 / step), levels))


def half_away(x, step, levels):
    v = clipped(x / step, levels)
    return np.copysign(np.floor(np.abs(v) + x.dtype.type(0.5)), v)


def narrow(x, step, levels):
    return np.rint(np.clip(x / step, -levels.highest, levels.highest))


# --- backward --------------------------------------------------------------------------------------------------------


def gradients(mask=None, above=1.0, below=None, error=lambda x, y: y - x, widths=None):
    """The backward with some part of it another."""

    def mutant(dy, cache):
        x, y, high, levels = cache
        ratio = levels.lowest / levels.highest
        wide = high.reshape(high.shape + (1,) * (x.ndim - high.ndim))
        over, under = x > wide, x < wide * ratio
        outside = (over | under) if mask is None else mask(x, wide, ratio)
        width = wide * (1 - ratio if widths is None else widths)
        slope = np.where(over, above, np.where(under, ratio if below is None else below, error(x, y) / width))
        dhigh = (dy * slope).sum(tuple(range(high.ndim, x.ndim)))
        return np.where(outside, 0, dy), np.asarray(dhigh)

    return mutant


BACKWARDS = {
    "ends are outside": gradients(lambda x, high, ratio: (x >= high) | (x <= high * ratio)),
    "lower end is outside": gradients(lambda x, high, ratio: (x > high) | (x <= high * ratio)),
    "nothing is outside": gradients(lambda x, high, ratio: np.zeros(x.shape, bool)),
    "levels taken for symmetric": gradients(lambda x, high, ratio: np.abs(x) > high),
    "sign above": gradients(above=-1.0),
    "sign below": gradients(below=1.0),
    "nothing from outside": gradients(above=0.0, below=0.0),
    "-1 below": gradients(below=-1.0),
    "sign of the error": gradients(error=lambda x, y: x - y),
}


def of_tensor(dy, cache):
    """One gradient for all rows."""
    dx, dhigh = fake_quantize_backward(dy, cache)
    return dx, np.full_like(dhigh, dhigh.sum())


def mean(dy, cache):
    dx, dhigh = fake_quantize_backward(dy, cache)
    return dx, dhigh / (cache.x.size / max(dhigh.size, 1))


def lsq(dy, cache):
    """LSQ's scaling of the gradient."""
    dx, dhigh = fake_quantize_backward_of_step(dy, cache)
    return dx, dhigh / np.sqrt(cache.x.size * cache.levels.highest)


# --- the layer -------------------------------------------------------------------------------------------------------


def through_float_weight(dy, cache):
    """dx from the weight before its quantization."""
    got = fake_quantized_linear_backward(dy, cache, fake_quantize_backward_of_step)
    dx, d_input_high = fake_quantize_backward_of_step(dy @ cache.weight.x, cache.input)
    return got._replace(x=dx, input_high=d_input_high)


def through_float_input(dy, cache):
    got = fake_quantized_linear_backward(dy, cache, fake_quantize_backward_of_step)
    d_weight = np.einsum("btm,btk->mk", dy, cache.input.x)
    weight, high = fake_quantize_backward_of_step(d_weight, cache.weight)
    return got._replace(weight=weight, weight_high=high)


def weight_passes(dy, cache):
    got = fake_quantized_linear_backward(dy, cache, fake_quantize_backward_of_step)
    return got._replace(weight=np.einsum("btm,btk->mk", dy, cache.input.y))


def true_layer(dy, cache):
    return fake_quantized_linear_backward(dy, cache, fake_quantize_backward_of_step)


def kind(parts=lambda p, cache, parts: parts, rule=None):
    """The layer on the tape, which tells other gradients of its parameters."""

    def mutant(quantize_backward):
        true = fake_quantized_kind(quantize_backward=rule or quantize_backward)

        def back(dy, kept):
            dx, found = true.backward(dy, kept)
            return dx, parts(*kept, found)

        return LinearKind(true.forward, back)

    return mutant


def of_effective_weight(p, cache, parts):
    """Under the identity of the array that the product saw."""
    return [(cache.weight.y, parts[0][1]), *parts[1:]]


# --- the kernels -----------------------------------------------------------------------------------------------------


def emulated(source=None, **callees):
    """Runs kernels, one of them with its callees exchanged."""
    return lambda given, *arguments: (swap(given, **callees) if given is source else given.emulated)(*arguments)


def forward_with(**callees):
    return partial(kernels.fake_quantize, emulated(kernels.fake_quantize_ranges, **callees))


def backward_with(**callees):
    return partial(kernels.fake_quantize_backward, emulated(kernels.fake_quantize_backward_ranges, **callees))


def half_away_lanes(a):
    return np.copysign(np.floor(np.abs(a) + np.float32(0.5)), a)


def one_range(x, high, levels):
    """The first range for all rows."""
    y, cache = TRUE_FORWARD(x, np.repeat(high[:1], high.size) if high.ndim else high, levels)
    return y, cache._replace(high=high)


def of_a_copy(x, high, levels):
    y, cache = TRUE_FORWARD(x, high, levels)
    return y, cache._replace(x=x.copy())


def one_running_sum(width, dy, cache):
    """One addition after the other."""
    dx, dhigh = TRUE_BACKWARD(width, dy, cache)
    terms = (dy * slopes(cache, width)[0]).reshape(cache.high.size, cache.x.size // max(cache.high.size, 1))
    if terms.size:
        dhigh = np.cumsum(terms, 1)[:, -1].reshape(cache.high.shape) * sign_of(cache.high)
    return dx, np.asarray(dhigh)


def magnitude(width, dy, cache):
    """The sign of the range forgotten."""
    dx, dhigh = TRUE_BACKWARD(width, dy, cache)
    return dx, np.asarray(dhigh * sign_of(cache.high))


TRUE_FORWARD, TRUE_BACKWARD = (
    partial(function, emulated()) for function in (kernels.fake_quantize, kernels.fake_quantize_backward)
)


# --- observers -------------------------------------------------------------------------------------------------------


def mean_of_batches(state, x):
    return observers.MeanMinMax(state.low + float(x.min()), state.high + float(x.max()), state.samples + 1)


def mean_of_magnitudes(state):
    """The larger mean without regard to the other."""
    return np.abs(observers.means(state).high)


def percentiles_with(**change):
    """change: of an observer's function, to another that is given it, q and most."""

    def make(q, most):
        true = observers.percentiles(q, most)
        return true._replace(**{name: function(true, q, most) for name, function in change.items()})

    return make


def one_fewer(true, q, most):
    """The last place is the neighbour's."""

    def see(state, x):
        seen = true.see(state, x)
        return seen._replace(values=np.maximum(seen.values, np.sort(seen.values)[:2][-1]))

    return see


def any_first(true, q, most):
    """What comes is compared with the largest that is kept."""

    def see(state, x):
        return true.see(state._replace(values=np.sort(state.values)[::-1]), x)

    return see


def lower(true, q, most):
    """Not between two values."""
    return lambda state: np.sort(state.values)[-calibrate.deciding(int(state.total), q)]


def narrower(low, high):
    """The end that makes the narrower range."""
    zero = np.rint(-low * (nncf_ranges.STEPS / (high - low)))
    with np.errstate(divide="ignore", invalid="ignore"):
        other_low = np.where(zero < 255, zero / (zero - 255) * high, low)
        other_high = np.where(zero > 0, (zero - 255) / zero * low, high)
    move = high - other_low <= other_high - low
    return np.where(move, other_low, low), np.where(move, high, other_high)


def zero_left_out(low, high):
    return nncf_ranges.tune_range(low, high) if low < 0 < high else (low, high)


FAKE_QUANTIZATION = [
    Suite(
        fakes.check_activation,
        fake_quantize,
        {
            "multiplied by the reciprocal": forward(reciprocal),
            "ties away from zero": forward(half_away),
            "-127 at the bottom": forward(narrow),
            "-0": forward(lambda x, step, levels: np.rint(clipped(x / step, levels)), zero=-0.0),
            "not clipped": forward(lambda x, step, levels: np.rint(x / step)),
        },
    ),
    Suite(
        fakes.check_backward,
        fake_quantize_backward,
        {
            **BACKWARDS,
            "derivative of the step": fake_quantize_backward_of_step,
            "one range for all rows": of_tensor,
            "mean": mean,
        },
    ),
    Suite(
        fakes.check_of_step,
        fake_quantize_backward_of_step,
        {"divided by the width": fake_quantize_backward, "LSQ's scaling": lsq, "sign below": gradients(below=1.0)},
    ),
    Suite(
        fakes.check_layer,
        true_layer,
        {
            "through the float weight": through_float_weight,
            "through the float input": through_float_input,
            "weight passes": weight_passes,
            "the width": lambda dy, cache: fake_quantized_linear_backward(dy, cache),
        },
    ),
    Suite(
        fakes.check_kind,
        fake_quantized_kind,
        {
            "ranges are not trained": kind(lambda p, cache, parts: parts[:2]),
            "one range is not trained": kind(lambda p, cache, parts: parts[:3]),
            "under the effective weight": kind(of_effective_weight),
            "always NNCF's": kind(rule=fake_quantize_backward),
        },
    ),
    Suite(
        fake_kernels.check_fake_forward,
        TRUE_FORWARD,
        {
            "multiplied by the reciprocal": forward_with(
                vdivps=lambda a, b: isa.vmulps(a, isa.vdivps(np.ones_like(b), b))
            ),
            "ties away from zero": forward_with(vrndscaleps=half_away_lanes),
            "-0, and infinity is clipped": forward_with(vaddps=lambda a, b: a),
            "infinity is clipped": forward_with(vsubps=lambda a, b: isa.zero_f32()),
            "not clipped below": forward_with(vmaxps=lambda a, b: a),
            "not clipped above": forward_with(vminps=lambda a, b: a),
            "one range for all rows": one_range,
            "of a copy": of_a_copy,
        },
    ),
    Suite(
        fake_kernels.check_fake_backward,
        TRUE_BACKWARD,
        {
            "ends are outside": backward_with(vblendmps=lambda a, b, x, y: np.where(a >= b, x, y)),
            "nothing is outside": backward_with(vblendmps=lambda a, b, x, y: y),
            "multiplied by the reciprocal": backward_with(
                vdivps=lambda a, b: isa.vmulps(a, isa.vdivps(np.ones_like(b), b))
            ),
            "sign of the error": backward_with(vsubps=lambda a, b: isa.vsubps(b, a)),
            "the last sixteen": backward_with(vfmadd=lambda a, b, c: isa.vmulps(a, b)),
            "fifteen lanes": backward_with(reduce_add=lambda a: isa.reduce_add(np.append(a[:15], np.float32(0)))),
            "one running sum": one_running_sum,
            "sign of the range": magnitude,
            "always NNCF's": lambda width, dy, cache: TRUE_BACKWARD(width_nncf, dy, cache),
            "always the step's": lambda width, dy, cache: TRUE_BACKWARD(width_of_step, dy, cache),
        },
    ),
    Suite(
        calibration.check_mean_min_max,
        observers.MEAN_MIN_MAX,
        {
            "mean over batches": observers.MEAN_MIN_MAX._replace(see=mean_of_batches),
            "no low end": observers.MEAN_MIN_MAX._replace(range=mean_of_magnitudes),
            "min-max": observers.MIN_MAX,
        },
    ),
    Suite(
        calibration.check_percentiles,
        observers.percentiles,
        {
            "one fewer is kept": percentiles_with(see=one_fewer),
            "the largest first": percentiles_with(see=any_first),
            "lower": percentiles_with(range=lower),
            "everything is kept": lambda q, most: observers.percentiles(0, most)._replace(
                range=observers.percentiles(q, most).range
            ),
        },
    ),
    Suite(
        calibration.check_mse_optimal,
        observers.mse_optimal,
        {"absmax": absmax, "half": lambda x: absmax(x) / np.float32(2)},
    ),
    Suite(
        calibration.check_asymmetric_range,
        nncf_ranges.asymmetric_range,
        {
            "narrower": lambda low, high: (
                narrower(np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0)))
                if high - low > 8e-4
                else nncf_ranges.asymmetric_range(low, high)
            ),
            "0 left out": lambda low, high: (
                zero_left_out(low, high) if high - low > 8e-4 else nncf_ranges.asymmetric_range(low, high)
            ),
            "not tuned": lambda low, high: (np.minimum(low, 0), np.maximum(high, 0)),
        },
    ),
]
