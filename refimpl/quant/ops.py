"""The op table of a quantized model: the reference, with linear layers, word table and attention in integers.

Each of these operators looks at the type of what it is given: what is not quantized is computed in f32.
"""

from typing import Any

import numpy as np

from refimpl.nn.attention import attention_context, attention_operands, attention_scores
from refimpl.nn.embedding import embedding
from refimpl.nn.linear import linear
from refimpl.nn.linear_bf16 import Bf16Linear, linear_bf16
from refimpl.nn.ops import REFERENCE
from refimpl.nn.params import AttentionScales
from refimpl.nn.taps import NO_TAP, Tap
from refimpl.quant.attention import Codes, coded_context, coded_operands, coded_scores
from refimpl.quant.fake_linear import FakeQuantizedLinear, fake_quantized_linear
from refimpl.quant.linear import QuantizedLinear, QuantizedTable, quantized_embedding, quantized_linear
from refimpl.quant.smooth import SmoothedLinear


def any_linear(x: np.ndarray, p: Any, tap: Tap = NO_TAP) -> np.ndarray:
    """The quantized layer for quantized parameters, BF16 and others for theirs, the plain one for f32 ones (heads)."""
    if isinstance(p, SmoothedLinear):
        return any_linear(x * p.inverse, p.linear, tap)
    if isinstance(p, FakeQuantizedLinear):
        return fake_quantized_linear(x, p)[0]
    if isinstance(p, Bf16Linear):
        return linear_bf16(x, p)
    return quantized_linear(x, p, tap) if isinstance(p, QuantizedLinear) else linear(x, p, tap)


def any_embedding(ids: np.ndarray, table: Any) -> np.ndarray:
    """The coded table or the plain one."""
    return quantized_embedding(ids, table) if isinstance(table, QuantizedTable) else embedding(ids, table)


def any_operands(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scales: AttentionScales | None, tap: Tap = NO_TAP
) -> tuple[Any, Any, Any]:
    """Codes where there are scales."""
    return attention_operands(q, k, v, None) if scales is None else coded_operands(q, k, v, scales, tap)


def any_scores(q: Any, k: Any, mask: np.ndarray) -> np.ndarray:
    """Of codes or of floats."""
    return coded_scores(q, k, mask) if isinstance(q, Codes) else attention_scores(q, k, mask)


def any_context(probs: np.ndarray, v: Any, tap: Tap = NO_TAP) -> np.ndarray:
    """Of codes or of floats."""
    return coded_context(probs, v, tap) if isinstance(v, Codes) else attention_context(probs, v)


QUANTIZED = REFERENCE._replace(
    linear=any_linear,
    embedding=any_embedding,
    attention_operands=any_operands,
    attention_scores=any_scores,
    attention_context=any_context,
)
