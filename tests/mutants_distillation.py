"""Plausible wrong distillation losses, each of them met in some repository. See tests/mutants.py."""

import numpy as np
import test_4_distillation as distillation
from mutants import Suite

from refimpl import distil
from refimpl.distil.loss import Loss


def scaled(function, value, gradient=None):
    """The loss times a factor of student, teacher and what follows; its gradient times another."""

    def mutant(student, *arguments):
        loss = function(student, *arguments)
        gradient_factor = (value if gradient is None else gradient)(student, *arguments)
        return Loss(loss.value * value(student, *arguments), loss.gradient * gradient_factor)

    return mutant


def on(name, mutate):
    """A check of one loss, and its mutants."""

    def check(function):
        distillation.check_loss(name, function)

    check.__name__ = f"check_{name}"
    return Suite(check, distillation.CASES[name].function, mutate)


def one(*_):
    return 1.0


def reversed_kl(s, t, temperature):
    """KL(student || teacher), whose gradient is another."""
    logs = distil.logits.log_softmax(s / temperature)
    q, difference = np.exp(logs), logs - distil.logits.log_softmax(t / temperature)
    inner = (q * difference).sum(-1, keepdims=True)
    n = len(s)
    return Loss(temperature**2 * (q * difference).sum() / n, temperature * q * (difference - inner) / n)


def teacher_not_tempered(s, t, temperature):
    return distil.kl_batchmean(s, t * temperature, temperature)


def over_padding(function):
    """Padding takes part."""
    return lambda s, t, mask, *rest: function(s, t, np.ones_like(mask), *rest)


def padded_mean(function):
    """A sum over tokens, divided by all places."""
    return scaled(function, lambda s, t, mask, *_: np.asarray(mask.sum() / mask.size))


def cosine_without_projection(s, t, mask):
    """The norm of the student taken for a constant."""
    loss = distil.cosine_tokens(s, t, mask)
    norm = np.sqrt((s * s).sum(-1, keepdims=True) * (t * t).sum(-1, keepdims=True))
    return Loss(loss.value, -t / norm / mask.sum() * (mask != 0)[..., None])


DISTILLATION = [
    on(
        "kl_batchmean",
        {
            "mean over elements": distil.kl_element_mean,
            "sum over rows": scaled(distil.kl_batchmean, lambda s, *_: len(s)),
            "T squared missing": scaled(distil.kl_batchmean, lambda s, t, temperature: temperature**-2),
            "T squared missing in the gradient": scaled(
                distil.kl_batchmean, one, lambda s, t, temperature: temperature**-2
            ),
            "gradient without 1 / T": scaled(distil.kl_batchmean, one, lambda s, t, temperature: temperature),
            "teacher not tempered": teacher_not_tempered,
            "student and teacher exchanged": reversed_kl,
            "cross entropy": distil.soft_cross_entropy,
        },
    ),
    on(
        "kl_element_mean",
        {
            "mean over rows": distil.kl_batchmean,
            "T squared missing": scaled(distil.kl_element_mean, lambda s, t, temperature: temperature**-2),
        },
    ),
    on("soft_cross_entropy", {"divergence": distil.kl_batchmean}),
    on(
        "mse_logits",
        {
            "mean over rows": scaled(distil.mse_logits, lambda s, t: s.shape[-1]),
            "half": scaled(distil.mse_logits, lambda s, t: 0.5),
            "gradient without 2": scaled(distil.mse_logits, one, lambda s, t: 0.5),
        },
    ),
    on(
        "kl_tokens",
        {"over padding": over_padding(distil.kl_tokens), "mean over padding too": padded_mean(distil.kl_tokens)},
    ),
    on(
        "mse_tokens",
        {
            "over padding": over_padding(distil.mse_tokens),
            "mean over elements": scaled(distil.mse_tokens, lambda s, *_: 1 / s.shape[-1]),
        },
    ),
    on(
        "cosine_tokens",
        {
            "over padding": over_padding(distil.cosine_tokens),
            "no projection": cosine_without_projection,
            "sum": scaled(distil.cosine_tokens, lambda s, t, mask: mask.sum()),
        },
    ),
    on("hidden_l1", {"squared": distil.hidden_mse, "sum": scaled(distil.hidden_l1, lambda s, t: s.size)}),
    on("l2_distance", {"squared": lambda s, t: scaled(distil.mse_logits, lambda s, t: s.size)(s, t)}),
    on("tempered", {"T squared": distil.soft_cross_entropy}),
    on("hidden_kl", {"mean over rows": scaled(distil.hidden_kl, lambda s, t: s.shape[-1])}),
]
