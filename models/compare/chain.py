"""The nodes between what an engine exposed and one wrong tensor, run again with one of them changed.

    exposed values, inputs, constants -> node -> node -> ... -> the tensor

Contract. As in ``judge_nodes``: what the engine exposed counts as exact, what it did not is carried on with its error.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from refimpl.models.compare.use import Use, evaluate
from refimpl.models.exact import Exact
from refimpl.models.judge import beyond
from refimpl.models.oracle.execute import call_of
from refimpl.models.oracle.graph import Graph, Node
from refimpl.models.oracle.judge_nodes import Carried, carry, finite, wide
from refimpl.models.oracle.operator import EXACT, Approx
from refimpl.models.oracle.rewrite import rewrite
from refimpl.models.oracle.semantics import Semantics


class Chain(NamedTuple):
    """nodes : in order of computation; the last one makes ``tensor``
    values : what the nodes read and make, as it is when nobody makes a mistake
    constant : names of what the file alone decides
    theirs : the engine's value of the tensor; right : what it is judged by
    strict : nothing is outside its bound, so codes are compared with ours
    """

    graph: Graph
    semantics: Semantics
    nodes: tuple[Node, ...]
    values: dict[str, Carried]
    constant: frozenset[str]
    tensor: str
    theirs: np.ndarray
    right: Exact
    strict: bool

    def wrong(self, exact: Exact) -> np.ndarray:
        """Which of the engine's elements are not what ``exact`` allows, bool (...)."""
        if exact.value.shape != self.theirs.shape:
            return np.ones(self.theirs.shape, bool)
        if self.strict:
            return self.theirs != (exact.value if exact.ours is None else exact.ours)
        value, theirs = finite(exact.value.astype(np.float64), self.theirs)
        return beyond(theirs, exact._replace(value=value))

    def uses(self) -> Iterator[Use]:
        """Every node with its operands, the last first; those of which nothing is known are left out."""
        made_by = {name: node.op for node in self.graph.nodes for name in node.outputs}
        made_by |= {name: node.op for node in self.nodes for name in node.outputs}
        for node in reversed(self.nodes):
            given = [self.values[name].approx if name else None for name in node.inputs]
            if any(name and x is None for name, x in zip(node.inputs, given, strict=True)):
                continue
            constant = tuple(name in self.constant for name in node.inputs)
            sources = tuple("" if name in self.constant else made_by.get(name, "") for name in node.inputs)
            yield Use(call_of(self.graph, node, self.semantics, wide=True), given, constant, sources)

    def node_of(self, use: Use) -> Node:
        """The node as it is in the graph; changing a use leaves its name."""
        return next(node for node in self.nodes if node.name == use.call.node.name)

    def result_of(self, use: Use) -> Approx | None:
        """What the use's node makes first, as it is when nobody makes a mistake."""
        return self.values[self.node_of(use).outputs[0]].approx

    def ends_with(self, use: Use) -> bool:
        """Whether the tensor is the first result of the use's node."""
        return self.node_of(use).outputs[0] == self.tensor

    def run(self, use: Use) -> tuple[Approx | None, Exact | None]:
        """What the changed node makes first, and what the tensor is then judged by; None where nothing can be said."""
        changed = self.node_of(use)
        made = evaluate(use)
        if self.tensor in changed.outputs:
            return made[0][1], made[changed.outputs.index(self.tensor)][0]
        values = dict(self.values)
        for name, (_, approx) in zip(changed.outputs, made, strict=False):
            values[name] = values[name]._replace(approx=approx)
        touched = set(changed.outputs)
        for node in self.nodes[self.nodes.index(changed) + 1 :]:
            if touched.isdisjoint(node.inputs):
                continue
            for name, exact, carried in carry(self.graph, node, values, self.semantics):
                values[name] = carried
                touched.add(name)
                if name == self.tensor:
                    return made[0][1], exact
        return made[0][1], None


def chain_to(
    graph: Graph, inputs: dict[str, np.ndarray], engine: dict[str, np.ndarray], tensor: str, semantics: Semantics
) -> Chain:
    """The chain that ends in ``tensor``. Raises ValueError if the engine has no value for it, or none can be judged."""
    prepared = rewrite(graph, semantics, engine.keys())
    nodes = _needed(prepared, engine.keys() - {tensor}, tensor)
    if not nodes or tensor not in engine:
        raise ValueError(f"no node makes {tensor}, or the engine did not expose it; need a tensor that was judged")
    given = {**graph.initializers, **inputs, **{name: engine[name] for name in engine.keys() - {tensor}}}
    values = {name: Carried(Approx(wide(array), EXACT), frozenset(), 0) for name, array in given.items()}
    right = None
    for node in nodes:
        for name, exact, carried in carry(graph, node, values, semantics):
            values[name] = carried
            right = exact if name == tensor else right
    if right is None:
        raise ValueError(f"nothing can be said of {tensor}; need a tensor that was judged")
    chain = Chain(graph, semantics, nodes, values, _constant(prepared), tensor, engine[tensor], right, strict=False)
    return chain._replace(strict=not chain.wrong(right).any() and right.ours is not None)


def _constant(graph: Graph) -> frozenset[str]:
    """What the file alone decides."""
    constant = set(graph.initializers)
    for node in graph.nodes:
        if constant.issuperset({*node.inputs} - {""}):
            constant.update(node.outputs)
    return frozenset(constant)


def _needed(graph: Graph, exposed: set[str], tensor: str) -> tuple[Node, ...]:
    """The nodes from the exposed tensors to ``tensor``."""
    wanted, found = {tensor}, []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            found.append(node)
            wanted.update(set(node.inputs) - exposed)
    return tuple(reversed(found))
