"""Plausible wrong smoothing, bias correction and searches. See tests/mutants.py."""

from functools import partial

import numpy as np
import test_3_smoothing as smoothing
import test_8_quantization as quantization
from mutants import Suite

from refimpl.models.quantization import biases
from refimpl.quant import bias_correction, quantized_linear, smooth
from refimpl.quant.tuning import Tuned, fall_back, restore_accuracy

# --- SmoothQuant -----------------------------------------------------------------------------------------------------


def scales(quantile=0.1, most=100.0, least=1e-5, exchanged=False, of_all=None):
    """The formula with something else in it."""

    def mutant(activation, weights, alpha=0.95):
        proposals = []
        for weight in weights:
            a, w = np.maximum(activation.astype(np.float64), least), np.abs(weight.astype(np.float64)).max(0)
            w = np.maximum(w, least)
            s = a ** (1 - alpha) / w**alpha if exchanged else a**alpha / w ** (1 - alpha)
            proposals.append(np.clip(s, np.quantile(s, quantile), most))
        if of_all is not None:
            return of_all(proposals).astype(np.float32)
        return max(proposals, key=lambda s: s.min() / s.max()).astype(np.float32)

    return mutant


def weights_together(activation, weights, alpha=0.95):
    """SmoothQuant's own rule: the largest magnitude over all the layers."""
    return smooth.smoothing(activation, [np.concatenate(weights)], alpha)


# --- bias correction -------------------------------------------------------------------------------------------------


def always(bias, shift, threshold):
    return bias + shift


def subtracted(bias, shift, threshold):
    return np.where(bias_correction.corrected_bias(bias, shift, threshold) == bias, bias, bias - shift)


def by_channel(bias, shift, threshold):
    """Only the channels whose shift is small."""
    return np.where(np.abs(shift) < threshold * np.abs(bias), bias + shift, bias)


def ratio_of_the_others(bias, shift, threshold):
    """Zeros left out, but a tiny bias still decides."""
    there = bias != 0
    small = not there.any() or np.abs(shift[there] / bias[there]).max() < threshold
    return bias + shift if small else bias


def all_at_once(quantized, calibrated, batches, rule=bias_correction.corrected_bias):
    """The means of the quantized model before anything is corrected."""
    means, now = (
        quantization.observe(stage.model, batches, bias_correction.CHANNEL_MEAN).outputs
        for stage in (calibrated, quantized)
    )
    shifts = {name: bias_correction.shift_of(means[name], now[name]) for name in means}
    return biases._shifted(quantized, shifts, lambda bias, shift: bias + shift)


def through_the_input_quantizer(mean_input, mean_output, p):
    """The whole quantized layer at the mean input: the mean rounded, not the inputs."""
    return bias_correction.shift_of(mean_output, quantized_linear(mean_input.astype(np.float32), p).astype(np.float64))


def without_bias(mean_input, mean_output, p):
    return bias_correction.shift_of_weight(mean_input, mean_output, p._replace(bias=np.zeros_like(p.bias)))


# --- searches --------------------------------------------------------------------------------------------------------


def until_worse(names, evaluate, goal, score=None):
    """No worsening step is tolerated."""
    tuned = restore_accuracy(names, evaluate, goal, score)
    values = [trial for trial in tuned.trials if not trial.step.startswith("rank")]
    worse = next((i for i in range(1, len(values)) if values[i].value < values[i - 1].value), len(values))
    return Tuned(values[worse - 1].kept, values[worse - 1].good, tuple(values[:worse]))


def never_taken_back(names, evaluate, goal, score=None):
    """One ranking, and every step kept."""
    kept, good = frozenset(), evaluate(frozenset()) >= goal
    for name in sorted(names, key=lambda name: -(score or evaluate)(frozenset([name]))):
        if good:
            break
        kept = kept | {name}
        good = evaluate(kept) >= goal
    return Tuned(kept, good, ())


def worst_first(names, evaluate, goal, score=None):
    """NNCF's order by NMSE."""
    score = score or evaluate
    return restore_accuracy(names, evaluate, goal, lambda kept: -score(kept))


def in_order(names, evaluate, goal, max_trials=100):
    """The first layer first."""
    return fall_back(names[::-1], evaluate, goal, max_trials)


def best_alone_tried_again(names, evaluate, goal, max_trials=100):
    tuned = fall_back(names, evaluate, goal, max_trials)
    return tuned._replace(trials=(*tuned.trials[:5], *tuned.trials[1:2], *tuned.trials[5:]))


def last_of_all(names, evaluate, goal, max_trials=100):
    """If nothing is good enough, everything."""
    tuned = fall_back(names, evaluate, goal, max_trials)
    return tuned if tuned.reached else tuned._replace(kept=tuned.trials[-1].kept)


QUANTIZATION = [
    Suite(
        smoothing.check_smoothing,
        smooth.smoothing,
        {
            "no lower clip": scales(quantile=0.0),
            "no upper clip": scales(most=np.inf),
            "a lower quantile": scales(quantile=0.05),
            "activation and weight exchanged": scales(exchanged=True),
            "the first layer decides": scales(of_all=lambda proposals: proposals[0]),
            "the largest of all": scales(of_all=partial(np.max, axis=0)),
            "weights together": weights_together,
        },
    ),
    Suite(
        smoothing.check_rule,
        bias_correction.corrected_bias,
        {
            "NNCF's": bias_correction.corrected_bias_nncf,
            "always": always,
            "subtracted": subtracted,
            "channel by channel": by_channel,
            "zeros left out": ratio_of_the_others,
        },
    ),
    Suite(
        smoothing.check_rule_nncf,
        bias_correction.corrected_bias_nncf,
        {"ours": bias_correction.corrected_bias, "always": always, "zeros left out": ratio_of_the_others},
    ),
    Suite(
        smoothing.check_shift_of_weight,
        bias_correction.shift_of_weight,
        {
            "through the input's quantizer": through_the_input_quantizer,
            "without the bias": without_bias,
            "sign": lambda *arguments: -bias_correction.shift_of_weight(*arguments),
        },
    ),
    Suite(
        quantization.check_in_order,
        biases.correct_biases_in_order,
        {"each alone": biases.correct_biases, "of weights": biases.correct_weight_biases, "at once": all_at_once},
    ),
    Suite(
        quantization.check_alone,
        biases.correct_biases,
        {"in order": biases.correct_biases_in_order, "of weights": biases.correct_weight_biases},
    ),
    Suite(
        smoothing.check_restore,
        restore_accuracy,
        {"until worse": until_worse, "never taken back": never_taken_back, "worst first": worst_first},
    ),
    Suite(
        smoothing.check_fall_back,
        fall_back,
        {"first layer first": in_order, "best tried again": best_alone_tried_again, "last of all": last_of_all},
    ),
]
