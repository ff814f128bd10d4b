"""Figures of the oracle on ONNX models of full size: how much was judged, and how much of it is not ours.

    python tests/golden/generate_large_onnx.py FOLDER
    python tests/oracle_figures.py [--tokens N] FOLDER/*.onnx
    python tests/oracle_figures.py --saturating FOLDER/NAME.onnx ...

The first prints, for ONNX Runtime as the file is written and optimized and for OpenVINO, values and codes node by node
on the engine's own inputs, and codes end to end; the second accumulators, on fewer instructions than this CPU has too.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refimpl.integer.products import exact, s8s8_shifted
from refimpl.models.engines import open_graph
from refimpl.models.engines.isolated import Conditions, run_isolated
from refimpl.models.oracle.execute import apply, call_of, execute
from refimpl.models.oracle.graph import Graph, Node
from refimpl.models.oracle.judge_nodes import NodeFinding, judge_nodes
from refimpl.models.oracle.load import load
from refimpl.models.oracle.rewrite import rewrite
from refimpl.models.oracle.semantics import ONNX_RUNTIME, OPENVINO, Semantics
from refimpl.nn import Recorder

FLOATS = Semantics(fuse=False)
FLOAT_PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "MatMul f32", "FullyConnected f32")
CODES = ("QuantizeLinear", "DynamicQuantizeLinear")
PRODUCTS = ("MatMul", "Gemm", "MatMulInteger")


class Figures(NamedTuple):
    """How many, and how many of them are not as they should be.

    values, outside : elements of tensors judged on the engine's own inputs, and those beyond their bound
    codes, different : those that are codes, and those that are not ours
    apart : codes that are not ours if they are computed from the engine's codes before them, exactly in between
    whole, astray : codes of a run from the inputs, and those that are not ours
    floats : products of codes that the engine computes in f32
    ops : operators of which something is outside
    """

    values: int
    outside: int
    codes: int
    different: int
    apart: int
    whole: int
    astray: int
    floats: int
    ops: tuple[str, ...]


class Sums(NamedTuple):
    """products; accumulators; how many are not those of the semantics; how many saturation changes."""

    products: int
    of: int
    different: int
    saturated: int


def inputs_for(graph: Graph, tokens: int = 16, rows: int = 2) -> dict[str, np.ndarray]:
    """Random ids; the last of several rows is padded."""
    mask = np.ones((rows, tokens), np.int64)
    if rows > 1:
        mask[-1, tokens * 5 // 8 :] = 0
    ids = np.random.default_rng(1).integers(1, 30522, mask.shape)
    made = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
    return {name: made[name] for name in graph.inputs}


def is_codes(array: np.ndarray) -> bool:
    return array.dtype in (np.uint8, np.int8) and array.ndim > 0


def judged(
    graph: Graph, inputs: dict[str, np.ndarray], engine: dict[str, np.ndarray], semantics: Semantics
) -> tuple[list[NodeFinding], int]:
    """Findings, and how many products of codes were computed in f32: beyond what integers may be off, but not beyond
    what f32 sums may."""
    findings, floats = judge_nodes(graph, inputs, engine, semantics), 0
    if not semantics.fuse:
        return findings, floats
    otherwise = {f.tensor: f for f in judge_nodes(graph, inputs, engine, semantics._replace(fuse=False))}
    for i, found in enumerate(findings):
        other = otherwise[found.tensor]
        if found.op == "MatMulIntegerToFloat" and found.finding and found.finding.outside and not other.finding.outside:
            findings[i], floats = other, floats + 1
    return findings, floats


def as_it_truncates(graph: Graph) -> Graph:
    """The graph with the scales that ONNX Runtime's QLinearSoftmax has in effect: it multiplies by the whole part of
    1 / scale. Only of QuantizeLinear, which it turns into that operator."""
    probs = {node.outputs[0] for node in graph.nodes if node.op == "Softmax"}
    constants, nodes = dict(graph.initializers), []
    for node in graph.nodes:
        if node.op == "QuantizeLinear" and node.inputs[0] in probs:
            name = f"{node.name}.scale"
            constants[name] = np.float32(1 / np.floor(np.float32(1) / constants[node.inputs[1]]))[...]
            node = node._replace(inputs=(node.inputs[0], name, *node.inputs[2:]))
        nodes.append(node)
    return graph._replace(nodes=tuple(nodes), initializers=constants)


def figures(
    graph: Graph, inputs: dict[str, np.ndarray], engine: dict[str, np.ndarray], semantics: Semantics
) -> Figures:
    findings, floats = judged(graph, inputs, engine, semantics)
    said = [f for f in findings if f.finding is not None]
    codes = {f.tensor: f.finding for f in said if is_codes(engine[f.tensor])}
    between = judge_nodes(graph, inputs, {name: engine[name] for name in codes}, semantics)
    recorder = Recorder()
    execute(graph, inputs, semantics, recorder)
    pairs = [(engine[name], recorder.values[name]) for name in codes]
    return Figures(
        sum(f.finding.of for f in said),
        sum(f.finding.outside for f in said),
        sum(f.of for f in codes.values()),
        sum(f.different for f in codes.values()),
        sum(f.finding.different for f in between if f.finding is not None),
        sum(theirs.size for theirs, _ in pairs),
        sum(int((theirs.astype(int) != ours).sum()) for theirs, ours in pairs),
        floats,
        tuple(sorted({f.op for f in said if f.finding.outside})),
    )


# --- accumulators ----------------------------------------------------------------------------------------------------


def sums(graph: Graph, engine: dict[str, np.ndarray], semantics: Semantics) -> Sums:
    """Of MatMulInteger, whose result they are, and of products of dequantized codes in f32, from which they follow:
    result / scales is within half a step of the accumulator and no other integer."""
    known, total = {**graph.initializers, **engine}, Sums(0, 0, 0, 0)
    for node in rewrite(graph, semantics, engine.keys()).nodes:
        if node.op == "Transpose" and node.inputs[0] in known:
            known[node.outputs[0]] = apply(call_of(graph, node, semantics), [known[node.inputs[0]]])[0]
        if node.op not in ("MatMulInteger", "MatMulIntegerToFloat") or node.outputs[0] not in engine:
            continue
        theirs = _theirs(node, engine[node.outputs[0]], known) if known.keys() >= {*node.inputs} - {""} else None
        if theirs is not None:
            ours, plain = (_accumulators(graph, node, known, s) for s in (semantics, semantics._replace(product=exact)))
            found = (1, theirs.size, int((theirs != ours).sum()), int((ours != plain).sum()))
            total = Sums(*map(sum, zip(total, found, strict=True)))
    return total


def _accumulators(graph: Graph, node: Node, known: dict[str, np.ndarray], semantics: Semantics) -> np.ndarray:
    recorder = Recorder()
    results = apply(call_of(graph, node, semantics, recorder), [known[name] if name else None for name in node.inputs])
    return results[0] if node.op == "MatMulInteger" else recorder.values[f"{node.name}.acc"]


def _theirs(node: Node, result: np.ndarray, known: dict[str, np.ndarray]) -> np.ndarray | None:
    """The engine's accumulators; None of a product in f32, whose results are not those of whole accumulators."""
    if node.op == "MatMulInteger":
        return result
    scale = known[node.inputs[2]].astype(np.float64) * known[node.inputs[3]]
    steps = result / scale
    return np.rint(steps) if (np.abs(steps - np.rint(steps)) <= np.abs(steps) * 2.0**-20).all() else None


