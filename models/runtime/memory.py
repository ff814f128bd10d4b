"""The memory planner: where every intermediate of a plan lies in one arena.

A tensor lives from the step that writes it to the last that reads it. Two that never live at once may share bytes.
Greedy by size: the largest first, each at the lowest offset where no tensor that lives at the same time lies; the
"static compressed buffer" of Intel Extension for Transformers, and appendix A.3.1 of Fast DistilBERT on CPUs. The lower
bound is the most that lives at any one step; no plan can do with less.
"""

from collections.abc import Mapping
from typing import NamedTuple

from refimpl.kernels.layout.aligned import LINE


class Life(NamedTuple):
    """size: bytes; first, last: the steps that write it and read it last, included."""

    size: int
    first: int
    last: int

    def meets(self, other: "Life") -> bool:
        """Whether both live at some step."""
        return self.first <= other.last and other.first <= self.last


class Arena(NamedTuple):
    """offsets: of each tensor, on cache lines; peak: bytes of the arena; total: of all tensors; bound: the least
    possible."""

    offsets: dict[str, int]
    peak: int
    total: int
    bound: int


def plan_memory(lives: Mapping[str, Life]) -> Arena:
    """An offset for each tensor.

    >>> plan_memory({"x": Life(100, 0, 1), "y": Life(64, 1, 2), "z": Life(100, 2, 3)})
    Arena(offsets={'x': 0, 'z': 0, 'y': 128}, peak=192, total=320, bound=192)
    """
    sizes = {name: -(-life.size // LINE) * LINE for name, life in lives.items()}
    offsets: dict[str, int] = {}
    for name in sorted(lives, key=lambda name: -sizes[name]):
        taken = sorted((offsets[other], sizes[other]) for other in offsets if lives[name].meets(lives[other]))
        at = 0
        for start, size in taken:
            if at + sizes[name] <= start:
                break
            at = max(at, start + size)
        offsets[name] = at
    peak = max((offsets[name] + sizes[name] for name in offsets), default=0)
    steps = range(max((life.last for life in lives.values()), default=-1) + 1)
    bound = max((sum(sizes[name] for name, x in lives.items() if x.first <= i <= x.last) for i in steps), default=0)
    return Arena(offsets, peak, sum(sizes.values()), bound)
