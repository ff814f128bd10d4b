"""ONNX export: the model's one wiring, run with an op table whose values are names of tensors in a growing graph.

A linear layer of a quantized model becomes the QDQ form that engines fuse into integer kernels:

    x -> QuantizeLinear(u8, zero point 128) -> DequantizeLinear \\
                           s8 codes, per channel -> DequantizeLinear -> MatMul -> Add(bias)

The activation is symmetric but travels as u8 = code + 128: ONNX Runtime has fast u8 x s8 kernels on x86 and a slow
portable one for s8 x s8. In INT8 attention q, k and v are s8 with zero point 0 instead: OpenVINO multiplies in f32
where q has a zero point, and ONNX Runtime turns s8 into u8 by itself where that is faster.

That the engines do run integers is not assumed: ``engines`` counts the integer kernels in ONNX Runtime's optimized
graph and in OpenVINO's runtime model, and ``refimpl verify`` says it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from refimpl import __version__
from refimpl.models.bert import Batch, Model, forward
from refimpl.models.config import Config
from refimpl.models.files import atomic
from refimpl.nn import NO_TAP, AttentionScales, Linear, Norm, Ops, Recorder, Tap
from refimpl.quant import ZERO_POINT, QuantizedLinear, QuantizedTable
from refimpl.quant.attention import PROBS_SCALE

OPSET = 20  # the first with Gelu
IR_VERSION = 9  # the one that came with it
MAX_BYTES = 2**31 - 2**20  # protobuf's limit, less room for the nodes
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Names of the graph's inputs, in the order of ``Batch``."""
TAPS = "refimpl.taps"
"""Key of the file's metadata: JSON, tap name -> tensor name."""


class CodedTensor(NamedTuple):
    """An operand of INT8 attention: the name of its codes, s8 with zero point 0, and their scale, f32 ()."""

    name: str
    scale: np.ndarray


