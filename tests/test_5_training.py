"""Rung 5: the kernels of training. Oracles: the backwards of ``refimpl.nn`` in f64, within the bound that each kernel
states; the three executions, and any number of threads, have equal bits. The op table: NumPy's own, within the sum of
what its operators may differ by, so it is compared operator by operator.
"""

from math import fsum

import numpy as np
import pytest
from test_1_arithmetic import equal, rng
from test_2_registers import JITTED, NEEDS_JIT, execution
from test_5_kernels import need_threads

from refimpl import bounds
from refimpl.kernels.training import adamw, clip
from refimpl.kernels.training import gelu_backward as gelu
from refimpl.kernels.training import layernorm_backward as norm
from refimpl.kernels.training import softmax_backward as soft
from refimpl.kernels.training.blas import linear
from refimpl.kernels.training.table import Rows, training
from refimpl.models.training.clip import multiply
from refimpl.nn import REFERENCE, Linear, Norm
from refimpl.nn.adamw import AdamW
from refimpl.nn.adamw import adamw as reference_adamw
from refimpl.nn.gelu import gelu_backward
from refimpl.nn.layernorm import layernorm_backward
from refimpl.nn.softmax import softmax, softmax_backward

WIDTHS = [3, 15, 16, 40, 384]
EPS = 1e-12
on_widths = pytest.mark.parametrize("d", WIDTHS)


def normal(seed, *shape):
    return rng(seed).normal(0, 1, shape).astype(np.float32)


def within(got, want, allowed):
    assert (np.abs(got - want) <= allowed).all(), (np.abs(got - want) / allowed).max()


def wide(*arrays):
    return [array.astype(np.float64) for array in arrays]


def check_gelu(version, d=40):
    dy, x = normal(0, 5, d), 4 * normal(1, 5, d)
    x.flat[:3] = 0, -12, 12
    out = np.zeros_like(x)
    version(dy.ravel(), x.ravel(), d, out.reshape(-1))
    within(out, gelu_backward(*wide(dy, x)), gelu.bound(dy, x))
    return out


def check_softmax(version, d=40):
    dy, y = normal(0, 5, d), softmax(3 * normal(1, 5, d))
    out = np.zeros_like(y)
    version(dy.ravel(), y.ravel(), d, out.reshape(-1))
    within(out, softmax_backward(*wide(dy, y)), soft.bound(dy, y))
    return out


def check_layernorm(version, d=40, rows=70):
    dy, x, weight = normal(0, rows, d), 2 * normal(1, rows, d) + 1, normal(2, d)
    out, sums = np.zeros_like(x), np.zeros((norm.CHUNKS, 2, d), np.float32)
    version(dy.ravel(), x.ravel(), d, np.float32(d), weight, np.float32(1e-3), out.reshape(-1), sums.reshape(-1))
    dx, want = layernorm_backward(*wide(dy, x), Norm(*wide(weight, weight), float(np.float32(1e-3))))
    found = out, *sums.sum(0)
    for got, exact, allowed in zip(found, (dx, want.weight, want.bias), norm.bound(dy, x, weight, 1e-3), strict=True):
        within(got, exact, allowed)
    return found


KERNELS = {
    gelu.gelu_backward_rows: check_gelu,
    soft.softmax_backward_rows: check_softmax,
    norm.layernorm_backward_rows: check_layernorm,
}


@pytest.mark.parametrize("source", KERNELS, ids=lambda source: source.__name__)
@on_widths
@pytest.mark.parametrize("target", JITTED)
def test_executions(source, d, target):
    for got, want in zip(
        KERNELS[source](execution(source, target), d), KERNELS[source](source.emulated, d), strict=True
    ):
        equal(got, want)


