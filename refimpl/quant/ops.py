"""The op table of a quantized model: the reference, with the linear layers and the word table in integers."""

from typing import Any

import numpy as np

from refimpl.nn.embedding import embedding
from refimpl.nn.linear import linear
from refimpl.nn.ops import REFERENCE
from refimpl.nn.taps import NO_TAP, Tap
from refimpl.quant.linear import QuantizedLinear, QuantizedTable, quantized_embedding, quantized_linear


def any_linear(x: np.ndarray, p: Any, tap: Tap = NO_TAP) -> np.ndarray:
    """The quantized layer for quantized parameters, the plain one for the others (the heads stay f32)."""
    return quantized_linear(x, p, tap) if isinstance(p, QuantizedLinear) else linear(x, p, tap)


def any_embedding(ids: np.ndarray, table: Any) -> np.ndarray:
    """The coded table or the plain one."""
    return quantized_embedding(ids, table) if isinstance(table, QuantizedTable) else embedding(ids, table)


QUANTIZED = REFERENCE._replace(linear=any_linear, embedding=any_embedding)
