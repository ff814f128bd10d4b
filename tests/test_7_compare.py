"""Rung 7: causes. Engines with one planted fault each, written here and not as the finder writes it; the finder must
name node and fault. A right engine has no finding, and a fault that nobody knows is called unknown.
"""

import re
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper
from scipy.special import erf

from refimpl.kernels import cpu
from refimpl.models.compare import causes
from refimpl.models.compare.causes import find_cause, first_wrong
from refimpl.models.export import INPUTS, to_onnx
from refimpl.models.oracle.execute import apply, call_of
from refimpl.models.oracle.judge_nodes import judge_nodes
from refimpl.models.oracle.load import load, parse
from refimpl.models.oracle.rewrite import rewrite
from refimpl.models.oracle.semantics import ONNX_RUNTIME, OPENVINO, Semantics

FOLDER = Path(__file__).parent / "golden" / "onnx"
K = 45
DEFINED = Semantics()


@cache
def subject(name):
    """Graph and inputs of a small model."""
    if name in OWN:
        return OWN[name]()
    if name in ("int8", "int8 attention"):
        stage = tiny.quantized if name == "int8" else tiny.quantized_with_attention
        graph = parse(to_onnx(stage("bert_classification").model))
        values = dict(zip(INPUTS, tiny.batch("bert_classification"), strict=True))
        return graph, {key: values[key].astype(np.int64) for key in graph.inputs}
    random = np.random.default_rng(1)
    mask = np.ones((3, 9), np.int64)
    mask[1, 6:], mask[2, 3:] = 0, 0
    return load(FOLDER / f"{name}.onnx"), {"input_ids": random.integers(0, 41, (3, 9)), "attention_mask": mask}


def layer():
    return parse(layer_model()), {"x": np.random.default_rng(5).uniform(-2.4, 2.7, (16, K)).astype(np.float32)}


def layer_model():
    """One linear layer with GELU and every code there is; K odd, a scale per channel."""
    random = np.random.default_rng(3)
    constants = {
        "scale": np.float32(0.02), "zero": np.uint8(119), "w": random.integers(-127, 128, (K, 24)).astype(np.int8),
        "w_scale": random.uniform(1e-3, 4e-3, 24).astype(np.float32),
        "bias": random.normal(0, 1, 24).astype(np.float32),
        "y_scale": np.float32(0.05), "y_zero": np.uint8(119),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"], name="Quantize_0"),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["a"], name="Dequantize_1"),
        helper.make_node("DequantizeLinear", ["w", "w_scale"], ["b"], name="Dequantize_2", axis=1),
        helper.make_node("MatMul", ["a", "b"], ["product"], name="MatMul_3"),
        helper.make_node("Add", ["product", "bias"], ["sum"], name="Add_4"),
        helper.make_node("Gelu", ["sum"], ["gelu"], name="Gelu_5"),
        helper.make_node("QuantizeLinear", ["gelu", "y_scale", "y_zero"], ["y"], name="Quantize_6"),
    ]
    graph = helper.make_graph(
        nodes, "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", K])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def ties():
    """Codes of numbers half way between two, or as near to it as f32 comes."""
    constants = {"scale": np.float32(0.02), "zero": np.uint8(128)}
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"], name="Quantize_0")], "ties",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("codes", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return parse(made), {"x": np.float32(0.02) * (np.arange(-128, 127, dtype=np.float32) + np.float32(0.5))}


def long_sums():
    """MatMulInteger whose sums pass 2**24."""
    random = np.random.default_rng(4)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["acc"], name="Integer_0")], "long",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, ["n", "k"])],
        [helper.make_tensor_value_info("acc", TensorProto.INT32, None)],
        [numpy_helper.from_array(random.integers(90, 128, (1200, 8)).astype(np.int8), "b")],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return parse(made), {"a": random.integers(180, 256, (6, 1200)).astype(np.uint8)}


def large_scores():
    """Softmax of scores whose exponentials have no f32."""
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["y"], name="Softmax_0", axis=-1)], "scores",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "t"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return parse(made), {"x": np.random.default_rng(6).uniform(60, 95, (8, 12)).astype(np.float32)}


OWN = {"layer": layer, "ties": ties, "long sums": long_sums, "large scores": large_scores}


