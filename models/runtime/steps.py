"""What a plan is made of: tensors, steps, and when each tensor lives.

A tensor is named after what it holds. A step that works in place names its result anew, with the tensor that it
overwrites, so that every value has a name and the memory planner knows what lives where.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.kernels.simd.threefold import KernelSource
from refimpl.models.runtime.memory import Arena, Life


class Shape(NamedTuple):
    """width: tokens in a panel; panels; texts; most: panels that a text has tokens in; rows: of the batch; threads;
    align: texts begin at multiples of so many tokens; picked: tokens in a panel once each text's first is all that is
    still computed, after the last attention, or 0 where all tokens are wanted."""

    width: int
    panels: int
    texts: int
    most: int
    rows: int
    threads: int
    align: int
    picked: int = 0


class Tensor(NamedTuple):
    """size: elements; over: the tensor that it overwrites, or ""."""

    dtype: type
    size: int
    over: str = ""

    @property
    def nbytes(self) -> int:
        """That it takes."""
        return self.size * np.dtype(self.dtype).itemsize


Arrays = dict[str, np.ndarray]


class Step(NamedTuple):
    """One kernel call.

    name: of the result's tap or part. shape: of the panels that it writes. reads: tensors; writes: name -> tensor made;
    scratch: name -> tensor needed only during the step. arguments: (arrays by name) -> the kernel's arguments. fused:
    what it does, in words.
    """

    name: str
    shape: Shape
    kernel: KernelSource
    reads: tuple[str, ...]
    writes: dict[str, Tensor]
    arguments: Callable[[Arrays], tuple[Any, ...]]
    scratch: dict[str, Tensor] = {}  # noqa: RUF012
    fused: str = ""


class Plan(NamedTuple):
    """inputs: filled before the first step; filling: makes of those that are a batch's rows the others."""

    shape: Shape
    inputs: dict[str, Tensor]
    filling: Step
    steps: tuple[Step, ...]
    arena: Arena


def kind(name: str) -> str:
    """A step's or a tensor's name without its layer: "layer.0.qkv" and "layer.1.qkv" are "qkv"."""
    return name.split(".", 2)[2] if name.startswith("layer.") else name


def roots(inputs: dict[str, Tensor], steps: Sequence[Step]) -> dict[str, str]:
    """Tensor -> the one whose memory it has."""
    found = {name: name for name in inputs}
    for step in steps:
        for name, tensor in (step.writes | step.scratch).items():
            found[name] = found[tensor.over] if tensor.over else name
    return found


def lives(inputs: dict[str, Tensor], steps: Sequence[Step]) -> dict[str, Life]:
    """When each tensor lives; one that overwrites another prolongs its life. Inputs live throughout: a plan may run
    again on what it was given."""

    def life(tensor: Tensor, first: int, last: int) -> Life:
        return Life(tensor.nbytes, first, last)

    found = {name: life(tensor, 0, len(steps) - 1) for name, tensor in inputs.items()}
    root = roots(inputs, steps)
    for i, step in enumerate(steps):
        found |= {name: life(x, i, i) for name, x in (step.writes | step.scratch).items() if not x.over}
        for name in (*step.reads, *step.writes):
            known = found[root[name]]
            found[root[name]] = known._replace(last=max(i, known.last))
    return found
