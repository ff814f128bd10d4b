"""The oracle on whole models: those that other tools write, run by ONNX Runtime, and our own exports.

``check_judge`` decides that a judge of nodes finds what is wrong where it is, and only there.
"""

from pathlib import Path

import numpy as np
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper
from vnni import here

from refimpl.integer.products import pair_saturating
from refimpl.models.export import INPUTS, export_onnx, to_onnx
from refimpl.models.oracle.execute import execute
from refimpl.models.oracle.judge_nodes import first_outside, judge_nodes
from refimpl.models.oracle.load import load, parse
from refimpl.models.oracle.semantics import ONNX_RUNTIME, OPENVINO, PRODUCTS, Semantics
from refimpl.nn import REFERENCE, Recorder
from refimpl.quant import QUANTIZED

FOLDER = Path(__file__).parent / "golden" / "onnx"
FILES = sorted(path.stem for path in FOLDER.glob("*.onnx"))
FLOATS = here(ONNX_RUNTIME._replace(fuse=False))
CODES = (
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearMatMul",
    "QLinearAdd",
    "QLinearMul",
    "QGemm",
    "QLinearSoftmax",
)
ENDS = (*CODES, "LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization")


def batch():
    random = np.random.default_rng(1)
    mask = np.ones((3, 9), np.int64)
    mask[1, 6:], mask[2, 3:] = 0, 0
    return {"input_ids": random.integers(0, 41, (3, 9)), "attention_mask": mask}


def by_onnxruntime(path, graph, optimized, ops=None):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    from refimpl.models.engines import open_graph

    tensors = [name for node in graph.nodes if ops is None or node.op in ops for name in node.outputs if name]
    return open_graph("onnxruntime", path, tensors, optimize=optimized).run(batch())


def outside(findings):
    return {f.tensor: f.op for f in findings if f.finding is not None and f.finding.outside}


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_of_an_unoptimized_run_is_inside_its_bound(name):
    """Node by node, on ONNX Runtime's own inputs; at least 99.9 % of the codes are ours."""
    path = FOLDER / f"{name}.onnx"
    graph = load(path)
    values = by_onnxruntime(path, graph, optimized=False)
    findings = judge_nodes(graph, batch(), values, FLOATS)
    assert {f.tensor for f in findings} == values.keys() - graph.inputs.keys()
    assert all(f.finding is not None for f in findings)
    odd = {"QLinearSoftmax"} if name == "static_fused" else set()
    assert set(outside(findings).values()) == odd, first_outside(findings)
    codes = [f.finding for f in findings if f.op in CODES]
    assert sum(found.different for found in codes) <= sum(found.of for found in codes) / 1000


@pytest.mark.parametrize("name", FILES)
def test_an_optimized_run_is_inside_bounds_over_many_nodes(name):
    """Only codes and norms are exposed: what is between may be fused, and is bounded by propagation."""
    path = FOLDER / f"{name}.onnx"
    graph = load(path)
    findings = judge_nodes(graph, batch(), by_onnxruntime(path, graph, True, ENDS), FLOATS)
    assert max(f.steps for f in findings) > 10
    assert all(f.finding is not None for f in findings)
    wrong = outside(findings)
    if name.startswith("static_") and name != "static_operators":
        assert set(wrong.values()) <= {"QuantizeLinear", "QLinearSoftmax"}
        assert wrong
    else:
        assert wrong == {}, first_outside(findings)


def test_the_softmax_that_onnxruntime_gets_wrong():
    """Its QLinearSoftmax multiplies by the whole part of 1 / scale: 254 where the scale is f32(1 / 255).

    So codes are outside the definition. ``execute`` does what ONNX Runtime does; a scale of 1 / 254 explains it too.
    """
    path = FOLDER / "static_fused.onnx"
    graph = load(path)
    values = by_onnxruntime(path, graph, optimized=False)
    node = next(node for node in graph.nodes if node.op == "QLinearSoftmax")
    scale = graph.initializers[node.inputs[3]].item()
    assert int(1 / np.float32(scale)) == 254
    (found,) = [f.finding for f in judge_nodes(graph, batch(), values, FLOATS) if f.op == "QLinearSoftmax"]
    assert found.outside > 0
    assert found.different == 0
    truncated = np.array(1 / 254, np.float32)
    changed = graph._replace(initializers={**graph.initializers, node.inputs[3]: truncated})
    (found,) = [f.finding for f in judge_nodes(changed, batch(), values, FLOATS) if f.op == "QLinearSoftmax"]
    assert found.outside == 0


