"""From a model's output to what a person asked for: a label with its score, an answer, a word, a nearest sentence.

Texts run in batches of about the same length, so that little is padded; results come in the order of the texts. ``say``
is told (done, of all).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.models.data.spans import best_spans
from refimpl.models.runner import Runner
from refimpl.nn.softmax import softmax

MASK = "[MASK]"
BATCH_TOKENS = 2048
"""Of a batch, padding included; a longer text is a batch of its own."""
BATCH_LOGITS = 2**24
"""Numbers of an output: a masked language model gives as many as its vocabulary has words, for each token."""
BLOCK = 256

Say = Callable[[int, int], None]


class Row(NamedTuple):
    """One text's part of a batch: ids (T,), spans (T, 2) and second (T,) as in ``Origin``, output: the head's."""

    ids: np.ndarray
    spans: np.ndarray
    second: np.ndarray
    output: np.ndarray


def _silent(done: int, of: int) -> None:
    pass


def in_batches(ready: Runner, rows: Sequence[Any], finish: Callable[[int, Row], Any], say: Say = _silent) -> list[Any]:
    """``finish(i, row)`` for each of the tokenizer's rows, in their order; it is called in another."""
    results: list[Any] = [None] * len(rows)
    done = 0
    for numbers in _batches([len(row) for row in rows], _most_tokens(ready)):
        batch, origin = ready.tokenizer.batch([rows[i] for i in numbers])
        output = ready.run(*batch)
        for at, i in enumerate(numbers):
            here = at, slice(len(rows[i]))
            results[i] = finish(i, Row(batch.ids[here], origin.spans[here], origin.second[here], output[at]))
        done += len(numbers)
        say(done, len(rows))
    return results


def _most_tokens(ready: Runner) -> int:
    words = ready.config.vocabulary if ready.config.head == "masked_lm" else 1
    return min(BATCH_TOKENS, BATCH_LOGITS // words)


def _batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Numbers of texts, the shortest first, so many that the longest times their count is at most ``most``."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and lengths[i] * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def classify(ready: Runner, texts: Sequence[str], say: Say = _silent) -> list[dict[str, Any]]:
    """The likeliest label of each text, with its probability."""

    def finish(i: int, row: Row) -> dict[str, Any]:
        best = int(row.output.argmax())  # of the logits: two probabilities may round to the same
        return {"text": texts[i], "label": ready.config.labels[best], "score": float(softmax(row.output)[best])}

    return in_batches(ready, ready.tokenizer.rows(texts), finish, say)


def embed(ready: Runner, texts: Sequence[str], among: Sequence[str], say: Say = _silent) -> list[dict[str, Any]]:
    """The unit vector of each text, and its nearest neighbour by cosine among other sentences (itself left out)."""
    place = {text: i for i, text in enumerate(dict.fromkeys(among))}
    for text in texts:
        if place.keys() <= {text}:
            raise ValueError(f"among has no sentence but {text!r:.80}; need another one")
    every = list(dict.fromkeys([*texts, *among]))  # texts first: an error then names one of those
    vectors = np.array(in_batches(ready, ready.tokenizer.rows(every), lambda i, row: row.output.copy(), say))
    number = {text: i for i, text in enumerate(every)}
    others = vectors[[number[text] for text in place]]
    names, results = list(place), []
    for start in range(0, len(texts), BLOCK):
        block = vectors[[number[text] for text in texts[start : start + BLOCK]]]
        for text, vector, cosines in zip(texts[start:], block, block @ others.T, strict=False):
            if text in place:
                cosines[place[text]] = -np.inf
            best = int(cosines.argmax())
            nearest = {"nearest": names[best], "cosine": float(cosines[best])}
            results.append({"text": text, **nearest, "embedding": vector.tolist()})
    return results


def answer(ready: Runner, questions: Sequence[str], context: str, say: Say = _silent) -> list[dict[str, Any]]:
    """The span of ``context`` with the largest start + end logit: end not before start, at most 30 tokens."""

    def finish(i: int, row: Row) -> dict[str, Any]:
        (best,) = best_spans(row.output[: row.ids.size], row.second)
        begin, stop = int(row.spans[best.first, 0]), int(row.spans[best.last, 1])
        found = {"answer": context[begin:stop], "start": begin, "score": best.score}
        return {"question": questions[i], **found}

    return in_batches(ready, ready.tokenizer.rows([(question, context) for question in questions]), finish, say)


def fill_mask(ready: Runner, texts: Sequence[str], top: int = 5, say: Say = _silent) -> list[dict[str, Any]]:
    """The likeliest words for each [MASK] of each text."""
    rows, mask = ready.tokenizer.rows(texts), ready.tokenizer.token_id(MASK)
    for i, row in enumerate(rows):
        if mask not in row.ids:
            raise ValueError(f"texts[{i}] has no {MASK}; need at least one to fill")

    def finish(i: int, row: Row) -> list[dict[str, Any]]:
        found = []
        for place in np.flatnonzero(row.ids == mask):
            logits = row.output[place]
            best, probs = np.argsort(-logits, kind="stable")[:top], softmax(logits)
            words = [{"word": ready.tokenizer.token(int(j)), "score": float(probs[j])} for j in best]
            found.append({"text": texts[i], "token": int(place), "words": words})
        return found

    return [result for results in in_batches(ready, rows, finish, say) for result in results]