class GraphOps:
    """Every operator of ``Ops`` as nodes. A value is a tensor's name; parameters become initializers."""

    def __init__(self, model: Model):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.head_size = model.config.head_size
        self.known: dict[tuple[Any, ...], str] = {}

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node, or find an equal one: so q, k and v share one QuantizeLinear. Returns its output."""
        key = (op, inputs, json.dumps(attributes, sort_keys=True))
        if key not in self.known:
            self.known[key] = f"{op}_{len(self.nodes)}"
            self.nodes.append(helper.make_node(op, inputs, [self.known[key]], name=self.known[key], **attributes))
        return self.known[key]

    def constant(self, array: Any, dtype: type = np.float32) -> str:
        """An initializer; equal ones are stored once."""
        array = np.ascontiguousarray(array, dtype).reshape(np.shape(array))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.known:
            self.known[key] = f"constant_{len(self.initializers)}"
            self.initializers[self.known[key]] = numpy_helper.from_array(array, self.known[key])
        return self.known[key]

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def embedding(self, ids: str, table: Any) -> str:
        if not isinstance(table, QuantizedTable):
            return self.node("Gather", self.constant(table), ids)
        codes = self.node("Gather", self.constant(table.codes, np.int8), ids)
        scale = self.node("Gather", self.constant(table.scale[:, None]), ids)
        return self.node("Mul", self.node("Cast", codes, to=TensorProto.FLOAT), scale)

    def position_embedding(self, ids: str, table: np.ndarray) -> str:
        tokens = self.node("Gather", self.node("Shape", ids), self.ints(1))
        return self.node("Slice", self.constant(table), self.ints(0), tokens, self.ints(0))

    def add(self, x: str, y: str) -> str:
        return self.node("Add", x, y)

    def quantize(self, x: str, scale: np.ndarray, zero_point: Any) -> str:
        return self.node("QuantizeLinear", x, self.constant(scale), self.constant(zero_point, type(zero_point)))

    def dequantize(self, x: str, scale: np.ndarray, zero_point: Any) -> str:
        return self.node("DequantizeLinear", x, self.constant(scale), self.constant(zero_point, type(zero_point)))

    def linear(self, x: str, p: Any, tap: Tap = NO_TAP) -> str:
        if isinstance(p, QuantizedLinear):
            return self.coded_linear(tap("codes", self.quantize(x, p.input_scale, np.uint8(ZERO_POINT))), p)
        if not isinstance(p, Linear):
            raise TypeError(f"a linear layer is {type(p).__name__}; need QuantizedLinear or Linear to export")
        return self.node("Add", self.node("MatMul", x, self.constant(p.weight.T)), self.constant(p.bias))

    def coded_linear(self, codes: str, p: QuantizedLinear) -> str:
        x = self.dequantize(codes, p.input_scale, np.uint8(ZERO_POINT))
        stored = (self.constant(p.codes.T, np.int8), self.constant(p.weight_scale))
        weight = self.node("DequantizeLinear", *stored, axis=1)
        return self.node("Add", self.node("MatMul", x, weight), self.constant(p.bias))

    def layernorm(self, x: str, p: Norm) -> str:
        weight, bias = self.constant(p.weight), self.constant(p.bias)
        return self.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=p.eps)

    def add_layernorm(self, x: str, residual: str, p: Norm) -> str:
        return self.layernorm(self.add(x, residual), p)

    def split_heads(self, x: str, heads: int) -> str:
        return self.node("Transpose", self.node("Reshape", x, self.ints(0, 0, heads, -1)), perm=[0, 2, 1, 3])

    def merge_heads(self, x: str) -> str:
        return self.node("Reshape", self.node("Transpose", x, perm=[0, 2, 1, 3]), self.ints(0, 0, -1))

    def attention_operands(
        self, q: str, k: str, v: str, scales: AttentionScales | None, tap: Tap = NO_TAP
    ) -> tuple[Any, ...]:
        if scales is None:
            return q, k, v
        operands = zip(AttentionScales._fields, (q, k, v), scales, strict=True)
        return tuple(CodedTensor(tap(f"{name}_codes", self.quantize(y, s, np.int8(0))), s) for name, y, s in operands)

    def attention_scores(self, q: Any, k: Any, mask: str) -> str:
        if isinstance(q, CodedTensor):
            q, k = (self.dequantize(y.name, y.scale, np.int8(0)) for y in (q, k))
        products = self.node("MatMul", q, self.node("Transpose", k, perm=[0, 1, 3, 2]))
        scaled = self.node("Mul", products, self.constant(1 / self.head_size**0.5))
        kept = self.node("Cast", mask, to=TensorProto.BOOL)
        lowest = self.node("Where", kept, self.constant(0), self.constant(np.finfo(np.float32).min))
        return self.node("Add", scaled, self.node("Unsqueeze", lowest, self.ints(1, 2)))

    def softmax(self, x: str) -> str:
        return self.node("Softmax", x, axis=-1)

    def attention_context(self, probs: str, v: Any, tap: Tap = NO_TAP) -> str:
        if isinstance(v, CodedTensor):
            coding = (np.array(PROBS_SCALE), np.uint8(0))
            probs = self.dequantize(tap("probs_codes", self.quantize(probs, *coding)), *coding)
            v = self.dequantize(v.name, v.scale, np.int8(0))
        return self.node("MatMul", probs, v)

    def gelu(self, x: str) -> str:
        return self.node("Gelu", x)

    def tanh(self, x: str) -> str:
        return self.node("Tanh", x)

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def first_token(self, x: str) -> str:
        return self.node("Gather", x, self.constant(0, np.int64), axis=1)

    def mean_pool(self, x: str, mask: str) -> str:
        kept = self.node("Cast", self.node("Cast", mask, to=TensorProto.BOOL), to=TensorProto.FLOAT)
        weights = self.node("Unsqueeze", kept, self.ints(2))
        total = self.node("ReduceSum", self.node("Mul", x, weights), self.ints(1), keepdims=0)
        count = self.node("ReduceSum", weights, self.ints(1), keepdims=0)
        return self.node("Div", total, self.node("Max", count, self.constant(1e-9)))

    def l2_normalize(self, x: str) -> str:
        norm = self.node("ReduceL2", x, self.ints(1), keepdims=1)
        return self.node("Div", x, self.node("Max", norm, self.constant(1e-12)))


def to_onnx(model: Model, graph: type[GraphOps] = GraphOps) -> onnx.ModelProto:
    """The model, f32 or quantized, as ONNX with inputs input_ids, attention_mask (and token_type_ids), s64 (B, T).

    The output is "output"; every tap is a tensor of its own name, listed in the metadata under ``TAPS``.
    graph: the op table, for a model with parameters of further types.
    """
    graph_ops = graph(model)
    ops = Ops(*(getattr(graph_ops, name) for name in Ops._fields))
    recorder = Recorder()
    names = Batch(*INPUTS)  # type: ignore[arg-type]
    forward(model, names, ops, recorder)
    used = [name for name in INPUTS if any(name in node.input for node in graph_ops.nodes)]
    nodes, taps = _name_tensors(graph_ops.nodes, recorder.values)
    made_graph = helper.make_graph(
        nodes,
        "refimpl",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in used],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, _output_shape(model.config))],
        list(graph_ops.initializers.values()),
    )
    made = helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    made.producer_name, made.producer_version = "refimpl", __version__
    helper.set_model_props(made, {TAPS: json.dumps(taps)})
    return made


def _output_shape(config: Config) -> list[str | int]:
    last = {
        "classification": len(config.labels),
        "question_answering": 2,
        "masked_lm": config.vocabulary,
        "sentence_embedding": config.hidden,
    }[config.head]
    per_token = config.head in ("question_answering", "masked_lm")
    return ["batch", "tokens", last] if per_token else ["batch", last]


def _name_tensors(nodes: Sequence[onnx.NodeProto], taps: dict[str, str]) -> tuple[list[onnx.NodeProto], dict[str, str]]:
    """Name each tapped tensor after its first tap."""
    names: dict[str, str] = {}
    for tap, tensor in taps.items():
        names.setdefault(tensor, tap)
    for node in nodes:
        for field in (node.input, node.output):
            renamed = [names.get(tensor, tensor) for tensor in field]
            del field[:]
            field.extend(renamed)
    return list(nodes), {tap: names[tensor] for tap, tensor in taps.items()}


def count_quantized(path: Path) -> int:
    """How many MatMuls of an exported file have both operands quantized. Equal layers are one."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    dequantized: set[str] = set()
    for node in nodes:  # each after what it reads
        if node.op_type == "DequantizeLinear" or (node.op_type == "Transpose" and node.input[0] in dequantized):
            dequantized.add(node.output[0])
    return sum(node.op_type == "MatMul" and dequantized.issuperset(node.input) for node in nodes)


def export_onnx(model: Model, path: Path, graph: type[GraphOps] = GraphOps) -> None:
    """``to_onnx`` into a file, checked by onnx and written atomically. ValueError above the 2 GB of an ONNX file."""
    made = to_onnx(model, graph)
    size = sum(len(tensor.raw_data) for tensor in made.graph.initializer)
    if size > MAX_BYTES:
        raise ValueError(f"the model has {size / 1e9:.1f} GB of parameters; need at most 2 GB for one ONNX file")
    onnx.checker.check_model(made)
    with atomic(path) as temporary:
        temporary.write_bytes(made.SerializeToString())
