"""One run of an engine as a verdict on every tensor of the file.

Contract. A tensor is judged on what the engine showed just before it (``judge_nodes``). One that is outside there is
judged once more as if the engine had not shown what the node reads: an engine that fuses two nodes, or moves a scale
across one, computes the second from what came before the first. It is outside only if it is outside both times. Sums
in floats stay as they are shown: over one of those, the bound would forgive mistakes of what follows.
A value of another shape or type than the tensor's is outside without a number.
"""

from collections.abc import Sequence

import numpy as np

from refimpl.models.compare.chain import chain_to
from refimpl.models.compare.groups import groups
from refimpl.models.compare.reading import read
from refimpl.models.compare.report import JUDGED, NOT_EXPOSED, UNJUDGED, TensorRow
from refimpl.models.engines.isolated import EngineRun
from refimpl.models.judge import find
from refimpl.models.oracle.graph import Graph, Node
from refimpl.models.oracle.judge_nodes import NodeFinding
from refimpl.models.oracle.rewrite import rewrite
from refimpl.models.oracle.semantics import Semantics

NOT_ASKED = "it was not asked for"
TOO_LOOSE = "its bound is as large as its values: too much before it is not exposed"
SUMS = ("MatMul", "Gemm", "LayerNormalization", "SimplifiedLayerNormalization", "Softmax", "ReduceSum", "ReduceMean")
"""Operators of floats whose bound grows with the length of a row."""

Shapes = dict[str, tuple[np.dtype, tuple[int, ...]]]
"""Tensor -> dtype and shape in our own run."""


class Verdict:
    """A run and what was found. rows: of every tensor of the file; findings: by tensor, of those that were judged.

    run: without the values that have another shape or type. semantics: under which it was judged.
    """

    def __init__(self, graph: Graph, inputs: dict[str, np.ndarray], run: EngineRun, misfits: dict[str, str]):
        self.graph, self.inputs, self.misfits = graph, inputs, misfits
        self.run = run._replace(values={name: x for name, x in run.values.items() if name not in misfits})
        self.findings: dict[str, NodeFinding] = {}
        self.rows: tuple[TensorRow, ...] = ()
        self.semantics = Semantics()

    @property
    def outside(self) -> int:
        """How many tensors are."""
        return sum(row.outside > 0 for row in self.rows)


def verdict_on(
    graph: Graph, inputs: dict[str, np.ndarray], run: EngineRun, engine: str, semantics: Semantics, shapes: Shapes
) -> Verdict:
    """Judge a run. Raises ValueError for values that nothing can be computed with."""
    verdict = Verdict(graph, inputs, run, _misfits(run.values, shapes))
    findings, verdict.semantics = read(graph, inputs, verdict.run, engine, semantics)
    prepared = rewrite(graph, verdict.semantics, verdict.run.values)
    made_by = {name: node for node in prepared.nodes for name in node.outputs}
    for finding in findings:
        if finding.finding is not None and finding.finding.outside:
            finding = _again(verdict, finding, made_by)
        verdict.findings[finding.tensor] = finding
    verdict.rows = tuple(_rows(verdict, groups(graph.nodes)))
    return verdict


def _misfits(values: dict[str, np.ndarray], shapes: Shapes) -> dict[str, str]:
    found = {}
    for name, (dtype, shape) in shapes.items():
        if name in values and values[name].shape != shape:
            found[name] = f"the engine has shape {values[name].shape}; need {shape}"
        elif name in values and _kind(values[name].dtype) != _kind(dtype):
            found[name] = f"the engine has dtype {values[name].dtype}; need {dtype}"
    return found


def _kind(dtype: np.dtype) -> str:
    return "i" if dtype.kind in "iu" else dtype.kind


def _again(verdict: Verdict, finding: NodeFinding, made_by: dict[str, Node]) -> NodeFinding:
    """The finding over one node more, if it is inside there."""
    values = verdict.run.values
    shown = [name for name in made_by[finding.tensor].inputs if name in values and name in made_by]
    hidden = {name for name in shown if made_by[name].op not in SUMS}
    if not hidden:
        return finding
    rest = {name: x for name, x in values.items() if name not in hidden}
    try:
        chain = chain_to(verdict.graph, verdict.inputs, rest, finding.tensor, verdict.semantics)
    except ValueError:  # nothing can be said over so many nodes
        return finding
    if chain.right is None or chain.wrong(chain.right).any() or not np.isfinite(chain.right.bound).all():
        return finding
    found = find(values[finding.tensor], chain.right)
    return finding._replace(finding=found, bound=float(np.max(chain.right.bound)), steps=len(chain.nodes))


def _rows(verdict: Verdict, names: Sequence[str]) -> list[TensorRow]:
    rows: list[TensorRow] = []
    followed: set[str] = set()  # what nodes read whose results were judged, by themselves or with what follows
    for node, group in reversed(list(zip(verdict.graph.nodes, names, strict=True))):
        for tensor in filter(None, reversed(node.outputs)):
            row = _row(verdict, TensorRow(tensor, node.name, node.op, group, NOT_EXPOSED), tensor)
            row = row._replace(followed=row.state == NOT_EXPOSED and tensor in followed)
            if row.followed or row.state == JUDGED:
                followed.update(node.inputs)
            rows.append(row)
    return rows[::-1]


def _row(verdict: Verdict, row: TensorRow, tensor: str) -> TensorRow:
    if tensor in verdict.misfits:
        return row._replace(state=JUDGED, reason=verdict.misfits[tensor], outside=1, of=1, worst=np.inf)
    if tensor not in verdict.run.values:
        return row._replace(reason=verdict.run.not_exposed.get(tensor, NOT_ASKED))
    seen = verdict.findings.get(tensor)
    if seen is None or seen.finding is None:
        return row._replace(state=UNJUDGED, reason=TOO_LOOSE)
    found, value = seen.finding, verdict.run.values[tensor]
    return row._replace(
        state=JUDGED, codes=value.dtype.kind in "iu" and value.dtype.itemsize == 1, of=found.of,
        different=found.different, outside=found.outside, worst=found.worst, at=found.at, size=seen.size,
        bound=seen.bound, steps=seen.steps,
    )  # fmt: skip
