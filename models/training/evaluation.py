"""How good a model is at a task, on the task's rows for evaluation: accuracy, exact match and F1, loss and perplexity.

    measure = MEASURES["sst2"](folder, tokenizer, limit)
    measure(runner, say)                                         metrics by name

The runner may be of a model in training, of a directory or of a packed file. ``limit`` takes the first rows only, all
if None.
"""

from collections.abc import Callable, Sequence
from math import exp
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.models.bert import Batch
from refimpl.models.data import masked_lm, spans, squad, squad_score, sst2
from refimpl.models.runner import Runner
from refimpl.models.tasks import MASK, Row, Say, in_batches
from refimpl.models.terminal import read_texts
from refimpl.models.tokenizer import Tokenizer
from refimpl.models.training.batches import Purpose, stream
from refimpl.nn.losses import cross_entropy

Measure = Callable[[Runner, Say], dict[str, float]]
HEADS = {
    "sst2": ("classification", sst2.LABELS),
    "squad": ("question_answering", ()),
    "mlm": ("masked_lm", ()),
}
"""Task -> the head that it needs, and its classes' names."""
ENDINGS = {"sst2": (".tsv",), "squad": (".json", ".json.gz"), "mlm": (".txt",)}
"""Of the files train* and dev*."""


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


def check_head(runner: Runner, task: str) -> None:
    """Raise ValueError for a model that cannot be asked."""
    head, labels = HEADS[task]
    config = runner.config
    if config.head != head or len(config.labels) != len(labels):
        classes = f" of {len(labels)} classes" if labels else ""
        raise ValueError(f"the model is for {config.head.replace('_', ' ')}; need {head.replace('_', ' ')}{classes}")


def sst2_measure(folder: Path, tokenizer: Tokenizer, limit: int | None = None) -> Measure:
    """accuracy, %."""
    dev = sst2.read(find(folder, "dev", ENDINGS["sst2"]))[:limit]
    rows, labels = tokenizer.rows([sentence.text for sentence in dev]), np.array([sentence.label for sentence in dev])

    def measure(runner: Runner, say: Say) -> dict[str, float]:
        said = in_batches(runner, rows, lambda i, row: int(row.output.argmax()), say)
        return {"accuracy": 100 * float((np.array(said) == labels).mean())}

    return measure


def squad_measure(folder: Path, tokenizer: Tokenizer, limit: int | None = None) -> Measure:
    """exact match and F1, %; of several windows of a paragraph the best answer counts."""
    dev = squad.read(find(folder, "dev", ENDINGS["squad"]))[:limit]
    rows = spans.windows(dev, tokenizer, min(spans.LENGTH, tokenizer.positions))

    def measure(runner: Runner, say: Say) -> dict[str, float]:
        found = in_batches(runner, rows, lambda i, row: _answer(row), say)
        best: dict[int, tuple[float, str]] = {}
        for window, (score, begin, end) in zip(rows, found, strict=True):
            text = dev[window.number].context[begin:end]
            if window.number not in best or score > best[window.number][0]:
                best[window.number] = score, text
        scores = squad_score.score(dev, {dev[i].id: text for i, (_, text) in best.items()})
        return {"exact match": scores.exact_match, "F1": scores.f1}

    return measure


def _answer(row: Row) -> tuple[float, int, int]:
    """Score, first character and one past the last of a window's best span."""
    for best in spans.best_spans(row.output[: row.ids.size], row.second):
        return best.score, int(row.spans[best.first, 0]), int(row.spans[best.last, 1])
    return -np.inf, 0, 0


def mlm_measure(folder: Path, tokenizer: Tokenizer, limit: int | None = None) -> Measure:
    """loss and perplexity; the rows are always masked alike."""
    rows = tokenizer.rows(read_texts(find(folder, "dev", ENDINGS["mlm"]))[:limit])
    hide = hider(tokenizer)

    def measure(runner: Runner, say: Say) -> dict[str, float]:
        total, count = 0.0, 0
        for i, row in enumerate(rows):
            batch, _ = tokenizer.batch([row])
            hidden = hide(batch, [row], stream(0, Purpose.EVALUATION, i))
            told = int((hidden.labels >= 0).sum())
            if told:
                output = runner.run(hidden.ids, batch.mask, batch.types)
                total += told * float(cross_entropy(output, hidden.labels).value)
                count += told
            say(i + 1, len(rows))
        mean = total / max(count, 1)
        return {"dev loss": mean, "perplexity": exp(min(mean, 700.0))}

    return measure


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


MEASURES: dict[str, Callable[..., Measure]] = {"sst2": sst2_measure, "squad": squad_measure, "mlm": mlm_measure}