def saturating(path: Path, tokens: int = 8) -> dict[str, Sums]:
    """ "ENGINE ISA" -> accumulators, judged by what that CPU computes. MatMulInteger: ONNX Runtime; QDQ: OpenVINO."""
    graph = load(path)
    inputs = inputs_for(graph, tokens, 1)
    dynamic = any(node.op == "MatMulInteger" for node in graph.nodes)
    engine, meant = ("onnxruntime", FLOATS) if dynamic else ("openvino", OPENVINO)
    made = {}
    for isa in ("native", "qemu-haswell") if dynamic else ("native", "avx512", "avx2"):
        run = run_isolated(engine, path, inputs, wanted(graph), Conditions(isa, optimize=not dynamic, timeout=600))
        product = exact if isa == "native" else s8s8_shifted
        made[f"{engine} {isa}"] = sums(graph, run.values, meant._replace(product=product))
    return made


# --- all of a file ---------------------------------------------------------------------------------------------------


def wanted(graph: Graph) -> list[str]:
    """Codes, and products with a constant: what an engine can show and still run in integers. OpenVINO 2026.4 is not
    asked for the other products: where it shows that of probabilities and values, all codes of the context in an NNCF
    model of scaled_dot_product_attention are one, and what follows is of no use."""
    known = set(graph.initializers)
    for node in graph.nodes:
        if node.op in ("DequantizeLinear", "Transpose") and node.inputs[0] in known:
            known.update(node.outputs)
    linear = {node.name for node in graph.nodes if node.op in PRODUCTS and known & {*node.inputs}}
    return [name for n in graph.nodes if n.op in CODES or n.name in linear for name in n.outputs if name]


def rows(path: Path, tokens: int = 16) -> Iterator[tuple[str, Figures]]:
    """What was run, and its figures."""
    graph = load(path)
    inputs = inputs_for(graph, tokens)
    written = [name for node in graph.nodes for name in node.outputs if name]
    loaded = open_graph("onnxruntime", path, written, optimize=False)
    yield "ONNX Runtime, as written", figures(graph, inputs, loaded.run(inputs), FLOATS)
    loaded = open_graph("onnxruntime", path, None)
    engine = loaded.run(inputs)
    yield "ONNX Runtime, optimized", figures(graph, inputs, engine, ONNX_RUNTIME)
    ops = {node.op for node in graph.nodes}
    if loaded.layers.get("QLinearSoftmax") and "QLinearSoftmax" not in ops:
        yield "..., softmax truncated", figures(as_it_truncates(graph), inputs, engine, ONNX_RUNTIME)
    if "QuantizeLinear" in ops and not any(node.op.startswith("QLinear") for node in graph.nodes):
        run = run_isolated("openvino", path, inputs, wanted(graph))
        yield "OpenVINO", figures(graph, inputs, run.values, OPENVINO)


def main(arguments: list[str]) -> None:
    tokens = int(arguments[1]) if arguments[:1] == ["--tokens"] else 16
    saturate = arguments[:1] == ["--saturating"]
    for path in map(Path, arguments[2 * (tokens != 16) + saturate :]):
        for where, found in saturating(path).items() if saturate else rows(path, tokens):
            print(path.stem, where, *(f"{key}={value}" for key, value in found._asdict().items()), sep="  ", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
