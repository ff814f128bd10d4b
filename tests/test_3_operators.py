"""Rung 3: operators. Oracle: the formula in f64, written otherwise than in refimpl, within the derived bound.

A ``check_*`` function takes the implementation under test, so that tests/mutants.py can hand it wrong ones.
"""

import math

import numpy as np
import pytest
from scipy.special import erfc
from test_1_arithmetic import onnxruntime_node, rng

from refimpl import bounds, check, nn
from refimpl.bounds import F64
from refimpl.nn.attention import attention_context, attention_scores, merge_heads, split_heads
from refimpl.nn.elementwise import add, relu, tanh
from refimpl.nn.embedding import embedding, position_embedding
from refimpl.nn.gelu import gelu
from refimpl.nn.layernorm import layernorm
from refimpl.nn.linear import linear
from refimpl.nn.mean_pooling import l2_normalize, mean_pool
from refimpl.nn.ops import REFERENCE, add_layernorm
from refimpl.nn.params import Linear, Norm
from refimpl.nn.pooler import first_token
from refimpl.nn.softmax import softmax
from refimpl.quant.linear import rescale

F32 = np.float32
LOWEST = np.finfo(F32).min


def normal(*shape, seed=0, mean=0.0, scale=1.0):
    return (mean + scale * rng(seed).normal(size=shape)).astype(F32)


def widen(value):
    """f32 arrays, also inside parameters, to f64; anything else as it is."""
    if isinstance(value, tuple):
        return type(value)(*map(widen, value))
    return value.astype(np.float64) if getattr(value, "dtype", None) == F32 else value


def inside(got, want, bound, dtype=F32):
    """Finite, of the right dtype and shape, and no farther from ``want`` than the bound, element by element."""
    assert got.dtype == dtype
    assert got.shape == want.shape == np.shape(bound)
    assert np.isfinite(got).all()
    error = np.abs(got.astype(np.float64) - want)
    assert (error <= bound).all(), f"error {error[error > bound].max()} outside its bound"


def judge(op, exact, bound, *args):
    """The f32 operator, and the same code in f64, against ``exact`` in f64, whose own rounding has a bound too."""
    wide = [widen(a) for a in args]
    want, own = exact(*wide), bound(*wide, u=F64)
    inside(op(*args), want, bound(*wide) + own)
    inside(op(*wide), want, 2 * own, np.float64)


# --- linear, attention, pooling --------------------------------------------------------------------------------------


def linear_bound(x, p, u=bounds.F32):
    return bounds.linear(x, p.weight, p.bias, u)


def check_linear(op):
    for n, m, k in [(1, 1, 1), (3, 5, 7), (2, 9, 65), (16, 1536, 384)]:
        p = Linear(normal(m, k, seed=1, scale=0.04), normal(m, seed=2))
        for x in (normal(n, k), normal(n, k, mean=100), normal(2, n, k, scale=1e-20)):
            judge(op, lambda x, p: np.einsum("...k,mk->...m", x, p.weight) + p.bias, linear_bound, x, p)
    cancelling = np.tile(np.array([1e6, 1, -1e6, 1], F32), (2, 16))
    p = Linear(np.ones((3, 64), F32), np.zeros(3, F32))
    judge(op, lambda x, p: np.full((2, 3), 32.0), linear_bound, cancelling, p)


def exact_scores(q, k):
    return np.einsum("bhie,bhje->bhij", q, k) / math.sqrt(q.shape[-1])


