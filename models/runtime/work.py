"""What a step of a plan does at least, from its kernel and the kernel's arguments.

    integer      multiply-accumulates of u8 and s8 codes: of the blocks that live, times the lanes of all panels
    floating     multiply-accumulates of f32: the two products of attention, and layers in f32 or BF16
    parameters   bytes of what the session's weights hold, each once; of a table, the rows that are looked up
    activations  bytes of the tensors that it reads and of those that it writes; both, for one that is overwritten

A lane that holds no token, at the end of a text's last panel, is multiplied like any other, and so are the keys that
fill a group of four. Not counted: the zeros that fill a group of four blocks, sums of keys (compensation), scratch
memory, and whatever is no multiply-accumulate of a product.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.kernels.encoder import (
    attention_f32,
    attention_u8s8,
    embed,
    layernorm,
    linear_4x1,
    linear_32x32,
    linear_bf16,
    linear_bitmask,
    linear_dense,
    linear_f32,
)
from refimpl.kernels.layout.bsr4x1 import GROUP, ROWS, count_live
from refimpl.kernels.layout.bsr32x32 import SIDE
from refimpl.models.runtime.session import Ready
from refimpl.models.runtime.steps import Step


class Work(NamedTuple):
    """integer, floating: multiply-accumulates; parameters, activations: bytes."""

    integer: int = 0
    floating: int = 0
    parameters: int = 0
    activations: int = 0

    def plus(self, other: "Work") -> "Work":
        """Of both."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


Given = dict[str, Any]
"""A kernel's arguments by name."""


def work(step: Step, ready: Ready) -> Work:
    """Of a step, with the plan's inputs filled in. Raises ValueError for a kernel that nobody has counted."""
    given = given_to(step, ready)
    module = step.kernel.emulated.__module__
    if module not in MACS:
        raise ValueError(f"{step.name} runs {module}, whose multiply-accumulates nobody has counted")
    integer, floating = MACS[module](given, step.shape.width)
    looked_up = _rows if "ids" in given else _parameters
    activations = sum(ready.arrays[name].nbytes for name in (*step.reads, *step.writes))
    return Work(integer, floating, looked_up(given, ready), activations)


def given_to(step: Step, ready: Ready) -> Given:
    """The arguments of a step's kernel."""
    names = inspect.signature(step.kernel.emulated).parameters
    return dict(zip(names, step.arguments(ready.arrays), strict=True))


def _none(given: Given, width: int) -> tuple[int, int]:
    return 0, 0


def _sparse(given: Given, width: int) -> tuple[int, int]:
    return ROWS * count_live(given["values"]) * (given["x"].size // given["k"]), 0


def _dense(given: Given, width: int) -> tuple[int, int]:
    return given["start"].size * given["x"].size, 0


def _blocks(given: Given, width: int) -> tuple[int, int]:
    return SIDE * SIDE * given["indices"].size * (given["x"].size // given["k"]), 0


def _float(given: Given, width: int) -> tuple[int, int]:
    return 0, given["bias"].size * given["x"].size


def _attention(given: Given, width: int) -> int:
    """Every lane of the panels that a text lies in with every key of the text, twice."""
    queries = -(-(given["first"] % width + given["lengths"]) // width) * width
    keys = -(-given["lengths"] // GROUP) * GROUP
    return 2 * int(given["d"]) * int((queries * keys).sum())


MACS: dict[str, Callable[[Given, int], tuple[int, int]]] = {
    linear_4x1.__name__: _sparse,
    linear_32x32.__name__: _blocks,
    linear_bf16.__name__: _float,
    linear_bitmask.__name__: _dense,
    linear_dense.__name__: _dense,
    linear_f32.__name__: _float,
    attention_u8s8.__name__: lambda given, width: (_attention(given, width), 0),
    attention_f32.__name__: lambda given, width: (0, _attention(given, width)),
    layernorm.__name__: _none,
    embed.__name__: _none,
}
"""Module of a kernel -> (arguments, tokens in a panel) -> multiply-accumulates of codes, and of f32."""


def _parameters(given: Given, ready: Ready) -> int:
    """Arrays outside the arena; the steps of codes are not read where none are written."""
    unread = ("step",) if given["out"].dtype == np.float32 else ()
    return sum(
        value.nbytes
        for name, value in given.items()
        if isinstance(value, np.ndarray) and name not in unread and not _in_arena(value, ready)
    )


def _in_arena(array: np.ndarray, ready: Ready) -> bool:
    return any(np.may_share_memory(array, other) for other in ready.arrays.values())


def _rows(given: Given, ready: Ready) -> int:
    """Of the three tables, those that some token has, and their scales."""
    d, f32 = int(given["d"]), np.dtype(np.float32).itemsize
    words, places, types = (np.unique(given[name]).size for name in ("ids", "places", "types"))
    return words * (d * given["codes"].itemsize + f32) + (places + (types if given["token_type"].size else 0)) * d * f32
