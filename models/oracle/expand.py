"""ONNX Runtime's fused operators, written out as the ordinary operators that they stand for.

A fused operator's value and error then follow from those of its steps, and every step is a tensor that a tap can see,
named NODE.STEP. Source: ONNX Runtime, docs/ContribOperators.md. What BERT never uses (a past, causal masks) is refused.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.models.oracle.graph import MICROSOFT, OURS, STANDARD, Node


class Steps:
    """Nodes in the place of one. ``steps(op, inputs...)`` appends a node and returns the name of its result."""

    def __init__(self, node: Node):
        self.node = node
        self.nodes: list[Node] = []

    def __call__(
        self, op: str, *inputs: str, step: str = "", domain: str = STANDARD, count: int = 1, **attributes: Any
    ) -> Any:
        """``step`` names it; "" for a number. Several results come as a tuple."""
        name = f"{self.node.name}.{step or f'{op}_{len(self.nodes)}'}"
        outputs = (name,) if count == 1 else tuple(f"{name}.{i}" for i in range(count))
        self.nodes.append(Node(name, op, domain, inputs, outputs, attributes))
        return outputs[0] if count == 1 else outputs

    def constant(self, *values: int) -> str:
        return self("Constant", value=np.array(values, np.int64))

    def done(self, *results: str) -> list[Node]:
        """Give the results the names that the node's outputs have. A result may be "" if nobody can want it."""
        for made, wanted in zip(results, self.node.outputs, strict=False):
            if wanted:
                self.nodes.append(Node(f"{self.node.name}.to.{wanted}", "Identity", STANDARD, (made,), (wanted,), {}))
        if any(self.node.outputs[len(results) :]):
            raise ValueError(f"{self.node} has {len(self.node.outputs)} outputs; {len(results)} are supported")
        return self.nodes

    def inputs(self, needed: str, most: int) -> list[str]:
        """The node's inputs, "" for those that are left out; ``needed``: the digits of those that must be there."""
        given = list(self.node.inputs)
        padded = given + [""] * most
        if any(given[most:]) or not all(padded[int(i)] for i in needed):
            raise ValueError(f"{self.node} has the inputs {given}; need those numbered {needed}, and {most} at most")
        return padded[:most]

    def refuse(self, **neutral: Any) -> None:
        """Raise ValueError if an attribute has another value than the one that changes nothing."""
        for name, value in neutral.items():
            if self.node.attributes.get(name, value) != value:
                raise ValueError(f"{self.node} has {name} = {self.node.attributes[name]}; only {value} is supported")

    def attribute(self, name: str, default: Any = None) -> Any:
        value = self.node.attributes.get(name, default)
        if value is None:
            raise ValueError(f"{self.node} lacks the attribute {name}")
        return value


def _sum(steps: Steps, *terms: str, step: str = "") -> str:
    given = [term for term in terms if term]
    total = given[0]
    for i, term in enumerate(given[1:]):
        last = i == len(given) - 2
        total = steps("Add", total, term, step=step if last else "")
    return total


def _bias_gelu(steps: Steps) -> list[Node]:
    x, bias = steps.inputs("0", 2)
    kind: dict[str, Any] = {"approximate": "tanh"} if steps.node.op == "FastGelu" else {}
    return steps.done(steps("Gelu", _sum(steps, x, bias), domain=MICROSOFT, **kind))


def _skip_norm(steps: Steps) -> list[Node]:
    simple = steps.node.op.startswith("SkipSimplified")
    x, skip, weight, *more = steps.inputs("012", 4 if simple else 5)
    beta, bias = ("", more[0]) if simple else more
    total = _sum(steps, x, skip, bias, step="sum")
    epsilon = steps.attribute("epsilon", 1e-5 if simple else 1e-12)
    op = "SimplifiedLayerNormalization" if simple else "LayerNormalization"
    y = steps(op, total, weight, *filter(None, [beta]), epsilon=epsilon)
    if len(steps.node.outputs) < 4:
        return steps.done(y)
    if any(steps.node.outputs[1:3]):
        raise ValueError(f"{steps.node}: its mean and deviation are not supported as outputs")
    return steps.done(y, "", "", total)


