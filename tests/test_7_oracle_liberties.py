"""What engines do of their own accord: the oracle has it where it is known, and the comparison names it."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_7_oracle import FOLDER, batch, outside

from refimpl.models.compare.causes import FUSED, find_cause, first_wrong
from refimpl.models.oracle.execute import execute
from refimpl.models.oracle.judge_nodes import judge_nodes
from refimpl.models.oracle.load import load, parse
from refimpl.models.oracle.semantics import OPENVINO, OPENVINO_IN_BLOCKS
from refimpl.nn import Recorder
from refimpl.nn.gelu import gelu

CPUINFO = Path("/proc/cpuinfo")
VNNI = CPUINFO.exists() and {"avx512_vnni", "avx_vnni"} & set(CPUINFO.read_text().split())
needs_vnni = pytest.mark.skipif(not VNNI, reason="this CPU has no VNNI: activations are not quantized again")


def weight_with_zero_point(k, dtype, zero, quantized):
    """x -> codes -> product with a weight of 7 columns that has a zero point -> y, or its codes too."""
    chance, low = np.random.default_rng(k), np.iinfo(dtype).min
    constants = {
        "x_scale": np.array(0.0173, np.float32), "x_zero": np.array(113, np.uint8),
        "w": chance.integers(low, low + 256, (k, 7)).astype(dtype),
        "w_scale": chance.uniform(0.001, 0.004, 7).astype(np.float32), "w_zero": np.full(7, zero, dtype),
        "y_scale": np.array(0.05, np.float32), "y_zero": np.array(99, np.uint8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "x_scale", "x_zero"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["b"], axis=1),
        helper.make_node("MatMul", ["a", "b"], ["y"]),
    ] + [helper.make_node("QuantizeLinear", ["y", "y_scale", "y_zero"], ["y_codes"])] * quantized
    sizes = [("x", TensorProto.FLOAT, k), ("y_codes", TensorProto.UINT8, 7) if quantized else ("y", 1, 7)]
    ports = [helper.make_tensor_value_info(name, kind, ["n", size]) for name, kind, size in sizes]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "g", ports[:1], ports[1:], initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


WEIGHTS = [(384, np.uint8, 117), (1536, np.uint8, 128), (100, np.uint8, 9), (16, np.uint8, 9), (384, np.int8, 5)]


@needs_vnni
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(("k", "dtype", "zero"), WEIGHTS)
def test_openvino_quantizes_activations_again(k, dtype, zero, quantized, tmp_path):
    """If the weight is u8 with a zero point, and has as many channels as a block; it then sums floats, up to 1024
    channels in our order. Other weights with a zero point are multiplied in floats."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    from refimpl.models.engines import open_graph

    (tmp_path / "m.onnx").write_bytes(weight_with_zero_point(k, dtype, zero, quantized).SerializeToString())
    graph, levels = load(tmp_path / "m.onnx"), np.random.default_rng(k).integers(-113, 143, (50, k))
    x = {"x": levels.astype(np.float32) * np.float32(0.0173)}
    (out,) = graph.outputs
    theirs = open_graph("openvino", tmp_path / "m.onnx", ["codes", out]).run(x)
    ours = execute(graph, x, OPENVINO_IN_BLOCKS)[out]
    assert outside(judge_nodes(graph, x, theirs, OPENVINO_IN_BLOCKS)) == {}
    finding = first_wrong(judge_nodes(graph, x, theirs, OPENVINO))
    if dtype == np.uint8 and k >= 32:
        assert (ours == theirs[out]).all() or k > 1024
        cause = find_cause(graph, x, theirs, finding, OPENVINO)
        assert cause.hypothesis == "activations quantized again, in blocks of 32"
        assert cause.explains == cause.of > 0


@pytest.mark.parametrize("zero", [-100, 10, 0])
def test_levels_that_are_counted_from_the_lowest(zero):
    """Quotients by levels are rounded with z + 128 added, not z: near ties the bound has to know. The
    quotient has 20 at most, so only where z is small the other bound is much too sharp."""
    ports = [helper.make_tensor_value_info("x", 1, ["n"]), helper.make_tensor_value_info("y", TensorProto.INT8, ["n"])]
    constants = {"scale": np.array(0.0233, np.float32), "zero": np.array(zero, np.int8)}
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    node = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])
    made = helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:], initializers), ir_version=8)
    graph = parse(made)
    ties = (np.arange(-20, 20) + 0.5) * float(np.float32(0.0233))
    x = {"x": (ties[:, None] + np.arange(-40, 41) * 2.0**-26).astype(np.float32).reshape(-1)}
    assert outside(judge_nodes(graph, x, execute(graph, x, OPENVINO), OPENVINO)) == {}
    assert bool(outside(judge_nodes(graph, x, execute(graph, x, OPENVINO)))) is (zero == 10)


# --- several nodes in one --------------------------------------------------------------------------------------------


def shown(graph):
    """Every tensor of our own run."""
    recorder = Recorder()
    execute(graph, batch(), tap=recorder)
    made = {name for node in graph.nodes for name in node.outputs}
    return {name: value for name, value in recorder.values.items() if name in made}


def check_fused(find):
    """GELU from its input, beside what is shown of it. What is wrong by a little more than f32 loses is not explained:
    the tensor of which nothing hides remains unknown."""
    graph = load(FOLDER / "torch.onnx")
    engine = shown(graph)
    last = next(node for node in graph.nodes if node.name.endswith("act_fn/Mul_1"))
    start = next(node for node in graph.nodes if node.name.endswith("act_fn/Div"))
    (whole,), (divided,) = last.outputs, start.outputs
    x = engine[start.inputs[0]].astype(np.float64)
    engine[whole] = gelu(x).astype(np.float32)
    finding = first_wrong(judge_nodes(graph, batch(), engine))
    assert finding.tensor == whole
    found = find(graph, batch(), engine, finding)
    assert (found.hypothesis, found.explains) == (FUSED, finding.finding.outside)
    assert divided not in found.sentence  # no more than three are named
    assert "and 1 more: the 5 nodes in one allow" in found.sentence
    engine[whole] = (gelu(x) * (1 + 1e-3)).astype(np.float32)
    assert find(graph, batch(), engine, first_wrong(judge_nodes(graph, batch(), engine))).hypothesis != FUSED


def test_several_nodes_in_one():
    check_fused(find_cause)


@pytest.mark.parametrize(
    ("name", "op", "cause"),
    [
        ("torch", "Mul", FUSED),
        ("static_qdq", "Add", FUSED),
        ("dynamic", "DequantizeLinear", "zero point scaled by itself"),
        ("dynamic_fused", "MatMulIntegerToFloat", "activations quantized again, in blocks of 32"),
    ],
)
def test_what_openvino_makes_of_it(name, op, cause):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    from refimpl.models.engines import open_graph

    if cause.startswith("activations") and not VNNI:
        pytest.skip("this CPU has no VNNI: activations are not quantized again")
    graph = load(FOLDER / f"{name}.onnx")
    theirs = open_graph("openvino", FOLDER / f"{name}.onnx", None).run(batch())
    findings = judge_nodes(graph, batch(), theirs, OPENVINO._replace(fuse=op != "Add"))
    wrong = [f for f in findings if f.op == op and f.finding is not None and f.finding.outside]
    assert wrong
    for finding in wrong:
        found = find_cause(graph, batch(), theirs, finding, OPENVINO)
        assert (found.hypothesis, found.explains) == (cause, found.of)
