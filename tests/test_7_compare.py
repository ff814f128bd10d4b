"""Rung 7: causes. Engines with one planted fault each, written here and not as the finder writes it; the finder must
name node and fault. A right engine has no finding, and a fault that nobody knows is called unknown.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper
from scipy.special import erf

from refimpl.models.compare.causes import find_cause, first_wrong
from refimpl.models.export import INPUTS, to_onnx
from refimpl.models.oracle.execute import apply, call_of
from refimpl.models.oracle.judge_nodes import judge_nodes
from refimpl.models.oracle.load import load, parse
from refimpl.models.oracle.rewrite import rewrite
from refimpl.models.oracle.semantics import ONNX_RUNTIME

FOLDER = Path(__file__).parent / "golden" / "onnx"
K = 45


@cache
def subject(name):
    """Graph and inputs of a small model."""
    if name in ("layer", "ties"):
        return layer() if name == "layer" else ties()
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
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return parse(made), {"x": random.uniform(-2.4, 2.7, (16, K)).astype(np.float32)}


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


def run(name, faults):
    """Our own run of a model, the tensors of ``faults`` made by them: (inputs of the node, its attributes) -> array."""
    graph, inputs = subject(name)
    tensors = [tensor for node in graph.nodes for tensor in node.outputs if tensor]
    values = {**graph.initializers, **inputs}
    for node in rewrite(graph, ONNX_RUNTIME, tensors).nodes:
        given = [values[tensor] if tensor else None for tensor in node.inputs]
        results = apply(call_of(graph, node, ONNX_RUNTIME), given)
        for tensor, array in zip(node.outputs, results, strict=False):
            values[tensor] = faults[tensor](*given) if tensor in faults else array
    return {tensor: values[tensor] for tensor in tensors}


def cause_in(name, engine):
    graph, inputs = subject(name)
    found = first_wrong(judge_nodes(graph, inputs, engine))
    return None if found is None else (found, find_cause(graph, inputs, engine, found))


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


PRODUCT, GELU, NORM = "product", "gelu", "LayerNormalization"
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
]


@pytest.mark.parametrize(("name", "where", "fault", "cause"), ENGINES)
def test_the_fault_is_named_at_its_node(name, where, fault, cause):
    tensor = where if isinstance(where, str) else made_by(name, *where)
    finding, found = cause_in(name, run(name, {tensor: fault}))
    print(found.sentence)
    assert finding.tensor == tensor
    assert found.hypothesis == cause
    assert found.explains == found.of
    assert found.sentence.startswith(f"{finding.node} [")


@pytest.mark.parametrize("name", ["layer", "int8", "int8 attention", "static_qdq", "static_fused", "dynamic"])
def test_a_right_engine_has_no_cause(name):
    assert cause_in(name, run(name, {})) is None
