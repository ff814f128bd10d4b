"""SQuAD v1.1: questions, each with a paragraph that holds its answer word by word.

    {"data": [{"paragraphs": [{"context": "...", "qas": [
        {"id": "...", "question": "...", "answers": [{"text": "...", "answer_start": 177}, ...]}, ...]}, ...]}, ...]}

Contract. JSON in UTF-8, plain or gzip; other keys are ignored, but for ``n_occurrences``: where it is, it counts
how often the answer stands in the context, and ``answer_start`` is certain only if it is 1. White space at the ends of
an answer is dropped (and its start moved). An answer must stand in the context at its start; ids are unique.
Source: SQuAD, arXiv 1606.05250.
"""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from refimpl.models.files import utf8


class Answer(NamedTuple):
    """Its text, and the first character of it in the context."""

    text: str
    start: int


class Question(NamedTuple):
    """One question. certain: whether the answers' places are known, so that it can be trained on."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    certain: bool


def read(path: Path) -> list[Question]:
    """The questions of a file, in its order.

    Raises
    ------
    FileNotFoundError
        there is no such file
    ValueError
        the file is not gzip, UTF-8 or JSON, or not of the form above; it names the file, and the row or the question
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; need SQuAD v1.1 as JSON")
    text = utf8(_bytes(path), path)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    found: dict[str, Question] = {}
    for article in _list(values, "data", str(path)):
        for paragraph in _list(article, "paragraphs", f"{path}: an article"):
            context = _text(paragraph, "context", f"{path}: a paragraph")
            for entry in _list(paragraph, "qas", f"{path}: a paragraph"):
                question = _question(entry, context, str(path))
                if question.id in found:
                    raise ValueError(f"{path} has the id {question.id!r:.80} twice; need each once")
                found[question.id] = question
    if not found:
        raise ValueError(f"{path} has no questions; need at least one")
    return list(found.values())


def _bytes(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not gzip, or damaged: {error}") from None


def _question(entry: Any, context: str, where: str) -> Question:
    name = _text(entry, "id", f"{where}: a question")
    here = f"{where}: question {name!r:.80}"
    answers = tuple(_answer(answer, context, here) for answer in _list(entry, "answers", here))
    if not answers:
        raise ValueError(f"{here} has no answer; need at least one (SQuAD v2's unanswerable ones cannot be used)")
    return Question(name, _text(entry, "question", here), context, answers, entry.get("n_occurrences", 1) == 1)


def _answer(entry: Any, context: str, where: str) -> Answer:
    whole, start = _text(entry, "text", f"{where}: an answer"), entry.get("answer_start")
    if type(start) is not int or start < 0 or not context.startswith(whole, start):
        raise ValueError(f"{where}: {whole!r:.80} does not stand at character {start!r:.20} of the context")
    return Answer(whole.strip(), start + len(whole) - len(whole.lstrip()))


def _list(values: Any, key: str, where: str) -> list[Any]:
    found = values.get(key) if isinstance(values, dict) else None
    if not isinstance(found, list):
        raise ValueError(f"{where} has no list {key!r}; need the form of SQuAD v1.1")
    return found


def _text(values: Any, key: str, where: str) -> str:
    found = values.get(key) if isinstance(values, dict) else None
    if not isinstance(found, str) or not found.strip():
        raise ValueError(f"{where} has no text {key!r}; need the form of SQuAD v1.1")
    return found