@NEEDS_JIT
def test_threads_and_shapes():
    """Of the table: any leading dimensions, bits that no number of threads changes. NaN stays in its own row; softmax
    takes it for the lowest number."""
    need_threads(2)
    dy, x, p = normal(0, 3, 37, 40), normal(1, 3, 37, 40), Norm(normal(2, 40), normal(3, 40), 1e-12)
    x[1, 5, 7] = np.nan
    one, two = Rows(1), Rows(2)
    for name, given in {
        "gelu": (x,),
        "gelu_backward": (dy, x),
        "softmax": (x,),
        "softmax_backward": (dy, np.abs(dy)),
        "layernorm": (x, p),
    }.items():
        found = getattr(one, name)(*given)
        equal(found, getattr(two, name)(*given))
        assert set(map(tuple, np.argwhere(np.isnan(found))[:, :2])) == (
            set() if name.startswith("softmax") else {(1, 5)}
        )
    (dx, d), (dx_two, d_two) = (rows.layernorm_backward(dy, x, p) for rows in (one, two))
    for got, want in ((dx, dx_two), (d.weight, d_two.weight), (d.bias, d_two.bias)):
        equal(got, want)


@NEEDS_JIT
def test_the_table_is_the_reference_with_other_rows():
    forwards, backwards = training(1)
    x, p = normal(0, 2, 9, 40), Linear(normal(1, 7, 40), normal(2, 7))
    within(linear(x, p), REFERENCE.linear(*wide(x), Linear(*wide(*p))), bounds.linear(*wide(x), *wide(*p)))
    changed = {name for name in forwards._fields if getattr(forwards, name) is not getattr(REFERENCE, name)}
    assert changed == {
        "add",
        "linear",
        "softmax",
        "gelu",
        "layernorm",
        "attention_scores",
        "attention_context",
    }
    assert backwards.softmax.__name__ == "softmax_backward"


@NEEDS_JIT
def test_adamw_in_place_has_the_bits_of_adamw():
    """Over several updates of arrays of more than one block."""
    need_threads(2)
    settings = AdamW(0.9, 0.99, 1e-7, 0.1)
    for threads in (1, 2):
        w, m, v = normal(0, 3, 5000), np.zeros((3, 5000), np.float32), np.zeros((3, 5000), np.float32)
        want, update = (w.copy(), m.copy(), v.copy()), adamw.in_place(threads)
        for t in (1, 2, 3):
            g = normal(t, 3, 5000)
            want = reference_adamw(want[0], g, want[1:], t, 0.01 / t, settings)
            given = update(w, g, (m, v), t, 0.01 / t, settings)
            assert given[0] is w
            for got, known in zip((w, m, v), want, strict=True):
                equal(got, known)
    with pytest.raises(ValueError, match="w, m or v is not contiguous"):
        update(w.T, w.T, (m.T, v.T), 1, 0.1, settings)


# --- clipping --------------------------------------------------------------------------------------------------------


def gradients_of(*sizes):
    return {str(i): normal(70 + i, size) for i, size in enumerate(sizes)}


@NEEDS_JIT
def test_the_global_norm_by_kernels():
    given = gradients_of(1, 7, 8, 4 * clip.CHUNK + 13) | {"matrix": normal(90, 5, 9), "huge": np.float32([3e30])}
    found = clip.global_norm(1)(given)
    exact = fsum(float(x) * float(x) for g in given.values() for x in g.ravel().tolist()) ** 0.5
    n = sum(g.size for g in given.values())
    assert abs(found - exact) <= bounds.gamma(n + 2, bounds.F64) * exact
    need_threads(2)
    assert clip.global_norm(2)(given) == found
    for bad in (np.inf, np.nan):
        assert not np.isfinite(clip.global_norm(1)({"a": np.float32([1, bad])}))
    with pytest.raises(TypeError, match="a has dtype float64; need float32"):
        clip.global_norm(1)({"a": np.ones(2)})


@NEEDS_JIT
def test_scaling_by_kernels_has_the_bits_of_numpy():
    given, want = gradients_of(3, clip.CHUNK + 5), gradients_of(3, clip.CHUNK + 5)
    turned = np.ones((4, 3), np.float32).T
    multiply(want | {"turned": np.ones((3, 4), np.float32)}, 1 / 3)
    clip.multiply(1)(given | {"turned": turned}, 1 / 3)
    for name, g in given.items():
        equal(g, want[name])
    equal(turned, np.full((3, 4), np.float32(1 / 3)))