def run(name, faults):
    """Our own run of a model, the tensors of ``faults`` made by them: (inputs of the node, its attributes) -> array."""
    graph, inputs = subject(name)
    tensors = [tensor for node in graph.nodes for tensor in node.outputs if tensor]
    values = {**graph.initializers, **inputs}
    for node in rewrite(graph, DEFINED, tensors).nodes:
        given = [values[tensor] if tensor else None for tensor in node.inputs]
        results = apply(call_of(graph, node, DEFINED), given)
        for tensor, array in zip(node.outputs, results, strict=False):
            values[tensor] = faults[tensor](*given) if tensor in faults else array
    return {tensor: values[tensor] for tensor in tensors}


def cause_in(name, engine, find=find_cause):
    graph, inputs = subject(name)
    found = first_wrong(judge_nodes(graph, inputs, engine, DEFINED))
    return None if found is None else (found, find(graph, inputs, engine, found, DEFINED))


def made_by(name, op, which=0):
    """The tensor that the node of an operator makes."""
    graph, _ = subject(name)
    return [node.outputs[0] for node in graph.nodes if node.op == op][which]


# --- faults, each written plainly ------------------------------------------------------------------------------------


def rescaled(acc, a_scale, b_scale):
    return (acc.astype(np.float32) * (a_scale * b_scale)).astype(np.float32)


def terms(a, b):
    """Every product, s64 (..., M, N, K)."""
    return a.astype(np.int64)[..., :, None, :] * np.swapaxes(b.astype(np.int64), -1, -2)[..., None, :, :]


def corrected(raw, b, a_zero):
    return raw - int(a_zero) * b.astype(np.int64).sum(-2)


def clipped_pairs(a, b, a_scale, b_scale, a_zero, *_):
    every = terms(a, b)
    every = np.concatenate([every, np.zeros_like(every[..., : every.shape[-1] % 2])], -1)
    sums = np.clip(every[..., 0::2] + every[..., 1::2], -32768, 32767)
    return rescaled(corrected(sums.sum(-1), b, a_zero), a_scale, b_scale)


def clipped_pairs_two_apart(a, b, a_scale, b_scale, a_zero, *_):
    every = terms(a, b)
    every = np.concatenate([every, np.zeros((*every.shape[:-1], -every.shape[-1] % 4), np.int64)], -1)
    four = every.reshape(*every.shape[:-1], -1, 4)
    sums = np.clip(four[..., :2] + four[..., 2:], -32768, 32767)
    return rescaled(corrected(sums.sum((-1, -2)), b, a_zero), a_scale, b_scale)


def wrapped_pairs(a, b, a_scale, b_scale, a_zero, *_):
    every = terms(a, b)
    every = np.concatenate([every, np.zeros_like(every[..., : every.shape[-1] % 2])], -1)
    sums = (every[..., 0::2] + every[..., 1::2] + 2**15) % 2**16 - 2**15
    return rescaled(corrected(sums.sum(-1), b, a_zero), a_scale, b_scale)


def sixteen_bits(a, b, a_scale, b_scale, a_zero, *_):
    """A saturating accumulator of 16 bits; K is below its spill."""
    every = terms(a, b)
    total = np.zeros(every.shape[:-1], np.int64)
    for k in range(0, every.shape[-1], 2):
        pair = np.clip(every[..., k : k + 2].sum(-1), -32768, 32767)
        total = np.clip(total + pair, -32768, 32767)
    return rescaled(corrected(total, b, a_zero), a_scale, b_scale)


def no_zero_point(a, b, a_scale, b_scale, *_):
    return rescaled(terms(a, b).sum(-1), a_scale, b_scale)


def no_tail(a, b, a_scale, b_scale, a_zero, *_):
    whole = a.shape[-1] // 8 * 8
    return rescaled(((a.astype(np.int64) - int(a_zero))[..., :whole]) @ b[:whole].astype(np.int64), a_scale, b_scale)


def turned_weight(a, b, a_scale, b_scale, a_zero, *_):
    return rescaled((a.astype(np.int64) - int(a_zero)) @ b.T.astype(np.int64), a_scale, b_scale)


