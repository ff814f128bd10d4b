"""Rung 5: the kernels of fake quantization. Oracle: ``refimpl.quant.fake``: its bits, and for the gradients of ranges
the sum of its terms in f64, within the bound that the kernel states. The three executions, and any number of threads,
have equal bits; a whole model on the tape has those of the NumPy path.
"""

from functools import partial
from math import fsum

import numpy as np
import pytest
from test_1_arithmetic import equal
from test_2_registers import JITTED, NEEDS_JIT
from test_4_fake_quantization import HALF_WEIGHT, values
from test_5_kernels import need_threads
from test_5_training import normal, wide, within
from test_5_training_products import by
from tiny import batch, calibrated, dense

from refimpl import bounds
from refimpl.bounds import gamma
from refimpl.kernels.training import fake_quantize as kernels
from refimpl.kernels.training.linears import linears
from refimpl.kernels.training.table import Rows, training
from refimpl.models.bert import forward, map_linears
from refimpl.models.quantization.learned import prepare
from refimpl.models.training.parameters import named
from refimpl.nn.tape import Tape
from refimpl.prune.masked_linear import MaskedLinear
from refimpl.quant import fake
from refimpl.quant.fake import ACTIVATION, WEIGHT, slopes, width_nncf, width_of_step
from refimpl.quant.fake_linear import FakeQuantizedLinear, fake_quantized_kind, fake_quantized_linear

F32 = np.float32
NAME = "bert_classification"
BACKWARDS = {width_nncf: fake.fake_quantize_backward, width_of_step: fake.fake_quantize_backward_of_step}
on_widths = pytest.mark.parametrize("width", BACKWARDS, ids=lambda width: width.__name__)


def cases():
    """One range: every tie, both ends, two chunks and a tail. One a row: below and above a chunk, negative, of 0."""
    tensor, rows, long = F32(0.3)[...], normal(0, 5, 37), normal(1, 3, kernels.CHUNK + 17)
    rows[1] *= F32(1e-3)
    high = fake.initial_high(rows) * F32([1, 1, -0.5, 0, 0.3])
    return [
        (values(tensor), tensor, ACTIVATION),
        (normal(2, 2, 3, 7), F32(1.2)[...], ACTIVATION),
        (rows, high, WEIGHT),
        (long, fake.initial_high(long) / 2, HALF_WEIGHT),
        (np.zeros((2, 0), F32), np.ones(2, F32), WEIGHT),
        (np.zeros((0, 5), F32), np.ones(0, F32), WEIGHT),
    ]


def bits(x):
    assert x.dtype == F32
    return x.view(np.int32)


def check_fake_forward(quantize):
    found = []
    for x, high, levels in cases():
        y, cache = quantize(x, high, levels)
        equal(bits(y), bits(fake.fake_quantize(x, high, levels)[0]))
        assert (cache.x is x, cache.y is y, cache.high is high, cache.levels) == (True, True, True, levels)
        found.append(y)
    x = F32([1, np.nan, -3, np.inf, -np.inf, 0.4])
    y, _ = quantize(x, F32(127)[...], WEIGHT)
    equal(y, F32([1, np.nan, -3, np.nan, np.nan, 0]))
    return [*found, y]


