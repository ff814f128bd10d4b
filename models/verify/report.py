"""What a verification found, as plain records: a program reads them as JSON, ``show`` makes tables of them."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class TapRow:
    """One kind of tap of the f32 model, over all layers.

    worst: the largest |error| / derived bound of one engine on its own inputs, at most 1 if it is right;
    outside: elements beyond the bound; difference: the largest difference from our own run, end to end.
    """

    tap: str
    engine: str
    elements: int
    worst: float
    outside: int
    difference: float


@dataclass(frozen=True)
class BitsRow:
    """One execution of the INT8 model against the NumPy reference, counted over every code and every accumulator.

    The engine's accumulators never leave its registers: of it, the codes of what it keeps in f32, too, are counted.
    first: the first tap that differs, "" if none does.
    """

    execution: str
    layers: int
    tokens: int
    codes: int
    different_codes: int
    accumulators: int
    different_accumulators: int
    first: str


@dataclass(frozen=True)
class LayerRow:
    """One encoder layer of the INT8 model in an engine, against ours.

    codes_equal: share of equal codes end to end; largest_step: the largest difference of two codes;
    own_equal: share of codes that equal our quantizer's on the engine's own inputs; outside: values and codes beyond
    their derived bound on the engine's own inputs, those of the embeddings counted in the first row, those of the head
    in the last; difference, cosine: of the layer's output, end to end.
    """

    layer: int
    engine: str
    codes_equal: float
    largest_step: int
    own_equal: float
    outside: int
    difference: float
    cosine: float


@dataclass(frozen=True)
class AccumulatorRow:
    """An engine's integer MatMul on our codes, over all linear layers. clipped: of the different accumulators, those
    that are what a CPU without VNNI returns."""

    engine: str
    layers: int
    accumulators: int
    different: int
    clipped: int


@dataclass(frozen=True)
class SaturationRow:
    """One encoder layer on a CPU without VNNI: pairs of weights that could saturate, accumulators that did."""

    layer: int
    pairs: int
    unsafe_pairs: int
    accumulators: int
    different: int


@dataclass(frozen=True)
class Check:
    """One line of the verdict."""

    name: str
    passed: bool
    detail: str


@dataclass
class Report:
    """Everything that ``refimpl verify`` shows.

    Of a model that was packed already there is no f32 model: then fp32 is empty, calibration_texts is 0, and
    compression_cosine, that of the compressed outputs with the f32 model's, is None.
    sizes in bytes; seconds: medians for ``timed_texts`` texts at once; products: matrix products that should run in
    integers, those of INT8 attention among them; distinct_layers: those that differ in input or weights, since an
    engine may merge equal ones; faults: "f32 ENGINE" or "INT8 ENGINE" -> the first tap that is out of bounds, with its
    place; decides: whether our engine's answers are the reference's, and decisions the count, "" if it did not run.
    """

    model: str
    shape: str
    texts: int
    tokens: int
    timed_texts: int
    sparsity: float
    execution: str
    calibration_texts: int = 0
    attention: str = "f32"
    engines: dict[str, str] = field(default_factory=dict)
    fp32: list[TapRow] = field(default_factory=list)
    bits: list[BitsRow] = field(default_factory=list)
    int8: list[LayerRow] = field(default_factory=list)
    products: int = 0
    distinct_layers: int = 0
    faults: dict[str, str] = field(default_factory=dict)
    integer_layers: dict[str, int] = field(default_factory=dict)
    accumulators: list[AccumulatorRow] = field(default_factory=list)
    saturation: list[SaturationRow] = field(default_factory=list)
    saturated_output_difference: float = 0.0
    largest_output: float = 0.0
    compression_cosine: float | None = None
    decisions: str = ""
    decides: bool = False
    sizes: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every check of the verdict did."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        return asdict(self) | {"passed": self.passed}