def one_channel_scale(a, b, a_scale, b_scale, a_zero, *_):
    return rescaled((a.astype(np.int64) - int(a_zero)) @ b.astype(np.int64), a_scale, b_scale[0])


def stale_scale(a, b, a_scale, b_scale, a_zero, *_):
    return rescaled((a.astype(np.int64) - int(a_zero)) @ b.astype(np.int64), np.float32(1.2345) * a_scale, b_scale)


def wrong_channel_scales(a, b, a_scale, b_scale, a_zero, *_):
    factor = np.where(np.arange(b.shape[1]) % 5 == 2, np.float32(1.5), np.float32(1))
    return rescaled((a.astype(np.int64) - int(a_zero)) @ b.astype(np.int64), a_scale, b_scale * factor)


def half_precision(a, b, a_scale, b_scale, a_zero, *_):
    x, w = ((a.astype(np.float32) - np.float32(a_zero)) * a_scale).astype(np.float16), (b * b_scale).astype(np.float16)
    return (x.astype(np.float64) @ w.astype(np.float64)).astype(np.float32)


def uncompensated(a, b, a_scale, b_scale, *_):
    """s8 codes shifted to u8."""
    return rescaled(terms(a.astype(np.int64) + 128, b).sum(-1), a_scale, b_scale)


def tie(rule):
    return lambda x, scale, zero: np.clip(rule(x / scale) + zero, *limits(zero)).astype(zero.dtype)


def limits(zero):
    return np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max


def half_away(x):
    return np.sign(x) * np.floor(np.abs(x) + np.float32(0.5))


def by_reciprocal(x, scale, zero):
    return np.clip(np.rint(x * (np.float32(1) / scale)) + zero, 0, 255).astype(np.uint8)


def by_levels(x, scale, zero):
    """OpenVINO's FakeQuantize, in f32."""
    low, high = -np.float32(zero) * scale, np.float32(255 - int(zero)) * scale
    step = np.float32(255) / (high - low)
    return np.rint(np.clip(x, low, high) * step + -low * step).astype(np.uint8)


def narrow_range(x, scale, zero):
    """-127 ... 127."""
    return np.clip(np.clip(np.rint(x / scale), -127, 127) + zero, *limits(zero)).astype(zero.dtype)


def low_half(x, scale, zero):
    """u8 codes clipped as s8 are."""
    return np.clip(np.rint(x / scale) + zero, 0, 127).astype(zero.dtype)


def wrapped(x, scale, zero):
    return (np.rint(x / scale).astype(np.int64) + zero).astype(zero.dtype)


def other_step(x, scale, zero):
    return np.clip(np.rint(x / (scale * np.float32(1.07))) + zero, *limits(zero)).astype(zero.dtype)


def tanh_gelu(x):
    return (x / 2 * (1 + np.tanh(0.7978845608028654 * (x.astype(np.float64) + 0.044715 * x**3)))).astype(np.float32)


def sigmoid_gelu(x):
    return (x / (1 + np.exp(-1.702 * x.astype(np.float64)))).astype(np.float32)


def four_term_gelu(x):
    """Abramowitz-Stegun 7.1.27."""
    z = np.abs(x.astype(np.float64)) / np.sqrt(2)
    about = 1 - 1 / (1 + 0.278393 * z + 0.230389 * z**2 + 0.000972 * z**3 + 0.078108 * z**4) ** 4
    return (x / 2 * (1 + np.sign(x) * about)).astype(np.float32)


def tanh_erf(u):
    x = u.astype(np.float64) * np.sqrt(2)
    return np.tanh(0.7978845608028654 * (x + 0.044715 * x**3)).astype(np.float32)


def norm(epsilon, unbiased=False):
    def layernorm(x, weight, bias):
        x = x.astype(np.float64)
        variance = x.var(-1, ddof=int(unbiased), keepdims=True)
        return ((x - x.mean(-1, keepdims=True)) / np.sqrt(variance + epsilon) * weight + bias).astype(np.float32)

    return layernorm


def unmasked(scores, mask):
    return scores + 0 * mask


def mild_mask(scores, mask):
    return (scores + np.where(mask < -1e30, np.float32(-10000), mask)).astype(np.float32)


def bias_twice(x, bias):
    return x + bias + bias


