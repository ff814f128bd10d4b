"""Judging whole models of other tools: values and codes node by node, codes end to end, accumulators, counted.

Three runs of ONNX Runtime: the file as it is written, every tensor exposed; the graph that it makes of the file when it
optimizes, run as that is written; and single integer products of the codes that it had there.
"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from refimpl.integer.products import pair_saturating
from refimpl.models.engines import open_graph
from refimpl.models.engines.isa import NATIVE
from refimpl.models.engines.isolated import Conditions, run_isolated
from refimpl.models.oracle.execute import call_of, execute
from refimpl.models.oracle.graph import MICROSOFT, OURS, STANDARD, Graph, Node
from refimpl.models.oracle.judge_nodes import NodeFinding, judge_nodes
from refimpl.models.oracle.load import load
from refimpl.models.oracle.ops import OPERATORS
from refimpl.models.oracle.ops.integers import accumulate
from refimpl.models.oracle.rewrite import rewrite
from refimpl.models.oracle.semantics import ONNX_RUNTIME, OPENVINO_IN_BLOCKS, Semantics
from refimpl.nn import Recorder
from refimpl.nn.taps import SEPARATOR

Arrays = dict[str, np.ndarray]

FLOATS = ONNX_RUNTIME._replace(fuse=False)
"""What is written runs as it is written."""
PRODUCT, REQUANTIZED = "MatMulIntegerToFloat", "QLinearMatMul"
MOST = 2**20
"""The s32 accumulator is the float product over its scale, rounded, as long as it is below this: no more than eight
roundings lie between them, of acc, the scales, their product and a bias, and 8 * 2**-24 * 2**20 = 1/2."""


class Count(NamedTuple):
    """same: how many of ``of`` are inside their bounds, or equal."""

    same: int = 0
    of: int = 0

    def plus(self, other: "Count") -> "Count":
        return Count(self.same + other.same, self.of + other.of)

    @property
    def percent(self) -> float:
        return 100 * self.same / self.of if self.of else 100.0


class Figures(NamedTuple):
    """values, codes: node by node; whole: codes of our own run from the inputs on; sums: accumulators.

    outside: operator -> how many values are; different: operator -> how many codes are not ours; slips: of the first
    tensor in which our own run has other codes: by how many steps -> how many.
    """

    values: Count
    codes: Count
    whole: Count
    near: Count
    sums: Count
    outside: Counter[str]
    different: Counter[str]
    slips: Counter[int]

    def plus(self, other: "Figures") -> "Figures":
        return Figures(
            *(a.plus(b) for a, b in zip(self[:5], other[:5], strict=True)),
            self.outside + other.outside,
            self.different + other.different,
            self.slips + other.slips,
        )


class Onward:
    """A tap that goes on with what the engine returned, and keeps our accumulators of it by the node's name."""

    def __init__(self, engine: Arrays, accumulators: Arrays, prefix: str = ""):
        self.engine, self.accumulators, self.prefix = engine, accumulators, prefix

    def scope(self, name: str) -> "Onward":
        return Onward(self.engine, self.accumulators, self.prefix + name + SEPARATOR)

    def __call__(self, name: str, value: Any) -> Any:
        if name == "acc":
            self.accumulators[self.prefix.removesuffix(SEPARATOR)] = value
        return self.engine.get(self.prefix + name, value)


def makes_codes(op: str) -> bool:
    return any(OPERATORS[domain, op].codes for domain in (STANDARD, MICROSOFT, OURS) if (domain, op) in OPERATORS)


def outputs(graph: Graph) -> list[str]:
    return [name for node in graph.nodes for name in node.outputs if name]


def code_tensors(graph: Graph) -> list[str]:
    return [node.outputs[0] for node in graph.nodes if makes_codes(node.op)]


# --- node by node ----------------------------------------------------------------------------------------------------


def counted(findings: list[NodeFinding]) -> Figures:
    """Values and codes of what was judged."""
    values, codes, outside, different = Count(), Count(), Counter[str](), Counter[str]()
    for _, _, op, found, *_ in findings:
        if found is None:
            continue
        values = values.plus(Count(found.of - found.outside, found.of))
        outside[op] += found.outside
        if makes_codes(op):
            codes = codes.plus(Count(found.of - found.different, found.of))
            different[op] += found.different
    sums = [found for _, _, op, found, *_ in findings if op == "MatMulInteger" and found is not None]
    total = Count(sum(s.of - s.outside for s in sums), sum(s.of for s in sums))
    return Figures(values, codes, Count(), Count(), total, +outside, +different, Counter())


def end_to_end(graph: Graph, inputs: Arrays, engine: Arrays, semantics: Semantics) -> Figures:
    """Codes of our own run that are the engine's, those within one step, and the first that are neither."""
    recorder, equal, near, slips = Recorder(), Count(), Count(), Counter[int]()
    execute(graph, inputs, semantics, recorder)
    for name in code_tensors(graph):
        if name in engine:
            steps = np.abs(recorder.values[name].astype(np.int32) - engine[name].astype(np.int32))
            equal, near = (c.plus(Count(int((steps <= n).sum()), steps.size)) for n, c in enumerate((equal, near)))
            slips = slips or Counter(steps[steps > 0].tolist())
    return counted([])._replace(whole=equal, near=near, slips=slips)


# --- accumulators ----------------------------------------------------------------------------------------------------


