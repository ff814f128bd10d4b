"""Every operator's error covers its own f32 result from inputs that are anywhere within their errors, ends included."""

import numpy as np
import pytest

from refimpl.models.oracle.graph import MICROSOFT, Node
from refimpl.models.oracle.operator import Approx, Call
from refimpl.models.oracle.ops import OPERATORS
from refimpl.models.oracle.semantics import ONNX_RUNTIME
from refimpl.nn import NO_TAP

RNG = np.random.default_rng(0)
SPREADS = (0.0, 1e-6, 1e-3)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def positive(*shape):
    return (np.abs(RNG.normal(size=shape)) + 0.5).astype(np.float32)


X, Y, W = normal(4, 6), positive(4, 6), normal(6, 5)
MASKED = np.where(RNG.random((4, 6)) < 0.4, np.finfo(np.float32).min, X).astype(np.float32)
CODES = RNG.integers(0, 256, (4, 6)).astype(np.uint8)
SCALE, ZERO = np.array(0.02, np.float32), np.array(128, np.uint8)
AXIS = np.array([1], np.int64)
CASES = {
    "Add": [X, Y], "Sub": [X, Y], "Mul": [X, Y], "Div": [X, Y], "Sum": [X, Y, X], "Min": [X, Y], "Max": [X, Y],
    "Pow": [X, np.array(3, np.float32)], "Sqrt": [Y], "Exp": [X], "Log": [Y], "Erf": [X], "Tanh": [X], "Sigmoid": [X],
    "Relu": [X], "Reciprocal": [Y], "Neg": [X], "Abs": [X], "Gelu": [3 * X], "Softmax": [4 * X], "LogSoftmax": [4 * X],
    "LayerNormalization": [X, normal(6), normal(6)], "RMSNormalization": [X, normal(6)], "ReduceSum": [X, AXIS],
    "ReduceMean": [X, AXIS], "ReduceL2": [X, AXIS], "ReduceProd": [X, AXIS], "ReduceMax": [X, AXIS],
    "ReduceMin": [X, AXIS], "CumSum": [X, AXIS], "MatMul": [X, W], "Gemm": [X, W, normal(5)], "Einsum": [X, W],
    "Cast": [X], "Clip": [X, np.array(-1, np.float32), np.array(1, np.float32)], "Where": [X > 0, X, Y],
    "QuantizeLinear": [X, SCALE, ZERO], "DequantizeLinear": [CODES, SCALE, ZERO], "DynamicQuantizeLinear": [X],
}  # fmt: skip
ATTRIBUTES = {"Einsum": {"equation": "ij,jk->ik"}, "Cast": {"to": 1}, "Gemm": {"alpha": 0.5, "beta": 2.0}}
STEERING = {"Pow": [1], "Clip": [1, 2], "RMSNormalization": [1]}
"""Inputs that must be known, or nothing is said."""


def of(op, wide=False, domain=""):
    return Call(Node("n", op, domain, (), ("y",), ATTRIBUTES.get(op, {})), 20, ONNX_RUNTIME, wide, NO_TAP)


def first(result):
    return result[0] if isinstance(result, tuple) else result


def blurred(op, inputs, spread):
    """Each float input with an error, and a way to draw what it may be."""
    xs = []
    for i, x in enumerate(inputs):
        known = x.dtype.kind != "f" or not spread or i in STEERING.get(op, ())
        error = np.zeros(()) if known else spread * RNG.random(x.shape)
        xs.append(Approx(x.astype(np.float64) if x.dtype.kind == "f" else x, error))
    return xs


def drawn(x):
    """f32, at an end of the interval or within it; the rounding to f32 stays inside."""
    if x.known:
        return x.value.astype(np.float32) if x.value.dtype.kind == "f" else x.value
    share = RNG.choice([-0.999, 0.999, 0.0, 0.5], x.value.shape)
    near = (x.value + share * x.error).astype(np.float32)
    return np.where(np.abs(near.astype(np.float64) - x.value) <= x.error, near, x.value.astype(np.float32))


def check(operator, op, inputs, domain=""):
    with np.errstate(all="ignore"):
        for spread in SPREADS:
            xs = blurred(op, inputs, spread)
            y = first(operator.value(of(op, True, domain), *(x.value for x in xs)))
            error = first(operator.error(of(op, True, domain), xs, y)) + 0.5 * operator.codes
            for _ in range(20):
                got = first(operator.value(of(op, domain=domain), *map(drawn, xs))).astype(np.float64)
                assert (np.abs(got - y) <= error).all(), spread
            assert np.isfinite(error).all()


@pytest.mark.parametrize("op", CASES)
def test_error_covers(op):
    check(OPERATORS["", op], op, CASES[op])


@pytest.mark.parametrize("op", ["Gelu", "QuickGelu"])
def test_error_covers_gelu(op):
    check(OPERATORS[MICROSOFT, op], op, [np.linspace(-9, 9, 300, dtype=np.float32)], MICROSOFT)


def test_error_covers_the_tanh_form(monkeypatch):
    monkeypatch.setitem(ATTRIBUTES, "Gelu", {"approximate": "tanh"})
    check(OPERATORS["", "Gelu"], "Gelu", [np.linspace(-9, 9, 300, dtype=np.float32)])


def test_masked_scores_do_not_blur_the_others():
    """A rounding of the lowest number is 2e31: it must not reach the probabilities of unmasked keys."""
    error = np.where(MASKED < -1e30, 2e31, 1e-6)
    made = OPERATORS["", "Softmax"].error(of("Softmax", True), [Approx(MASKED.astype(np.float64), error)], MASKED)
    assert made.max() < 1e-5


def test_uncertain_choices():
    """A comparison that could go either way is not known, and what it chooses may be either."""
    x, y = Approx(np.array([1.0, 2.0]), np.array([0.1, 0.1])), Approx(np.array([1.05, 9.0]), np.zeros(()))
    greater = OPERATORS["", "Greater"]
    uncertain = greater.error(of("Greater", True), [x, y], greater.value(of("Greater", True), x.value, y.value))
    assert uncertain.tolist() == [1, 0]
    condition = Approx(np.array([False, False]), uncertain)
    where = OPERATORS["", "Where"].error(of("Where", True), [condition, x, y], y.value)
    assert where[0] >= 0.15 - 1e-12
    assert where[1] == 0


def check_errors(change):
    """``change`` turns an operator's error function into another."""
    for op in ("MatMul", "Softmax", "Div", "LayerNormalization", "QuantizeLinear", "Tanh"):
        operator = OPERATORS["", op]
        check(operator._replace(error=change(operator.error)), op, CASES[op])
