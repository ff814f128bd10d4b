"""The three tasks that ``refimpl train`` knows, each from a folder of data files.

    sst2     train.tsv, dev.tsv              cross entropy of two classes        accuracy, %
    squad    train*.json[.gz], dev*.json[.gz]  start and end of the answer       exact match and F1, %
    mlm      train.txt, dev.txt              cross entropy of hidden tokens      loss and perplexity

SQuAD is trained on questions whose answer's place is certain. ``limit`` takes the first rows of each file only.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from math import exp
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refimpl.models.bert import Batch, Model
from refimpl.models.compress import Dense
from refimpl.models.data import masked_lm, spans, squad, squad_score, sst2
from refimpl.models.runner import Runner, on_ops
from refimpl.models.tasks import MASK, Row, in_batches
from refimpl.models.terminal import read_texts
from refimpl.models.tokenizer import Tokenizer
from refimpl.models.training.batches import Purpose, stream
from refimpl.models.training.task import Rows, Task
from refimpl.nn import REFERENCE, Ops
from refimpl.nn.losses import Loss, cross_entropy, question_answering

Say = Callable[[int, int], None]


def _silent(done: int, of: int) -> None:
    pass


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


def _files(folder: Path, *endings: str) -> tuple[Path, Path, str]:
    """The files for training and for evaluation, and a digest of both."""
    train, dev = (find(folder, stem, endings) for stem in ("train", "dev"))
    return train, dev, sha256(sha256(train.read_bytes()).digest() + sha256(dev.read_bytes()).digest()).hexdigest()


class Source(NamedTuple):
    """folder: of the data; limit: how many rows of each file, all if None; ops: what evaluates; say: (done, of all) of
    an evaluation."""

    folder: Path
    tokenizer: Tokenizer
    limit: int | None = None
    ops: Ops = REFERENCE
    say: Say = _silent

    def ready(self, model: Model) -> Runner:
        """The model, to run on rows."""
        return on_ops(Dense(model, self.tokenizer), self.ops, "f32")


def sst2_task(source: Source) -> Task:
    """Whether a sentence is positive."""
    tokenizer = source.tokenizer
    train_file, dev_file, digest = _files(source.folder, ".tsv")
    train, dev = (sst2.read(path)[: source.limit] for path in (train_file, dev_file))
    rows, dev_rows = (tokenizer.rows([sentence.text for sentence in part]) for part in (train, dev))
    labels, dev_labels = (np.array([sentence.label for sentence in part]) for part in (train, dev))

    def example(numbers: Rows, generator: np.random.Generator) -> tuple[Batch, Any]:
        return tokenizer.batch([rows[i] for i in numbers])[0], labels[list(numbers)]

    def evaluate(model: Model) -> dict[str, float]:
        said = in_batches(source.ready(model), dev_rows, lambda i, row: int(row.output.argmax()), source.say)
        return {"accuracy": 100 * float((np.array(said) == dev_labels).mean())}

    return Task(
        "classification", sst2.LABELS, [len(row) for row in rows], example,
        lambda y, batch, target: cross_entropy(y, target), evaluate, digest,
    )  # fmt: skip


def squad_task(source: Source) -> Task:
    """Where in a paragraph the answer to a question is."""
    tokenizer = source.tokenizer
    train_file, dev_file, digest = _files(source.folder, ".json", ".json.gz")
    train = [question for question in squad.read(train_file) if question.certain][: source.limit]
    dev = squad.read(dev_file)[: source.limit]
    length = min(spans.LENGTH, tokenizer.positions)
    rows, dev_rows = (spans.windows(part, tokenizer, length) for part in (train, dev))
    targets = np.array([spans.target(row, train[row.number]) for row in rows])

    def example(numbers: Rows, generator: np.random.Generator) -> tuple[Batch, Any]:
        return tokenizer.batch([rows[i] for i in numbers])[0], targets[list(numbers)]

    def loss(y: np.ndarray, batch: Batch, target: Any) -> Loss:
        return question_answering(y, batch.mask, target[:, 0], target[:, 1])

    def evaluate(model: Model) -> dict[str, float]:
        found = in_batches(source.ready(model), dev_rows, lambda i, row: _answer(row), source.say)
        best: dict[int, tuple[float, str]] = {}
        for window, (score, begin, end) in zip(dev_rows, found, strict=True):
            text = dev[window.number].context[begin:end]
            if window.number not in best or score > best[window.number][0]:
                best[window.number] = score, text
        scores = squad_score.score(dev, {dev[i].id: text for i, (_, text) in best.items()})
        return {"exact match": scores.exact_match, "F1": scores.f1}

    return Task("question_answering", (), [len(row) for row in rows], example, loss, evaluate, digest)


def _answer(row: Row) -> tuple[float, int, int]:
    """Score, first character and one past the last of a window's best span."""
    for best in spans.best_spans(row.output[: row.ids.size], row.second):
        return best.score, int(row.spans[best.first, 0]), int(row.spans[best.last, 1])
    return -np.inf, 0, 0


def mlm_task(source: Source) -> Task:
    """Which words are hidden. The rows for evaluation are always masked alike."""
    tokenizer = source.tokenizer
    train_file, dev_file, digest = _files(source.folder, ".txt")
    rows, dev_rows = (tokenizer.rows(read_texts(path)[: source.limit]) for path in (train_file, dev_file))
    mask = tokenizer.token_id(MASK)
    if mask is None:
        raise ValueError(f"the tokenizer has no {MASK}; need it to hide words")

    def hide(batch: Batch, chosen: Sequence[Any], generator: np.random.Generator) -> masked_lm.Masked:
        ordinary = np.zeros(batch.ids.shape, bool)
        for i, row in enumerate(chosen):
            ordinary[i, : len(row)] = [part is not None for part in row.sequence_ids]
        return masked_lm.mask_tokens(batch.ids, ordinary, mask, tokenizer.vocabulary, generator)

    def example(numbers: Rows, generator: np.random.Generator) -> tuple[Batch, Any]:
        chosen = [rows[i] for i in numbers]
        batch, _ = tokenizer.batch(chosen)
        hidden = hide(batch, chosen, generator)
        return batch._replace(ids=hidden.ids), hidden.labels

    def evaluate(model: Model) -> dict[str, float]:
        run, total, count = source.ready(model).run, 0.0, 0
        for i, row in enumerate(dev_rows):
            batch, _ = tokenizer.batch([row])
            hidden = hide(batch, [row], stream(0, Purpose.EVALUATION, i))
            told = int((hidden.labels >= 0).sum())
            if told:
                total += told * float(cross_entropy(run(hidden.ids, batch.mask, batch.types), hidden.labels).value)
                count += told
            source.say(i + 1, len(dev_rows))
        mean = total / max(count, 1)
        return {"dev loss": mean, "perplexity": exp(min(mean, 700.0))}

    return Task(
        "masked_lm", (), [len(row) for row in rows], example,
        lambda y, batch, target: cross_entropy(y, target), evaluate, digest,
    )  # fmt: skip


TASKS: dict[str, Callable[..., Task]] = {"sst2": sst2_task, "squad": squad_task, "mlm": mlm_task}
