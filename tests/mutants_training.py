"""Plausible wrong versions of what trains, and of how data are read and scored. tests/test_mutants.py runs them."""

from collections import Counter
from dataclasses import replace
from math import sqrt

import numpy as np
import test_6_training as training
import test_8_data as data
from mutants import Suite

from refimpl.models.data import masked_lm, spans, squad_score
from refimpl.models.training import batches, clip, loop
from refimpl.nn.adamw import adamw


def adam(
    decay=lambda w, g, rate, p: (w - rate * p.decay * w, g), first=1, second=1, eps=lambda v, p: np.sqrt(v) + p.eps
):
    """``adamw`` with another decay, correction of the moments, or place of eps."""

    def update(w, g, moments, t, rate, p):
        w, g = decay(w, g, rate, p)
        m, v = p.beta1 * moments[0] + (1 - p.beta1) * g, p.beta2 * moments[1] + (1 - p.beta2) * g * g
        corrected = m / (1 - p.beta1**t) ** first, v / (1 - p.beta2**t) ** second
        return w - rate * corrected[0] / eps(corrected[1], p), m, v

    return update


def clip_each(g, norm, most):
    for array in g.values():
        clip.clip({"": array}, clip.global_norm({"": array}), most)


def clip_always(g, norm, most):
    for array in g.values():
        array *= most / norm


def sorted_batches(lengths, size, seed, epoch):
    order = np.argsort(lengths, kind="stable")
    return [order[i : i + size].tolist() for i in range(0, len(order), size)]


def unsorted_batches(lengths, size, seed, epoch):
    order = batches.stream(seed, batches.Purpose.ORDER, epoch).permutation(len(lengths))
    return [order[i : i + size].tolist() for i in range(0, len(order), size)]


def dropping_batches(lengths, size, seed, epoch):
    return [rows for rows in batches.batches(lengths, size, seed, epoch) if len(rows) == size]


def summed(job, settings, state):
    """The sum over batches instead of their mean."""
    for step in loop.train(job, settings, state):
        yield step._replace(norm=step.norm * len(job.batches(0)))


def last_batch_only(job, settings, state):
    def gradients(p, rows, generator):
        loss, g = job.gradients(p, rows, generator)
        gradients.calls += 1
        return loss, g if gradients.calls % 2 else {name: 0 * x for name, x in g.items()}

    gradients.calls = 0
    yield from loop.train(replace(job, gradients=gradients), settings, state)


def scored(metric_f1, best=max):
    def score(questions, answers):
        asked = [q for q in questions if q.id in answers]
        parts = [
            [best(metric(answers[q.id], truth.text) for truth in q.answers) for q in asked]
            for metric in (squad_score.exact_match, metric_f1)
        ]
        return squad_score.Score(*(100 * sum(part) / len(questions) for part in parts))

    return score


def f1_of_sets(answer, truth):
    words, wanted = set(squad_score.normal(answer).split()), set(squad_score.normal(truth).split())
    return 2 * len(words & wanted) / (len(words) + len(wanted))


def f1_with_articles(answer, truth):
    words, wanted = Counter(answer.lower().split()), Counter(truth.lower().split())
    return 2 * (words & wanted).total() / (words.total() + wanted.total())


def only_answered(questions, answers):
    return squad_score.score([q for q in questions if q.id in answers], answers)


def other_windows(step=lambda room, stride: stride, drop_last=False):
    def make(questions, tokenizer, length=384, stride=128):
        found = []
        for row in spans.windows(questions, tokenizer, length, 1):
            room, last = row.end - row.begin, row.end == len(row.context.ids)
            if row.begin % step(length - len(row.asked.ids) - 3, stride) == 0 and not (last and drop_last):
                found.append(replace(row, end=row.begin + room))
        return found

    return make


