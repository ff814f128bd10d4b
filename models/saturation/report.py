"""What was found, as plain records."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class LayerRow:
    """A linear layer as it is.

    pairs: of weights; most: the largest code on any input, of the median input channel; unsafe_full: pairs that could
    saturate if any code may be 255; unsafe: with what is proved of this layer's codes; sums: pair sums computed on the
    texts; clipped: those that saturated; outputs, wrong: accumulators, and those that saturation changed.
    """

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
    changed: labels that differ, of ``labels``; macs, bytes: of the linear layers; gathers: permutations at run time;
    time, moves: see ``timing.Cost``, None if they were not measured."""

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
    time: float | None = None
    moves: float | None = None


@dataclass(frozen=True)
class TrialRow:
    """The repaired file, really run without VNNI. wrong_before, wrong: of the same layers' outputs, those that are not
    exact, of the model as it is and repaired; integer_layers: linear layers that ran in integers."""

    engine: str
    integer_layers: int
    outputs: int
    wrong_before: int
    wrong: int


@dataclass
class Report:
    """Everything that the command shows, for one layout. dense: the layers' rows in the dense layout, where the layout
    is another; kernel, timed_tokens: what times are of, if measured; fix, file, trials: where a repaired model was
    written."""

    model: str
    layout: str
    sparsity: float | None
    texts: int
    tokens: int
    largest_output: float = 0.0
    layers: list[LayerRow] = field(default_factory=list)
    dense: list[LayerRow] = field(default_factory=list)
    remedies: list[RemedyRow] = field(default_factory=list)
    kernel: str = ""
    timed_tokens: int = 0
    fix: str = ""
    file: str = ""
    trials: list[TrialRow] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        return asdict(self)
