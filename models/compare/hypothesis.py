"""A known mistake as a record."""

from collections.abc import Callable, Collection
from typing import NamedTuple

from refimpl.models.compare.use import Use

Show = Callable[[Use, Use, tuple[int, ...]], str]


class Hypothesis(NamedTuple):
    """name: short, as a user would say it; ops: the operators where it can be made.

    change: what an engine that makes it does instead; None where it cannot be made, or would change nothing.
    vague: of two that explain as much, the one with the smaller number is believed: 1 allows much.
    show: the operands of one element in its own words, from what is right, what is done instead, and the element.
    """

    name: str
    ops: Collection[str]
    change: Callable[[Use], Use | None]
    vague: int = 0
    show: Show | None = None