@pytest.mark.parametrize("level", [0, 4])
@pytest.mark.parametrize("k", [64, 100])
def test_weights_in_blocks(level, k, tmp_path):
    """At level 4 activations have 8 bits, block by block: nothing else explains what ONNX Runtime returns."""
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    from refimpl.models.engines import open_graph

    chance, groups = np.random.default_rng(k), -(-k // 32)
    constants = {
        "b": chance.integers(0, 256, (7, groups, 32)).astype(np.uint8),
        "scale": chance.uniform(0.001, 0.01, 7 * groups).astype(np.float32),
        "zero": chance.integers(100, 150, 7 * groups).astype(np.uint8),
    }
    sizes = {"bits": 8, "K": k, "N": 7, "block_size": 32, "accuracy_level": level}
    node = helper.make_node("MatMulNBits", ["x", *constants], ["y"], domain="com.microsoft", **sizes)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", k), ("y", 7))]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph([node], "g", ports[:1], ports[1:], initializers)
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    (tmp_path / "m.onnx").write_bytes(helper.make_model(made, opset_imports=domains, ir_version=8).SerializeToString())
    graph, x = load(tmp_path / "m.onnx"), {"x": chance.normal(size=(5, k)).astype(np.float32)}
    theirs = open_graph("onnxruntime", tmp_path / "m.onnx", ["y"], optimize=False).run(x)
    other = {**graph.nodes[0].attributes, "accuracy_level": 4 - level}
    changed = graph._replace(nodes=(graph.nodes[0]._replace(attributes=other),))
    assert outside(judge_nodes(graph, x, theirs)) == {}
    assert outside(judge_nodes(graph, x, execute(graph, x))) == {}
    assert outside(judge_nodes(changed, x, theirs)) == {"y": "MatMulNBits"}


# --- our own exports -------------------------------------------------------------------------------------------------

STAGES = {"f32": tiny.dense, "int8": tiny.quantized, "int8 attention": tiny.quantized_with_attention}


def exported(name, stage):
    """Model, graph and inputs of one of our exports."""
    model = STAGES[stage](name).model
    graph = parse(to_onnx(model))
    values = dict(zip(INPUTS, tiny.batch(name), strict=True))
    return model, graph, {key: values[key].astype(np.int64) for key in graph.inputs}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", tiny.ONE_OF_EACH_HEAD)
def test_an_export_executes_to_what_it_was_exported_from(name, stage):
    """Codes and accumulators to the bit."""
    model, graph, inputs = exported(name, stage)
    recorder = Recorder()
    output = execute(graph, inputs, tap=recorder)["output"]
    want = tiny.record(model, tiny.batch(name), REFERENCE if stage == "f32" else QUANTIZED)
    np.testing.assert_allclose(output, want["output"], rtol=1e-4, atol=1e-5)
    shared = {tap for tap in want if tap.endswith(("codes",)) and tap in recorder.values}
    assert bool(shared) == (stage != "f32")
    for tap in shared:
        got = recorder.values[tap]
        got = got if got.dtype == np.uint8 else (got.astype(np.int16) + 128).astype(np.uint8)
        np.testing.assert_array_equal(got, want[tap])
    accumulators = [value for key, value in recorder.values.items() if key.endswith(".acc")]
    exact = [value for tap, value in want.items() if tap.endswith(".acc")]
    for value in exact:
        assert any(value.shape == acc.shape and (value == acc).all() for acc in accumulators)


@pytest.mark.parametrize("stage", STAGES)
def test_our_own_run_is_inside_our_bounds(stage):
    _, graph, inputs = exported("bert_classification", stage)
    recorder = Recorder()
    execute(graph, inputs, tap=recorder)
    names = {name for node in graph.nodes for name in node.outputs}
    findings = judge_nodes(graph, inputs, {k: v for k, v in recorder.values.items() if k in names})
    assert outside(findings) == {}
    assert sum(f.finding.different for f in findings) == 0


# --- semantics -------------------------------------------------------------------------------------------------------


def saturating_model():
    """u8 codes times s8 codes in QDQ, then quantized again: every pair is at its limit."""
    floats = TensorProto.FLOAT
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "one", "zero"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "one"], ["b"]),
        helper.make_node("MatMul", ["a", "b"], ["y"], name="product"),
        helper.make_node("QuantizeLinear", ["y", "large", "zero"], ["out"]),
    ]
    constants = {
        "one": np.float32(1), "large": np.float32(600), "zero": np.uint8(0), "w": np.full((4, 2), 127, np.int8)
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", floats, ["n", 4])],
        [helper.make_tensor_value_info("out", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return parse(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


def test_semantics_decide_the_product():
    graph, x = saturating_model(), {"x": np.full((1, 4), 255, np.float32)}
    for semantics, acc, code in [(ONNX_RUNTIME, 129540, 216), (Semantics(pair_saturating), 65534, 109)]:
        recorder = Recorder()
        assert (execute(graph, x, semantics, recorder)["out"] == code).all()
        assert (recorder.values["product.acc"] == acc).all()
        assert (recorder.values["product.requantized.acc"] == acc).all()
        findings = judge_nodes(graph, x, {"out": recorder.values["out"]}, ONNX_RUNTIME)
        assert [f.finding.outside for f in findings] == [0 if semantics is ONNX_RUNTIME else 2]
        assert judge_nodes(graph, x, {"out": recorder.values["out"]}, semantics)[0].finding.outside == 0


def test_all_semantics_run():
    graph, x = saturating_model(), {"x": np.full((2, 4), 100, np.float32)}
    for product in PRODUCTS.values():
        assert execute(graph, x, OPENVINO._replace(product=product))["out"].shape == (2, 2)


# --- the judge -------------------------------------------------------------------------------------------------------


def one_element(y, wrong):
    return np.where(np.arange(y.size).reshape(y.shape) == 3, np.float32(wrong), y)


FAULTS = {
    "one element": lambda y: one_element(y, y.flat[3] + 1e-3),
    "all a little too high": lambda y: y * np.float32(1 + 1e-4),
    "NaN": lambda y: one_element(y, np.nan),
}
"""What an engine does to one tensor."""


def check_judge(judge):
    """A fault is found at its node, and only there, whether or not what is around it is exposed."""
    _, graph, inputs = exported("bert_classification", "f32")
    recorder = Recorder()
    execute(graph, inputs, tap=recorder)
    names = [name for node in graph.nodes for name in node.outputs]
    values = {name: recorder.values[name] for name in names}
    norms = [node.outputs[0] for node in graph.nodes if node.op == "LayerNormalization"]
    gelu = next(node.outputs[0] for node in graph.nodes if node.op == "Gelu")
    readers = [node.outputs[0] for node in graph.nodes if gelu in node.inputs]
    assert outside(judge(graph, inputs, values)) == {}
    for fault in FAULTS.values():
        found = outside(judge(graph, inputs, {**values, gelu: fault(values[gelu])}))
        assert next(iter(found), None) == gelu
        assert found.keys() <= {gelu, *readers}  # whose values here are those of another input
        few = {name: values[name] for name in norms}
        few[norms[1]] = few[norms[1]] + 100 * (fault(few[norms[1]]) - few[norms[1]])  # many nodes allow more
        assert next(iter(outside(judge(graph, inputs, few))), None) == norms[1]


def test_the_judge_finds_faults():
    check_judge(judge_nodes)


def test_judging_rejects_what_does_not_fit():
    _, graph, inputs = exported("bert_classification", "f32")
    recorder = Recorder()
    execute(graph, inputs, tap=recorder)
    with pytest.raises(ValueError, match=r"embeddings has shape \(1,\); need \(3, "):
        judge_nodes(graph, inputs, {"embeddings": np.zeros(1, np.float32)})
    with pytest.raises(TypeError, match="embeddings has dtype int32; need float32"):
        judge_nodes(graph, inputs, {"embeddings": recorder.values["embeddings"].astype(np.int32)})


def test_a_chain_is_carried_as_far_as_its_bound_says_anything():
    """exp(exp(exp(x))) of large x: after the first steps nothing can be said, then an exposed value starts afresh."""
    nodes = [helper.make_node("Mul", ["x", "x"], ["v0"])]
    nodes += [helper.make_node("Exp", [f"v{i}"], [f"v{i + 1}"]) for i in range(3)]
    nodes.append(helper.make_node("Relu", ["v3"], ["y"]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:]))
    graph, x = parse(model), {"x": np.array([2.5, 1.0], np.float32)}
    with np.errstate(over="ignore"):
        findings = judge_nodes(graph, x, {"v2": np.ones(2, np.float32), "y": np.full(2, np.e, np.float32)})
    assert [(f.tensor, f.steps, f.since) for f in findings] == [("v2", 3, ()), ("y", 2, ("v2",))]
    assert findings[1].finding.outside == 0


def test_published_zero_points_through_the_executor():
    """onnxruntime #7524: MatMulInteger, u8 with zero point 42 times s8 with zero point -26."""
    a = np.array([[238, 115, 94], [245, 111, 102], [158, 225, 48]], np.uint8)
    b = np.array([[25, 36, 125], [42, -123, 76], [-81, -86, 35]], np.int8)
    ports = [("a", TensorProto.UINT8), ("b", TensorProto.INT8), ("za", TensorProto.UINT8), ("zb", TensorProto.INT8)]
    made = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b", "za", "zb"], ["y"])], "g",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in ports],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
    )  # fmt: skip
    graph = parse(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)]))
    inputs = {"a": a, "b": b, "za": np.array(42, np.uint8), "zb": np.array(-26, np.int8)}
    exact, saturating = (execute(graph, inputs, s)["y"] for s in (ONNX_RUNTIME, Semantics(pair_saturating)))
    np.testing.assert_array_equal(exact, (a.astype(int) - 42) @ (b.astype(int) + 26))
    assert saturating[:, 2].tolist() == [34491, 35057, 32465]
    np.testing.assert_array_equal(saturating[:, :2], exact[:, :2])


