"""Questions and paragraphs as windows of tokens, and answers as spans of them.

    [CLS] question [SEP] tokens i S ... of the context [SEP]      window i, at most ``length`` tokens in all

A paragraph that does not fit is read in windows that begin ``stride`` tokens apart, so that they overlap; the last
one reaches its end. Of a question the first ``LONGEST_QUESTION`` tokens count.

Training target: the first and last token of the answer; where a window does not hold it whole, both are 0 ([CLS]).
Answering: over all windows, spans of at most ``LONGEST_ANSWER`` tokens of the context by start + end logit.

Source: BERT, arXiv 1810.04805, section 4.2, and its run_squad.py: --max_seq_length 384, --doc_stride 128,
--max_query_length 64, --max_answer_length 30. Hugging Face's run_qa.py takes the same name, doc_stride, for the
overlap of two windows, and so reads other windows of long paragraphs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.models.data.squad import Question
from refimpl.models.tokenizer import Tokenizer

LENGTH, STRIDE = 384, 128
LONGEST_QUESTION = 64
LONGEST_ANSWER = 30


class Piece(NamedTuple):
    """A text's tokens, none special. ids: s32 (n,); offsets: s32 (n, 2), first character and one past the last."""

    ids: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class Window:
    """One row for the model, with the attributes that ``Tokenizer.batch`` reads of a library's encoding.

    number: the question's; asked: the question; context: the whole paragraph, of which the window has the tokens begin
    to end - 1; ends: ids of [CLS] and [SEP].
    """

    number: int
    asked: Piece
    context: Piece
    begin: int
    end: int
    ends: tuple[int, int]

    def __len__(self) -> int:
        return len(self.asked.ids) + self.end - self.begin + 3

    @property
    def first(self) -> int:
        """Where in the row the context begins."""
        return len(self.asked.ids) + 2

    @property
    def ids(self) -> np.ndarray:
        """s64 (T,)"""
        return self._row(self.asked.ids, self.context.ids, *self.ends)

    @property
    def offsets(self) -> np.ndarray:
        """s64 (T, 2), characters of each token in its own text; 0, 0 for special tokens."""
        return self._row(self.asked.offsets, self.context.offsets, 0, 0)

    @property
    def type_ids(self) -> np.ndarray:
        """s64 (T,): 0, and 1 from the context on, its [SEP] included."""
        return (np.arange(len(self)) >= self.first).astype(np.int64)

    @property
    def sequence_ids(self) -> np.ndarray:
        """s64 (T,): 0 question, 1 context, -1 special token."""
        return self._row(np.zeros(len(self.asked.ids)), np.ones(len(self.context.ids)), -1, -1)

    def _row(self, asked: np.ndarray, context: np.ndarray, start: int, stop: int) -> np.ndarray:
        row = np.full((len(self), *asked.shape[1:]), stop, np.int64)
        row[0] = start
        row[1 : self.first - 1] = asked
        row[self.first : -1] = context[self.begin : self.end]
        return row


class Span(NamedTuple):
    """Tokens first to last, and the sum of their start and end logits."""

    first: int
    last: int
    score: float


def windows(
    questions: Sequence[Question], tokenizer: Tokenizer, length: int = LENGTH, stride: int = STRIDE
) -> list[Window]:
    """The windows of all questions, in their order.

    Raises
    ------
    ValueError
        length leaves no room for a question and ``stride`` tokens of context, or exceeds the model's positions
    """
    most = tokenizer.positions
    if not LONGEST_QUESTION + 3 + stride <= length <= most or stride < 1:
        low = LONGEST_QUESTION + 3 + max(stride, 1)
        raise ValueError(f"length is {length} and stride {stride}; need stride >= 1 and length from {low} to {most}")
    contexts = list(dict.fromkeys(question.context for question in questions))
    read = dict(zip(contexts, _pieces(contexts, tokenizer), strict=True))
    asked = _pieces([question.question for question in questions], tokenizer)
    found = []
    for i, (question, whole) in enumerate(zip(questions, asked, strict=True)):
        context, head = read[question.context], Piece(*(x[:LONGEST_QUESTION] for x in whole))
        cuts = _cuts(len(context.ids), length - len(head.ids) - 3, stride)
        found += [Window(i, head, context, begin, end, tokenizer.ends) for begin, end in cuts]
    return found


def _pieces(texts: Sequence[str], tokenizer: Tokenizer) -> list[Piece]:
    return [
        Piece(np.array(row.ids, np.int32), np.array(row.offsets, np.int32).reshape(-1, 2))
        for row in tokenizer.pieces(texts)
    ]


def _cuts(tokens: int, room: int, stride: int) -> Iterator[tuple[int, int]]:
    begin = 0
    while begin + room < tokens:
        yield begin, begin + room
        begin += min(room, stride)
    yield begin, tokens


def target(window: Window, question: Question) -> tuple[int, int]:
    """First and last token of the question's first answer, or 0, 0 where the window does not hold it whole."""
    answer = question.answers[0]
    begin, end = answer.start, answer.start + len(answer.text)
    starts, stops = window.context.offsets[window.begin : window.end].T
    if not starts.size or starts[0] > begin or stops[-1] < end:
        return 0, 0
    first, last = np.flatnonzero(starts <= begin)[-1], np.flatnonzero(stops >= end)[0]
    return window.first + int(first), window.first + int(last)


def best_spans(output: np.ndarray, second: np.ndarray, count: int = 1) -> list[Span]:
    """The ``count`` best spans of one window, the best first; of equal ones the earlier, then the shorter.

    Parameters
    ----------
    output : f32 (T, 2), start and end logits
    second : bool (T,), whether the token is one of the context
    """
    check.shape("output", output, (second.size, 2))
    start, end = output.astype(np.float64).T
    tokens = np.arange(second.size)[:, None]
    last = tokens + np.arange(LONGEST_ANSWER)  # (T, 30): row t has the ends of the spans that begin at t
    inside = np.minimum(last, second.size - 1)
    legal = second[:, None] & second[inside] & (last < second.size)
    scores = np.where(legal, start[:, None] + end[inside], -np.inf).ravel()
    order = np.argsort(-scores, kind="stable")[: min(count, int(legal.sum()))]
    return [Span(int(i) // LONGEST_ANSWER, int(last.ravel()[i]), float(scores[i])) for i in order]
