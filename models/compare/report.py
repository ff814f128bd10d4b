"""What a comparison found: one ``Run`` per engine and ISA, in it one ``TensorRow`` per tensor of the file."""

from typing import Any, NamedTuple

JUDGED, NOT_EXPOSED, UNJUDGED = "judged", "not exposed", "unjudged"


class TensorRow(NamedTuple):
    """One tensor of one run.

    state : JUDGED, NOT_EXPOSED (the engine shows no value) or UNJUDGED (it does, and nothing can be said of it)
    reason : why it is not judged, or why it is outside without a number
    codes : whether these are 8-bit codes, which can be equal to ours or not; ``different`` of ``of`` are not
    worst, at, outside : the largest |error| / bound, where it is, and how many elements exceed their bound
    size, bound : the largest magnitude, and the largest error allowed
    steps : how many nodes made it of what the engine showed
    followed : of one that is not shown, whether a tensor that depends on it was judged, and so this one with it
    """

    tensor: str
    node: str
    op: str
    group: str
    state: str
    reason: str = ""
    codes: bool = False
    of: int = 0
    different: int = 0
    outside: int = 0
    worst: float = 0.0
    at: tuple[int, ...] = ()
    size: float = 0.0
    bound: float = 0.0
    steps: int = 1
    followed: bool = False


class Ends(NamedTuple):
    """The engine's run and our own under the same semantics, end to end; drift is no fault, so nothing is judged here.

    codes, codes_equal, largest_step : 8-bit codes that both have, how many are equal, and the largest difference
    difference, largest : of the graph's outputs, as the engine computes them when nobody looks: from ours; our largest
    same_place, rows : rows of the outputs whose largest element is at the same place (a label, a word), of how many
    """

    codes: int
    codes_equal: int
    largest_step: int
    difference: float
    largest: float
    same_place: int
    rows: int


class Why(NamedTuple):
    """The cause of one tensor: see ``causes.Cause``. more: tensors of the same operator that are outside too."""

    tensor: str
    hypothesis: str
    sentence: str
    element: tuple[int, ...]
    explains: int
    of: int
    more: int


class Run(NamedTuple):
    """One engine on one ISA. failed: why there is nothing, "" if it ran; then the rest means something.

    info : as of ``engines.isolated.EngineRun``
    product, fused : what integers were taken to mean, and whether products of QDQ were judged as those of integers
    notes : what else must be known of the verdict
    """

    engine: str
    isa: str
    failed: str = ""
    info: dict[str, Any] = {}  # noqa: RUF012  # nobody changes it
    product: str = ""
    fused: bool = False
    rows: tuple[TensorRow, ...] = ()
    ends: Ends | None = None
    causes: tuple[Why, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def outside(self) -> list[TensorRow]:
        """Tensors with an element beyond its bound, in order of computation."""
        return [row for row in self.rows if row.outside]

    @property
    def passed(self) -> bool:
        """Whether it ran, something was judged, and nothing of that is outside."""
        return bool(not self.failed and self.count(JUDGED) and not self.outside)

    def count(self, state: str) -> int:
        """How many tensors are in a state."""
        return sum(row.state == state for row in self.rows)

    def codes(self) -> tuple[int, int]:
        """How many codes were judged on the engine's own inputs, and how many are ours."""
        rows = [row for row in self.rows if row.codes and row.state == JUDGED]
        return sum(row.of for row in rows), sum(row.of - row.different for row in rows)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON."""
        rows = [{**row._asdict(), "bound": row.bound if row.state == JUDGED else None} for row in self.rows]
        return {
            **self._asdict(),
            "passed": self.passed,
            "rows": rows,
            "ends": self.ends and self.ends._asdict(),
            "causes": [why._asdict() for why in self.causes],
        }


class Report(NamedTuple):
    """model: its name; fed: its inputs in words; against: the product that is meant; sha256: of the file."""

    model: str
    fed: str
    against: str
    sha256: str
    nodes: int
    runs: tuple[Run, ...]

    @property
    def passed(self) -> bool:
        """Whether every engine ran on every ISA, inside its bounds."""
        return all(run.passed for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {**self._asdict(), "passed": self.passed, "runs": [run.to_json() for run in self.runs]}