def _embed(steps: Steps) -> list[Node]:
    ids, segments, word, position, segment, weight, beta, mask, positions = steps.inputs("02356", 9)
    return _embedded(steps, (ids, segments, mask, positions), (word, position, segment, weight, beta))


def _quantized_embed(steps: Steps) -> list[Node]:
    """Five tables, their scales and their zero points."""
    given = steps.inputs("02356", 18)
    tables = [
        steps("DequantizeLinear", codes, scale, zero) if codes else ""
        for codes, scale, zero in zip(given[2:7], given[8:13], given[13:18], strict=True)
    ]
    return _embedded(steps, (given[0], given[1], given[7], ""), tuple(tables))


def _embedded(steps: Steps, what: tuple[str, ...], tables: tuple[str, ...]) -> list[Node]:
    (ids, segments, mask, positions), (word, position, segment, weight, beta) = what, tables
    rows = [
        steps("Gather", word, ids),
        steps("Gather", position, positions or steps("Positions", ids, domain=OURS)),
        steps("Gather", segment, segments) if segments else "",
    ]
    total = _sum(steps, *rows, step="sum")
    y = steps("LayerNormalization", total, weight, beta, epsilon=steps.attribute("epsilon", 1e-12))
    kept = "" if not mask else steps("Cast", steps("ReduceSum", mask, steps.constant(1), keepdims=0), to=6)
    if len(steps.node.outputs) > 1 and steps.node.outputs[1] and not kept:
        raise ValueError(f"{steps.node} gives a mask and is given none")
    return steps.done(y, kept, total)


# --- products --------------------------------------------------------------------------------------------------------


def _fused_matmul(steps: Steps) -> list[Node]:
    steps.refuse(transBatchA=0, transBatchB=0)
    a, b = steps.inputs("01", 2)
    a = steps("SwapLast", a, domain=OURS) if steps.attribute("transA", 0) else a
    b = steps("SwapLast", b, domain=OURS) if steps.attribute("transB", 0) else b
    y, alpha = steps("MatMul", a, b, step="product"), steps.attribute("alpha", 1.0)
    return steps.done(y if alpha == 1 else steps("Mul", y, steps("Constant", value=np.array(alpha, np.float32))))


def _fused_gemm(steps: Steps) -> list[Node]:
    names = ("transA", "transB", "alpha", "beta")
    kept = {name: value for name, value in steps.node.attributes.items() if name in names}
    y = steps("Gemm", *filter(None, steps.inputs("01", 3)), step="product", **kept)
    activation = steps.attribute("activation")
    if activation not in ("Relu", "Tanh", "Sigmoid", "Gelu"):
        raise ValueError(f"{steps.node} has the activation {activation!r}, which is not supported")
    return steps.done(steps(activation, y))


def _dynamic_matmul(steps: Steps) -> list[Node]:
    a, b, scale, zero, bias = steps.inputs("012", 5)
    codes, a_scale, a_zero = steps("DynamicQuantizeLinear", a, step="codes", count=3)
    inputs = (codes, b, a_scale, scale, a_zero, zero, bias)
    return steps.done(steps("MatMulIntegerToFloat", *inputs, step="product", domain=MICROSOFT))


# --- attention -------------------------------------------------------------------------------------------------------


def _heads(steps: Steps, x: str, name: str) -> str:
    shape = steps.constant(0, 0, steps.attribute("num_heads"), -1)
    return steps("Transpose", steps("Reshape", x, shape), step=name, perm=[0, 2, 1, 3])


