"""What was found, as plain records."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class LayerRow:
    """A linear layer as it is. pairs: of weights; unsafe_full: could saturate if a code may be anything; unsafe: could,
    with the proved range of this layer's codes; most: the largest code, of the median input channel; sums: pair sums
    computed on the texts; clipped: those that saturated; outputs, wrong: accumulators, and those that came out wrong."""

    layer: str
    pairs: int
    most: int
    unsafe_full: int
    unsafe: int
    sums: int
    clipped: int
    outputs: int
    wrong: int


@dataclass(frozen=True)
class RemedyRow:
    """A remedy. unsafe: pairs left that could saturate; wrong: accumulators that did on the texts, of ``outputs``;
    largest, mean: error of the model's output on a CPU without VNNI against the exact run of the model as it is;
    changed: labels that differ, of ``labels``; macs, bytes: of the linear layers; gathers: permutations at run time."""

    name: str
    what: str
    exact: bool
    unsafe: int
    wrong: int
    outputs: int
    largest: float
    mean: float
    changed: int
    labels: int
    macs: int
    bytes: int
    gathers: int


@dataclass
class Report:
    """Everything that the command shows, for one layout."""

    model: str
    layout: str
    sparsity: float | None
    texts: int
    tokens: int
    largest_output: float = 0.0
    layers: list[LayerRow] = field(default_factory=list)
    remedies: list[RemedyRow] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        return asdict(self)
