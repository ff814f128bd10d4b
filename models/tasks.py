"""From a model's output to what a person asked for: a label with its score, an answer, a word, a nearest sentence."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from refimpl.models.bert import Batch, Model, forward
from refimpl.models.tokenizer import Tokenizer
from refimpl.nn import Ops
from refimpl.nn.softmax import softmax

MASK = "[MASK]"
LONGEST_ANSWER = 30  # tokens, as in the official SQuAD scripts of BERT


def classify(model: Model, tokenizer: Tokenizer, ops: Ops, texts: Sequence[str]) -> list[dict[str, Any]]:
    """The likeliest label of each text, with its probability."""
    logits = forward(model, tokenizer.encode(texts), ops)
    best, probs = logits.argmax(-1), softmax(logits)  # of the logits: two probabilities may round to the same
    return [
        {"text": text, "label": model.config.labels[i], "score": float(row[i])}
        for text, row, i in zip(texts, probs, best, strict=True)
    ]


def embed(
    model: Model, tokenizer: Tokenizer, ops: Ops, texts: Sequence[str], among: Sequence[str]
) -> list[dict[str, Any]]:
    """The unit vector of each text, and its nearest neighbour by cosine among other sentences (itself left out)."""
    vectors = forward(model, tokenizer.encode(texts), ops)
    similarity = vectors @ forward(model, tokenizer.encode(among), ops).T
    rows = []
    for text, vector, cosines in zip(texts, vectors, similarity, strict=True):
        same = np.array([text == other for other in among])
        if same.all():
            raise ValueError(f"among has no sentence but {text!r:.80}; need another one")
        others = np.where(same, -np.inf, cosines)
        best = int(others.argmax())
        rows.append({"text": text, "nearest": among[best], "cosine": float(others[best]), "embedding": vector.tolist()})
    return rows


def answer(model: Model, tokenizer: Tokenizer, ops: Ops, question: str, context: str) -> dict[str, Any]:
    """The span of ``context`` with the largest start + end logit: end not before start, at most 30 tokens."""
    batch, origin = tokenizer.encode_with_origin([(question, context)])
    start, end = np.moveaxis(forward(model, batch, ops)[0].astype(np.float64), -1, 0)
    allowed = origin.second[0]
    tokens = np.arange(allowed.size)
    length = tokens[None, :] - tokens[:, None]
    legal = allowed[:, None] & allowed[None, :] & (length >= 0) & (length < LONGEST_ANSWER)
    scores = np.where(legal, start[:, None] + end[None, :], -np.inf)
    first, last = np.unravel_index(int(scores.argmax()), scores.shape)
    begin, stop = int(origin.spans[0, first, 0]), int(origin.spans[0, last, 1])
    return {"question": question, "answer": context[begin:stop], "start": begin, "score": float(scores[first, last])}


def fill_mask(model: Model, tokenizer: Tokenizer, ops: Ops, texts: Sequence[str], top: int = 5) -> list[dict[str, Any]]:
    """The likeliest words for each [MASK] of each text."""
    batch: Batch = tokenizer.encode(texts)
    mask_id = tokenizer.token_id(MASK)
    logits = forward(model, batch, ops)
    probs = softmax(logits)
    found = []
    for i, text in enumerate(texts):
        places = np.flatnonzero((batch.ids[i] == mask_id) & (batch.mask[i] != 0))
        if not places.size:
            raise ValueError(f"texts[{i}] has no {MASK}; need at least one to fill")
        for place in places:
            best = np.argsort(-logits[i, place], kind="stable")[:top]
            words = [{"word": tokenizer.token(int(j)), "score": float(probs[i, place, j])} for j in best]
            found.append({"text": text, "token": int(place), "words": words})
    return found