def _attended(steps: Steps, qkv: tuple[str, ...], mask: str, added: str) -> list[Node]:
    """q, k and v (B, T, D) -> the context (B, T, D)."""
    q, k, v = (_heads(steps, x, name) for x, name in zip(qkv, "qkv", strict=True))
    products = steps("MatMul", q, steps("SwapLast", k, domain=OURS), step="products")
    scale = steps.node.attributes.get("scale", 0.0)
    factor = steps("Constant", value=np.array(scale, np.float32)) if scale else steps("RootScale", q, domain=OURS)
    filler = {"mask_filter_value": steps.attribute("mask_filter_value", -10000.0)}
    masking = steps("AttentionMask", mask, k, domain=OURS, **filler) if mask else ""
    scores = _sum(steps, steps("Mul", products, factor, step="scaled"), masking, added, step="scores")
    probs = steps("Softmax", scores, step="probs", axis=-1)
    context = steps("Transpose", steps("MatMul", probs, v, step="context"), perm=[0, 2, 1, 3])
    return steps.done(steps("Reshape", context, steps.constant(0, 0, -1)))


def _attention(steps: Steps) -> list[Node]:
    steps.refuse(unidirectional=0, do_rotary=0)
    x, weight, bias, mask, past, added, *more = steps.inputs("01", 7)
    if past or any(more):
        raise ValueError(f"{steps.node} has a past, which is not supported")
    projected = _sum(steps, steps("MatMul", x, weight, step="projected"), bias)
    return _attended(steps, _thirds(steps, projected), mask, added)


def _quantized_attention(steps: Steps) -> list[Node]:
    steps.refuse(unidirectional=0, do_rotary=0)
    x, weight, bias, x_scale, scale, mask, x_zero, zero, past = steps.inputs("0134", 9)
    if past:
        raise ValueError(f"{steps.node} has a past, which is not supported")
    inputs = (x, weight, x_scale, scale, x_zero, zero, bias)
    projected = steps("MatMulIntegerToFloat", *inputs, step="projected", domain=MICROSOFT)
    return _attended(steps, _thirds(steps, projected), mask, "")


def _thirds(steps: Steps, x: str) -> tuple[str, ...]:
    sizes = steps.node.attributes.get("qkv_hidden_sizes", [])
    return steps("Split", x, *([steps.constant(*sizes)] if sizes else []), count=3, axis=-1)


def _multi_head_attention(steps: Steps) -> list[Node]:
    steps.refuse(unidirectional=0)
    q, k, v, bias, mask, added, *more = steps.inputs("012", 8)
    if any(more):
        raise ValueError(f"{steps.node} has a past, which is not supported")
    if not bias:
        return _attended(steps, (q, k, v), mask, added)
    parts = steps("Split", bias, count=3, axis=0)
    with_bias = tuple(steps("Add", x, part) for x, part in zip((q, k, v), parts, strict=True))
    return _attended(steps, with_bias, mask, added)


EXPANSIONS: dict[tuple[str, str], Callable[[Steps], list[Node]]] = {
    (MICROSOFT, "BiasGelu"): _bias_gelu,
    (MICROSOFT, "FastGelu"): _bias_gelu,
    (MICROSOFT, "SkipLayerNormalization"): _skip_norm,
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): _skip_norm,
    (MICROSOFT, "EmbedLayerNormalization"): _embed,
    (MICROSOFT, "QEmbedLayerNormalization"): _quantized_embed,
    (MICROSOFT, "FusedMatMul"): _fused_matmul,
    (MICROSOFT, "TransposeMatMul"): _fused_matmul,
    (MICROSOFT, "FusedGemm"): _fused_gemm,
    (MICROSOFT, "DynamicQuantizeMatMul"): _dynamic_matmul,
    (MICROSOFT, "Attention"): _attention,
    (MICROSOFT, "QAttention"): _quantized_attention,
    (MICROSOFT, "MultiHeadAttention"): _multi_head_attention,
}


def expand(node: Node) -> list[Node]:
    """The node itself, or what it stands for."""
    made = EXPANSIONS.get((node.domain, node.op))
    return [node] if made is None else made(Steps(node))
