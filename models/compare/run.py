"""Compare engines on one file: run each on each ISA, judge every tensor, look for the causes.

Exposing tensors can change what an engine computes. So each runs twice, once with nothing shown: where the two give
other outputs and something is outside, a third run shows codes and norms only, which survive fusions. If nothing is
outside there, and its outputs are nearer to those of the run that nobody looked at, what was outside came of looking.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refimpl.models.compare.causes import Cause, find_cause, first_wrong
from refimpl.models.compare.ends import Ours, compare_ends, run_ours
from refimpl.models.compare.judged import Verdict, verdict_on
from refimpl.models.compare.reading import meant
from refimpl.models.compare.report import Report, Run, TensorRow, Why
from refimpl.models.engines import isa as isas
from refimpl.models.engines import onnx_file, others
from refimpl.models.engines.isolated import Conditions, EngineRun, check_conditions, run_isolated
from refimpl.models.oracle.graph import Graph
from refimpl.models.oracle.semantics import Semantics

SURVIVORS = ("QuantizeLinear", "DynamicQuantizeLinear", "LayerNormalization", "SkipLayerNormalization")
"""Operators whose results engines keep as they are when they fuse the rest."""
EXPLAINED = 4
"""Causes that are looked for, at most, in one run: the first tensor of each operator that is outside."""


class Subject(NamedTuple):
    """What all engines are given. name, fed: the model and inputs in words; tensors: those to show, None for all."""

    name: str
    path: Path
    graph: Graph
    inputs: dict[str, np.ndarray]
    fed: str
    tensors: list[str] | None = None


Plan = list[tuple[str, Conditions]]
"""Engine and conditions of each run."""


def plan(engines: Sequence[str], isa_names: Sequence[str], conditions: Conditions) -> Plan:
    """Every engine on every ISA. Raises ValueError for names and conditions that can mean nothing."""
    check_conditions(conditions)
    if not engines:
        raise ValueError(
            "no engine was given, and none is installed; need --engine, or: pip install 'refimpl[engines]'"
        )
    for name in isa_names:
        if name not in isas.ISAS:
            raise ValueError(f"the isa is {name!r}; need one of {', '.join(isas.ISAS)}")
    for engine in engines:
        try:
            others.parse(engine)
        except RuntimeError:  # it is not installed: that is a row of the report
            continue
    return [
        (engine, conditions._replace(isa=name))
        for engine in dict.fromkeys(engines)
        for name in dict.fromkeys(isa_names)
    ]


def compare(subject: Subject, planned: Plan, against: str, step: Callable[[str], None] = print) -> Report:
    """Run the plan. ``step`` is told of each engine and ISA before it runs.

    An engine that cannot be run or judged is a ``Run`` that failed; the others go on.

    Raises
    ------
    TypeError, ValueError
        for inputs that are not the file's, or that our own operators cannot compute with
    """
    runs, ours = [], _OwnRuns(subject)
    for engine, _ in planned:
        ours.of(meant(engine, against))
    for engine, conditions in planned:
        step(f"{engine} {conditions.isa}")
        try:
            runs.append(_one(subject, engine, conditions, against, ours))
        except (RuntimeError, ValueError, TypeError, OSError) as error:  # TimeoutError is an OSError
            runs.append(Run(engine, conditions.isa, " ".join(str(error).split())))
    digest = onnx_file.sha256(subject.path)
    return Report(subject.name, subject.fed, against, digest, len(subject.graph.nodes), tuple(runs))


class _OwnRuns:
    """Our own run under each semantics, made once."""

    def __init__(self, subject: Subject):
        self.subject = subject
        self.made: dict[Semantics, Ours] = {}

    def of(self, semantics: Semantics) -> Ours:
        if semantics not in self.made:
            self.made[semantics] = run_ours(self.subject.graph, self.subject.inputs, semantics)
        return self.made[semantics]


def _one(subject: Subject, engine: str, conditions: Conditions, against: str, ours: _OwnRuns) -> Run:
    def run(tensors: list[str] | None) -> EngineRun:
        return run_isolated(engine, subject.path, subject.inputs, tensors, conditions)

    semantics = meant(engine, against)
    shapes = ours.of(semantics._replace(fuse=False)).shapes

    def judged(made: EngineRun) -> Verdict:
        return verdict_on(subject.graph, subject.inputs, made, engine, semantics, shapes)

    plain, notes = run([]), list[str]()
    verdict = judged(_shown(run, plain, subject, notes))
    drift = _distance(plain, verdict.run, subject.graph)
    if drift:
        notes.append(f"showing its tensors changes its outputs by {drift:.3g}")
    if drift and verdict.outside and subject.tensors is None:
        few = judged(run(_survivors(subject.graph)))
        left = _distance(plain, few.run, subject.graph)
        if not few.outside and left < drift:
            notes.append(
                f"{verdict.outside} of them are outside then; with codes and norms shown alone nothing is, and its "
                f"outputs change by {left:.3g}: so that is judged"
            )
            verdict = few
    if drift and verdict.outside:
        notes.append("what is outside without a known cause may come of that")
    ends = compare_ends(ours.of(verdict.semantics), verdict.run.values, plain.values)
    return Run(
        engine, conditions.isa, "", verdict.run.info, against, verdict.semantics.fuse, verdict.rows, ends,
        tuple(_causes(verdict)), tuple(notes),
    )  # fmt: skip


def _shown(run: Callable[..., EngineRun], plain: EngineRun, subject: Subject, notes: list[str]) -> EngineRun:
    """The run that shows all that is wanted, or as much as does not make it fail."""
    for tensors in (subject.tensors, _survivors(subject.graph)):
        try:
            return run(tensors)
        except RuntimeError as error:
            what = "codes and norms" if notes else "the tensors that are wanted"
            notes.append(f"it fails if it is to show {what}: {' '.join(str(error).split())}")
    return plain


def _survivors(graph: Graph) -> list[str]:
    return [name for node in graph.nodes if node.op in SURVIVORS for name in node.outputs if name]


def _distance(one: EngineRun, other: EngineRun, graph: Graph) -> float:
    """The largest difference of two runs' outputs."""
    largest, names = 0.0, [name for name in graph.outputs if name in one.values and name in other.values]
    for x, y in ((one.values[name], other.values[name]) for name in names):
        if x.shape != y.shape:
            return float("inf")
        with np.errstate(invalid="ignore"):
            off = np.where(x == y, 0, np.abs(x.astype(np.float64) - y.astype(np.float64)))
        largest = max(largest, float(np.where(np.isnan(off) & (x != x) & (y != y), 0, off).max(initial=0)))
    return largest


def _causes(verdict: Verdict) -> Iterator[Why]:
    """Of the first tensor outside, of each operator; where none is, of the first whose codes are not all ours."""
    outside = [row for row in verdict.rows if row.outside]
    firsts = [row for i, row in enumerate(outside) if row.op not in {before.op for before in outside[:i]}]
    different = first_wrong(list(verdict.findings.values()))
    if not firsts and different is not None:
        firsts = [row for row in verdict.rows if row.tensor == different.tensor]
    for row in firsts[:EXPLAINED]:
        more = max(sum(other.op == row.op for other in outside) - 1, 0)
        yield Why(row.tensor, *_cause(verdict, row), more)


def _cause(verdict: Verdict, row: TensorRow) -> Cause:
    if row.tensor in verdict.misfits:
        return Cause("", f"{row.node}: {row.reason}", (), 0, 1)
    finding = verdict.findings[row.tensor]
    try:
        return find_cause(verdict.graph, verdict.inputs, verdict.run.values, finding, verdict.semantics)
    except ValueError as error:
        return Cause("", f"{row.node}: no cause can be looked for: {error}", row.at, 0, row.outside)