def target_of_part(row, asked):
    """Also where the window holds only some of the answer."""
    answer = asked.answers[0]
    starts, stops = row.context.offsets[row.begin : row.end].T
    held = np.flatnonzero((starts < answer.start + len(answer.text)) & (stops > answer.start))
    return (row.first + int(held[0]), row.first + int(held[-1])) if held.size else (0, 0)


def target_in_paragraph(row, asked):
    first, last = spans.target(row, asked)
    return first and first - row.first + row.begin, last and last - row.first + row.begin


def other_spans(longest=30, key=lambda span: -span.score, context=True):
    def best(output, second, count):
        n = second.size
        found = [
            spans.Span(i, j, float(output[i, 0] + output[j, 1]))
            for i in range(n)
            for j in range(i, min(i + longest, n))
            if not context or (second[i] and second[j])
        ]
        return sorted(found, key=key)[:count]

    return best


def masking(chosen=0.15, to_mask=0.8, to_random=0.1, special=False, random_from=0):
    def mask_tokens(ids, ordinary, mask_id, vocabulary, generator):
        picked = generator.random(ids.shape) < chosen
        picked &= ordinary | special
        fate = generator.random(ids.shape)
        others = generator.integers(random_from, vocabulary, size=ids.shape)
        hidden = np.where(fate < to_mask, mask_id, np.where(fate < to_mask + to_random, others, ids))
        return masked_lm.Masked(np.where(picked, hidden, ids), np.where(picked, ids, -100))

    return mask_tokens


TRAINING = [
    Suite(
        training.check_adamw,
        adamw,
        {
            "L2 in the gradient": adam(decay=lambda w, g, rate, p: (w, g + p.decay * w)),
            "decay without the rate": adam(decay=lambda w, g, rate, p: (w - p.decay * w, g)),
            "no decay": adam(decay=lambda w, g, rate, p: (w, g)),
            "m not corrected": adam(first=0),
            "v not corrected": adam(second=0),
            "eps in the root": adam(eps=lambda v, p: np.sqrt(v + p.eps)),
            "eps before the correction": lambda w, g, moments, t, rate, p: adamw(
                w, g, moments, t, rate, p._replace(eps=p.eps / sqrt(1 - p.beta2**t))
            ),
            "t from 0": lambda w, g, moments, t, rate, p: adamw(w, g, moments, t + 1, rate, p),
        },
    ),
    Suite(training.check_clip, clip.clip, {"each array": clip_each, "always": clip_always}),
    Suite(
        training.check_batches,
        batches.batches,
        {"sorted": sorted_batches, "not sorted": unsorted_batches, "the last dropped": dropping_batches},
    ),
    Suite(training.check_accumulation, loop.train, {"sum": summed, "one of them": last_batch_only}),
    Suite(
        data.check_score,
        squad_score.score,
        {
            "sets of words": scored(f1_of_sets),
            "articles count": scored(f1_with_articles),
            "the worst truth": scored(squad_score.f1, min),
            "of those answered": only_answered,
        },
    ),
    Suite(
        data.check_windows,
        spans.windows,
        {
            "stride is the overlap": other_windows(lambda room, stride: room - stride),
            "no overlap": other_windows(lambda room, stride: room),
            "the last dropped": other_windows(drop_last=True),
        },
    ),
    Suite(
        data.check_target,
        spans.target,
        {"part of an answer": target_of_part, "counted in the paragraph": target_in_paragraph},
    ),
    Suite(
        data.check_best_spans,
        spans.best_spans,
        {
            "31 tokens": other_spans(31),
            "ties: the last": other_spans(key=lambda span: (-span.score, -span.first)),
            "the question too": other_spans(context=False),
            "worst first": other_spans(key=lambda span: span.score),
        },
    ),
    Suite(
        data.check_masking,
        masked_lm.mask_tokens,
        {
            "16 %": masking(0.16),
            "all to [MASK]": masking(to_mask=1.0),
            "never random": masking(to_random=0.0),
            "special tokens too": masking(special=True),
            "random from 100": masking(random_from=100),
        },
    ),
]
