"""Judge another engine node by node: each of its values against the exact result of that engine's own inputs.

What the engine exposed starts afresh at its exposed value, which counts as exact. What it did not is carried on as our
own f64 value, with everything that f32 may have lost on the way, so a node may stand for a chain of nodes. Codes are
judged against the quotient before rounding: half a step, and the bound. A chain is carried as far as its bound says
anything; where the bound is as large as the values, what follows is unjudged until the engine exposes something again.

The semantics say which integers are meant (``pair_saturating`` finds out whether an engine saturates), and with
``fuse`` that products of dequantized tensors run on integers, whose bound is much tighter than that of f32 sums.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from refimpl.models.judge import Exact, Finding, find
from refimpl.models.oracle.execute import apply, call_of, operator_of
from refimpl.models.oracle.graph import Graph, Node, check_inputs
from refimpl.models.oracle.operator import EXACT, UNKNOWN, Approx, Call
from refimpl.models.oracle.rewrite import rewrite
from refimpl.models.oracle.semantics import ONNX_RUNTIME, Semantics


class NodeFinding(NamedTuple):
    """The verdict on one exposed tensor.

    tensor: its name; node, op: what made it; finding: see ``models.judge``; None if nothing could be said.
    since: the exposed tensors that it was computed from; one node made it of them unless ``steps`` is above 1.
    size, bound: the largest magnitude there and the largest error allowed, to tell a sharp verdict from a blunt one.
    """

    tensor: str
    node: str
    op: str
    finding: Finding | None
    since: tuple[str, ...]
    steps: int
    size: float
    bound: float


class Carried(NamedTuple):
    """A value on its way, what it came from and over how many nodes. approx: None if nothing is known."""

    approx: Approx | None
    since: frozenset[str]
    steps: int


def judge_nodes(
    graph: Graph,
    inputs: dict[str, np.ndarray],
    engine: dict[str, np.ndarray],
    semantics: Semantics = ONNX_RUNTIME,
) -> list[NodeFinding]:
    """A finding for each tensor that the engine exposed, in order of computation.

    Parameters
    ----------
    graph, inputs : as for ``execute``
    engine : tensor name -> the engine's value; any subset of the tensors
    semantics : what integers mean

    Raises
    ------
    TypeError, ValueError
        as ``execute``, and if a value of the engine's has another dtype or shape than the tensor
    """
    check_inputs(graph, inputs)
    prepared = rewrite(graph, semantics, engine.keys())
    given = {name: wide(array) for name, array in {**graph.initializers, **inputs}.items()}
    values = {name: Carried(Approx(array, EXACT), frozenset(), 0) for name, array in given.items()}
    findings = []
    last = {name: i for i, node in enumerate(prepared.nodes) for name in node.inputs}
    for i, node in enumerate(prepared.nodes):
        for name, exact, carried in carry(graph, node, values, semantics):
            if name in engine:
                findings.append(_judged(node, name, engine[name], exact, carried))
                values[name] = Carried(Approx(wide(engine[name]), EXACT), frozenset([name]), 0)
            else:
                values[name] = carried
        for name in (*node.inputs, *node.outputs):
            if last.get(name, -1) <= i:
                values.pop(name, None)
    return findings


def wide(array: np.ndarray) -> np.ndarray:
    """Floats as f64."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return array.astype(np.float64) if array.dtype.kind == "f" else array


def carry(
    graph: Graph, node: Node, values: dict[str, Carried], semantics: Semantics
) -> Iterable[tuple[str, Exact | None, Carried]]:
    """Each result of a node: its name, what to judge it by, and what to carry on if the engine does not expose it."""
    given = [values[name] if name else None for name in node.inputs]
    since = frozenset().union(*(x.since for x in given if x is not None))
    steps = 1 + max((x.steps for x in given if x is not None), default=0)
    names = [(i, name) for i, name in enumerate(node.outputs) if name]
    if any(x is not None and x.approx is None for x in given):
        for _, name in names:
            yield name, None, Carried(None, since, steps)
        return
    made = computed(call_of(graph, node, semantics, wide=True), [None if x is None else x.approx for x in given])
    for i, name in names:
        exact, approx = made[i]
        yield name, exact, Carried(approx, since, steps)


def computed(call: Call, xs: list[Approx | None]) -> list[tuple[Exact | None, Approx | None]]:
    """What each result of a call is judged by, and what is carried on; None where nothing can be said."""
    results = apply(call, [None if x is None else x.value for x in xs])
    codes = _codes(call, xs, results[0])
    errors = errors_of(call, xs, results)
    return [_exact(result, errors[i], None if i else codes) for i, result in enumerate(results)]


def _exact(value: np.ndarray, error: np.ndarray, ours: np.ndarray | None) -> tuple[Exact | None, Approx | None]:
    """What a result is judged by, and what is carried on: codes as codes, off by as many steps as the error allows."""
    if not _says_something(value, error):
        return None, None
    if ours is None:
        return Exact(value, error), Approx(value, error)
    slip = np.maximum(np.rint(value + error) - ours, ours - np.rint(value - error)) if error.any() else EXACT
    return Exact(value, 0.5 + error, ours), Approx(ours, np.maximum(slip, 0))