def check_attention_scores(op):
    """Every key unmasked against the bound; masked keys end at the bottom, others keep their bits."""
    for b, h, t, e in [(1, 1, 1, 1), (2, 3, 5, 7), (1, 2, 17, 64), (1, 12, 64, 32)]:
        q, k = normal(b, h, t, e), normal(b, h, t, e, seed=1, scale=9)
        full = np.ones((b, t), np.int64)
        judge(lambda q, k, full=full: op(q, k, full), exact_scores, bounds.attention_scores, q, k)
        mask = np.where(np.arange(t) < (t + 1) // 2, full, 0)
        masked, plain = op(q, k, mask), op(q, k, full)
        keys = np.broadcast_to((mask != 0)[:, None, None, :], masked.shape)
        np.testing.assert_array_equal(masked[keys], plain[keys])
        assert (masked[~keys] == LOWEST).all()


def check_attention_context(op):
    for b, h, t, e in [(1, 1, 1, 1), (2, 3, 5, 7), (1, 12, 64, 32)]:
        probs = softmax(normal(b, h, t, t, scale=3))
        v = normal(b, h, t, e, seed=1, mean=5)
        judge(op, lambda p, v: np.einsum("bhij,bhje->bhie", p, v), bounds.attention_context, probs, v)


def exact_mean(x, mask):
    rows = [[x[b, mask[b] != 0, d] for d in range(x.shape[2])] for b in range(x.shape[0])]
    return np.array([[math.fsum(v) / max(len(v), 1) for v in row] for row in rows])


def check_mean_pool(op):
    for b, t, d in [(1, 1, 1), (3, 7, 5), (2, 33, 384)]:
        x = normal(b, t, d, mean=2)
        for mask in (np.ones((b, t), np.int64), rng(b).integers(0, 2, (b, t)), np.zeros((b, t), bool)):
            judge(op, exact_mean, bounds.mean_pool, x, mask)


def check_l2_normalize(op):
    def exact(x):
        return np.array([[v / max(math.sqrt(math.fsum(w * w for w in row)), 1e-12) for v in row] for row in x])

    for x in (normal(3, 384), normal(3, 1), normal(2, 65, mean=1e4), normal(2, 7, scale=1e-20), np.zeros((1, 3), F32)):
        judge(op, exact, bounds.l2_normalize, x)


def check_softmax(op):
    def exact(x):
        e = [[math.exp(v - max(row)) for v in row] for row in x.reshape(-1, x.shape[-1]).tolist()]
        return np.array([[v / math.fsum(row) for v in row] for row in e]).reshape(x.shape)

    cases = [normal(2, 3, n, seed=n, scale=s) for n in (1, 2, 17, 128) for s in (0.1, 1, 30, 1e4)]
    masked = normal(2, 9, scale=5)
    masked[0, 3:] = LOWEST
    masked[1, :] = LOWEST
    cases += [masked, normal(4, 33, mean=1e6), np.linspace(-110, 0, 111, dtype=F32)[None]]
    for x in cases:
        judge(op, exact, bounds.softmax, x)


# --- layer normalization ---------------------------------------------------------------------------------------------


def exact_layernorm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return p.weight * centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + p.eps) + p.bias


def norm_bound(x, p, u=bounds.F32):
    return bounds.layernorm(x, p.weight, p.eps, p.bias, u=u)


def norm_parameters(d, eps=1e-12):
    return Norm(normal(d, seed=5, mean=1, scale=0.3), normal(d, seed=6), eps)


def layernorm_cases():
    """Ordinary rows, rows whose variance is near eps, and rows whose mean makes the one-pass variance cancel."""
    for d in (2, 3, 65, 384, 768):
        for mean, scale, eps in [(0, 1, 1e-12), (0, 1e-6, 1e-12), (0, 3e-3, 1e-5), (0.5, 1, 1e-5), (10, 1, 1e-12)]:
            x = normal(4, d, seed=d, mean=mean, scale=scale)
            x[0, 0] += 40 * scale  # an outlier, as BERT has
            yield x, norm_parameters(d, eps)


def check_layernorm(op):
    for x, p in layernorm_cases():
        judge(op, exact_layernorm, norm_bound, x, p)


def check_add_layernorm(op):
    for x, p in layernorm_cases():
        residual = normal(*x.shape, seed=9) - x / 2
        judge(op, lambda x, r, p: exact_layernorm(x + r, p), bounds.add_layernorm, x, residual, p)


def one_pass_layernorm(x, p):
    """The other formula that engines use: its errors must be inside the same bound."""
    mean = x.mean(-1, keepdims=True)
    variance = (x * x).mean(-1, keepdims=True) - mean * mean
    return (x - mean) / np.sqrt(variance + x.dtype.type(p.eps)) * p.weight + p.bias


def test_one_pass_variance_is_inside_the_bound():
    check_layernorm(one_pass_layernorm)


def test_the_layernorm_bound_is_infinite_where_one_pass_loses_the_variance():
    x, p = normal(2, 384, mean=1e4), norm_parameters(384)
    assert np.isinf(norm_bound(widen(x), p)).all()
    assert np.isfinite(norm_bound(normal(2, 384, mean=10), p)).all()


def test_layernorm_of_a_constant_row_is_the_bias():
    for d in (1, 4, 384):
        p = norm_parameters(d)
        np.testing.assert_array_equal(layernorm(np.full((2, d), 3, F32), p), np.tile(p.bias, (2, 1)))


