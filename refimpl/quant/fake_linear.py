"""A linear layer under fake quantization, for training: y = fake(x) fake(W)ᵀ + b.

    effective input   fake_quantize(x, input_high, -128 ... 127)          one range a tensor
    effective weight  fake_quantize(W, weight_high, -127 ... 127)         one a row; -64 ... 63 under overflow_fix

    d_xq = dy Wq,  d_Wq = sum over tokens dyᵀ xq,  d_b = sum dy;  then each through ``fake_quantize_backward``

``fake_quantized_kind`` is its way through the tape. ``frozen`` is the ``QuantizedLinear`` that the trained layer is.
Both compute the same product, one in floats and one in integers: y differs by the rounding of the float sums only
(``bounds.linear``).

What ``overflow_fix`` means for a BERT, which has no convolution (NNCF; three settings, one function each):
* ``overflow_fix_disable``            every weight -127 ... 127
* ``overflow_fix_enable``             every weight -64 ... 63
* ``overflow_fix_first_layer_only``   the first *convolutions* in half range, so here every weight -127 ... 127
Post-training ``enable`` is another thing again: ``refimpl.saturation.reduced_range.nncf_ptq_enable``.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from refimpl import check
from refimpl.nn.linear import linear, linear_backward
from refimpl.nn.params import Linear
from refimpl.nn.tape import LinearKind
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

Quantize = Callable[[np.ndarray, np.ndarray, Levels], tuple[np.ndarray, FakeCache]]
Backward = Callable[[np.ndarray, FakeCache], tuple[np.ndarray, np.ndarray]]


class FakeQuantizedLinear(NamedTuple):
    """weight: float (M, K); bias, weight_high: float (M,); input_high: float (); levels: of the weight."""

    weight: np.ndarray
    bias: np.ndarray
    weight_high: np.ndarray
    input_high: np.ndarray
    levels: Levels = WEIGHT


class FakeLinearCache(NamedTuple):
    """The caches of the effective input and weight, and the bias."""

    input: FakeCache
    weight: FakeCache
    bias: np.ndarray


class FakeLinearGradients(NamedTuple):
    """x: float (..., K); the others have the shapes of the parameters."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    weight_high: np.ndarray
    input_high: np.ndarray


def fake_quantized_linear(
    x: np.ndarray,
    p: FakeQuantizedLinear,
    forward: Callable[..., np.ndarray] = linear,
    quantize: Quantize = fake_quantize,
) -> tuple[np.ndarray, FakeLinearCache]:
    """x: float (..., K) -> float (..., M). forward, quantize: ``linear`` and ``fake_quantize``, or kernels for them."""
    check.shape("weight_high", p.weight_high, (p.weight.shape[0],))
    check.shape("input_high", p.input_high, ())
    xq, input_cache = quantize(x, p.input_high, ACTIVATION)
    wq, weight_cache = quantize(p.weight, p.weight_high, p.levels)
    return forward(xq, Linear(wq, p.bias)), FakeLinearCache(input_cache, weight_cache, p.bias)


def fake_quantized_linear_backward(
    dy: np.ndarray,
    cache: FakeLinearCache,
    quantize_backward: Backward = fake_quantize_backward,
    backward: Callable[..., tuple[np.ndarray, Linear]] = linear_backward,
) -> FakeLinearGradients:
    """dy: float (..., M). quantize_backward: ``fake_quantize_backward`` or ``fake_quantize_backward_of_step``, or
    kernels for them; backward: of the linear layer."""
    check.last_dim("dy", dy, len(cache.bias))
    dxq, d = backward(dy, cache.input.y, Linear(cache.weight.y, cache.bias))
    dx, d_input_high = quantize_backward(dxq, cache.input)
    d_weight, d_weight_high = quantize_backward(d.weight, cache.weight)
    return FakeLinearGradients(dx, d_weight, d.bias, d_weight_high, d_input_high)


def fake_quantized_kind(
    forward: Callable[..., np.ndarray] = linear,
    backward: Callable[..., tuple[np.ndarray, Linear]] = linear_backward,
    quantize: Quantize = fake_quantize,
    quantize_backward: Backward = fake_quantize_backward,
) -> LinearKind:
    """For ``Tape(linears={FakeQuantizedLinear: fake_quantized_kind()})``; weight, bias and both ranges are trained."""

    def run(x: np.ndarray, p: FakeQuantizedLinear) -> tuple[np.ndarray, Any]:
        y, cache = fake_quantized_linear(x, p, forward, quantize)
        return y, (p, cache)

    def back(dy: np.ndarray, kept: Any) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        p, cache = kept
        d = fake_quantized_linear_backward(dy, cache, quantize_backward, backward)
        return d.x, [
            (p.weight, d.weight), (p.bias, d.bias), (p.weight_high, d.weight_high), (p.input_high, d.input_high),
        ]  # fmt: skip

    return LinearKind(run, back)


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
