"""How answers to SQuAD v1.1 are scored: exact match and F1.

    normal(s) = lower case, without punctuation, without the words a, an, the, white space collapsed
    EM        = 1 if normal(answer) = normal(truth) else 0
    F1        = 2 P R / (P + R) over the multisets of words; 0 if they share none

Each question counts its best over the true answers; both are means over all questions, times 100. A question without
an answer counts 0. Punctuation is ASCII's, as in Python's ``string.punctuation``.
Source: SQuAD, arXiv 1606.05250, section 6.1.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from refimpl.models.data.squad import Question

_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Score(NamedTuple):
    """Means over all questions, 0 to 100."""

    exact_match: float
    f1: float


def normal(text: str) -> str:
    """An answer without what does not count.

    >>> normal("The Beatles'  song, a hit")
    'beatles song hit'
    """
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact_match(answer: str, truth: str) -> float:
    """1.0 if the two are equal but for what does not count, else 0.0."""
    return float(normal(answer) == normal(truth))


def f1(answer: str, truth: str) -> float:
    """Overlap of the words, 0 to 1.

    >>> f1("in the year 2008", "2008 in")
    0.8
    """
    words, wanted = normal(answer).split(), normal(truth).split()
    shared = sum((Counter(words) & Counter(wanted)).values())
    return 2 * shared / (len(words) + len(wanted)) if shared else 0.0  # 2PR/(P+R) with P = s/|a|, R = s/|t|


def score(questions: Sequence[Question], answers: Mapping[str, str]) -> Score:
    """EM and F1 of answers by the questions' ids. Raises ValueError if there are no questions."""
    if not questions:
        raise ValueError("questions is empty; need at least one")
    totals = [0.0, 0.0]
    for question in questions:
        if question.id in answers:
            for i, metric in enumerate((exact_match, f1)):
                totals[i] += max(metric(answers[question.id], truth.text) for truth in question.answers)
    return Score(*(100 * total / len(questions) for total in totals))
