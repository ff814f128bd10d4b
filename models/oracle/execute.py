"""Run a graph on our own operators, every tensor shown to a tap by its name.

Contract. f32 operators compute as ``refimpl.nn`` does, integers as the semantics say; float operators with bounds are
within them, whatever the order of summation. A tensor is released when nothing reads it any more. What a node cannot
do with its inputs is one ValueError that names the node.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from refimpl.models.oracle.graph import Graph, Node, check_inputs
from refimpl.models.oracle.operator import Call, Operator
from refimpl.models.oracle.ops import OPERATORS
from refimpl.models.oracle.rewrite import rewrite
from refimpl.models.oracle.semantics import ONNX_RUNTIME, Semantics
from refimpl.nn import NO_TAP, Tap

FAILURES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, MemoryError)
"""What NumPy and the operators raise on inputs that do not fit."""


def execute(
    graph: Graph, inputs: dict[str, np.ndarray], semantics: Semantics = ONNX_RUNTIME, tap: Tap = NO_TAP
) -> dict[str, np.ndarray]:
    """The graph's outputs by name.

    Parameters
    ----------
    graph : what ``load`` made
    inputs : name -> array, of the graph's dtypes and shapes
    semantics : what integers mean
    tap : called as tap(tensor name, array) in order of computation; "NODE.acc" is the s32 accumulator of a node that
        has one. What it returns is gone on with.

    Raises
    ------
    TypeError, ValueError
        for inputs that are not the graph's, or that a node cannot compute with
    """
    check_inputs(graph, inputs)
    prepared = rewrite(graph, semantics)
    values = {**graph.initializers, **inputs}
    left = Counter(name for node in prepared.nodes for name in node.inputs)
    left.update(list(graph.outputs))
    for node in prepared.nodes:
        call = call_of(graph, node, semantics, tap)
        results = apply(call, [values[name] if name else None for name in node.inputs])
        for name, array in zip(node.outputs, results, strict=False):
            if name:
                values[name] = tap(name, array)
        for name in [*node.inputs, *node.outputs]:
            left[name] -= name in node.inputs
            if left[name] <= 0:
                values.pop(name, None)
    return {name: values[name] for name in graph.outputs}


def call_of(graph: Graph, node: Node, semantics: Semantics, tap: Tap = NO_TAP, wide: bool = False) -> Call:
    """One use of a node's operator."""
    return Call(node, graph.opsets.get("", 1), semantics, wide, tap.scope(node.name))


def operator_of(call: Call) -> Operator:
    """What computes a call: the operator that it brings, or its node's."""
    return call.operator or OPERATORS[call.node.domain, call.node.op]


def apply(call: Call, arrays: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """A node's results; optional inputs at the end that are left out are not passed."""
    given = list(arrays)
    while given and given[-1] is None:
        given.pop()
    try:
        with np.errstate(all="ignore"):
            made = operator_of(call).value(call, *given)
    except FAILURES as error:
        raise ValueError(f"{call.node}: {_line(error)}") from None
    results = made if isinstance(made, tuple) else (made,)
    if len(results) < len(call.node.outputs):
        raise ValueError(f"{call.node} has {len(call.node.outputs)} outputs; {len(results)} are supported")
    return results


def _line(error: Exception) -> str:
    """In one line; what Python says of an input that is missing says nothing to who wrote the file."""
    text = str(error).strip()
    if isinstance(error, AttributeError) or "positional argument" in text:
        return "an input that it needs is left out, or there are too many"
    return text.splitlines()[0] if text else type(error).__name__