def products(graph: Graph, exposed: list[str], semantics: Semantics) -> list[Node]:
    """The products of codes with a float result and one accumulator, whose scales the file says."""
    made = [node for node in rewrite(graph, semantics, exposed).nodes if node.op == PRODUCT and not node.attributes]
    return [node for node in made if {*node.inputs[2:4]} <= graph.initializers.keys()]


def recovered(graph: Graph, inputs: Arrays, engine: Arrays, semantics: Semantics) -> tuple[Count, Arrays]:
    """The engine's accumulators, from its float products, that equal ours of the engine's own codes; and ours."""
    ours: Arrays = {}
    execute(graph, inputs, semantics, Onward(engine, ours))
    total = Count()
    for node in products(graph, list(engine), semantics):
        if node.outputs[0] in engine:
            a, b = (graph.initializers[name].astype(np.float64) for name in node.inputs[2:4])
            bias = graph.initializers[node.inputs[6]].astype(np.float64) if node.inputs[6:] and node.inputs[6] else 0.0
            assert np.max(np.abs(ours[node.name]) + np.abs(bias / (a * b))) < MOST
            theirs = np.rint((engine[node.outputs[0]] - bias) / (a * b))
            total = total.plus(Count(int((theirs == ours[node.name]).sum()), theirs.size))
    return total, ours


def repeated(graph: Graph, inputs: Arrays, engine: Arrays) -> Count:
    """For products whose result is codes: MatMulInteger of the codes that the engine had there."""
    known = {**graph.initializers, **inputs, **engine}
    total = Count()
    for node in graph.nodes:
        if node.op == REQUANTIZED:
            a, za, b, zb = (known[node.inputs[i]] for i in (0, 2, 3, 5))
            theirs = matmul_integer(a, za, b, zb)
            ours = accumulate(call_of(graph, node, ONNX_RUNTIME), a, b, za, zb)
            total = total.plus(Count(int((theirs == ours).sum()), ours.size))
    return total


def matmul_integer(a: np.ndarray, za: np.ndarray, b: np.ndarray, zb: np.ndarray) -> np.ndarray:
    """ONNX Runtime's."""
    constants = {"b": b, "za": za, "zb": zb}
    port = helper.make_tensor_value_info("a", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
    result = helper.make_tensor_value_info("acc", TensorProto.INT32, None)
    node = helper.make_node("MatMulInteger", ["a", *constants], ["acc"])
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([node], "product", [port], [result], stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "product.onnx")
        path.write_bytes(made.SerializeToString())
        return open_graph("onnxruntime", path, ["acc"]).run({"a": a})["acc"]


# --- engines ---------------------------------------------------------------------------------------------------------


def by_onnxruntime(path: Path, optimized: Path, batches: list[Arrays]) -> Figures:
    """A file and what ONNX Runtime makes of it, of every batch."""
    total = counted([])
    for file in (path, optimized):
        graph = load(file)
        session = open_graph("onnxruntime", file, outputs(graph), optimize=False)
        for batch in batches:
            engine = session.run(batch)
            total = total.plus(counted(judge_nodes(graph, batch, engine, FLOATS)))
            if file != path:
                sums = recovered(graph, batch, engine, FLOATS)[0].plus(repeated(graph, batch, engine))
                total = total.plus(end_to_end(graph, batch, engine, FLOATS)._replace(sums=sums))
    return total


def by_openvino(path: Path, batches: list[Arrays]) -> Figures:
    """A file in OpenVINO: its codes; and the products with constants, in a run of their own, as nothing is fused across
    a tensor that is exposed."""
    graph, total = load(path), counted([])
    codes = code_tensors(graph)
    sums = [
        node.outputs[0] for node in products(graph, codes, OPENVINO_IN_BLOCKS) if node.inputs[1] in graph.initializers
    ]
    for batch in batches:
        engine = isolated("openvino", path, batch, codes)
        total = total.plus(counted(judge_nodes(graph, batch, engine, OPENVINO_IN_BLOCKS)))
        both = isolated("openvino", path, batch, [*codes, *sums])
        found = recovered(graph, batch, both, OPENVINO_IN_BLOCKS)[0]
        total = total.plus(end_to_end(graph, batch, engine, OPENVINO_IN_BLOCKS)._replace(sums=found))
    return total


def isolated(engine: str, path: Path, batch: Arrays, tensors: list[str], isa: str = NATIVE) -> Arrays:
    run = run_isolated(engine, path, batch, tensors, Conditions(isa, timeout=600))
    return {name: run.values[name] for name in tensors if name in run.values}


class Saturated(NamedTuple):
    """Of the accumulators of all linear layers: equal to those with saturation; equal to the exact ones; clipped."""

    layers: int
    saturating: Count
    exact: Count
    clipped: int


def saturation(path: Path, batch: Arrays, engine: str, isa: str) -> Saturated:
    """What the products of our INT8 export are in an engine, on a CPU of some instructions."""
    graph = load(path)
    made = products(graph, code_tensors(graph), ONNX_RUNTIME)
    returned = isolated(engine, path, batch, [*code_tensors(graph), *(node.outputs[0] for node in made)], isa)
    saturating, ours = recovered(graph, batch, returned, Semantics(pair_saturating))
    exact, wide = recovered(graph, batch, returned, ONNX_RUNTIME)
    return Saturated(len(made), saturating, exact, sum(int((ours[name] != wide[name]).sum()) for name in wide))
