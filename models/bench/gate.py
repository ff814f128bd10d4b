"""Which engine is right: nothing else is timed.

An INT8 model is no continuous function: a number that one engine rounds up and another down is a whole step of the next
layer's codes, and a few layers on, two right engines are as far apart as either is from the f32 model. That distance,
the blur, is therefore the yardstick, measured on the same texts between the two references:

    distance = |output - reference| / |reference|            over all texts
    right    = distance <= limit  and every decision is the reference's, or tied with it
    limit    = 3 blur             2 between two engines that are one blur from f32 each; the third for chance
    tied     : the reference's own scores of the two choices are less than 2 limit rms(reference) apart

A decision is the label of a text, the start or the end of its answer, or the word for a token. A sentence embedding has
none: its vectors are of length 1, so that distance² = 2 - 2 cosine.
"""

from typing import NamedTuple

import numpy as np

BLURS, TIE = 3, 2
FLOOR, CEILING = 2**-5, 0.5
"""The limit is at least 16 roundings to bf16, 2**-9 each, which is how an engine may keep what is not integer; and at
most half the output."""
AXES = {"classification": -1, "question_answering": 1, "masked_lm": -1}
"""Head -> along which axis it decides."""


class Agreement(NamedTuple):
    """same: decisions that are the reference's; tied: others that are tied with it; of: all."""

    distance: float
    limit: float
    same: int
    tied: int
    of: int

    @property
    def right(self) -> bool:
        """NaN is not."""
        return self.distance <= self.limit and self.same + self.tied == self.of


def limit_of(blur: float) -> float:
    """The largest distance of a right engine."""
    return min(max(BLURS * blur, FLOOR), CEILING)


def agree(head: str, output: np.ndarray, reference: np.ndarray, limit: float) -> Agreement:
    """Compare an engine's output, anything of any shape, with the reference's, both for the same texts."""
    if output.shape != reference.shape or output.dtype.kind != "f" or not np.isfinite(output).all():
        return Agreement(float("nan"), limit, 0, 0, 1)
    distance = float(np.linalg.norm(output - reference) / np.linalg.norm(reference))
    if head not in AXES:
        return Agreement(distance, limit, 0, 0, 0)
    axis = AXES[head]
    choice, best = (np.expand_dims(scores.argmax(axis), axis) for scores in (output, reference))
    behind = np.take_along_axis(reference, best, axis) - np.take_along_axis(reference, choice, axis)
    same = int((choice == best).sum())
    close = int((behind < TIE * limit * np.sqrt(np.mean(np.square(reference)))).sum())
    return Agreement(distance, limit, same, close - same, choice.size)