@pytest.mark.parametrize("stage", STAGES)
def test_onnxruntime_runs_our_exports_in_integers(stage, tmp_path):
    """Optimized, with only the codes exposed that survive: products have the tight bound of exact accumulators."""
    model, graph, inputs = exported("bert_classification", stage)
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    from refimpl.models.engines import open_graph

    export_onnx(model, tmp_path / "m.onnx")
    tensors = [node.outputs[0] for node in graph.nodes if node.op in ENDS]
    findings = judge_nodes(
        graph,
        inputs,
        open_graph("onnxruntime", tmp_path / "m.onnx", tensors, optimize=True).run(inputs),
        here(ONNX_RUNTIME),
    )
    assert all(f.finding is not None for f in findings if f.tensor != "output")
    assert outside(findings) == {}, first_outside(findings)
    assert sum(f.finding.different for f in findings if f.finding) == 0


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["f32", "int8"])
def test_all_minilm(stage, tmp_path):
    """The real model, every tensor of ONNX Runtime's unoptimized run."""
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    from refimpl.models import compress
    from refimpl.models.embedded import demo_model
    from refimpl.models.engines import open_graph

    dense = compress.load(demo_model())
    batch = dense.tokenizer.encode(["a film that works", "it does not"])
    model = dense.model
    if stage == "int8":
        model = compress.quantize(compress.calibrate(compress.prune(dense, 1.0), [batch])).model
    export_onnx(model, tmp_path / "m.onnx")
    graph = load(tmp_path / "m.onnx")
    inputs = {key: array for key, array in zip(INPUTS, batch, strict=True) if key in graph.inputs}
    tensors = [name for node in graph.nodes for name in node.outputs if name]
    findings = judge_nodes(
        graph, inputs, open_graph("onnxruntime", tmp_path / "m.onnx", tensors, optimize=False).run(inputs), FLOATS
    )
    assert outside(findings) == {}, first_outside(findings)
