"""Rung 4: fake quantization. Oracles: the integers of rung 1; NNCF's formulas in torch (golden); central differences.

Rounding has no derivative, so the differences are of a surrogate in which what rounding added, in steps, is held
still: y = x + r step inside, high or high lowest / highest outside. It is linear in x and in high, and a layer's sum of
dy y is linear in each single parameter, so a central difference has no truncation error, only rounding: gamma(n) F / h,
where F sums the magnitudes of all terms and n counts the operations that one goes through.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from refimpl import bounds
from refimpl.bounds import F64, gamma
from refimpl.nn.tape import Tape, Value
from refimpl.quant import (
    dequantize_activation,
    dequantize_weight,
    quantize_activation,
    quantize_weight,
    quantized_linear,
    scale_of,
)
from refimpl.quant import fake as module
from refimpl.quant.fake import ACTIVATION, HALF_WEIGHT, WEIGHT, Levels, fake_quantize
from refimpl.quant.fake_linear import (
    FakeQuantizedLinear,
    fake_quantized_kind,
    fake_quantized_linear,
    fake_quantized_linear_backward,
    frozen,
    overflow_fix_disable,
    overflow_fix_enable,
    overflow_fix_first_layer_only,
)

F32 = np.float32
H = 2.0**-10


@cache
def golden() -> dict[str, np.ndarray]:
    return load_file(Path(__file__).parent / "golden" / "distillation" / "losses.safetensors")


def bits(x):
    return x.view(np.uint32).tolist()


def values(high):
    """Around every tie and both ends, zeros of both signs, and random ones. f32 (n,)."""
    rng = np.random.default_rng(2)
    ties = (np.arange(-130, 131) * F32(0.5) * scale_of(high)).astype(F32)
    near = [ties, np.nextafter(ties, F32(9)), np.nextafter(ties, F32(-9))]
    return np.concatenate([*near, F32([0.0, -0.0, -1e-3, 1e30]), rng.normal(size=500).astype(F32) * high])


# --- forward ---------------------------------------------------------------------------------------------------------


def check_activation(function):
    """The bits of dequantize(quantize(x)), the sign of zero included."""
    for high in (F32(0.3)[...], F32(2)[...], F32(77.7)[...]):
        x, scale = values(high), scale_of(high)
        y, _ = function(x, high, ACTIVATION)
        assert y.dtype == F32
        assert bits(y) == bits(dequantize_activation(quantize_activation(x, scale), scale))


def test_activation():
    check_activation(fake_quantize)


def test_weight():
    w = np.random.default_rng(3).normal(size=(5, 37)).astype(F32)
    w[2] *= 1e-3
    high = module.initial_high(w)
    assert bits(fake_quantize(w, high, WEIGHT)[0]) == bits(dequantize_weight(*quantize_weight(w)))
    w[4] = 0
    assert not fake_quantize(w, module.initial_high(w), WEIGHT)[0][4].any()


def test_levels_of_half_range():
    y, _ = fake_quantize(F32([-9, 9, 0.6]), F32(6.3)[...], HALF_WEIGHT)
    np.testing.assert_array_equal(y, F32([-64, 63, 6]) * (F32(6.3) / F32(63)))


# --- gradients -------------------------------------------------------------------------------------------------------


def check_at_the_ends(backward):
    """High is 127, so the step is 1; both ends are inside, and the next number is not. Exact."""
    for levels, low in ((WEIGHT, -127.0), (ACTIVATION, -128.0)):
        x = np.array([127, np.nextafter(127, 200), low, np.nextafter(low, -200), 0.25, -3.5, 140, -140])
        dy = 2.0 ** np.arange(8)
        _, cache = fake_quantize(x, np.array(127.0), levels)
        dx, dhigh = backward(dy, cache)
        np.testing.assert_array_equal(dx, dy * [1, 0, 1, 0, 1, 1, 0, 0])
        inside = (dy[4] * -0.25 + dy[5] * -0.5) / (127 - low)
        outside = dy[1] + dy[6] + low / 127 * (dy[3] + dy[7])
        np.testing.assert_allclose(dhigh, inside + outside, rtol=gamma(20, F64))
        assert dhigh.shape == ()


def check_nncf(backward):
    tensors = golden()
    for name, levels, high in (
        ("weight", WEIGHT, tensors["fake.weight.scale"][:, 0]),
        ("activation", ACTIVATION, tensors["fake.activation.scale"].reshape(())),
    ):
        y, cache = fake_quantize(tensors["fake.x"], high, levels)
        np.testing.assert_allclose(y, tensors[f"fake.{name}.y"], rtol=gamma(10, F64), atol=gamma(10, F64))
        dx, dhigh = backward(tensors["fake.dy"], cache)
        assert 0 < (dx == 0).sum() < dx.size
        np.testing.assert_array_equal(dx, tensors[f"fake.{name}.dx"])
        assert dhigh.shape == high.shape
        want, size = tensors[f"fake.{name}.dscale"].reshape(high.shape), np.abs(tensors["fake.dy"]).sum()
        np.testing.assert_allclose(dhigh, want, rtol=0, atol=gamma(60, F64) * size)


def check_backward(backward):
    check_at_the_ends(backward)
    check_nncf(backward)


def test_nncf():
    check_backward(module.fake_quantize_backward)


class Surrogate:
    """Fake quantization in which what rounding added is held still."""

    def __init__(self, x, high, levels):
        self.levels = levels
        step = (high / levels.highest).reshape(high.shape + (1,) * (x.ndim - high.ndim))
        self.added = np.rint(x / step) - x / step

    def __call__(self, x, high):
        wide = high.reshape(high.shape + (1,) * (x.ndim - high.ndim))
        low = wide * self.levels.lowest / self.levels.highest
        outside = np.where(x > wide, wide, low)
        return np.where((x >= low) & (x <= wide), x + self.added * wide / self.levels.highest, outside)


def differences(function, array):
    made = np.empty_like(array)
    for at in np.ndindex(array.shape):
        step = np.zeros_like(array)
        step[at] = H
        made[at] = (function(array + step) - function(array - step)) / (2 * H)
    return made


def check_of_step(backward):
    """Every element, per row and per tensor."""
    tensors = golden()
    x, dy = tensors["fake.x"], tensors["fake.dy"]
    for levels in (WEIGHT, ACTIVATION, HALF_WEIGHT):
        for high in (np.array([0.71, 1.53, 5.0, 0.11]), np.array(1.03)):
            surrogate = Surrogate(x, high, levels)
            wide = np.broadcast_to(high[..., None], x.shape)
            for end in (wide, wide * levels.lowest / levels.highest):
                assert np.abs(x - end).min() > 3 * H  # no difference crosses an end
            y, cache = fake_quantize(x, high, levels)
            dx, dhigh = backward(dy, cache)
            bound = gamma(100, F64) * np.abs(dy).sum() * 6 / H
            np.testing.assert_allclose(y, surrogate(x, high), rtol=0, atol=bound)
            want = differences(lambda v, s=surrogate, h=high: (dy * s(v, h)).sum(), x)
            np.testing.assert_allclose(dx, want, rtol=0, atol=bound)
            want = differences(lambda h, s=surrogate: (dy * s(x, h)).sum(), high)
            np.testing.assert_allclose(dhigh, want, rtol=0, atol=bound)


def test_of_step():
    check_of_step(module.fake_quantize_backward_of_step)


def test_a_negative_range_is_its_magnitude_and_a_range_of_zero_can_grow():
    x, dy = np.array([5.0, -5.0, 0.3]), np.array([1.0, 2.0, 4.0])
    (y, cache), (z, other) = (fake_quantize(x, np.array(high), WEIGHT) for high in (3.0, -3.0))
    np.testing.assert_array_equal(y, z)
    for backward in (module.fake_quantize_backward, module.fake_quantize_backward_of_step):
        assert backward(dy, cache)[1] == -backward(dy, other)[1]
    y, cache = fake_quantize(x, np.array(0.0), WEIGHT)
    assert np.abs(y).max() <= module.EPS * (1 + gamma(2, F64))
    assert module.fake_quantize_backward(dy, cache)[1] == 1 - 2 + 4


# --- the layer -------------------------------------------------------------------------------------------------------


def layer(dtype=np.float64, levels: Levels = WEIGHT):
    rng = np.random.default_rng(11)
    w = rng.normal(size=(3, 5)).astype(dtype)
    return rng.normal(size=(2, 4, 5)).astype(dtype), FakeQuantizedLinear(
        w, rng.normal(size=3).astype(dtype), np.abs(w).max(1) * dtype(0.83), np.asarray(1.37, dtype), levels
    )


def check_layer(backward):
    """Every element of every gradient."""
    for levels in (WEIGHT, HALF_WEIGHT):
        check_layer_of(backward, levels)


def check_layer_of(backward, levels):
    x, p = layer(levels=levels)
    dy = np.random.default_rng(12).normal(size=(2, 4, 3))
    of_input, of_weight = Surrogate(x, p.input_high, ACTIVATION), Surrogate(p.weight, p.weight_high, levels)

    def loss(**changed):
        x1, p1 = changed.pop("x", x), p._replace(**changed)
        y = of_input(x1, p1.input_high) @ of_weight(p1.weight, p1.weight_high).T + p1.bias
        return (dy * y).sum()

    y, cache = fake_quantized_linear(x, p)
    bound = gamma(200, F64) * np.abs(dy).sum() * 5 * 9 / H
    np.testing.assert_allclose((dy * y).sum(), loss(), rtol=0, atol=bound)
    got = backward(dy, cache)
    for name in got._fields:
        array = x if name == "x" else getattr(p, name)
        want = differences(lambda v, name=name: loss(**{name: v}), array)
        np.testing.assert_allclose(getattr(got, name), want, rtol=0, atol=bound, err_msg=name)


def test_layer():
    def backward(dy, cache):
        return fake_quantized_linear_backward(dy, cache, module.fake_quantize_backward_of_step)

    check_layer(backward)


def test_the_layer_uses_nncfs_gradients_unless_told_otherwise():
    x, p = layer()
    _, cache = fake_quantized_linear(x, p)
    dy = np.ones((2, 4, 3))
    got = fake_quantized_linear_backward(dy, cache)
    d_weight = np.ones((8, 3)).T @ cache.input.y.reshape(8, 5)
    np.testing.assert_array_equal(got.weight_high, module.fake_quantize_backward(d_weight, cache.weight)[1])


def check_kind(kind):
    """Two layers of one input, on the tape: every parameter has its own gradient, and the input the sum."""
    (x, p), dy = layer(), np.random.default_rng(12).normal(size=(2, 4, 3))
    other = FakeQuantizedLinear(*(np.asarray(array + 0.125) for array in p[:4]), HALF_WEIGHT)
    for rule in (module.fake_quantize_backward, module.fake_quantize_backward_of_step):
        tape, value = Tape(linears={FakeQuantizedLinear: kind(quantize_backward=rule)}), Value(x)
        ends = [(tape.ops.linear(value, q), sign * dy) for q, sign in ((p, 1), (other, -1))]
        seen = {}
        tape.steps.insert(0, (value, lambda dx, seen=seen: seen.update(x=dx)))
        by_id, total = tape.backward(ends), 0
        for q, (y, given) in zip((p, other), ends, strict=True):
            want_y, cache = fake_quantized_linear(x, q)
            np.testing.assert_array_equal(y.data, want_y)
            want = fake_quantized_linear_backward(given, cache, rule)
            for name in want._fields[1:]:
                assert id(getattr(q, name)) in by_id, name
                np.testing.assert_array_equal(by_id[id(getattr(q, name))], getattr(want, name), err_msg=name)
            total = total + want.x
        np.testing.assert_array_equal(seen["x"], total)
        assert len(by_id) == 8


def test_kind():
    check_kind(fake_quantized_kind)


@pytest.mark.parametrize("levels", [WEIGHT, HALF_WEIGHT])
def test_frozen_is_the_same_layer_in_integers(levels):
    x, p = layer(F32, levels)
    y, cache = fake_quantized_linear(x, p)
    q = frozen(p)
    assert (q.codes.min(), q.codes.max()) == levels
    acc = (quantize_activation(x, q.input_scale).astype(np.int32) - 128) @ q.codes.T.astype(np.int32)
    bound = bounds.linear(cache.input.y, cache.weight.y, p.bias)
    bound = bound + bounds.rescale(acc, q.input_scale, q.weight_scale, p.bias)
    bound = bound + gamma(4) * (np.abs(cache.input.y) @ np.abs(cache.weight.y).T)  # of the operands themselves
    assert (np.abs(y.astype(np.float64) - quantized_linear(x, q)) <= bound).all()


def test_overflow_fix():
    names = ["layer.0.q", "layer.0.output"]
    assert overflow_fix_enable(names) == dict.fromkeys(names, Levels(-64, 63))
    assert (
        overflow_fix_disable(names) == overflow_fix_first_layer_only(names) == dict.fromkeys(names, Levels(-127, 127))
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fake_quantize(np.zeros(2), F32(1)[...], WEIGHT), TypeError, "high has dtype float32; need"),
        (
            lambda: fake_quantize(np.zeros((2, 3)), np.ones(3), WEIGHT),
            ValueError,
            r"high has shape \(3,\); need \(2,\)",
        ),
        (lambda: fake_quantize(np.full(2, np.inf), np.ones(2), WEIGHT), ValueError, r"x is inf at \[0\]"),
        (lambda: fake_quantize(np.zeros(2), np.array(np.nan), WEIGHT), ValueError, "high is nan"),
        (lambda: frozen(layer()[1]), TypeError, "weight has dtype float64; need float32"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
