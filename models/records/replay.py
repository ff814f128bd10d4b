"""A record judged by what the CPU that it was made on computes, and by what other CPUs would have.

Every value that the engine returned is compared with the exact result of the engine's own inputs to that node, within
the bound of ``models.oracle.judge_nodes``. Integer products are those of the record's engine on the record's CPU:

    semantics_of(info)     exact                 pair_saturating                     unknown
    products it may have   exact                 pair_saturating, s8s8_shifted       all that there are
    judged beside them     pair_saturating       exact

The claim is of u8 x s8 alone, where the two in the middle are one; of s8 x s8 the record itself tells. A value that
one product explains and another leaves outside its bound tells the two apart: a record without any proves neither. If
what may be explains nothing, every other product is tried too.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from refimpl.models.engines import onnx_file
from refimpl.models.oracle.graph import Graph
from refimpl.models.oracle.judge_nodes import NodeFinding, first_outside, judge_nodes
from refimpl.models.oracle.semantics import ONNX_RUNTIME, OPENVINO, PRODUCTS, Semantics
from refimpl.models.records.file import Record
from refimpl.models.records.semantics import EXACT, PAIR_SATURATING, UNKNOWN, semantics_of

MAY: dict[str, tuple[str, ...]] = {
    EXACT: ("exact",),
    PAIR_SATURATING: ("pair_saturating", "s8s8_shifted"),
    UNKNOWN: tuple(PRODUCTS),
}
"""What ``semantics_of`` says -> the products of ``models.oracle.semantics`` that agree with it."""
BESIDE = {EXACT: "pair_saturating", PAIR_SATURATING: "exact"}
ENGINES = {"openvino": OPENVINO}
"""Semantics beside the product. An engine that we do not know is held to those of ONNX."""

Say = Callable[[str], None]


class Trial(NamedTuple):
    """A record under one product."""

    product: str
    findings: list[NodeFinding]

    @property
    def judged(self) -> int:
        """Tensors of which something can be said."""
        return sum(each.finding is not None for each in self.findings)

    @property
    def values(self) -> int:
        """Their elements."""
        return sum(each.finding.of for each in self.findings if each.finding is not None)

    @property
    def outside(self) -> int:
        """Elements outside their bound."""
        return sum(each.finding.outside for each in self.findings if each.finding is not None)

    @property
    def first(self) -> str:
        """Where the first one is, in words; "" if there is none."""
        return first_outside(self.findings)

    @property
    def explains(self) -> bool:
        """Whether something is judged and nothing outside."""
        return self.values > 0 and self.outside == 0


class Replay(NamedTuple):
    """said: by ``semantics_of``; may: the trials that agree with it; others: those that do not."""

    said: str
    may: list[Trial]
    others: list[Trial]

    @property
    def best(self) -> Trial:
        """The first that explains the record; if none does, the one that leaves the fewest elements outside."""
        return min(self.may, key=lambda trial: (not trial.explains, trial.outside))

    @property
    def inside(self) -> bool:
        """Whether the record is what its CPU is said to compute."""
        return self.best.explains

    def told_apart(self, other: Trial) -> int:
        """Elements outside their bound under the other product, of tensors that are inside under the best one."""
        pairs = zip(self.best.findings, other.findings, strict=True)
        found = [(ours.finding, theirs.finding) for ours, theirs in pairs]
        return sum(b.outside for a, b in found if a is not None and b is not None and not a.outside)


def replay(record: Record, graph: Graph, say: Say = lambda product: None) -> Replay:
    """Judge a record of the graph's model. ``say`` is told each product as it is tried.

    Raises TypeError, ValueError if the record's inputs or values are not the graph's.
    """
    made = {name for node in graph.nodes for name in node.outputs}
    if strange := record.values.keys() - made:
        raise ValueError(f"the record has a value of {min(strange)!r}, which no node of the model makes")
    said = semantics_of(record.info)

    def trials(products: tuple[str, ...]) -> Iterator[Trial]:
        for product in products:
            say(product)
            meant = _semantics(record.info)._replace(product=PRODUCTS[product])
            yield Trial(product, judge_nodes(graph, record.inputs, record.values, meant))

    if said == UNKNOWN:
        return Replay(said, list(trials(MAY[said])), [])
    may = []
    for trial in trials(MAY[said]):
        may.append(trial)
        if trial.explains:
            break
    explained = may[-1].explains
    rest = [name for name in PRODUCTS if name not in MAY[said] and (name == BESIDE[said] or not explained)]
    return Replay(said, may, list(trials(tuple(rest))))


def _semantics(info: dict[str, Any]) -> Semantics:
    return ENGINES.get(info["engine"], ONNX_RUNTIME)


def model_of(record: Record, path: Path, given: Path | None = None) -> Path:
    """The ONNX file that a record at ``path`` was made of: the one given, else one beside the record.

    Raises FileNotFoundError if there is none, ValueError if it is not the file whose digest the record has.
    """
    wanted = record.info["model_sha256"]
    if given is None:
        beside = sorted(Path(path).resolve().parent.glob("*.onnx"))
        given = next((each for each in beside if each.is_file() and onnx_file.sha256(each) == wanted), None)
        if given is None:
            raise FileNotFoundError(
                f"no .onnx file beside {path} is what it was made of, {wanted[:12]}...; need --model MODEL.onnx"
            )
    made = onnx_file.load(given)
    if (have := onnx_file.sha256(given)) != wanted:
        raise ValueError(f"{given} is not the file that {path} was made of: its SHA-256 is {have}; need {wanted}")
    if onnx_file.external_digests(given, made) != record.info["external_sha256"]:
        raise ValueError(f"the data files beside {given} are not those that {path} was made of")
    return given
