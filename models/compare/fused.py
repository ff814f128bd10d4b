"""What an engine shows but does not go on with: it computes several nodes in one, and a tensor between them for show.

Two forms are known. The operator's operands are dequantized codes, and the engine multiplies scales and adds zero
points in another order (OpenVINO: ``src/common/low_precision_transformations``); or a pattern such as GELU becomes one
operator that starts at the pattern's input.

Contract. The tensor is judged again, over the chain from what came before those that are shown between, with the bound
of that chain. Nothing else is allowed: what explains only nearly all does not explain.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from refimpl.models.compare.chain import Chain, chain_to
from refimpl.models.oracle.graph import Graph, Node
from refimpl.models.oracle.semantics import Semantics

LONGEST = 12
"""Nodes in one; a norm that is written out has nine."""


class Fused(NamedTuple):
    """chain : how the tensor is judged then; hidden : what the engine shows and does not go on with, in order"""

    chain: Chain
    hidden: tuple[str, ...]


def find_fused(
    graph: Graph, inputs: dict[str, np.ndarray], engine: dict[str, np.ndarray], tensor: str, semantics: Semantics
) -> Fused | None:
    """The shortest that explains every element of the tensor, if one does."""
    folded = semantics._replace(folded=True)
    for hidden in _candidates(graph, engine, tensor):
        shown = {name: value for name, value in engine.items() if name not in hidden}
        try:
            chain = chain_to(graph, inputs, shown, tensor, folded)
        except ValueError:  # the chain is so long that nothing can be said
            continue
        if not chain.wrong(chain.right).any():
            return Fused(chain, hidden)
    return None


def _candidates(graph: Graph, engine: dict[str, np.ndarray], tensor: str) -> Iterator[tuple[str, ...]]:
    """Tensors to leave out: dequantized operands; then all that depend on some exposed tensor, the nearest first."""
    makers = {name: node for node in graph.nodes for name in node.outputs}
    before = _before(makers, tensor)
    direct = makers[tensor].inputs if tensor in makers else ()
    yield tuple(name for name in direct if name in engine and name in makers and makers[name].op == "DequantizeLinear")
    for start in before:
        if start in engine:
            between = _between(makers, before, start)
            if between:
                yield tuple(name for name in between if name in engine)


def _before(makers: dict[str, Node], tensor: str) -> list[str]:
    """The tensors that it depends on, over at most ``LONGEST`` nodes, the nearest first."""
    found: dict[str, int] = {tensor: 0}
    queue = [tensor]
    for name in queue:
        for source in makers[name].inputs if name in makers and found[name] < LONGEST else ():
            if source and source not in found:
                found[source] = found[name] + 1
                queue.append(source)
    return queue[1:]


def _between(makers: dict[str, Node], before: list[str], start: str) -> list[str]:
    """Those of ``before`` that depend on ``start``."""
    depends = {start}
    for _ in range(LONGEST):
        more = {name for name in before if name in makers and depends.intersection(makers[name].inputs)}
        if more <= depends:
            break
        depends |= more
    return [name for name in before if name in depends and name != start]
