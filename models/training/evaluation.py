"""How good a model is at a task, on the task's rows for evaluation: accuracy, exact match and F1, perplexity.

    measure = MEASURES["sst2"](folder, tokenizer, limit)
    measure(runner, say)                                         metrics by name

The runner may be of a model in training, of a directory or of a packed file. ``limit`` takes the first rows only, all
if None. ``QUESTIONS`` say something of every row: what it is, not only how much of it is right.
"""

from collections.abc import Callable, Sequence
from math import exp
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from refimpl.models.bert import Batch
from refimpl.models.config import Config
from refimpl.models.data import masked_lm, spans, squad, squad_score, sst2
from refimpl.models.runner import Runner
from refimpl.models.tasks import MASK, Row, Say, in_batches
from refimpl.models.terminal import read_texts
from refimpl.models.tokenizer import Tokenizer
from refimpl.models.training.batches import Purpose, stream

Measure = Callable[[Runner, Say], dict[str, float]]
HEADS = {
    "sst2": ("classification", sst2.LABELS),
    "squad": ("question_answering", ()),
    "mlm": ("masked_lm", ()),
}
"""Task -> the head that it needs, and its classes' names."""
ENDINGS = {"sst2": (".tsv",), "squad": (".json", ".json.gz"), "mlm": (".txt",)}
"""Of the files train* and dev*."""
AROUND = 4
"""Tokens that are shown on both sides of a hidden one."""
SMALLER_IS_BETTER = frozenset(["perplexity"])
"""Of the metrics."""


def find(folder: Path, stem: str, endings: Sequence[str]) -> Path:
    """The one file of a folder that begins and ends so. Raises FileNotFoundError or ValueError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; need one with the task's data")
    found = sorted(p for p in folder.iterdir() if p.name.startswith(stem) and p.name.endswith(tuple(endings)))
    need = " or ".join(f"{stem}*{ending}" for ending in endings)
    if not found:
        raise FileNotFoundError(f"{folder} has no file {need}")
    if len(found) > 1:
        raise ValueError(f"{folder} has {found[0].name} and {found[1].name}; need one file {need}")
    return found[0]


def fits(config: Config, task: str) -> bool:
    """Whether a model has the task's head and as many classes."""
    head, labels = HEADS[task]
    return config.head == head and len(config.labels) == len(labels)


def head_words(head: str, classes: int) -> str:
    """A head, for people.

    >>> head_words("question_answering", 0), head_words("classification", 2)
    ('question answering', 'classification of 2 classes')
    """
    return head.replace("_", " ") + (f" of {classes} classes" if classes else "")


def needed(task: str) -> str:
    """The head that a task needs, in words."""
    head, labels = HEADS[task]
    return head_words(head, len(labels))


def check_head(config: Config, task: str) -> None:
    """Raise ValueError for a model that cannot be asked."""
    if not fits(config, task):
        raise ValueError(f"the model is for {head_words(config.head, 0)}; need {needed(task)}")


class Answer(NamedTuple):
    """What a model says of a row: a class's name, an answer's text or a token; and by how much that led, in logits,
    over the next that is another. None where there is no other. nats: minus the log probability of the right token;
    None of other tasks."""

    said: str
    margin: float | None
    nats: float | None = None


class Questions(NamedTuple):
    """The rows for evaluation. texts, wanted: of each row; ask: runner -> an answer a row; score: these -> metrics."""

    texts: list[str]
    wanted: list[str]
    ask: Callable[[Runner, Say], list[Answer]]
    score: Callable[[Sequence[Answer]], dict[str, float]]


def sst2_questions(folder: Path, tokenizer: Tokenizer, limit: int | None = None) -> Questions:
    """accuracy, %."""
    dev = sst2.read(find(folder, "dev", ENDINGS["sst2"]))[:limit]
    texts, wanted = [sentence.text for sentence in dev], [sst2.LABELS[sentence.label] for sentence in dev]
    rows = tokenizer.rows(texts)

    def answer(i: int, row: Row) -> Answer:
        best = int(row.output.argmax())
        return Answer(sst2.LABELS[best], float(row.output[best] - row.output[1 - best]))

    def score(answers: Sequence[Answer]) -> dict[str, float]:
        right = [answer.said == label for answer, label in zip(answers, wanted, strict=True)]
        return {"accuracy": 100 * float(np.mean(right))}

    return Questions(texts, wanted, lambda runner, say: in_batches(runner, rows, answer, say), score)


def squad_questions(folder: Path, tokenizer: Tokenizer, limit: int | None = None) -> Questions:
    """exact match and F1, %; of several windows of a paragraph the best answer counts."""
    dev = squad.read(find(folder, "dev", ENDINGS["squad"]))[:limit]
    rows = spans.windows(dev, tokenizer, min(spans.LENGTH, tokenizer.positions))

    def ask(runner: Runner, say: Say) -> list[Answer]:
        found: list[list[tuple[float, str]]] = [[] for _ in dev]
        for window, best in zip(rows, in_batches(runner, rows, lambda i, row: _best(row), say), strict=True):
            context = dev[window.number].context
            found[window.number] += [(score, context[begin:end]) for score, begin, end in best]
        return [leading(answers) for answers in found]

    def score(answers: Sequence[Answer]) -> dict[str, float]:
        said = {question.id: answer.said for question, answer in zip(dev, answers, strict=True)}
        scores = squad_score.score(dev, said)
        return {"exact match": scores.exact_match, "F1": scores.f1}

    return Questions([each.question for each in dev], [each.answers[0].text for each in dev], ask, score)