def bias_of_another_scale(x, bias):
    return (x + bias.astype(np.float64) * 0.37).astype(np.float32)


def heads_swapped(x):
    """(B, T, H, E) -> (B, H, T, E), heads in reverse."""
    return np.stack([x[:, :, h] for h in reversed(range(x.shape[2]))], 1)


def heads_interleaved(x):
    b, t, h, e = x.shape
    flat = x.reshape(b, t, h * e)
    return np.stack([flat[:, :, head::h] for head in range(h)], 1)


def from_one(table, start, end, *_):
    """Positions from 1, as in models that keep 0 for padding."""
    return table[1 : int(end[0]) + 1]


def first_type(table, ids):
    return np.broadcast_to(table[0], (*ids.shape, table.shape[1])).copy()


def through_bf16(x):
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def bf16_result(x):
    return through_bf16((x.astype(np.float64) / 2 * (1 + erf(x / np.sqrt(2)))).astype(np.float32))


def added_in_f32(a, b, *_):
    total = np.zeros((len(a), b.shape[1]), np.float32)
    for k in range(a.shape[1]):
        total = total + a[:, k, None].astype(np.float32) * b[k].astype(np.float32)
    return total.astype(np.int32)


def converted_to_f32(a, b, *_):
    return (a.astype(np.int64) @ b.astype(np.int64)).astype(np.float32).astype(np.int32)


def naive_softmax(x):
    with np.errstate(all="ignore"):
        e = np.exp(x)
        return e / e.sum(-1, keepdims=True)


def dynamic_zero_forgotten(a, b, a_zero, *_):
    return (a.astype(np.int64) @ b.astype(np.int64)).astype(np.int32)


def codes_of(y, scale, zero):
    return np.clip(np.rint(y / scale) + zero, 0, 255).astype(np.uint8)


def requantized_and_wrapped(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero):
    acc = (a.astype(np.int64) - int(a_zero)) @ (b.astype(np.int64) - b_zero.astype(np.int64))
    y = np.rint(acc * (a_scale * b_scale / y_scale).astype(np.float64) * 1.0).astype(np.int64) + y_zero
    return y.astype(np.uint8)


def no_bias(a, a_scale, a_zero, b, b_scale, b_zero, bias, y_scale, y_zero):
    acc = (a.astype(np.int64) - int(a_zero)) @ (b.astype(np.int64).T - b_zero.astype(np.int64))
    return codes_of(acc * (a_scale * b_scale).astype(np.float64), y_scale, y_zero)


def sum_of_unshifted(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero):
    """The zero point of b forgotten."""
    y = (a.astype(np.float64) - float(a_zero)) * a_scale + b.astype(np.float64) * b_scale
    return codes_of(y, y_scale, y_zero)


