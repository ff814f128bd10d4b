"""The engine's run and our own, end to end: how far two right engines drift apart, and whether it changes an answer."""

from typing import NamedTuple

import numpy as np

from refimpl.models.compare.judged import Shapes
from refimpl.models.compare.report import Ends
from refimpl.models.oracle.execute import execute
from refimpl.models.oracle.graph import Graph
from refimpl.models.oracle.semantics import Semantics


class Ours(NamedTuple):
    """Our own run. shapes: of every tensor; codes: 8-bit ones by tensor; outputs: of the graph."""

    shapes: Shapes
    codes: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


class _Keep:
    """A tap that keeps the shapes, and the codes."""

    def __init__(self) -> None:
        self.shapes: Shapes = {}
        self.codes: dict[str, np.ndarray] = {}

    def scope(self, name: str) -> "_Keep":
        return _Keep()  # accumulators are no tensors of the file

    def __call__(self, name: str, value: np.ndarray) -> np.ndarray:
        self.shapes[name] = value.dtype, value.shape
        if value.dtype in (np.uint8, np.int8):
            self.codes[name] = value
        return value


def run_ours(graph: Graph, inputs: dict[str, np.ndarray], semantics: Semantics) -> Ours:
    """Raises as ``execute``."""
    keep = _Keep()
    outputs = execute(graph, inputs, semantics, keep)
    return Ours(keep.shapes, keep.codes, outputs)


def compare_ends(ours: Ours, values: dict[str, np.ndarray], undisturbed: dict[str, np.ndarray]) -> Ends:
    """values: what the engine showed; undisturbed: the graph's outputs as it computes them when nothing is shown."""
    shared = [(x, values[name]) for name, x in ours.codes.items() if name in values and values[name].shape == x.shape]
    steps = [np.abs(x.astype(np.int16) - y.astype(np.int16)) for x, y in shared]
    difference, largest, same, rows = 0.0, 0.0, 0, 0
    for name, x in ours.outputs.items():
        y = undisturbed.get(name)
        if y is None or y.shape != x.shape or not x.size:
            difference = np.inf
            continue
        with np.errstate(invalid="ignore"):
            off = np.abs(x.astype(np.float64) - y.astype(np.float64))
        difference = max(difference, float(np.where(np.isnan(off), np.inf, off).max()))
        largest = max(largest, float(np.abs(x.astype(np.float64)).max()))
        if x.ndim and x.shape[-1] > 1 and x.dtype.kind == "f":
            places = x.argmax(-1) == y.argmax(-1)
            same, rows = same + int(np.sum(places)), rows + places.size
    return Ends(
        sum(x.size for x in steps), sum(int((x == 0).sum()) for x in steps),
        max((int(x.max()) for x in steps if x.size), default=0), difference, largest, same, rows,
    )  # fmt: skip