# --- elementwise -----------------------------------------------------------------------------------------------------

LINE = np.concatenate([np.linspace(-14, 14, 5601), [-1e30, -1e4, -40, 40, 1e4], [-1e-30, 0, 1e-30, 1e-4]]).astype(F32)


def check_gelu(op):
    judge(op, lambda x: 0.5 * x * erfc(-x / math.sqrt(2)), bounds.gelu, LINE)


def check_tanh(op):
    judge(op, lambda x: np.array([math.tanh(v) for v in x]), bounds.tanh, LINE)


def check_relu(op):
    np.testing.assert_array_equal(op(LINE), [max(v, 0) for v in LINE.tolist()])


def check_add(op):
    x, y = normal(5, 7, scale=1e5), normal(5, 7, seed=1, scale=1e-5)
    judge(op, lambda x, y: x + y, bounds.add, x, y)
    np.testing.assert_array_equal(op(F32([2**24, 1]), F32([1, -1])), [2**24, 0])


CHECKS = {
    "linear": (linear, check_linear),
    "attention_scores": (attention_scores, check_attention_scores),
    "attention_context": (attention_context, check_attention_context),
    "softmax": (softmax, check_softmax),
    "layernorm": (layernorm, check_layernorm),
    "add_layernorm": (add_layernorm, check_add_layernorm),
    "gelu": (gelu, check_gelu),
    "tanh": (tanh, check_tanh),
    "relu": (relu, check_relu),
    "add": (add, check_add),
    "mean_pool": (mean_pool, check_mean_pool),
    "l2_normalize": (l2_normalize, check_l2_normalize),
}


@pytest.mark.parametrize("name", CHECKS)
def test_operator(name):
    function, check_function = CHECKS[name]
    check_function(function)
    assert getattr(REFERENCE, name) is function


# --- the bounds themselves -------------------------------------------------------------------------------------------


def test_gamma():
    assert bounds.gamma(0) == 0
    for n in (1, 10, 1000, 10**6):  # the bound of lemma 3.1: (1 + u)**n - 1 <= gamma(n), and not much more
        reached = math.expm1(n * math.log1p(bounds.F32))
        assert reached <= bounds.gamma(n) <= 1.1 * reached
    with pytest.raises(ValueError, match="n is 16777216; need n u < 1, which is n < 16777216"):
        bounds.gamma(2**24)


@pytest.mark.parametrize("order", ["forward", "backward", "by size"])
def test_linear_bound_holds_for_one_sum_at_a_time(order):
    """np.cumsum adds strictly from left to right in f32: the worst of the usual orders."""
    x, p = normal(4, 3000, mean=3), Linear(normal(2, 3000, seed=1, mean=1), normal(2, seed=2))
    for m in range(2):
        terms = x * p.weight[m]
        terms = {"forward": terms, "backward": terms[:, ::-1], "by size": np.sort(terms)}[order]
        got = np.cumsum(terms, axis=1, dtype=F32)[:, -1] + p.bias[m]
        inside(got, (widen(x) @ widen(p.weight[m]) + p.bias[m]), linear_bound(x, p)[:, m])


@pytest.mark.parametrize("size", [1e-3, 0.1])
def test_bounds_leave_room_for_an_error_of_the_input(size):
    """Errors of all signs stay inside the bounds, and not inside those that know nothing of them."""
    x, y, v = normal(1, 4, 33, 33, scale=3), normal(1, 4, 33, 33, seed=2), normal(1, 4, 33, 8, seed=1)
    p = norm_parameters(33)
    masked = np.where((x > 3) & (np.arange(33) > 20), LOWEST, x)
    for op, (at, *rest), bound in [
        (gelu, (x,), lambda e: bounds.gelu(x, x_error=e)),
        (softmax, (masked,), lambda e: bounds.softmax(masked, x_error=np.where(masked == LOWEST, 1e31, e))),
        (attention_context, (softmax(x), v), lambda e: bounds.attention_context(softmax(x), v, probs_error=e)),
        (add_layernorm, (x, y, p), lambda e: bounds.add_layernorm(x, y, p, x_error=e)),
    ]:
        signs = [np.sign(normal(*at.shape, seed=seed, mean=9 * (seed == 0))) for seed in range(9)]
        found, exact = [op(at + F32(0.99 * size) * sign, *rest) for sign in signs], op(*map(widen, (at, *rest)))
        for got in found:
            inside(got, exact, bound(size))
        assert (np.abs(np.array(found) - exact) > bound(0.0)).any()