PRODUCT, NORM = "product", "LayerNormalization"
ENGINES = [
    ("layer", PRODUCT, clipped_pairs, "pair_saturating"),
    ("layer", PRODUCT, clipped_pairs_two_apart, "pairs (k, k + 2) saturate"),
    ("layer", PRODUCT, wrapped_pairs, "pair sums wrap at 16 bits"),
    ("layer", PRODUCT, sixteen_bits, "acc16"),
    ("layer", PRODUCT, no_tail, "last K mod 8 products dropped"),
    ("layer", PRODUCT, wrong_channel_scales, "other scales of the channels"),
    ("int8", ("MatMul", 1), clipped_pairs, "pair_saturating"),
    ("int8", ("MatMul", 0), no_zero_point, "missing zero point of a"),
    ("int8", ("MatMul", 1), turned_weight, "transposed right operand"),
    ("int8", ("MatMul", 6), one_channel_scale, "first channel's scale for all of b"),
    ("int8", ("MatMul", 2), stale_scale, "scale of a or b times 1.2345"),
    ("int8", ("MatMul", 2), half_precision, "f16 inputs"),
    ("int8 attention", ("MatMul", 3), uncompensated, "missing compensation of the shift by 128"),
    ("int8", ("QuantizeLinear", 1), tie(np.trunc), "truncation"),
    ("int8", ("QuantizeLinear", 2), tie(np.floor), "floor"),
    ("ties", "codes", tie(half_away), "half away from zero"),
    ("ties", "codes", by_reciprocal, "reciprocal instead of division"),
    ("ties", "codes", by_levels, "quantized by levels"),
    ("layer", "codes", narrow_range, "codes clipped to ±127"),
    ("int8", ("QuantizeLinear", 0), low_half, "codes clipped to 0 to 127"),
    ("layer", "codes", wrapped, "codes wrap"),
    ("int8", ("QuantizeLinear", 0), other_step, "output scale times 1.07"),
    ("int8", ("Gelu", 1), tanh_gelu, "tanh GELU"),
    ("int8", ("Gelu", 0), sigmoid_gelu, "sigmoid GELU"),
    ("int8", ("Gelu", 0), four_term_gelu, "erf by Abramowitz-Stegun 7.1.27"),
    ("int8", ("Gelu", 0), bf16_result, "result rounded to bf16"),
    ("static_qdq", ("Erf", 0), tanh_erf, "tanh GELU"),
    ("int8", (NORM, 1), norm(1e-3), "epsilon 0.001"),
    ("int8", (NORM, 2), norm(1e-12, unbiased=True), "variance over N - 1"),
    ("int8", "layer.1.scores", unmasked, "mask left out"),
    ("int8", "layer.0.scores", mild_mask, "mask of -10000"),
    ("int8", "layer.0.k", lambda x, bias: x.copy(), "missing bias"),
    ("int8", "layer.1.intermediate", bias_twice, "bias added twice"),
    ("int8", "layer.1.intermediate", bias_of_another_scale, "scale of the bias times 0.37"),
    ("int8", ("Transpose", 1), heads_swapped, "heads in reverse"),
    ("int8", ("Transpose", 0), heads_interleaved, "heads interleaved"),
    ("int8", ("Slice", 0), from_one, "rows of the table off by one"),
    ("int8", "Gather_8", first_type, "row 0 of the table for all"),
    ("int8", "Add_44", lambda x, y: x.copy(), "residual left out (second operand)"),
    ("long sums", "acc", added_in_f32, "accumulated in f32"),
    ("long sums", "acc", converted_to_f32, "sum passed through f32"),
    ("large scores", "y", naive_softmax, "softmax without subtracting the maximum"),
    ("dynamic", ("MatMulInteger", 1), dynamic_zero_forgotten, "missing zero point of a"),
    ("static_fused", ("QGemm", 0), no_bias, "missing bias"),
    ("static_fused", ("QLinearAdd", 1), sum_of_unshifted, "missing zero point of b"),
]
HIDDEN = [
    (("Gelu", 1), tanh_gelu, "layer.1.output.codes", "tanh GELU"),
    (("MatMul", 5), no_zero_point, "layer.0.attention_norm", "missing zero point of a"),
    (("MatMul", 1), clipped_pairs, "layer.0.attention_output.codes", "pair_saturating"),
    (("MatMul", 0), turned_weight, "layer.0.attention_output.codes", "transposed right operand"),
    (("MatMul", 2), stale_scale, "layer.0.attention_output.codes", "scale of a or b times 1.2345"),
    ("layer.1.scores", unmasked, "layer.1.attention_output.codes", "mask left out"),
    ("layer.1.intermediate", bias_of_another_scale, "layer.1.output.codes", "scale of the bias times 0.37"),
    (("Transpose", 1), heads_swapped, "layer.0.attention_output.codes", "heads in reverse"),
    ("Add_44", lambda x, y: y.copy(), "layer.0.attention_norm", "residual left out (first operand)"),
]


@pytest.mark.parametrize("case", ENGINES, ids=[f"{case[0]}, {case[-1]}" for case in ENGINES])
def test_the_fault_is_named_at_its_node(case):
    check_engines(find_cause, [case])


def check_engines(find, cases=ENGINES):
    """The tensor where the fault is, its cause, and every element explained."""
    for name, where, fault, cause in cases:
        tensor = where if isinstance(where, str) else made_by(name, *where)
        finding, found = cause_in(name, run(name, {tensor: fault}), find)
        assert finding.tensor == tensor
        assert found.hypothesis == cause
        assert found.explains == found.of
        assert found.sentence.startswith(f"{finding.node} [")


