"""What becomes of the operators of a file in a plan: each in one line, with how many there are and how many calls.

An operator's role is told from its type and from the kernel that absorbs it; a kernel call counts for the one role that
it is named after, so that the lines add up to the operators of the file, without the head's, and to the plan's calls.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from refimpl.kernels.encoder import (
    attention_f32,
    attention_u8s8,
    embed,
    layernorm,
    linear_4x1,
    linear_32x32,
    linear_bf16,
    linear_bitmask,
    linear_dense,
    linear_f32,
)
from refimpl.kernels.simd.threefold import KernelSource
from refimpl.models.graph.operators import Operator
from refimpl.models.runtime.steps import Step

EMBEDDING, PRODUCTS, NORMS, ATTENTION = "embeddings", "products", "layer norms", "attention"
SCALES, BIAS, RESIDUAL, ACTIVATION = "scales", "bias", "residual", "activation"
CODES, MASK, LAYOUT = "quantization", "mask", "transposes and reshapes"

HOW = {
    EMBEDDING: "look-ups and sums, in one pass over the tokens",
    PRODUCTS: "q, k and v are one",
    SCALES: "one factor a channel, in the product's store",
    BIAS: "in the product's store",
    ACTIVATION: "in the product's store",
    RESIDUAL: "in the product's store, in place",
    NORMS: "with what the next product reads, as codes",
    CODES: "in the stores of products, attention and layer norms",
    ATTENTION: "scores, softmax and context of all heads",
    MASK: "no key that is padding is looked at",
    LAYOUT: "into panels at the start, and back at the end; a classifier's first tokens out of the last layer",
}
"""Role -> what becomes of it, in the order of the table."""

FAMILIES = {
    linear_4x1.__name__: PRODUCTS,
    linear_32x32.__name__: PRODUCTS,
    linear_bf16.__name__: PRODUCTS,
    linear_bitmask.__name__: PRODUCTS,
    linear_dense.__name__: PRODUCTS,
    linear_f32.__name__: PRODUCTS,
    attention_f32.__name__: ATTENTION,
    attention_u8s8.__name__: ATTENTION,
    layernorm.__name__: NORMS,
    embed.__name__: EMBEDDING,
}
"""Module of a kernel -> the role that its calls are counted for."""
MOVING = (embed.to_panels, embed.to_rows, embed.pick_first)
"""Kernels that compute nothing."""
TYPES = {
    "Reshape": LAYOUT,
    "Transpose": LAYOUT,
    "DequantizeLinear": SCALES,
    "QuantizeLinear": CODES,
    "Gelu": ACTIVATION,
}
"""Roles that follow from the type alone."""
MASKING = ("Cast", "Where", "Unsqueeze", "Add")
"""Of attention."""


class Change(NamedTuple):
    """before: operators of the file, or whatever is counted; after: kernel calls, or the same."""

    what: str
    before: int
    after: int
    how: str


def call_role(kernel: KernelSource) -> str:
    """What a call of the kernel counts for."""
    return LAYOUT if kernel in MOVING else FAMILIES[kernel.emulated.__module__]


def role(operator: Operator, kernel: KernelSource) -> str:
    """What an operator is to the kernel that absorbs it."""
    family = call_role(kernel)
    if operator.op in TYPES:
        return TYPES[operator.op]
    if family == PRODUCTS and operator.op == "Add":
        return BIAS if operator.constant else RESIDUAL
    if family == ATTENTION and operator.op in MASKING:
        return MASK
    return family


def changes(steps: Sequence[Step], absorbed: Mapping[str, Sequence[Operator]]) -> list[Change]:
    """One a role that the model has."""
    before, after = dict.fromkeys(HOW, 0), dict.fromkeys(HOW, 0)
    for step in steps:
        after[call_role(step.kernel)] += 1
        for operator in absorbed[step.name]:
            before[role(operator, step.kernel)] += 1
    return [Change(name, before[name], after[name], how) for name, how in HOW.items() if before[name] or after[name]]