def _best(row: Row) -> list[tuple[float, int, int]]:
    """Score, first character and one past the last of a window's two best spans."""
    best = spans.best_spans(row.output[: row.ids.size], row.second, 2)
    return [(span.score, int(row.spans[span.first, 0]), int(row.spans[span.last, 1])) for span in best]


def leading(answers: Sequence[tuple[float, str]]) -> Answer:
    """Of several windows, in their order; of equal ones the first."""
    best, said = max(answers, key=lambda answer: answer[0], default=(0.0, ""))
    others = [score for score, text in answers if text != said]
    return Answer(said, best - max(others) if others else None)


def mlm_questions(folder: Path, tokenizer: Tokenizer, limit: int | None = None) -> Questions:
    """accuracy, % of the hidden tokens, and perplexity. A row is a hidden token, its text what is around it, itself as
    ?; the same are hidden at any time.

    Raises ValueError where none is.
    """
    path = find(folder, "dev", ENDINGS["mlm"])
    texts = read_texts(path)[:limit]
    hide, rows = hider(tokenizer), []
    for i, row in enumerate(tokenizer.rows(texts)):
        batch, _ = tokenizer.batch([row])
        hidden = hide(batch, [row], stream(0, Purpose.EVALUATION, i))
        rows.append((batch._replace(ids=hidden.ids), np.flatnonzero(hidden.labels[0] >= 0), hidden.labels[0]))
    asked = [(_around(tokenizer, batch.ids[0], int(at)), tokenizer.token(int(labels[at])))
             for batch, places, labels in rows for at in places]  # fmt: skip
    if not asked:
        raise ValueError(f"no token of {path} is hidden; need longer texts, or more of them")

    def ask(runner: Runner, say: Say) -> list[Answer]:
        found: list[Answer] = []
        for i, (batch, places, labels) in enumerate(rows):
            if places.size:
                logits = runner.run(*batch)[0, places].astype(np.float64)
                found += [_token(tokenizer, y, int(labels[at])) for y, at in zip(logits, places, strict=True)]
            say(i + 1, len(rows))
        return found

    def score(answers: Sequence[Answer]) -> dict[str, float]:
        right = [answer.said == wanted for answer, (_, wanted) in zip(answers, asked, strict=True)]
        nats = float(np.mean([answer.nats for answer in answers]))
        return {"accuracy": 100 * float(np.mean(right)), "perplexity": exp(min(nats, 700.0))}

    return Questions([text for text, _ in asked], [wanted for _, wanted in asked], ask, score)


def _around(tokenizer: Tokenizer, ids: np.ndarray, at: int) -> str:
    before, after = ids[max(at - AROUND, 0) : at], ids[at + 1 : at + 1 + AROUND]
    return " ".join([*(tokenizer.token(int(i)) for i in before), "?", *(tokenizer.token(int(i)) for i in after)])


def _token(tokenizer: Tokenizer, y: np.ndarray, label: int) -> Answer:
    """y: f64 (V,)."""
    second, first = np.partition(y, -2)[-2:]
    return Answer(tokenizer.token(int(y.argmax())), float(first - second), float(logsumexp(y) - y[label]))


Hide = Callable[[Batch, Sequence[Any], np.random.Generator], masked_lm.Masked]


def hider(tokenizer: Tokenizer) -> Hide:
    """(batch, its rows, generator) -> the batch with words hidden. Raises ValueError for a tokenizer without [MASK]."""
    mask = tokenizer.token_id(MASK)
    if mask is None:
        raise ValueError(f"the tokenizer has no {MASK}; need it to hide words")

    def hide(batch: Batch, chosen: Sequence[Any], generator: np.random.Generator) -> masked_lm.Masked:
        ordinary = np.zeros(batch.ids.shape, bool)
        for i, row in enumerate(chosen):
            ordinary[i, : len(row)] = [part is not None for part in row.sequence_ids]
        return masked_lm.mask_tokens(batch.ids, ordinary, mask, tokenizer.vocabulary, generator)

    return hide


QUESTIONS = {"sst2": sst2_questions, "squad": squad_questions, "mlm": mlm_questions}


def _measured(make: Callable[..., Questions]) -> Callable[..., Measure]:
    def measure_of(folder: Path, tokenizer: Tokenizer, limit: int | None = None) -> Measure:
        questions = make(folder, tokenizer, limit)
        return lambda runner, say: questions.score(questions.ask(runner, say))

    return measure_of


MEASURES: dict[str, Callable[..., Measure]] = {task: _measured(make) for task, make in QUESTIONS.items()}