def test_embedding_sum_bound():
    word, position, token_type = (normal(3, 9, seed=s, scale=10.0**s) for s in range(3))
    bound = bounds.embedding_sum(word, position, token_type)
    exact = widen(word) + widen(position) + widen(token_type)
    inside(word + position + token_type, exact, bound)
    inside(word + (position + token_type), exact, bound)
    assert (bounds.embedding_sum(word) == 0).all()
    assert bounds.relu(word).tolist() == np.zeros((3, 9)).tolist()


def test_rescale_bound_holds_for_other_orders():
    acc = rng().integers(-(2**30), 2**30, (50, 6)).astype(np.int32)
    x_scale, w_scale, bias = F32(0.0371)[...], normal(6, mean=1, scale=0.1), normal(6, scale=1e6)
    exact = acc * (float(x_scale) * widen(w_scale)) + bias
    bound = bounds.rescale(acc, x_scale, w_scale, bias)
    f32 = acc.astype(F32)
    inside(rescale(acc, x_scale, w_scale, bias), exact, bound)
    inside(f32 * x_scale * w_scale + bias, exact, bound)
    inside(f32 * w_scale * x_scale + bias, exact, bound)
    inside((f32 * (x_scale * w_scale)).astype(np.float64) + bias, exact, bound, np.float64)  # a fused addition
    assert (np.abs(acc * np.float64(x_scale) * w_scale * F32(1.00001) + bias - exact) > bound).any()


def test_flushing_to_zero_is_inside_the_bounds():
    x, p = normal(3, 5, scale=1e-20), Linear(normal(2, 5, seed=1, scale=1e-20), np.zeros(2, F32))
    exact = widen(x) @ widen(p.weight).T
    inside(np.zeros((3, 2), F32), exact, linear_bound(x, p))
    x = F32([[0, -88, -95, -103, -200]])
    inside(F32([[1, 0, 0, 0, 0]]), np.exp(widen(x)), bounds.softmax(x))


# --- facts -----------------------------------------------------------------------------------------------------------


def test_gelu_values():
    """x Phi(x) with Phi(1) = 0.8413447460685429, from any table of the normal distribution."""
    x, want = np.array([-1.0, 0.0, 1.0]), np.array([-0.15865525393145707, 0, 0.8413447460685429])
    inside(gelu(x), want, bounds.gelu(x, F64), np.float64)


def test_softmax_facts():
    np.testing.assert_array_equal(softmax(np.zeros((1, 4), F32)), np.full((1, 4), 0.25))
    np.testing.assert_array_equal(softmax(np.log(F32([[1]]))), [[1]])
    x = normal(5, 100, scale=20)
    assert (np.abs(softmax(x).sum(-1, dtype=np.float64) - 1) <= bounds.softmax(x).sum(-1)).all()


def test_masked_keys_have_probability_0_and_a_row_of_padding_is_finite():
    q, k = normal(2, 3, 4, 8), normal(2, 3, 4, 8, seed=1, scale=50)
    mask = np.array([[1, 1, 0, 0], [0, 0, 0, 0]])
    probs = softmax(attention_scores(q, k, mask))
    assert (probs[0, :, :, 2:] == 0).all()
    assert (probs[0, :, :, :2] > 0).any(-1).all()
    np.testing.assert_array_equal(probs[1], np.full((3, 4, 4), 0.25))
    np.testing.assert_array_equal(attention_scores(q, k, mask), attention_scores(q, k, mask.astype(bool)))


def test_heads_and_tokens():
    x = normal(2, 3, 12)
    heads = split_heads(x, 4)
    assert heads.shape == (2, 4, 3, 3)
    assert heads[1, 2, 0].tolist() == x[1, 0, 6:9].tolist()
    assert np.shares_memory(heads, x)
    np.testing.assert_array_equal(merge_heads(heads), x)
    np.testing.assert_array_equal(first_token(x), x[:, 0])


def test_embeddings_are_copies_of_rows():
    table = normal(5, 3)
    np.testing.assert_array_equal(embedding(np.array([[4, 0]]), table), table[None, [4, 0]])
    np.testing.assert_array_equal(position_embedding(np.zeros((2, 4), int), table), table[None, :4])


