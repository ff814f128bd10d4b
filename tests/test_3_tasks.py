"""From logits to answers. The model is replaced by arrays, so that every kind of logits occurs."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from refimpl.models import tasks
from refimpl.models.bert import Batch
from refimpl.models.config import Config, read_config
from refimpl.models.data.spans import LONGEST_ANSWER
from refimpl.models.runner import Runner
from refimpl.models.tokenizer import Tokenizer

QUESTION, CONTEXT = "what sat", "The cat's hat sat on a mat, sat it not? The café is not naive."
LOGITS = st.floats(-1e4, 1e4, width=32)


def config_of(name: str, positions: int = 64) -> Config:
    return replace(read_config(tiny.GOLDEN / name), positions=positions, vocabulary=100)


def tokenizer_of(positions: int = 64) -> Tokenizer:
    return Tokenizer.load(tiny.GOLDEN / "wordpiece", config_of("bert_question_answering", positions))


TOKENIZER = tokenizer_of()


def ready(make, name: str = "bert_classification", tokenizer: Tokenizer = TOKENIZER) -> Runner:
    return Runner(config_of(name), tokenizer, lambda *batch: make(Batch(*batch)), "arrays")


def run(task, make, *arguments, **of):
    return task(ready(make, **of), *arguments)


# --- batches ---------------------------------------------------------------------------------------------------------


def texts_of(lengths: list[int]) -> list[str]:
    return [" ".join(["cat"] * length) for length in lengths]


def check_in_batches(in_batches):
    """Each text's own row, in the order of the texts; batches within their limit, and little padding in them."""
    lengths = [5, 1, 40, 3, 3, 61, 1, 2, 28, 7] * 7
    shapes, told = [], []

    def make(batch):
        shapes.append(batch.ids.shape)
        assert (batch.mask.sum(1).max(), (batch.mask != 0).any(1).all()) == (batch.ids.shape[1], True)
        return batch.ids[:, :, None] + np.arange(batch.ids.shape[1])[None, :, None]

    def finish(i, row):
        n = lengths[i] + 2
        return i, row.ids.tolist(), row.output[:n, 0].tolist(), len(row.spans), len(row.second)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "BATCH_TOKENS", 128)
        rows = TOKENIZER.rows(texts_of(lengths))
        found = in_batches(ready(make), rows, finish, lambda done, of: told.append((done, of)))
    assert None not in found
    for i, (number, ids, output, *sizes) in enumerate(found):
        want = TOKENIZER.encode(texts_of([lengths[i]])).ids[0]
        assert number == i
        assert (ids, output) == (want.tolist(), (want + np.arange(want.size)).tolist())
        assert sizes == [want.size] * 2
    assert all(count * tokens <= 128 for count, tokens in shapes)
    assert sum(count * tokens for count, tokens in shapes) < 1.3 * (sum(lengths) + 2 * len(lengths))
    assert sum(count for count, _ in shapes) == len(lengths)
    assert told == [(done, len(lengths)) for done in np.cumsum([count for count, _ in shapes])]


def test_texts_run_in_batches_of_like_length():
    check_in_batches(tasks.in_batches)


def test_a_text_beyond_the_limit_is_a_batch_of_its_own(monkeypatch):
    monkeypatch.setattr(tasks, "BATCH_TOKENS", 2)
    rows = TOKENIZER.rows(texts_of([3, 1]))
    shapes = []

    def make(batch):
        shapes.append(batch.ids.shape)
        return batch.ids

    assert tasks.in_batches(ready(make), rows, lambda i, row: row.ids.size) == [5, 3]
    assert shapes == [(1, 3), (1, 5)]
    assert tasks._most_tokens(ready(make, "distilbert_masked_lm")) == 2
    monkeypatch.setattr(tasks, "BATCH_TOKENS", 10**6)
    assert tasks._most_tokens(ready(make, "distilbert_masked_lm")) == tasks.BATCH_LOGITS // 100


# --- answers ---------------------------------------------------------------------------------------------------------


def spans(context: str = CONTEXT) -> tuple[np.ndarray, np.ndarray]:
    """First and last character of each token of the context, and the tokens' places in the row."""
    _, origin = TOKENIZER.encode_with_origin([(QUESTION, context)])
    places = np.flatnonzero(origin.second[0])
    return origin.spans[0, places], places


def best_by_hand(logits: np.ndarray) -> float:
    """The largest start + end over all legal spans, one by one."""
    _, places = spans()
    start, end = logits.astype(np.float64).T
    return max(start[i] + end[j] for i in places for j in places if 0 <= j - i < LONGEST_ANSWER)


TOKENS = TOKENIZER.encode([(QUESTION, CONTEXT)]).ids.shape[1]


@settings(max_examples=200, deadline=None)
@given(arrays(np.float32, (TOKENS, 2), elements=LOGITS))
def test_an_answer_is_the_best_legal_span_of_the_context(logits):
    (found,) = run(tasks.answer, lambda batch: logits[None], [QUESTION], CONTEXT)
    assert found["score"] == best_by_hand(logits)
    assert found["answer"]
    assert CONTEXT[found["start"] :].startswith(found["answer"])
    ends, _ = spans()
    first = [i for i, (begin, _) in enumerate(ends) if begin == found["start"]]
    last = [i for i, (_, stop) in enumerate(ends) if stop == found["start"] + len(found["answer"])]
    assert first
    assert last
    assert 0 <= last[0] - first[0] < LONGEST_ANSWER


