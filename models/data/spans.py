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
from typing import NamedTuple

import numpy as np

from refimpl.models.data.squad import Question
from refimpl.models.tokenizer import Tokenizer

LENGTH, STRIDE = 384, 128
LONGEST_QUESTION = 64
LONGEST_ANSWER = 30


class Window(NamedTuple):
    """One row for the model, with the fields that ``Tokenizer.batch`` reads of a library's encoding.

    ids, type_ids: the T tokens; offsets: first character and one past the last, in the token's own text; sequence_ids:
    None for a special token, 0 for one of the question, 1 of the context; question: the index of the question.
    """

    ids: list[int]
    type_ids: list[int]
    offsets: list[tuple[int, int]]
    sequence_ids: list[int | None]
    question: int


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
    asked = tokenizer.pieces([question.question for question in questions])
    contexts = list(dict.fromkeys(question.context for question in questions))
    read = dict(zip(contexts, tokenizer.pieces(contexts), strict=True))
    first, last = tokenizer.ends
    found = []
    for i, (question, head) in enumerate(zip(questions, asked, strict=True)):
        context, n = read[question.context], min(len(head), LONGEST_QUESTION)
        for begin, end in _cuts(len(context), length - n - 3, stride):
            m = end - begin
            found.append(
                Window(
                    [first, *head.ids[:n], last, *context.ids[begin:end], last],
                    [0] * (n + 2) + [1] * (m + 1),
                    [(0, 0), *head.offsets[:n], (0, 0), *context.offsets[begin:end], (0, 0)],
                    [None, *[0] * n, None, *[1] * m, None],
                    i,
                )
            )
    return found


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
    inside = [t for t, source in enumerate(window.sequence_ids) if source == 1]
    if not inside or window.offsets[inside[0]][0] > begin or window.offsets[inside[-1]][1] < end:
        return 0, 0
    first = max((t for t in inside if window.offsets[t][0] <= begin), default=0)
    last = min((t for t in inside if window.offsets[t][1] >= end), default=0)
    return first, last


def best_spans(output: np.ndarray, second: np.ndarray, count: int = 1) -> list[Span]:
    """The ``count`` best spans of one window, the best first; of equal ones the earlier, then the shorter.

    Parameters
    ----------
    output : f32 (T, 2), start and end logits
    second : bool (T,), whether the token is one of the context
    """
    start, end = output.astype(np.float64).T
    tokens = np.arange(second.size)[:, None]
    last = tokens + np.arange(LONGEST_ANSWER)  # (T, 30): row t has the ends of the spans that begin at t
    inside = np.minimum(last, second.size - 1)
    legal = second[:, None] & second[inside] & (last < second.size)
    scores = np.where(legal, start[:, None] + end[inside], -np.inf).ravel()
    order = np.argsort(-scores, kind="stable")[: min(count, int(legal.sum()))]
    return [Span(int(i) // LONGEST_ANSWER, int(last.ravel()[i]), float(scores[i])) for i in order]