def check_fake_backward(backward):
    """The last case: many equal terms, whose sum one after the other would drift."""
    same = np.full(30_000, 3, F32), np.full(30_000, 0.1, F32)
    found = []
    for width in BACKWARDS:
        given = [(x, normal(3, *x.shape), high, levels) for x, high, levels in cases()]
        for x, dy, high, levels in [*given, (*same, F32(2)[...], ACTIVATION)]:
            _, cache = fake.fake_quantize(x, high, levels)
            dx, dhigh = backward(width, dy, cache)
            equal(bits(dx), bits(BACKWARDS[width](dy, cache)[0]))
            assert (dhigh.shape, dhigh.dtype) == (high.shape, F32)
            terms = (dy.astype(np.float64) * slopes(cache, width)[0]).reshape(high.size, x.size // max(high.size, 1))
            exact = np.array([fsum(row) for row in terms]) * fake.sign_of(high).reshape(-1)
            within(dhigh.reshape(-1), exact, kernels.bound(terms))
            found += [dx, dhigh]
        x, high = normal(4, 500, 1), normal(5, 500)  # the only element of each range shows its slope
        _, cache = fake.fake_quantize(x, high, WEIGHT)
        equal(backward(width, np.ones_like(x), cache)[1], slopes(cache, width)[0][:, 0] * fake.sign_of(high))
    return found


def by_kernels(run, width):
    return partial(kernels.fake_quantize, run), partial(kernels.fake_quantize_backward, run, width)


@pytest.mark.parametrize("target", JITTED)
def test_executions(target):
    for check, function in (
        (check_fake_forward, kernels.fake_quantize),
        (check_fake_backward, kernels.fake_quantize_backward),
    ):
        for got, want in zip(
            check(partial(function, by(target))), check(partial(function, by("emulated"))), strict=True
        ):
            equal(bits(got), bits(want))


@NEEDS_JIT
def test_threads():
    need_threads(2)
    x, dy = normal(0, 9, 5000), normal(1, 9, 5000)
    for high, levels in ((F32(0.9)[...], ACTIVATION), (fake.initial_high(x), WEIGHT)):
        found = []
        for threads in (1, 2):
            quantize, backward = by_kernels(Rows(threads).run, width_nncf)
            y, cache = quantize(x, high, levels)
            found.append((y, *backward(dy, cache)))
        for one, two in zip(*found, strict=True):
            equal(bits(one), bits(two))


def test_what_is_not_finite_stays_in_its_row():
    x, dy = normal(0, 3, 40), normal(1, 3, 40)
    x[1, 7] = np.nan
    quantize, backward = by_kernels(by("emulated"), width_nncf)
    y, cache = quantize(x, F32([1, 1, 1]), WEIGHT)
    dx, dhigh = backward(dy, cache)
    equal(np.argwhere(np.isnan(y)), np.array([[1, 7]]))
    equal(np.isnan(dhigh), np.array([False, True, False]))
    assert np.isfinite(dx).all()
    assert dx[1, 7] == dy[1, 7]
    dy[0, :2], x[0, :2] = (np.inf, -np.inf), 9
    assert np.isnan(backward(dy, quantize(x, F32([1, 1, 1]), WEIGHT)[1])[1][0])


@on_widths
def test_a_model_has_the_bits_of_the_numpy_path(width):
    """But for the sums of the ranges' gradients, which are within the bounds of both."""
    model, texts, dy = prepare(calibrated(NAME)).model, batch(NAME), normal(0, 3, 3)
    allowed = {}

    def reference(dy, cache):
        terms = (dy.astype(np.float64) * slopes(cache, width)[0]).reshape(cache.high.size, -1)
        numpys = gamma(terms.shape[1] + 1) * np.abs(terms).sum(1)
        allowed[id(cache.high)] = (kernels.bound(terms) + numpys).reshape(cache.high.shape)
        return BACKWARDS[width](dy, cache)

    quantize, backward = by_kernels(Rows(1).run, width)
    kinds = (
        fake_quantized_kind(quantize_backward=reference),
        fake_quantized_kind(quantize=quantize, quantize_backward=backward),
    )
    tapes = [Tape(linears={FakeQuantizedLinear: kind}) for kind in kinds]
    want, got = (forward(model, texts, tape.ops) for tape in tapes)
    equal(bits(got.data), bits(want.data))
    want, got = (tape.backward([(y, dy)]) for tape, y in zip(tapes, (want, got), strict=True))
    names = {name: id(x) for name, x in named(model).items()}
    assert {key for key in want if key in allowed} == {i for name, i in names.items() if name.endswith("_high")}
    assert set(got) == set(want)
    for key in want:
        if key in allowed:
            within(got[key], want[key], allowed[key])
        else:
            equal(got[key], want[key])


@NEEDS_JIT
@on_widths
def test_the_layer_of_the_table(width):
    """Its operands have the bits of the NumPy path's, and so all that differs is the rounding of the products."""
    p = FakeQuantizedLinear(normal(0, 20, 70), normal(1, 20), np.abs(normal(2, 20)) + F32(1), F32(1.1)[...])
    x, dy = normal(3, 2, 9, 70), normal(4, 2, 9, 20)
    kind = linears(1, width)[FakeQuantizedLinear]
    (y, kept), (_, cache) = kind.forward(x, p), fake_quantized_linear(x, p)
    xq, wq, rows = *wide(cache.input.y, cache.weight.y), dy.reshape(-1, 20).astype(np.float64)
    within(y, xq @ wq.T + p.bias, bounds.linear(xq, wq, p.bias))
    dx, parts = kind.backward(dy, kept)
    got = {id(array): gradient for array, gradient in parts}
    flat = xq.reshape(-1, 70)
    within(got[id(p.bias)], rows.sum(0), gamma(len(rows)) * np.abs(rows).sum(0))
    for d, high, (a, b), source in (
        (dx.reshape(-1, 70), got[id(p.input_high)], (rows, wq), cache.input),
        (got[id(p.weight)], got[id(p.weight_high)], (rows.T, flat), cache.weight),
    ):
        exact, off = a @ b, bounds.linear(a, b.T, np.zeros(b.shape[1]))
        slope, outside = (part.reshape(exact.shape) for part in slopes(source, width))
        within(d, np.where(outside, 0, exact), off * ~outside)
        shape, terms = (source.high.size, -1), (np.abs(exact) + off) * np.abs(slope)
        allowed = (off * np.abs(slope)).reshape(shape).sum(1) + kernels.bound(terms.reshape(shape))
        within(high.reshape(-1), (exact * slope).reshape(shape).sum(1), allowed)


@NEEDS_JIT
def test_masked_layers_of_the_table():
    model, texts = dense(NAME).model, batch(NAME)
    masks = map_linears(model, lambda _, p: MaskedLinear(*p, np.ones(p.weight.shape, bool)))
    found = []
    for one, kinds in ((model, None), (masks, linears(1))):
        tape = Tape(*training(1), kinds)
        y = forward(one, texts, tape.ops)
        by_id = tape.backward([(y, normal(0, 3, 3))])
        found.append({name: by_id[id(x)] for name, x in named(one).items() if id(x) in by_id})
    for name, want in found[0].items():
        equal(found[1][name], want)


@pytest.mark.parametrize(
    ("x", "high", "error", "message"),
    [
        (np.zeros(2), np.array(1.0), TypeError, "x has dtype float64; need float32"),
        (np.zeros(2, F32), np.array(1.0), TypeError, "high has dtype float64; need float32"),
        (np.zeros((2, 3), F32), np.ones(3, F32), ValueError, r"high has shape \(3,\); need \(2,\)"),
        (np.zeros(2, F32), np.array(np.nan, F32), ValueError, "high is nan"),
    ],
)
def test_refusals(x, high, error, message):
    with pytest.raises(error, match=message):
        kernels.fake_quantize(by("emulated"), x, high, WEIGHT)
    _, cache = kernels.fake_quantize(by("emulated"), np.zeros(2, F32), F32(1)[...], WEIGHT)
    with pytest.raises(ValueError, match=r"dy has shape \(3,\); need \(2,\)"):
        kernels.fake_quantize_backward(by("emulated"), width_nncf, np.zeros(3, F32), cache)