@pytest.mark.parametrize("case", HIDDEN, ids=[case[-1] for case in HIDDEN])
def test_a_fault_between_exposed_tensors_is_named_at_its_node(case):
    check_hidden(find_cause, [case])


def check_hidden(find, cases=HIDDEN):
    """Only codes and norms are shown: the fault's own tensor is not, and up to 13 nodes are suspected."""
    graph, _ = subject("int8")
    shown = {node.outputs[0] for node in graph.nodes if node.op in ("QuantizeLinear", NORM)}
    for where, fault, seen, cause in cases:
        tensor = where if isinstance(where, str) else made_by("int8", *where)
        engine = {name: value for name, value in run("int8", {tensor: fault}).items() if name in shown}
        finding, found = cause_in("int8", engine, find)
        node = next(node.name for node in graph.nodes if tensor in node.outputs)
        assert (finding.tensor, found.hypothesis) == (seen, cause)
        assert found.sentence.startswith(f"{node} [")
        assert f"seen in {seen} [" in found.sentence
        assert found.explains == found.of


def check_own_values(find):
    """The second of two faults is named too: it is judged on what the engine had there, which is not what we have."""
    graph, inputs = subject("int8")
    gelu = made_by("int8", "Gelu", 1)
    engine = run("int8", {made_by("int8", NORM, 0): noise, gelu: tanh_gelu})
    finding = next(f for f in judge_nodes(graph, inputs, engine) if f.tensor == gelu)
    found = find(graph, inputs, engine, finding)
    assert (found.hypothesis, found.explains) == ("tanh GELU", finding.finding.outside)


def test_a_second_fault_is_named_too():
    check_own_values(find_cause)


def test_the_sentence_about_a_pair():
    """Its numbers are the operands: checked against the arrays."""
    finding, found = cause_in("layer", run("layer", {"product": clipped_pairs}))
    match = re.fullmatch(
        r"MatMul_3 \[(\d+),(\d+)\]: pair k=\((\d+),(\d+)\) (\d+)\*(-?\d+) \+ (\d+)\*(-?\d+) = (-?\d+) "
        r"clipped to (-?\d+); explains (\d+) of (\d+) elements",
        found.sentence,
    )
    row, column, k, after, a0, w0, a1, w1, total, clipped, explains, of = map(int, match.groups())
    graph, _ = subject("layer")
    codes, w = run("layer", {})["codes"], graph.initializers["w"]
    assert (k % 2, after, found.element) == (0, k + 1, (row, column))
    assert [a0, a1] == codes[row, [k, after]].tolist()
    assert [w0, w1] == w[[k, after], column].tolist()
    assert (total, clipped) == (a0 * w0 + a1 * w1, 32767 if total > 0 else -32768)
    assert explains == of == finding.finding.outside > 0


# --- what has no cause -----------------------------------------------------------------------------------------------


def noise(*xs):
    return (xs[0] + np.random.default_rng(8).normal(0, 0.02, xs[0].shape)).astype(np.float32)


def one_weight(a, b, a_scale, b_scale, a_zero, *_):
    b = b.astype(np.int64)
    b[3, 5] += 40
    return rescaled((a.astype(np.int64) - int(a_zero)) @ b, a_scale, b_scale)


UNKNOWN = [
    ("int8", ("Gelu", 0), noise, ""),
    ("int8", (NORM, 1), noise, ""),
    ("int8", "layer.0.k", lambda x, bias: x + bias * np.arange(x.shape[1], dtype=np.float32)[:, None], ""),
    ("layer", PRODUCT, one_weight, ", all with index 5 of axis 1"),
]


def check_unknown(find):
    """Nothing known is blamed for what it does not explain; the sentence shows the worst element as it is."""
    for name, where, fault, place in UNKNOWN:
        tensor = where if isinstance(where, str) else made_by(name, *where)
        engine = run(name, {tensor: fault})
        finding, found = cause_in(name, engine, find)
        assert (finding.tensor, found.hypothesis, found.explains) == (tensor, "", 0)
        assert found.of == finding.finding.outside > 0
        assert f"engine has {float(engine[tensor][found.element]):.9g}, right is " in found.sentence
        assert f"no known cause; {found.of} of {engine[tensor].size} elements{place}" in found.sentence


