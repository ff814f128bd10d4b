"""Which operators of the exported ONNX file each step of a plan stands for.

The file's nodes are the model's one wiring, written out; a step's tensors have the names of taps, and a tap is a tensor
of the file. So a step absorbs every node that its results are computed from, and that no step before it has absorbed;
what is left belongs to the head. A sum that is fused into a product is no tap: it is what a layer norm in the file
reads.
"""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import onnx

from refimpl.models.bert import Model
from refimpl.models.export import TAPS, to_onnx
from refimpl.models.runtime.record import taps_of
from refimpl.models.runtime.steps import Step
from refimpl.models.runtime.weights import Weights

HEAD = "head"
UNTAPPED = {"embedding_rows": "embedding_sum"}
"""A tensor that holds a tap's value in another layout."""


class Operator(NamedTuple):
    """A node. inputs: tensors that are no parameters; constant: whether it reads parameters too."""

    op: str
    inputs: tuple[str, ...]
    output: str
    constant: bool


class Written(NamedTuple):
    """A model written out. taps: name -> tensor."""

    operators: list[Operator]
    taps: dict[str, str]


def written(model: Model) -> Written:
    """As ``export_onnx`` writes it."""
    made = to_onnx(model)
    parameters = {tensor.name for tensor in made.graph.initializer}
    (taps,) = (json.loads(entry.value) for entry in made.metadata_props if entry.key == TAPS)
    return Written([_operator(node, parameters) for node in made.graph.node], taps)


def _operator(node: onnx.NodeProto, parameters: set[str]) -> Operator:
    inputs = tuple(name for name in node.input if name not in parameters)
    return Operator(node.op_type, inputs, node.output[0], len(inputs) < len(node.input))


def absorbed(steps: Sequence[Step], file: Written, weights: Weights) -> dict[str, list[Operator]]:
    """Step, or ``HEAD`` -> its operators, in the order of the file; each operator of the file is in one list."""
    makers = {operator.output: operator for operator in file.operators}
    owner: dict[str, str] = {}
    for step in steps:
        for end in _ends(step, file, weights, makers):
            _claim(end, step.name, makers, owner)
    lists: dict[str, list[Operator]] = {name: [] for name in (*(step.name for step in steps), HEAD)}
    for operator in file.operators:
        lists[owner.get(operator.output, HEAD)].append(operator)
    return lists


def _claim(end: str, name: str, makers: dict[str, Operator], owner: dict[str, str]) -> None:
    """What ``end`` is computed from, back to what has an owner."""
    waiting = [end]
    while waiting:
        tensor = waiting.pop()
        if tensor in makers and tensor not in owner:
            owner[tensor] = name
            waiting += makers[tensor].inputs


def _ends(step: Step, file: Written, weights: Weights, makers: dict[str, Operator]) -> Iterator[str]:
    """The tensors of the file that a step computes."""
    for name in step.writes:
        taps = taps_of(UNTAPPED.get(name, name), weights)
        yield from (file.taps[tap] for tap in taps)
        norm = file.taps.get(name.removesuffix("_sum") + "_norm")
        if not taps and norm is not None:
            yield makers[norm].inputs[0]
