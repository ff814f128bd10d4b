"""Rung 5: products, sums, dropout and scatter of training. Oracles: NumPy in f64 within derived bounds; the bits of
``refimpl.nn`` where a kernel promises them; the three executions, and any number of threads, have equal bits.
"""

from functools import partial

import numpy as np
import pytest
from test_1_arithmetic import equal, rng
from test_2_registers import JITTED, NEEDS_JIT, execution
from test_4_gradients import gradients_of
from test_5_kernels import need_threads
from test_5_training import normal, wide, within
from tiny import batch, dense

from refimpl import bounds
from refimpl.bounds import gamma
from refimpl.kernels.training import linear, products
from refimpl.kernels.training.linear import multiply, rows_of_heads
from refimpl.kernels.training.table import Products, training
from refimpl.models.bert import forward
from refimpl.models.training.parameters import named
from refimpl.nn import Linear, elementwise, embedding
from refimpl.nn.attention import attention_scores, merge_heads
from refimpl.nn.dropout import draw, dropout

# N, K, M: fewer and more rows than a tile and a stripe, columns below, at and beyond a panel, one of each
SHAPES = [(1, 1, 1), (5, 3, 17), (7, 20, 64), (13, 70, 100)]
LARGE = (200, 384, 130)


def by(target):
    """Runs sources by one of the three executions."""
    return lambda source, *arguments: execution(source, target)(*arguments)


def operands(shape):
    n, k, m = shape
    return normal(0, n, k), Linear(normal(1, m, k), normal(2, m)), normal(3, n, m)


def check_linear(implementation, shape):
    x, p, _ = operands(shape)
    y = implementation(x, p)
    within(y, wide(x)[0] @ wide(p.weight)[0].T + p.bias, bounds.linear(x, *p))
    return [y]


def check_linear_backward(implementation, shape):
    x, p, dy = operands(shape)
    dx, d = implementation(dy, x, p)
    found = dx, d.weight, d.bias
    pairs = (dy, p.weight.T), (dy.T, x.T)
    for got, (a, b) in zip(found, pairs, strict=False):
        within(got, wide(a)[0] @ wide(b)[0].T, bounds.linear(a, b, np.zeros(len(b))))
    within(d.bias, wide(dy)[0].sum(0), gamma(len(dy)) * np.abs(wide(dy)[0]).sum(0))
    return found


@pytest.mark.parametrize("target", JITTED)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_layers(shape, target):
    for check, implementation in (
        (check_linear, linear.linear),
        (check_linear_backward, linear.linear_backward),
    ):
        found, want = (check(partial(implementation, by(t)), shape) for t in (target, "emulated"))
        for got, emulated in zip(found, want, strict=True):
            equal(got, emulated)


def check_multiply(implementation):
    """Every order of distances: plain, of rows of all heads, transposed; scaled and added to."""
    for r, s, c in ((1, 1, 1), (3, 5, 16), (6, 18, 33)):
        a, b, added = normal(0, 2, 3, r, s), normal(1, 2, 3, s, c), normal(2, 2, c)
        want = np.float32(0.3).astype(np.float64) * (wide(a)[0] @ wide(b)[0]) + wide(added)[0][:, None, None]
        allowed = 0.3 * bounds.matmul(a, b) + gamma(2) * (0.3 * np.abs(a) @ np.abs(b) + np.abs(added)[:, None, None])
        apart = rows_of_heads(b.shape)
        apart[...] = b
        for left, right in (
            (a, b),
            (np.ascontiguousarray(a.swapaxes(2, 3)).swapaxes(2, 3), apart),
            (a, np.ascontiguousarray(b.swapaxes(2, 3)).swapaxes(2, 3)),
            (a[:, ::-1].copy()[:, ::-1], b),
        ):
            out = rows_of_heads((2, 3, r, c))
            implementation(left, right, out, 0.3, added)
            within(out, want, allowed)


@pytest.mark.parametrize("target", ["emulated", *JITTED])
def test_products_of_heads(target):
    check_multiply(lambda *given: multiply(by(target), *given))


@NEEDS_JIT
def test_what_has_the_bits_of_the_reference():
    do, x, y = Products(1), normal(0, 3, 700, 40), normal(1, 3, 700, 40)
    equal(do.add(x, y), elementwise.add(x, y))
    equal(do.add(x, y[:1]), elementwise.add(x, y[:1]))
    keep = draw(x.shape, 0.3, rng(2))
    x[0, 0, :2] = np.inf, np.nan
    equal(do.dropout(x, keep, 0.3), dropout(x, keep, 0.3))
    ids = rng(3).integers(0, 9, (3, 700))
    equal(do.embedding_backward(y, ids, 9), embedding.embedding_backward(y, ids, 9))
    with pytest.raises(ValueError, match="ids is 9"):
        do.embedding_backward(y, ids + 1, 9)


@NEEDS_JIT
def test_scores_of_masked_keys_and_a_context_that_is_not_copied():
    do, q, k = Products(1), normal(0, 2, 3, 5, 4), normal(1, 2, 3, 5, 4)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    found = do.attention_scores(q, k, mask)
    live = np.broadcast_to(mask[:, None, None] != 0, found.shape)
    within(found[live], attention_scores(*wide(q, k), mask)[live], bounds.attention_scores(q, k)[live])
    assert (found[~live] < -1e38).all()
    context = do.attention_context(found, q)
    assert np.shares_memory(merge_heads(context), context)


@NEEDS_JIT
def test_threads_change_no_bit():
    """Of a large linear layer, and of a whole model's gradients."""
    need_threads(2)
    x, p, dy = operands(LARGE)
    one, two = Products(1), Products(2)
    equal(one.linear(x, p), two.linear(x, p))
    (dx, d), (dx_two, d_two) = (do.linear_backward(dy, x, p) for do in (one, two))
    for got, want in zip((dx, *d), (dx_two, *d_two), strict=True):
        equal(got, want)
    check_linear(one.linear, LARGE)
    check_linear_backward(one.linear_backward, LARGE)
    model, texts = dense("bert_question_answering").model, batch("bert_question_answering")
    dy = normal(0, *forward(model, texts).shape)
    found = []
    for threads in (1, 2):
        forwards, backwards = training(threads)
        by_id = gradients_of(model, texts, dy, forwards=forwards, backwards=backwards)
        found.append({name: by_id[id(array)] for name, array in named(model).items()})
    for name, gradient in found[0].items():
        equal(gradient, found[1][name])


def test_tiles_and_panels():
    """By their formulas."""
    steps, columns = 20, 70
    x, panels = normal(0, steps, columns), np.empty(2 * steps * 64, np.float32)
    products.panels_of_rows.emulated(x.ravel(), steps, columns, panels)
    tiles, sums = np.empty(12 * steps * 6, np.float32), np.empty(72, np.float32)
    products.tiles_of_columns.emulated(x.ravel(), steps, columns, tiles, sums)
    for s, c in np.ndindex(steps, columns):
        assert panels.reshape(2, steps, 64)[c // 64, s, c % 64] == x[s, c]
        assert tiles.reshape(12, steps, 6)[c // 6, s, c % 6] == x[s, c]
    assert not panels.reshape(2, steps, 64)[1, :, 6:].any()