def peaks(**places: int) -> np.ndarray:
    logits = np.zeros((1, TOKENS, 2), np.float32)
    for which, place in places.items():
        logits[0, place, ("start", "end").index(which)] = 100
    return logits


@pytest.mark.parametrize(
    "places",
    [{"start": 0, "end": 0}, {"start": 1, "end": 2}, {"start": TOKENS - 1, "end": TOKENS - 1}, {"start": 9, "end": 5}],
)
def test_the_likeliest_span_may_be_illegal(places):
    """[CLS], the question, the last [SEP], and an end before its start: none of them is an answer."""
    (found,) = run(tasks.answer, lambda batch: peaks(**places), [QUESTION], CONTEXT)
    assert found["answer"]
    assert CONTEXT[found["start"] :].startswith(found["answer"])
    assert found["score"] < 200


def test_an_answer_is_at_most_30_tokens_long():
    context = "cat " * 40
    tokens = TOKENIZER.encode([(QUESTION, context)]).ids.shape[1]
    logits = np.zeros((1, tokens, 2), np.float32)
    _, places = spans(context)
    logits[0, places[0], 0] = logits[0, places[-1], 1] = logits[0, places[29], 1] = 5
    logits[0, places[-1], 1] = 9
    (found,) = run(tasks.answer, lambda batch: logits, [QUESTION], context)
    assert found["score"] == 10
    assert found["answer"].split() == ["cat"] * 30


def test_padding_and_another_row_cannot_be_an_answer():
    """A context that is cut to the model's positions answers from what is left of it."""
    short = tokenizer_of(positions=9)
    with pytest.warns(UserWarning, match="cut to 9 tokens"):
        (found,) = run(
            tasks.answer, lambda batch: np.zeros((1, 9, 2), np.float32), [QUESTION], CONTEXT, tokenizer=short
        )
    assert found["answer"] == "The"


# --- words -----------------------------------------------------------------------------------------------------------


def word_logits(batch) -> np.ndarray:
    """Token t of each row favours the ids t, t + 1, t + 2 in this order."""
    logits = np.zeros((*batch.ids.shape, 100), np.float32)
    for t in range(batch.ids.shape[1]):
        logits[:, t, [t, t + 1, t + 2]] = [9, 8, 7]
    return logits


def test_words_for_each_mask():
    texts = ["the cat sat on a mat", "the [MASK] sat [MASK]"]
    with pytest.raises(ValueError, match=r"texts\[0\] has no \[MASK\]; need at least one to fill"):
        run(tasks.fill_mask, word_logits, texts)
    found = run(tasks.fill_mask, word_logits, texts[1:], 3)
    assert [result["token"] for result in found] == [2, 4]
    for result in found:
        assert [word["word"] for word in result["words"]] == [TOKENIZER.token(result["token"] + i) for i in range(3)]
        scores = [word["score"] for word in result["words"]]
        assert scores == sorted(scores, reverse=True)


def test_a_vocabulary_without_a_mask():
    text = TOKENIZER.to_bytes().decode().replace("[MASK]", "[MUSK]")
    musk = Tokenizer(text, config_of("bert_masked_lm"), "here")
    with pytest.raises(ValueError, match=r"texts\[0\] has no \[MASK\]"):
        run(tasks.fill_mask, word_logits, ["the [MASK] sat"], tokenizer=musk)


# --- labels ----------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, (2, 3), elements=LOGITS))
def test_a_label_is_the_likeliest(logits):
    found = run(tasks.classify, lambda batch: logits, ["the cat", "a hat"])
    for result, row in zip(found, logits, strict=True):
        assert row[("bad", "fair", "good").index(result["label"])] == row.max()
        assert 1 / 3 - 1e-6 <= result["score"] <= 1


# --- sentences -------------------------------------------------------------------------------------------------------


def unit_vectors(batch) -> np.ndarray:
    """Rows of the unit circle by the number of tokens, so that texts of equal length are the nearest."""
    angle = batch.mask.sum(1).astype(np.float32)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def test_the_nearest_sentence_is_another_one():
    texts = ["the cat", "a hat", "the cat sat on a mat"]
    found = run(tasks.embed, unit_vectors, texts, texts)
    assert [result["nearest"] for result in found[:2]] == ["a hat", "the cat"]
    assert [result["cosine"] for result in found[:2]] == pytest.approx([1, 1], abs=1e-6)
    assert found[2]["nearest"] != texts[2]
    assert found[0]["embedding"] == unit_vectors(TOKENIZER.encode(texts))[0].tolist()


def test_no_other_sentence():
    with pytest.raises(ValueError, match="among has no sentence but 'the cat'; need another one"):
        run(tasks.embed, unit_vectors, ["the cat"], ["the cat", "the cat"])
