"""A checked ONNX graph as plain records: what ``load`` makes, and ``execute`` and ``judge_nodes`` read."""

from typing import Any, NamedTuple

import numpy as np

from refimpl import check

STANDARD, MICROSOFT = "", "com.microsoft"
OURS = "refimpl"
"""Domain of the operators that ``rewrite`` puts in the place of others; no file may use it."""


class Node(NamedTuple):
    """One operation. name: unique in the graph; inputs: tensor names, "" where an optional one is left out.

    attributes: int, float, str, array, or a list of one of the first three.
    """

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.op} {self.name}"


class Port(NamedTuple):
    """An input or output of the graph. shape: a length, a name that stands for one, or None; None if unranked."""

    dtype: np.dtype
    shape: tuple[int | str | None, ...] | None


class Graph(NamedTuple):
    """nodes: each after those whose results it reads; opsets: domain -> version."""

    nodes: tuple[Node, ...]
    initializers: dict[str, np.ndarray]
    inputs: dict[str, Port]
    outputs: dict[str, Port]
    opsets: dict[str, int]


def check_inputs(graph: Graph, inputs: dict[str, np.ndarray]) -> None:
    """Raise TypeError or ValueError unless ``inputs`` are those of the graph; equal names stand for equal lengths."""
    if inputs.keys() != graph.inputs.keys():
        came, need = (", ".join(names) or "none" for names in (inputs, graph.inputs))
        raise ValueError(f"inputs are {came}; need {need}")
    lengths: dict[str, int] = {}
    for name, port in graph.inputs.items():
        array = inputs[name]
        if not isinstance(array, np.ndarray) or array.dtype != port.dtype:
            came = str(array.dtype) if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"{name} has dtype {came}; need {port.dtype}")
        if port.shape is None:
            continue
        for axis, n in enumerate(port.shape[: array.ndim]):
            if isinstance(n, str):
                lengths.setdefault(n, array.shape[axis])
        bound = tuple("?" if n is None else lengths.get(n, n) if isinstance(n, str) else n for n in port.shape)
        check.shape(name, array, bound)


def sort(nodes: list[Node], known: set[str]) -> tuple[Node, ...]:
    """Nodes so that each comes after those whose results it reads; ``known`` are the tensors that no node makes.

    Raises ValueError if a tensor has two makers or none, or if there is a cycle.
    """
    maker: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in filter(None, node.outputs):
            if name in known or name in maker:
                raise ValueError(f"tensor {name} of {node} is made twice")
            maker[name] = i
    waiting, readers = [0] * len(nodes), [[] for _ in nodes]  # type: tuple[list[int], list[list[int]]]
    for i, node in enumerate(nodes):
        for name in {*node.inputs} - {""} - known:
            if name not in maker:
                raise ValueError(f"{node} reads {name}, which nothing makes")
            waiting[i] += 1
            readers[maker[name]].append(i)
    order = [i for i, count in enumerate(waiting) if not count]
    for i in order:  # grows as it goes
        for reader in readers[i]:
            waiting[reader] -= 1
            if not waiting[reader]:
                order.append(reader)
    if len(order) < len(nodes):
        stuck = next(node for node, count in zip(nodes, waiting, strict=True) if count)
        raise ValueError(f"{stuck} is part of a cycle, or reads from one")
    return tuple(nodes[i] for i in (range(len(nodes)) if _sorted(nodes, known) else order))


def _sorted(nodes: list[Node], known: set[str]) -> bool:
    """Whether the nodes are in order already, as ONNX demands: then that order is kept."""
    seen = {"", *known}
    for node in nodes:
        if not seen.issuperset(node.inputs):
            return False
        seen.update(node.outputs)
    return True
