"""What an engine's integers are taken to mean: its rounding of codes, the product that is asked for, and whether
products of dequantized tensors ran on integers.

An engine may multiply the codes of a QDQ file, or the floats that they stand for. As integers the bound is much
tighter, and a saturating pair can be named; as floats nothing is accused that is only rounding. It is decided so:

    every product ran in an integer layer, as the engine counts its layers     integers
    none did                                                                   floats
    some, or an engine that counts none                                        floats only if as integers a product is
                                                                               outside, and as floats none is
"""

import numpy as np

from refimpl.models.engines import NAMES, count_integer_layers
from refimpl.models.engines.isolated import EngineRun
from refimpl.models.oracle.graph import Graph
from refimpl.models.oracle.judge_nodes import NodeFinding, judge_nodes
from refimpl.models.oracle.rewrite import rewrite
from refimpl.models.oracle.semantics import ONNX_RUNTIME, OPENVINO, PRODUCTS, Semantics

FUSED = ("MatMulIntegerToFloat", "QLinearMatMul")
REQUANTIZED = ".requantized"
"""What ``rewrite`` adds to the name of a product that goes on to codes; the product itself stays."""


def meant(engine: str, against: str) -> Semantics:
    """Of an engine by its name; others' are taken as ONNX writes it. against: one of ``PRODUCTS``, else ValueError."""
    if against not in PRODUCTS:
        raise ValueError(f"--against is {against!r}; need one of {', '.join(PRODUCTS)}")
    return (OPENVINO if engine == "openvino" else ONNX_RUNTIME)._replace(product=PRODUCTS[against])


def read(
    graph: Graph, inputs: dict[str, np.ndarray], run: EngineRun, engine: str, semantics: Semantics
) -> tuple[list[NodeFinding], Semantics]:
    """The findings of a run, and the semantics with ``fuse`` as the run seems to have it. Raises as ``judge_nodes``."""
    nodes = [node for node in rewrite(graph, semantics, run.values).nodes if node.op in FUSED]
    products = {name for node in nodes for name in node.outputs}
    count = len({node.name.removesuffix(REQUANTIZED) for node in nodes})
    integers = semantics._replace(fuse=True)
    counted = count_integer_layers(engine, run.info["layers"]) if engine in NAMES else None
    if not products or (counted is not None and counted >= count):
        return judge_nodes(graph, inputs, run.values, integers), integers
    floats = semantics._replace(fuse=False)
    as_floats = judge_nodes(graph, inputs, run.values, floats)
    if counted == 0:
        return as_floats, floats
    as_integers = judge_nodes(graph, inputs, run.values, integers)
    if _outside(as_integers, products) and not _outside(as_floats, products):
        return as_floats, floats
    return as_integers, integers


def _outside(findings: list[NodeFinding], tensors: set[str]) -> bool:
    return any(f.finding is not None and f.finding.outside and f.tensor in tensors for f in findings)