def _says_something(value: np.ndarray, error: np.ndarray) -> bool:
    """Whether the error is below the values: bools and integers must be known, or nearly all of them."""
    if not np.isfinite(error).all():
        return False
    finite = np.where(np.isfinite(value), value, 0)
    return not error.any() or float(error.max()) < max(float(np.abs(finite).max(initial=0)), 1.0)


def errors_of(call: Call, xs: list[Approx | None], results: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """One error a result. Operators that only move numbers move errors with them."""
    error = operator_of(call).error
    with np.errstate(all="ignore"):
        if error is None:
            return _moved(call, xs, results)
        while xs and xs[-1] is None:
            xs = xs[:-1]
        made = error(call, xs, results[0])
    bounds = made if isinstance(made, tuple) else (made,)
    first = [_infinite(error, y) for error, y in zip(bounds, results, strict=False)]
    known = all(x is None or x.known for x in xs)
    rest = [_rest(known, result) for result in results[len(first) :]]
    return [*first, *rest]


def _infinite(error: np.ndarray, y: np.ndarray) -> np.ndarray:
    """An infinite or undefined result is so for every engine: no error but where the bound itself says nothing."""
    if np.isfinite(error).all() or y.dtype.kind != "f" or error.ndim == 0:
        return error
    return np.where(np.isfinite(y), error, 0.0)


def _rest(known: bool, result: np.ndarray) -> np.ndarray:
    """Results beyond those that an operator bounds: whole numbers of known inputs are exact."""
    return EXACT if known and result.dtype.kind != "f" else UNKNOWN


def _moved(call: Call, xs: list[Approx | None], results: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    if all(x is None or x.known for x in xs):
        return [EXACT] * len(results)
    floats = results[0].dtype.kind == "f"
    steering = [x for x in xs if x is not None and (x.value.dtype.kind == "f") != floats]
    if any(not x.known for x in steering):
        return [UNKNOWN] * len(results)
    moving = [None if x is None else (x.full.astype(np.float64) if _moves(x, floats) else x.value) for x in xs]
    return list(apply(call, moving))


def _moves(x: Approx, floats: bool) -> bool:
    """Whether an input is among the numbers that are moved, rather than what says where."""
    return x.value.dtype.kind == "f" if floats else not x.known


def _codes(call: Call, xs: list[Approx | None], value: np.ndarray) -> np.ndarray | None:
    """Our own codes of the same inputs, in f32; None if the operator makes no codes."""
    if not operator_of(call).codes or value.dtype.kind != "f":
        return None
    narrow = [None if x is None else (x.value.astype(np.float32) if x.value.dtype.kind == "f" else x.value) for x in xs]
    ours = apply(call._replace(wide=False), narrow)[0]
    return ours if ours.dtype.kind in "iu" else None


def _judged(node: Node, name: str, theirs: np.ndarray, exact: Exact | None, carried: Carried) -> NodeFinding:
    since = tuple(sorted(carried.since))
    if exact is None:
        return NodeFinding(name, node.name, node.op, None, since, carried.steps, 0.0, np.inf)
    if theirs.shape != exact.value.shape:
        raise ValueError(f"{name} has shape {theirs.shape}; need {exact.value.shape}")
    ours = exact.value if exact.ours is None else exact.ours
    if theirs.dtype.kind != ours.dtype.kind and {theirs.dtype.kind, ours.dtype.kind} != {"i", "u"}:
        raise TypeError(f"{name} has dtype {theirs.dtype}; need {'float32' if ours.dtype.kind == 'f' else ours.dtype}")
    if not theirs.size:
        return NodeFinding(name, node.name, node.op, Finding(0.0, (), 0, 0, 0), since, carried.steps, 0.0, 0.0)
    whole, compared = finite(exact.value.astype(np.float64), theirs)
    size, bound = float(np.abs(whole).max()), float(np.max(exact.bound))
    finding = find(compared, exact._replace(value=whole))
    return NodeFinding(name, node.name, node.op, finding, since, carried.steps, size, bound)


def finite(value: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A value and an engine's, both with 0 where both have the same infinity, or both NaN."""
    if theirs.dtype.kind != "f":
        return value, theirs
    same = ~np.isfinite(value) & ((value == theirs) | (np.isnan(value) & np.isnan(theirs)))
    return np.where(same, 0, value), np.where(same, 0, theirs)


def first_outside(findings: list[NodeFinding]) -> str:
    """Where an engine first leaves its bounds, in words; "" if it never does."""
    for tensor, node, op, finding, *_ in findings:
        if finding is not None and finding.outside:
            at, count = f"{tensor} {list(finding.at)} of {op} {node}", f"{finding.outside} of {finding.of}"
            return f"{at} has {finding.worst:.3g} times the error allowed; {count} are outside"
    return ""