def tiny_layer(d=8, f=16):
    def p(m, k, seed):
        return Linear(normal(m, k, seed=seed, scale=0.3), normal(m, seed=seed + 50))

    norms = norm_parameters(d), norm_parameters(d)
    return nn.EncoderLayer(*(p(d, d, i) for i in range(4)), norms[0], p(f, d, 5), p(d, f, 6), norms[1])


def test_encoder_layer():
    """Post-norm wiring, to the bit; what stands at padded positions changes no other token; the taps' names."""
    x, p, seen = normal(2, 7, 8), tiny_layer(), nn.Recorder()
    mask = np.array([[1] * 5 + [0] * 2, [1] * 7])
    y = nn.encoder_layer(x, mask, p, 2, REFERENCE, seen)
    q, k, v = (split_heads(linear(x, w), 2) for w in (p.q, p.k, p.v))
    context = merge_heads(attention_context(softmax(attention_scores(q, k, mask)), v))
    attended = layernorm(x + linear(context, p.attention_output), p.attention_norm)
    hidden = linear(gelu(linear(attended, p.intermediate)), p.output)
    np.testing.assert_array_equal(y, layernorm(attended + hidden, p.output_norm))

    other = np.where(mask[..., None] != 0, x, F32(9))
    kept = mask != 0
    np.testing.assert_array_equal(nn.encoder_layer(other, mask, p, 2, REFERENCE)[kept], y[kept])
    names = "q k v scores probs context attention_output attention_norm intermediate gelu output output_norm"
    assert list(seen.values) == names.split()
    np.testing.assert_array_equal(seen.values["output_norm"], y)


def test_pooler():
    x, p, seen = normal(2, 3, 4), Linear(normal(4, 4, seed=1), normal(4, seed=2)), nn.Recorder()
    np.testing.assert_array_equal(nn.pooler(x, p, REFERENCE, seen), np.tanh(linear(x[:, 0], p)))
    assert list(seen.values) == ["pooler.linear", "pooler"]


# --- ONNX Runtime's operators are inside the bounds -------------------------------------------------------------------


@pytest.mark.parametrize("d", [3, 65, 384])
@pytest.mark.parametrize("mean", [0, 10])
def test_onnxruntime_layernorm(d, mean):
    x, p = normal(8, d, mean=mean), norm_parameters(d)
    got = onnxruntime_node("LayerNormalization", {"x": x, "w": p.weight, "b": p.bias}, axis=-1, epsilon=p.eps)
    inside(got, exact_layernorm(widen(x), widen(p)), norm_bound(x, p))


@pytest.mark.parametrize(("op", "check_function"), [("Gelu", check_gelu), ("Tanh", check_tanh)])
def test_onnxruntime_function(op, check_function):
    check_function(lambda x: onnxruntime_node(op, {"x": x}) if x.dtype == F32 else CHECKS[op.lower()][0](x))


def test_onnxruntime_softmax():
    check_softmax(lambda x: onnxruntime_node("Softmax", {"x": x}, axis=-1))


def test_onnxruntime_gemm():
    def gemm(x, p):
        y = onnxruntime_node("Gemm", {"x": x.reshape(-1, x.shape[-1]), "w": p.weight, "b": p.bias}, transB=1)
        return y.reshape(*x.shape[:-1], -1)

    check_linear(gemm)


# --- errors ----------------------------------------------------------------------------------------------------------

