"""From the graph of a file to the graph that is executed: fused operators written out, QDQ turned into integers.

    DequantizeLinear, DequantizeLinear -> MatMul or Gemm                        MatMulIntegerToFloat
    ... -> QuantizeLinear, if nothing else reads what is between                QLinearMatMul
    DequantizeLinear, DequantizeLinear -> Add -> QuantizeLinear, likewise       AddCodes, where the semantics have one

These are the fusions that engines make. They need a scale for the whole left operand, and one for the whole right
operand or one per column, known when the file is read. Where the semantics have blocks and the weight is one that they
are for, the product has the attribute ``block_size``. A Transpose of dequantized numbers is one of their codes. The
DequantizeLinear nodes stay: their results are tensors of the file.
"""

from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from refimpl.models.oracle.expand import expand
from refimpl.models.oracle.graph import MICROSOFT, OURS, STANDARD, Graph, Node, sort
from refimpl.models.oracle.semantics import Semantics

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


class Coded(NamedTuple):
    """A tensor that is known to be dequantized codes. axis: of the scales in ``codes``, None if there is one scale."""

    codes: str
    scale: str
    zero_point: str
    axis: int | None
    rank: int | None


def rewrite(graph: Graph, semantics: Semantics, seen: Collection[str] = ()) -> Graph:
    """The graph to execute. Tensors in ``seen`` are kept, so nothing is fused across them."""
    nodes = [made for node in graph.nodes for made in expand(node)]
    if semantics.fuse:
        nodes = _fuse(graph, nodes, {*seen, *graph.outputs}, semantics)
    return graph._replace(nodes=sort(nodes, {*graph.initializers, *graph.inputs}))


def _fuse(graph: Graph, nodes: list[Node], kept: set[str], semantics: Semantics) -> list[Node]:
    coded: dict[str, Coded] = {}
    products: dict[str, Node] = {}
    sums: dict[str, Node] = {}
    readers = Counter(name for node in nodes for name in node.inputs)
    made: list[Node] = []
    for node in nodes:
        first = node.inputs[0] if node.inputs else ""
        if node.op == DEQUANTIZE:
            _remember(graph, node, coded)
        elif node.op == "Transpose" and first in coded:
            made += _transposed(node, coded)
        elif node.op in ("MatMul", "Gemm"):
            fused = _product(graph, node, coded, semantics.block)
            if fused:
                products[node.outputs[0]] = fused[-1]
                made += fused
                continue
        elif (
            node.op == "Add"
            and semantics.add
            and all(name in coded and coded[name].axis is None for name in node.inputs)
        ):
            sums[node.outputs[0]] = node
        elif node.op == QUANTIZE and first in sums.keys() - kept and readers[first] == 1:
            made.append(_added(graph, node, [coded[name] for name in sums[first].inputs]))
            continue
        elif node.op == QUANTIZE and first in products.keys() - kept and readers[first] == 1:
            made.append(_requantized(graph, node, products[first]))
            continue
        made.append(node)
    return made


def _single(graph: Graph, name: str) -> bool:
    return name in graph.initializers and graph.initializers[name].size == 1


def _remember(graph: Graph, node: Node, coded: dict[str, Coded]) -> None:
    codes, scale, zero_point = (*node.inputs, "", "", "")[:3]
    if scale not in graph.initializers or node.attributes.get("block_size", 0):
        return
    if codes in graph.initializers and graph.initializers[codes].dtype == np.int32:
        return  # a bias
    rank = graph.initializers[codes].ndim if codes in graph.initializers else None
    axis = node.attributes.get("axis", 1)
    if graph.initializers[scale].size == 1:
        coded[node.outputs[0]] = Coded(codes, scale, zero_point, None, rank)
    elif rank is not None and -rank <= axis < rank:
        coded[node.outputs[0]] = Coded(codes, scale, zero_point, axis % rank, rank)


def _transposed(node: Node, coded: dict[str, Coded]) -> list[Node]:
    """The transposition of codes, beside that of numbers."""
    x = coded[node.inputs[0]]
    perm = node.attributes.get("perm")
    if x.axis is not None and not (isinstance(perm, list) and x.axis in perm):
        return []
    name = f"{node.outputs[0]}.codes"
    axis = perm.index(x.axis) if isinstance(perm, list) and x.axis is not None else None
    coded[node.outputs[0]] = Coded(name, x.scale, x.zero_point, axis, x.rank)
    return [Node(name, "Transpose", STANDARD, (x.codes,), (name,), dict(node.attributes))]


def _product(graph: Graph, node: Node, coded: dict[str, Coded], block: int) -> list[Node]:
    """The nodes that replace a product, the product last; none if it must stay in floats."""
    a, b = (coded.get(name) for name in (*node.inputs, "", "")[:2])
    if a is None or b is None or a.axis is not None:
        return []
    get = node.attributes.get
    if node.op == "Gemm" and (get("alpha", 1.0) != 1 or get("beta", 1.0) != 1 or get("transA", 0)):
        return []
    turns: list[Node] = []
    size = _block_of(graph, b, -1 if get("transB", 0) else 0, block)
    if size is None:
        return []
    if node.op == "Gemm" and get("transB", 0):
        name = f"{node.name}.codes"
        turns = [Node(name, "Transpose", STANDARD, (b.codes,), (name,), {"perm": [1, 0]})]
        b = b._replace(codes=name, axis=None if b.axis is None else 1 - b.axis)
    if b.axis is not None and b.axis != (b.rank or 0) - 1:
        return []
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    inputs = (a.codes, b.codes, a.scale, b.scale, a.zero_point, b.zero_point, bias)
    attributes = {"block_size": size} if size else {}
    return [*turns, Node(node.name, "MatMulIntegerToFloat", MICROSOFT, inputs, node.outputs, attributes)]


def _block_of(graph: Graph, b: Coded, axis: int, block: int) -> int | None:
    """The block of a product, 0 if it is one sum; None if OpenVINO multiplies floats: its constant weight has a zero
    point, but is of s8, or has less than a block of channels. axis: those of the weight."""
    codes, zero = (graph.initializers.get(name) for name in (b.codes, b.zero_point))
    if not block or codes is None or zero is None or not zero.any():
        return 0
    return block if codes.dtype == np.uint8 and codes.shape[axis] >= block else None


def _requantized(graph: Graph, quantize: Node, product: Node) -> Node:
    """QLinearMatMul in the place of a QuantizeLinear, if it can be: no bias, and a zero point that says the type."""
    a, b, a_scale, b_scale, a_zero, b_zero, bias = product.inputs
    y_scale, y_zero = (*quantize.inputs, "", "")[1:3]
    if bias or not y_zero or not _single(graph, y_scale):
        return quantize
    inputs = (a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero)
    return Node(product.name + ".requantized", "QLinearMatMul", STANDARD, inputs, quantize.outputs, product.attributes)


def _added(graph: Graph, quantize: Node, terms: list[Coded]) -> Node:
    """AddCodes in the place of a QuantizeLinear, if all zero points are there and y has one scale."""
    y_scale, y_zero = (*quantize.inputs, "", "")[1:3]
    if not y_zero or not all(term.zero_point for term in terms) or not _single(graph, y_scale):
        return quantize
    inputs = [name for term in terms for name in (term.codes, term.scale, term.zero_point)]
    return Node(quantize.name + ".added", "AddCodes", OURS, (*inputs, y_scale, y_zero), quantize.outputs, {})
