"""Rung 5: attention kernels. f32: each stage within its bound of the f64 reference, given the stage before it. INT8:
scores and context equal to the reference given their codes, probabilities within the bound. Equal bits everywhere.
"""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_1_arithmetic import equal, rng
from test_2_f32 import same
from test_2_registers import JITTED

from refimpl import bounds
from refimpl.kernels import attention as f32_kernel
from refimpl.kernels import attention_u8s8 as u8s8_kernel
from refimpl.kernels.attention_u8s8 import Heads
from refimpl.kernels.rowwise import softmax as softmax_module
from refimpl.kernels.simd.threefold import NATIVE, PORTABLE
from refimpl.nn.attention import attention_context, attention_scores
from refimpl.nn.softmax import softmax
from refimpl.quant import attention as quantized

F32, F64 = np.float32, np.float64

# B, H, T, E: fewer and more queries than a block, tails of 4 and 16 keys and numbers, one of each
SHAPES = [(1, 1, 1, 1), (2, 1, 3, 5), (1, 2, 4, 16), (2, 2, 17, 18), (1, 3, 22, 33)]
LARGE = [] if numba.config.DISABLE_JIT else [(1, 4, 130, 64)]


def mask_of(b, t, seed):
    """The first key stays; where there are two sequences the second loses its last half."""
    mask = (rng(seed).random((b, t)) < 0.8).astype(np.int64)
    mask[:, 0] = 1
    mask[1:, -(t // 2) :] = 0
    return mask


def f32_inputs(shape, seed):
    q, k, v = (rng(seed + i).normal(0, 2, shape).astype(F32) for i in range(3))
    return q, k, v, mask_of(shape[0], shape[2], seed)


def u8s8_inputs(shape, seed):
    """Codes of the whole range, the first query and key the most negative products, scales that leave no row sharp."""
    q = rng(seed).integers(0, 256, shape, np.uint8)
    k, v = rng(seed + 1).integers(-128, 128, (2, *shape), np.int8)
    q[..., 0, :], k[..., 0, :], v[..., 0, :] = 255, -128, 127
    scale = np.array(2 / (74 * shape[3] ** 0.25), F32)
    return Heads(q, k, v, np.array(scale * F32(0.5)), np.array(scale), np.array(0.03, F32)), mask_of(
        shape[0], shape[2], seed
    )


# --- the reference of the integers -----------------------------------------------------------------------------------


def test_integer_products_are_python_sums():
    x, _ = u8s8_inputs((1, 2, 3, 5), 1)
    scores = quantized.integer_scores(x.q, x.k)
    context = quantized.integer_context(x.q[..., :3], x.v)
    for h, i, j in np.ndindex(2, 3, 3):
        assert scores[0, h, i, j] == sum(
            (int(a) - 128) * int(b) for a, b in zip(x.q[0, h, i], x.k[0, h, j], strict=True)
        )
        want = sum(int(x.q[0, h, i, n]) * int(x.v[0, h, n, j]) for n in range(3))
        assert context[0, h, i, j] == want
    assert scores.dtype == context.dtype == np.int32


def check_quantize_probs(function):
    """Every border between two codes and its neighbours, and both ends."""
    borders = ((np.arange(255) + 0.5) / 255).astype(F32)
    p = np.concatenate([borders, np.nextafter(borders, F32(0)), np.nextafter(borders, F32(1)), np.array([0, 1], F32)])
    exact = p.astype(F64) * 255  # 32 bits: exact
    once = exact.astype(F32).astype(F64)
    equal(function(p), np.round(once).astype(np.uint8))


def test_quantize_probs():
    check_quantize_probs(quantized.quantize_probs)


def check_multipliers(scores, context):
    """Which product is rounded first can be seen in the last bit."""
    for seed in range(50):
        a, b = (np.array(x, F32) for x in rng(seed).uniform(0.001, 0.1, 2))
        assert scores(a, b, 48) == F32(F32(a * b) * F32(1 / np.sqrt(48)))
        assert context(a) == F32(F32(1 / 255) * a)


def test_multipliers():
    check_multipliers(quantized.scores_multiplier, quantized.context_multiplier)


def test_reference_rejects():
    x, mask = u8s8_inputs((1, 1, 3, 4), 1)
    one, acc = np.array(1, F32), np.zeros((1, 1, 3, 3), np.int32)
    wide = np.zeros((1, 1, 1, 65_794), np.int8)
    for error, message, run in (
        (TypeError, "q has dtype int8; need uint8", lambda: quantized.integer_scores(x.k, x.k)),
        (TypeError, "k has dtype uint8; need int8", lambda: quantized.integer_scores(x.q, x.q)),
        (ValueError, r"k has shape \(1, 1, 2, 4\)", lambda: quantized.integer_scores(x.q, x.k[:, :, 1:])),
        (ValueError, "sums of 65794 products; need", lambda: quantized.integer_scores(wide.view(np.uint8), wide)),
        (TypeError, "probs has dtype float64", lambda: quantized.quantize_probs(np.zeros(2))),
        (ValueError, "probs has an element outside 0 to 1", lambda: quantized.quantize_probs(np.full(2, 1.5, F32))),
        (ValueError, "probs has an element outside 0 to 1", lambda: quantized.quantize_probs(np.full(2, np.nan, F32))),
        (TypeError, "probs has dtype int8", lambda: quantized.integer_context(x.k, x.v)),
        (TypeError, "v has dtype uint8", lambda: quantized.integer_context(x.q[..., :3], x.q)),
        (ValueError, r"v has shape \(1, 1, 3, 4\)", lambda: quantized.integer_context(x.q, x.v)),
        (TypeError, "acc has dtype float32", lambda: quantized.scaled_scores(acc.astype(F32), F32(1), mask)),
        (ValueError, r"mask has shape \(1, 2\)", lambda: quantized.scaled_scores(acc, F32(1), mask[:, 1:])),
        (TypeError, "acc has dtype float32", lambda: quantized.scaled_context(acc.astype(F32), F32(1))),
        (TypeError, "q_scale has dtype float64", lambda: quantized.scores_multiplier(np.ones(()), one, 4)),
        (ValueError, "k_scale has the element 0.0", lambda: quantized.scores_multiplier(one, np.zeros((), F32), 4)),
        (ValueError, r"v_scale has shape \(1,\)", lambda: quantized.context_multiplier(one[None])),
    ):
        with pytest.raises(error, match=message):
            run()


# --- f32 -------------------------------------------------------------------------------------------------------------


def rows(x):
    return x.reshape(-1, x.shape[-1])


def check_attention(function, shapes=SHAPES):
    """function: (q, k, v, mask) -> Attention."""
    for seed, shape in enumerate(shapes):
        q, k, v, mask = f32_inputs(shape, seed)
        got = function(q, k, v, mask)
        exact = attention_scores(q.astype(F64), k.astype(F64), mask)
        live = np.broadcast_to(mask[:, None, None, :] != 0, exact.shape)
        assert (np.abs(got.scores - exact) <= bounds.attention_scores(q, k))[live].all()
        assert (got.scores[~live] <= 0.9 * np.finfo(F32).min).all()
        probs = softmax(rows(got.scores).astype(F64))
        assert (np.abs(rows(got.probs) - probs) <= softmax_module.bound(rows(got.scores))).all()
        assert not got.probs[~live].any()
        context = attention_context(got.probs.astype(F64), v.astype(F64))
        assert (np.abs(got.context - context) <= bounds.attention_context(got.probs, v)).all()


def test_emulated():
    check_attention(lambda *x: f32_kernel.call(f32_kernel.attention.emulated, *x))


@pytest.mark.parametrize("target", JITTED)
@pytest.mark.parametrize("threads", [1, 2])
def test_compiled(target, threads):
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip(f"numba has {numba.config.NUMBA_NUM_THREADS} thread here")
    check_attention(lambda *x: f32_kernel.run(target, *x, threads=threads), [*SHAPES, *LARGE])


SIZES = st.tuples(st.integers(0, 2), st.integers(1, 2), st.integers(1, 19), st.integers(1, 19))


@settings(max_examples=8)
@given(SIZES, st.integers(0, 2**20))
def test_equal_bits_on_any_shape(shape, seed):
    inputs, coded = f32_inputs(shape, seed), u8s8_inputs(shape, seed)
    want = f32_kernel.call(f32_kernel.attention.emulated, *inputs)
    want_coded = u8s8_kernel.call(u8s8_kernel.attention_u8s8.emulated, *coded)
    for target in (PORTABLE, NATIVE) if u8s8_kernel.attention_u8s8.runs_natively() else (PORTABLE,):
        for a, b in zip(f32_kernel.run(target, *inputs), want, strict=True):
            same(a, b)
        for a, b in zip(u8s8_kernel.run(target, *coded), want_coded, strict=True):
            equal(a, b)


def test_a_row_of_masked_keys_is_uniform():
    """As in the reference: the lowest number swallows every score."""
    q, k, v, _ = f32_inputs((1, 1, 4, 3), 1)
    got = f32_kernel.run(PORTABLE, q, k, v, np.zeros((1, 4), bool))
    assert (got.probs == 0.25).all()


# --- INT8 ------------------------------------------------------------------------------------------------------------


def check_attention_u8s8(function, shapes=SHAPES):
    """function: (Heads, mask) -> IntegerAttention."""
    for seed, shape in enumerate(shapes):
        x, mask = u8s8_inputs(shape, seed)
        got = function(x, mask)
        factor = quantized.scores_multiplier(x.q_scale, x.k_scale, shape[3])
        equal(got.scores, quantized.scaled_scores(quantized.integer_scores(x.q, x.k), factor, mask))
        probs, bound = softmax(rows(got.scores).astype(F64)), softmax_module.bound(rows(got.scores))
        assert (np.abs(rows(got.probs) - probs) <= bound).all()
        equal(got.codes, quantized.quantize_probs(got.probs))
        factor = quantized.context_multiplier(x.v_scale)
        equal(got.context, quantized.scaled_context(quantized.integer_context(got.codes, x.v), factor))


def test_emulated_u8s8():
    check_attention_u8s8(lambda *x: u8s8_kernel.call(u8s8_kernel.attention_u8s8.emulated, *x))


@pytest.mark.parametrize("target", JITTED)
@pytest.mark.parametrize("threads", [1, 2])
def test_compiled_u8s8(target, threads):
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip(f"numba has {numba.config.NUMBA_NUM_THREADS} thread here")
    check_attention_u8s8(lambda *x: u8s8_kernel.run(target, *x, threads=threads), [*SHAPES, *LARGE])


def test_operands_in_any_memory():
    """Heads are usually a transposed view (B, T, H, E)."""
    q, k, v, mask = f32_inputs((2, 3, 9, 8), 1)
    views = [np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2) for x in (q, k, v)]
    want = f32_kernel.call(f32_kernel.attention.emulated, q, k, v, mask)
    for a, b in zip(f32_kernel.run(PORTABLE, *views, mask != 0), want, strict=True):
        same(a, b)
    x, mask = u8s8_inputs((2, 3, 9, 8), 1)
    views = [np.ascontiguousarray(y.swapaxes(1, 2)).swapaxes(1, 2) for y in x[:3]]
    for a, b in zip(u8s8_kernel.run(PORTABLE, Heads(*views, *x[3:]), mask), u8s8_kernel.run(PORTABLE, x, mask), strict=True):  # fmt: skip  # noqa: E501
        equal(a, b)


# --- what is rejected ------------------------------------------------------------------------------------------------


def test_rejects():
    q, k, v, mask = f32_inputs((1, 2, 3, 4), 1)
    x, _ = u8s8_inputs((1, 2, 3, 4), 1)
    f32, u8s8 = f32_kernel.run, u8s8_kernel.run
    none = q[:, :, :0]
    for error, message, run in (
        (TypeError, "q has dtype float64; need float32", lambda: f32(PORTABLE, q.astype(F64), k, v, mask)),
        (ValueError, r"q has shape \(2, 3, 4\); need \(B, H, T, E\)", lambda: f32(PORTABLE, q[0], k, v, mask)),
        (ValueError, r"k has shape \(1, 1, 3, 4\)", lambda: f32(PORTABLE, q, k[:, 1:], v, mask)),
        (ValueError, r"v has shape \(1, 2, 3, 3\)", lambda: f32(PORTABLE, q, k, v[..., 1:], mask)),
        (ValueError, r"v is nan at \[0, 0, 0, 0\]", lambda: f32(PORTABLE, q, k, v * F32(np.nan), mask)),
        (TypeError, "mask has dtype float32; need an integer dtype", lambda: f32(PORTABLE, q, k, v, mask.astype(F32))),
        (ValueError, r"mask has shape \(1, 2\)", lambda: f32(PORTABLE, q, k, v, mask[:, 1:])),
        (
            ValueError,
            r"q has shape \(1, 2, 0, 4\); need at least",
            lambda: f32(PORTABLE, none, none, none, mask[:, :0]),
        ),
        (ValueError, "threads is 0", lambda: f32(PORTABLE, q, k, v, mask, 0)),
        (TypeError, "q has dtype int8; need uint8", lambda: u8s8(PORTABLE, x._replace(q=x.k), mask)),
        (TypeError, "v has dtype uint8; need int8", lambda: u8s8(PORTABLE, x._replace(v=x.q), mask)),
        (ValueError, r"k has shape \(1, 2, 2, 4\)", lambda: u8s8(PORTABLE, x._replace(k=x.k[:, :, 1:]), mask)),
        (
            ValueError,
            "v_scale has the element 0.0",
            lambda: u8s8(PORTABLE, x._replace(v_scale=np.zeros((), F32)), mask),
        ),
        (ValueError, r"mask has shape \(1, 2\)", lambda: u8s8(PORTABLE, x, mask[:, 1:])),
    ):
        with pytest.raises(error, match=message):
            run()


def test_rejects_sums_that_may_overflow():
    wide = np.zeros((1, 1, 1, 65_794), np.int8)
    one = np.array(1, F32)
    with pytest.raises(ValueError, match="need at most 65793 tokens and numbers"):
        u8s8_kernel.run(PORTABLE, Heads(wide.view(np.uint8), wide, wide, one, one, one), np.ones((1, 1), int))
