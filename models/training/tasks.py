"""The three tasks that ``refimpl train`` knows, each from a folder of data files.

    sst2     train.tsv, dev.tsv              cross entropy of two classes        accuracy, %
    squad    train*.json[.gz], dev*.json[.gz]  start and end of the answer       exact match and F1, %
    mlm      train.txt, dev.txt              cross entropy of hidden tokens      accuracy, %, and perplexity

SQuAD is trained on questions whose answer's place is certain. ``limit`` takes the first rows of each file only.
"""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refimpl.models.bert import Batch, Model
from refimpl.models.compress import Dense
from refimpl.models.data import spans, squad, sst2
from refimpl.models.runner import on_ops
from refimpl.models.tasks import Say
from refimpl.models.terminal import read_texts
from refimpl.models.tokenizer import Tokenizer
from refimpl.models.training.evaluation import ENDINGS, HEADS, MEASURES, find, hider
from refimpl.models.training.task import Rows, Task
from refimpl.nn import REFERENCE, Ops
from refimpl.nn.losses import Loss, cross_entropy, question_answering


def _silent(done: int, of: int) -> None:
    pass


class Source(NamedTuple):
    """folder: of the data; limit: how many rows of each file, all if None; ops: what evaluates; say: (done, of all) of
    an evaluation."""

    folder: Path
    tokenizer: Tokenizer
    limit: int | None = None
    ops: Ops = REFERENCE
    say: Say = _silent

    def train_file(self, task: str) -> Path:
        """As ``find`` finds it."""
        return find(self.folder, "train", ENDINGS[task])

    def evaluate(self, task: str) -> Callable[[Model], dict[str, float]]:
        """Model -> metrics by name."""
        measure = MEASURES[task](self.folder, self.tokenizer, self.limit)
        return lambda model: measure(on_ops(Dense(model, self.tokenizer), self.ops, "f32"), self.say)

    def digest(self, task: str) -> str:
        """Of the files for training and for evaluation."""
        files = (find(self.folder, stem, ENDINGS[task]) for stem in ("train", "dev"))
        return sha256(b"".join(sha256(path.read_bytes()).digest() for path in files)).hexdigest()


def sst2_task(source: Source) -> Task:
    """Whether a sentence is positive."""
    tokenizer = source.tokenizer
    train = sst2.read(source.train_file("sst2"))[: source.limit]
    rows = tokenizer.rows([sentence.text for sentence in train])
    labels = np.array([sentence.label for sentence in train])

    def example(numbers: Rows, generator: np.random.Generator) -> tuple[Batch, Any]:
        return tokenizer.batch([rows[i] for i in numbers])[0], labels[list(numbers)]

    return Task(
        *HEADS["sst2"], [len(row) for row in rows], example,
        lambda y, batch, target: cross_entropy(y, target), source.evaluate("sst2"), source.digest("sst2"),
    )  # fmt: skip


def squad_task(source: Source) -> Task:
    """Where in a paragraph the answer to a question is."""
    tokenizer = source.tokenizer
    train = [question for question in squad.read(source.train_file("squad")) if question.certain][: source.limit]
    rows = spans.windows(train, tokenizer, min(spans.LENGTH, tokenizer.positions))
    targets = np.array([spans.target(row, train[row.number]) for row in rows])

    def example(numbers: Rows, generator: np.random.Generator) -> tuple[Batch, Any]:
        return tokenizer.batch([rows[i] for i in numbers])[0], targets[list(numbers)]

    def loss(y: np.ndarray, batch: Batch, target: Any) -> Loss:
        return question_answering(y, batch.mask, target[:, 0], target[:, 1])

    evaluate, digest = source.evaluate("squad"), source.digest("squad")
    return Task(*HEADS["squad"], [len(row.ids) for row in rows], example, loss, evaluate, digest)


def mlm_task(source: Source) -> Task:
    """Which words are hidden."""
    tokenizer = source.tokenizer
    rows = tokenizer.rows(read_texts(source.train_file("mlm"))[: source.limit])
    hide = hider(tokenizer)

    def example(numbers: Rows, generator: np.random.Generator) -> tuple[Batch, Any]:
        chosen = [rows[i] for i in numbers]
        batch, _ = tokenizer.batch(chosen)
        hidden = hide(batch, chosen, generator)
        return batch._replace(ids=hidden.ids), hidden.labels

    return Task(
        *HEADS["mlm"], [len(row) for row in rows], example,
        lambda y, batch, target: cross_entropy(y, target), source.evaluate("mlm"), source.digest("mlm"),
    )  # fmt: skip


TASKS: dict[str, Callable[..., Task]] = {"sst2": sst2_task, "squad": squad_task, "mlm": mlm_task}
