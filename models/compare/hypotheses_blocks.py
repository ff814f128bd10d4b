"""What engines do of their own accord to speed a product with a weight in codes up, or to save an operator on codes.

Activations are quantized again, each block of 32 channels by itself (``refimpl.quant.blocks``, with its sources); the
zero point of a DequantizeLinear is scaled by itself, x s - z s: OpenVINO, after a Gather of codes.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from refimpl.models.compare.hypothesis import Hypothesis
from refimpl.models.compare.use import Use, known, value
from refimpl.quant import blocks
from refimpl.quant.blocks import Blocks

BLOCK = 32
CODED = ("MatMulIntegerToFloat", "QLinearMatMul")
NAME = f"activations quantized again, in blocks of {BLOCK}"


def _weight(use: Use) -> bool:
    """Whether the right operand is a constant matrix."""
    b = use.place("b")
    return use.constant[b] and value(use.xs[b]).ndim == 2


def _numbers(code: Callable[[np.ndarray, int], Blocks], use: Use) -> Use | None:
    """Of a product of floats."""
    a = use.get("a")
    if a is None or not a.known or not _weight(use):
        return None
    return use.put(a=known(blocks.numbers(code(a.value.astype(np.float32), BLOCK), a.value.shape[-1])))


def _codes(use: Use) -> Use | None:
    """Of a product of codes: they are dequantized first."""
    a, b, left = (use.get(name) for name in ("a", "b", "a_scale"))
    if not all(x is not None and x.known for x in (b, left)) or not _weight(use):
        return None
    if a is None or value(left).size > 1:
        return None
    zeros = {name: use.get(name) or known(np.zeros((), np.uint8)) for name in ("a_zero", "b_zero")}
    return use.put(**zeros).attributes(block_size=BLOCK)


def _apart(use: Use) -> Use | None:
    zero = use.get("x_zero")
    return use.meaning(folded=True) if zero is not None and zero.value.any() else None


HYPOTHESES = [
    Hypothesis(NAME, ("MatMul",), partial(_numbers, blocks.by_step)),
    Hypothesis(NAME, ("MatMul",), partial(_numbers, blocks.by_level)),
    Hypothesis(NAME, CODED, _codes),
    Hypothesis("zero point scaled by itself", ("DequantizeLinear",), _apart, vague=1),
]