def test_an_unknown_fault_is_called_unknown():
    check_unknown(find_cause)


def test_a_code_inside_its_bound_needs_no_cause(monkeypatch):
    monkeypatch.setattr(causes, "HYPOTHESES", [])
    monkeypatch.setattr(causes, "fits", lambda *_: [])
    finding, found = cause_in("ties", run("ties", {"codes": by_reciprocal}))
    assert (finding.finding.outside, found.hypothesis) == (0, "")
    assert "inside the bound of its roundings, so that no cause is needed; " in found.sentence


def check_partial(find):
    """Truncation in one row only: that truncation would change the others speaks against it."""
    where = made_by("int8", "QuantizeLinear", 1)

    def fault(x, scale, zero):
        y, cut = tie(np.rint)(x, scale, zero), tie(np.trunc)(x, scale, zero)
        return np.where(np.arange(len(x))[:, None, None] == 0, cut, y)

    _, found = cause_in("int8", run("int8", {where: fault}), find)
    assert (found.hypothesis, found.explains) == ("", 0)


def test_a_fault_in_a_part_is_not_another_one_everywhere():
    check_partial(find_cause)


@pytest.mark.parametrize("name", [*OWN, "int8", "int8 attention", "static_qdq", "static_fused", "dynamic"])
def test_a_right_engine_has_no_cause(name):
    assert cause_in(name, run(name, {})) is None


def test_a_tensor_that_was_not_judged():
    graph, inputs = subject("layer")
    engine = run("layer", {})
    finding = judge_nodes(graph, inputs, engine)[0]
    assert find_cause(graph, inputs, engine, finding).sentence == "Quantize_0: codes is what it should be"
    with pytest.raises(ValueError, match="no node makes x, or the engine did not expose it"):
        find_cause(graph, inputs, engine, finding._replace(tensor="x"))


# --- real engines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
@pytest.mark.parametrize("tensors", [["codes", "product"], ["codes"]])
def test_openvino_without_vnni_saturates_pairs(isa, tensors, tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    from refimpl.models.engines.isa import CAPS
    from refimpl.models.engines.isolated import Conditions, run_isolated

    if CAPS[isa][0] not in cpu.features():
        pytest.skip(f"this CPU lacks {CAPS[isa][0]}")
    onnx.save(layer_model(), tmp_path / "m.onnx")
    graph, inputs = subject("layer")
    engine = run_isolated("openvino", tmp_path / "m.onnx", inputs, tensors, Conditions(isa=isa)).values
    found = first_wrong(judge_nodes(graph, inputs, engine, OPENVINO))
    cause = find_cause(graph, inputs, engine, found, OPENVINO)
    assert (found.tensor, cause.hypothesis) == ("product" if "product" in tensors else "y", "pair_saturating")
    assert cause.explains == cause.of > 100
    numbers = re.search(r"pair k=\((\d+),\d+\) (\d+)\*(-?\d+) ", cause.sentence)
    row, column = map(int, re.match(r"MatMul_3 \[(\d+),(\d+)\]", cause.sentence).groups())
    k, code, weight = map(int, numbers.groups())
    assert (engine["codes"][row, k], graph.initializers["w"][k, column]) == (code, weight)


def test_the_softmax_of_onnxruntime():
    """QLinearSoftmax multiplies by the whole part of 1 / scale."""
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    from refimpl.models.engines import open_graph

    graph, inputs = subject("static_fused")
    tensors = [tensor for node in graph.nodes for tensor in node.outputs if tensor]
    engine = open_graph("onnxruntime", FOLDER / "static_fused.onnx", tensors, optimize=False).run(inputs)
    floats = ONNX_RUNTIME._replace(fuse=False)
    finding = first_wrong(judge_nodes(graph, inputs, engine, floats))
    found = find_cause(graph, inputs, engine, finding, floats)
    assert (finding.op, found.hypothesis) == ("QLinearSoftmax", "whole part of 1 / scale")
    assert "taken as 254; explains" in found.sentence
    assert found.explains == found.of
    finding = first_wrong(judge_nodes(graph, inputs, engine))  # as if it multiplied codes, which it does when optimized
    assert find_cause(graph, inputs, engine, finding).hypothesis == "f32 numbers in the place of codes"