X, MASK = np.zeros((2, 3, 4), F32), np.ones((2, 3), int)
Q, W, V = np.zeros((2, 1, 3, 4), F32), np.zeros((5, 4), F32), np.zeros(4, F32)
ERRORS = [
    (lambda: check.dtype("x", [1], F32), TypeError, "x is list; need an ndarray of float32"),
    (
        lambda: check.dtype("x", np.zeros(1, int), *check.FLOATS),
        TypeError,
        "x has dtype int64; need float32 or float64",
    ),
    (lambda: check.shape("x", V, (3,)), ValueError, r"x has shape \(4,\); need \(3,\)"),
    (lambda: check.shape("x", V, (4, "K")), ValueError, r"x has shape \(4,\); need \(4, K\)"),
    (lambda: check.last_dim("x", np.array(1), 2), ValueError, r"x has shape \(\); need \(..., 2\)"),
    (lambda: check.finite("x", np.array([[1, -np.inf]])), ValueError, r"x is -inf at \[0, 1\]; need finite numbers"),
    (lambda: check.positive("x", np.array([1.0, -2])), ValueError, "x has the element -2.0; need every element > 0"),
    (lambda: check.positive("x", np.array([np.nan])), ValueError, r"x is nan at \[0\]; need finite numbers"),
    (lambda: check.fraction("x", 1.01), ValueError, "x is 1.01; need 0 to 1"),
    (lambda: linear(X, Linear(W.astype(float), V)), TypeError, "weight has dtype float64; need float32"),
    (lambda: linear(X, Linear(W, np.zeros(5))), TypeError, "bias has dtype float64; need float32"),
    (lambda: linear(X.astype(int), Linear(W, V)), TypeError, "x has dtype int64; need float32 or float64"),
    (lambda: linear(X, Linear(V, V)), ValueError, r"weight has shape \(4,\); need \(M, K\)"),
    (lambda: linear(X, Linear(W, V)), ValueError, r"bias has shape \(4,\); need \(5,\)"),
    (lambda: linear(X[..., :3], Linear(W, W[:, 0])), ValueError, r"x has shape \(2, 3, 3\); need \(..., 4\)"),
    (lambda: layernorm(X, Norm(np.zeros(4), V, 0)), TypeError, "weight has dtype float64; need float32"),
    (lambda: layernorm(X, Norm(V, np.zeros(4), 0)), TypeError, "bias has dtype float64; need float32"),
    (lambda: layernorm(X, Norm(W, V, 0)), ValueError, r"weight has shape \(5, 4\); need \(D,\)"),
    (lambda: layernorm(X, Norm(V, V[:3], 0)), ValueError, r"bias has shape \(3,\); need \(4,\)"),
    (lambda: layernorm(X[..., :3], Norm(V, V, 0)), ValueError, r"x has shape \(2, 3, 3\); need \(..., 4\)"),
    (lambda: add(X, X.astype(float)), TypeError, "y has dtype float64; need float32"),
    (lambda: split_heads(V, 1), ValueError, r"x has shape \(4,\); need \(B, T, D\)"),
    (lambda: split_heads(X, 3), ValueError, r"x has shape \(2, 3, 4\); need a last dimension that 3 heads divide"),
    (lambda: merge_heads(X), ValueError, r"x has shape \(2, 3, 4\); need \(B, H, T, E\)"),
    (lambda: attention_scores(Q, Q.astype(float), MASK), TypeError, "k has dtype float64; need float32"),
    (lambda: attention_scores(Q, Q[:1], MASK), ValueError, r"k has shape \(1, 1, 3, 4\); need \(2, 1, 3, 4\)"),
    (lambda: attention_scores(Q, Q, MASK[:1]), ValueError, r"mask has shape \(1, 3\); need \(2, 3\)"),
    (lambda: attention_context(Q, Q.astype(float)), TypeError, "v has dtype float64; need float32"),
    (lambda: attention_context(Q, Q), ValueError, r"v has shape \(2, 1, 3, 4\); need \(2, 1, 4, E\)"),
    (lambda: mean_pool(V, MASK), ValueError, r"x has shape \(4,\); need \(B, T, D\)"),
    (lambda: mean_pool(X, MASK[:, :2]), ValueError, r"mask has shape \(2, 2\); need \(2, 3\)"),
    (lambda: first_token(V), ValueError, r"x has shape \(4,\); need \(B, T, D\)"),
    (lambda: embedding(np.zeros((1, 1)), W), TypeError, "ids has dtype float64; need an integer dtype"),
    (lambda: embedding([[1]], W), TypeError, "ids has dtype list; need an integer dtype"),
    (lambda: embedding(np.zeros(3, int), W), ValueError, r"ids has shape \(3,\); need \(B, T\)"),
    (lambda: embedding(np.array([[0, 5]]), W), ValueError, r"ids is 5 at \[0, 1\]; need 0 to 4"),
    (lambda: embedding(np.array([[-1]]), W), ValueError, r"ids is -1 at \[0, 0\]; need 0 to 4"),
    (lambda: embedding(MASK, W.astype(int)), TypeError, "table has dtype int64; need float32 or float64"),
    (lambda: embedding(MASK, V), ValueError, r"table has shape \(4,\); need \(V, D\)"),
    (lambda: position_embedding(np.zeros((1, 6), int), W), ValueError, "ids has 6 tokens; need at most 5, the model's"),
]
ERRORS += [
    (lambda op=op: op(np.zeros(4, int)), TypeError, "x has dtype int64; need float32 or float64")
    for op in (gelu, tanh, relu, softmax, l2_normalize)
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
