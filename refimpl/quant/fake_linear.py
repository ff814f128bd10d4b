"""A linear layer under fake quantization, for training: y = fake(x) fake(W)ᵀ + b.

    effective input   fake_quantize(x, input_high, -128 ... 127)          one range a tensor
    effective weight  fake_quantize(W, weight_high, -127 ... 127)         one a row; -64 ... 63 under overflow_fix

    d_xq = dy Wq,  d_Wq = sum over tokens dyᵀ xq,  d_b = sum dy;  then each through ``fake_quantize_backward``

``frozen`` is the ``QuantizedLinear`` that the trained layer is. Both compute the same product, one in floats and one in
integers: y differs by the rounding of the float sums only (``bounds.linear``).

What ``overflow_fix`` means for a BERT, which has no convolution (NNCF; three settings, one function each):
* ``overflow_fix_disable``            every weight -127 ... 127
* ``overflow_fix_enable``             every weight -64 ... 63
* ``overflow_fix_first_layer_only``   the first *convolutions* in half range, so here every weight -127 ... 127
Post-training ``enable`` is another thing again: ``refimpl.saturation.reduced_range.nncf_ptq_enable``.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.nn.linear import linear
from refimpl.nn.params import Linear
from refimpl.quant.fake import (
    ACTIVATION,
    HALF_WEIGHT,
    WEIGHT,
    FakeCache,
    Levels,
    codes_of,
    fake_quantize,
    fake_quantize_backward,
    step_of,
)
from refimpl.quant.linear import QuantizedLinear

Backward = Callable[[np.ndarray, FakeCache], tuple[np.ndarray, np.ndarray]]


class FakeQuantizedLinear(NamedTuple):
    """weight: float (M, K); bias, weight_high: float (M,); input_high: float (); levels: of the weight."""

    weight: np.ndarray
    bias: np.ndarray
    weight_high: np.ndarray
    input_high: np.ndarray
    levels: Levels = WEIGHT


class FakeLinearCache(NamedTuple):
    """The caches of the effective input and weight."""

    input: FakeCache
    weight: FakeCache


class FakeLinearGradients(NamedTuple):
    """x: float (..., K); the others have the shapes of the parameters."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    weight_high: np.ndarray
    input_high: np.ndarray


def fake_quantized_linear(x: np.ndarray, p: FakeQuantizedLinear) -> tuple[np.ndarray, FakeLinearCache]:
    """x: float (..., K) -> float (..., M)."""
    check.shape("weight_high", p.weight_high, (p.weight.shape[0],))
    check.shape("input_high", p.input_high, ())
    xq, input_cache = fake_quantize(x, p.input_high, ACTIVATION)
    wq, weight_cache = fake_quantize(p.weight, p.weight_high, p.levels)
    return linear(xq, Linear(wq, p.bias)), FakeLinearCache(input_cache, weight_cache)


def fake_quantized_linear_backward(
    dy: np.ndarray, cache: FakeLinearCache, backward: Backward = fake_quantize_backward
) -> FakeLinearGradients:
    """dy: float (..., M). backward: ``fake_quantize_backward`` or ``fake_quantize_backward_of_step``."""
    xq, wq = cache.input.y, cache.weight.y
    check.last_dim("dy", dy, wq.shape[0])
    rows = dy.reshape(-1, wq.shape[0])
    dx, d_input_high = backward(dy @ wq, cache.input)
    d_weight, d_weight_high = backward(rows.T @ xq.reshape(-1, wq.shape[1]), cache.weight)
    return FakeLinearGradients(dx, d_weight, rows.sum(0), d_weight_high, d_input_high)


def frozen(p: FakeQuantizedLinear) -> QuantizedLinear:
    """The integers that the f32 layer stands for.

    Raises TypeError if it is f64.
    """
    check.dtype("weight", p.weight, np.float32)
    codes = codes_of(p.weight, p.weight_high, p.levels).astype(np.int8)
    return QuantizedLinear(codes, step_of(p.weight_high, p.levels), step_of(p.input_high, ACTIVATION), p.bias)


def overflow_fix_disable(names: Iterable[str]) -> dict[str, Levels]:
    """Names of a BERT's linear layers -> the levels of their weights."""
    return dict.fromkeys(names, WEIGHT)


def overflow_fix_enable(names: Iterable[str]) -> dict[str, Levels]:
    """All in half range."""
    return dict.fromkeys(names, HALF_WEIGHT)


def overflow_fix_first_layer_only(names: Iterable[str]) -> dict[str, Levels]:
    """There is no convolution among linear layers, so nothing changes."""
    return overflow_fix_disable(names)
