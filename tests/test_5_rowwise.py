"""Rung 5: row-wise f32 kernels. Oracle: the function in refimpl, in f64, within the bound that the kernel states; the
three executions have equal bits. The parts exp and erf are measured on their own.
"""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf as exact_erf
from test_1_arithmetic import equal, rng
from test_2_f32 import same
from test_2_registers import JITTED, execution

from refimpl import bounds
from refimpl.kernels import cpu
from refimpl.kernels.rowwise import erf as erf_module
from refimpl.kernels.rowwise import exp as exp_module
from refimpl.kernels.rowwise import gelu as gelu_module
from refimpl.kernels.rowwise.add_layernorm import ADD_LAYERNORM
from refimpl.kernels.rowwise.gelu import GELU, gelu
from refimpl.kernels.rowwise.gelu_u8_table import GELU_U8_TABLE, table
from refimpl.kernels.rowwise.layernorm import LAYERNORM
from refimpl.kernels.rowwise.quantize import QUANTIZE_ROWS
from refimpl.kernels.rowwise.softmax import SOFTMAX
from refimpl.kernels.simd.instructions.f32 import vmovups_load, vmovups_store
from refimpl.kernels.simd.threefold import NATIVE, PORTABLE, kernel
from refimpl.nn.gelu import gelu as gelu_oracle
from refimpl.nn.params import Norm
from refimpl.quant.symmetric import dequantize_activation, quantize_activation

F32, U = np.float32, 2.0**-24
exp, erf_sqrt_half = exp_module.exp, erf_module.erf_sqrt_half
ROW_KERNELS = [QUANTIZE_ROWS, SOFTMAX, GELU, LAYERNORM, ADD_LAYERNORM, GELU_U8_TABLE]
by_name = pytest.mark.parametrize("kernel", ROW_KERNELS, ids=[kernel.name for kernel in ROW_KERNELS])
on_targets = pytest.mark.parametrize("target", JITTED)


# --- the parts -------------------------------------------------------------------------------------------------------


@kernel
def exp_all(x, out):
    for at in numba.prange(x.size // 16):
        vmovups_store(out, 16 * at, exp(vmovups_load(x, 16 * at)))


@kernel
def erf_all(x, out):
    for at in numba.prange(x.size // 16):
        vmovups_store(out, 16 * at, erf_sqrt_half(vmovups_load(x, 16 * at)))


@kernel
def gelu_all(x, out):
    for at in numba.prange(x.size // 16):
        vmovups_store(out, 16 * at, gelu(vmovups_load(x, 16 * at)))


def apply(compiled, x):
    out = np.empty_like(x)
    compiled(x, out)
    return out


def check_exp(function):
    """EXP_ULPS, and 2**-150 more below the normal numbers; 1 and 0 where they are exact."""
    for x in dense(104.5, 88):
        exact = np.exp(x.astype(np.float64))
        assert (np.abs(function(x) - exact) <= 2 * exp_module.EXP_ULPS * U * exact + 2.0**-150).all()
    ends = np.array([0, -0.0, -104, -105, -3e38, -np.inf, *[0] * 10], F32)
    assert function(ends).tolist() == [1, 1, 0, 0, 0, 0, *[1] * 10]


def check_erf(function):
    for x in dense(8, 8):
        exact = exact_erf(x.astype(np.float64) / 2**0.5)
        got = function(x)
        tiny = 2.0**-149
        assert (np.abs(got - exact) <= 2 * erf_module.ERF_ULPS * U * np.abs(exact) + tiny).all()
        assert np.abs(got).max() <= 1
        same(function(-x), -got)
    signs = np.repeat(np.array([1, -1, 1, -1], F32), 4)
    same(function(signs * np.repeat(np.array([32**0.5, 3e38], F32), 8)), signs)


def check_gelu(function):
    for x in dense(8, 8):
        assert (np.abs(function(x) - gelu_oracle(x.astype(np.float64))) <= gelu_module.bound(x)).all()
    large = np.repeat(np.array([5.7, 3e38, -5.7, -3e38], F32), 4)
    same(function(large), np.where(large > 0, large, F32(0)))


def dense(low, high, n=2**15):
    """Even steps in value, and in exponent, on both sides of 0."""
    yield np.linspace(-low, high, n, dtype=F32)
    for sign, limit in ((-1, low), (1, high)):
        yield (sign * 2.0 ** np.linspace(-149, np.log2(limit), n)).astype(F32)


def test_exp():
    check_exp(lambda x: apply(exp_all.compiled(PORTABLE), x))


def test_erf():
    check_erf(lambda x: apply(erf_all.compiled(PORTABLE), x))


def test_gelu():
    check_gelu(lambda x: apply(gelu_all.compiled(PORTABLE), x))


PARTS = {exp_all: (104.5, 88), erf_all: (8, 8), gelu_all: (8, 8)}


@on_targets
@pytest.mark.parametrize("source", PARTS, ids=lambda source: source.__name__)
def test_the_parts_have_equal_bits(source, target):
    for x in dense(*PARTS[source], n=4096):
        same(apply(execution(source, target), x), apply(source.emulated, x))


def every_f32(low, high):
    """All f32 in low ... high, both positive, by chunks."""
    first, last = (int(F32(limit).view(np.int32)) for limit in (low, high))
    for start in range(first, last + 1, 2**22):
        yield np.arange(start, start + 2**22, dtype=np.int32).view(F32)


@pytest.mark.slow
def test_exp_on_every_f32():
    run = exp_all.compiled(PORTABLE)
    for x in every_f32(2**-26, 105):
        exact = np.exp(-x.astype(np.float64))
        assert (np.abs(apply(run, -x) - exact) <= 2 * exp_module.EXP_ULPS * U * exact + 2.0**-150).all()


@pytest.mark.slow
def test_erf_on_every_f32():
    """It is odd by construction; below 2**-26 it is linear."""
    run = erf_all.compiled(PORTABLE)
    for x in every_f32(2**-26, 8):
        exact = exact_erf(x.astype(np.float64) / 2**0.5)
        assert (np.abs(apply(run, x) - exact) <= 2 * erf_module.ERF_ULPS * U * exact).all()


@pytest.mark.slow
def test_gelu_on_every_f32():
    run = gelu_all.compiled(PORTABLE)
    for magnitude in every_f32(2**-26, 8):
        for x in (magnitude, -magnitude):
            assert (np.abs(apply(run, x) - gelu_oracle(x.astype(np.float64))) <= gelu_module.bound(x)).all()


# --- the kernels -----------------------------------------------------------------------------------------------------

SHAPES = [(0, 3), (1, 1), (2, 15), (3, 16), (2, 17), (5, 33), (1, 64), (2, 384)]


def numbers(shape, seed, spread=1.0):
    return rng(seed).normal(0, spread, shape).astype(F32)


def quantize_inputs(shape, seed):
    """Half of them on the border between two codes, some far outside, and scales that no reciprocal gets right."""
    scale = np.array(rng(seed).uniform(0.001, 0.1), F32)
    x = numbers(shape, seed, 40 * scale)
    on_border = ((rng(seed).integers(-140, 140, shape) + 0.5) * np.float64(scale)).astype(F32)
    return np.where(rng(seed + 1).random(shape) < 0.5, on_border, x), scale


def softmax_inputs(shape, seed):
    """Scores of attention; some masked, as lowest numbers; one row of which all is masked."""
    x = numbers(shape, seed, 20)
    x[rng(seed).random(shape) < 0.2] = np.finfo(F32).min
    x[-1:] = np.finfo(F32).min
    return (x,)


def gelu_inputs(shape, seed):
    return (numbers(shape, seed, 3),)


def norm(d, seed):
    return Norm(numbers((d,), seed), numbers((d,), seed + 1), 1e-12)


def layernorm_inputs(shape, seed):
    """Means that dwarf the deviations in every second row; one constant row."""
    x = numbers(shape, seed)
    x[::2] += 100
    x[-1:] = 3
    return x, norm(shape[1], seed)


def add_layernorm_inputs(shape, seed):
    x, p = layernorm_inputs(shape, seed)
    return x, numbers(shape, seed + 7, 2), p


def table_inputs(shape, seed):
    return rng(seed).integers(0, 256, shape, np.uint8), table(np.array(0.05, F32), np.array(0.02, F32))


INPUTS = {
    "quantize_rows": quantize_inputs,
    "softmax": softmax_inputs,
    "gelu": gelu_inputs,
    "layernorm": layernorm_inputs,
    "add_layernorm": add_layernorm_inputs,
    "gelu_u8_table": table_inputs,
}


def check_row_kernel(kernel, function):
    """function: the kernel's inputs -> result."""
    for seed, shape in enumerate(SHAPES):
        inputs = INPUTS[kernel.name](shape, seed)
        got = function(*inputs)
        assert got.shape == shape
        with np.errstate(invalid="ignore"):
            assert (np.abs(got.astype(np.float64) - kernel.oracle(*inputs)) <= kernel.bound(*inputs)).all()


def check_quantize_rows(function):
    check_row_kernel(QUANTIZE_ROWS, function)


def check_softmax_rows(function):
    check_row_kernel(SOFTMAX, function)
    masked = np.array([[1, np.finfo(F32).min, 2]], F32)
    assert function(masked)[0, 1] == 0
    assert function(np.zeros((1, 4), F32)).tolist() == [[0.25] * 4]


def check_layernorm_rows(function):
    check_row_kernel(LAYERNORM, function)


def check_add_layernorm_rows(function):
    check_row_kernel(ADD_LAYERNORM, function)


def check_gelu_u8_table(function):
    """Every code, by the chain itself."""
    for x_scale, y_scale in ((0.05, 0.02), (0.01, 0.03), (1.0, 0.5)):
        scales = np.array(x_scale, F32), np.array(y_scale, F32)
        codes = np.arange(256, dtype=np.uint8).reshape(4, 64)
        x = dequantize_activation(codes, scales[0]).astype(np.float64)
        equal(function(codes, *scales), quantize_activation(gelu_oracle(x).astype(F32), scales[1]))


CHECKS = {
    "quantize_rows": check_quantize_rows,
    "softmax": check_softmax_rows,
    "gelu": lambda function: check_row_kernel(GELU, function),
    "layernorm": check_layernorm_rows,
    "add_layernorm": check_add_layernorm_rows,
    "gelu_u8_table": lambda function: check_gelu_u8_table(lambda codes, *scales: function(codes, table(*scales))),
}


@by_name
def test_emulated(kernel):
    CHECKS[kernel.name](kernel.emulated)


@by_name
@on_targets
@pytest.mark.parametrize("threads", [1, 2])
def test_compiled(kernel, target, threads):
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip(f"numba has {numba.config.NUMBA_NUM_THREADS} thread here")
    CHECKS[kernel.name](lambda *inputs: kernel.run(target, *inputs, threads=threads))


@by_name
@settings(max_examples=10)
@given(st.integers(1, 4), st.integers(1, 70), st.integers(0, 2**20))
def test_equal_bits_on_any_shape(kernel, n, d, seed):
    inputs = INPUTS[kernel.name]((n, d), seed)
    want = kernel.emulated(*inputs)
    for target in [PORTABLE, NATIVE] if kernel.source.runs_natively() else [PORTABLE]:
        got = kernel.run(target, *inputs)
        (same if got.dtype == F32 else equal)(got, want)


@by_name
def test_operands_in_any_memory(kernel):
    first, *rest = INPUTS[kernel.name]((6, 40), 3)
    part = first[::2, ::2]
    cut = [Norm(p.weight[::2], p.bias[::2], p.eps) if isinstance(p, Norm) else p for p in rest]
    cut = [array[::2, ::2] if isinstance(array, np.ndarray) and array.ndim == 2 else array for array in cut]
    want = kernel.emulated(part.copy(), *cut)
    for order in ("C", "F"):
        frozen = np.array(part, order=order)
        frozen.flags.writeable = False
        equal(kernel.run(PORTABLE, frozen, *cut), want)
    equal(kernel.run(PORTABLE, part, *cut), want)


def test_the_bounds_are_tighter_than_those_for_any_engine():
    """A kernel within its own bound is within the one that other engines are held to."""
    (x,) = softmax_inputs((4, 100), 1)
    assert (SOFTMAX.bound(x) <= bounds.softmax(x)).all()
    (x,) = gelu_inputs((4, 100), 1)
    assert (GELU.bound(x) <= bounds.gelu(x)).all()


# --- what is rejected ------------------------------------------------------------------------------------------------

X = np.zeros((2, 3), F32)
P = norm(3, 1)
SCALE = np.array(1, F32)
CODES, TABLE = np.zeros((2, 3), np.uint8), np.zeros(256, np.uint8)
NAN = np.array([[0, 1, np.nan]], F32)
REJECTED = [
    (SOFTMAX, (X.astype(np.float64),), TypeError, "x has dtype float64; need float32"),
    (SOFTMAX, (X[0],), ValueError, r"x has shape \(3,\); need \(N, D\)"),
    (SOFTMAX, (X[:, :0],), ValueError, r"x has shape \(2, 0\); need at least one column"),
    (SOFTMAX, (NAN,), ValueError, r"x is nan at \[0, 2\]; need finite numbers"),
    (GELU, (X.astype(np.float64),), TypeError, "x has dtype float64; need float32"),
    (QUANTIZE_ROWS, (X, np.float64(1)[...]), TypeError, "scale has dtype float64; need float32"),
    (QUANTIZE_ROWS, (X, np.ones(1, F32)), ValueError, r"scale has shape \(1,\); need \(\)"),
    (QUANTIZE_ROWS, (X, np.array(0, F32)), ValueError, "scale has the element 0.0; need every element > 0"),
    (LAYERNORM, (X, norm(4, 1)), ValueError, r"weight has shape \(4,\); need \(3,\)"),
    (LAYERNORM, (X, P._replace(bias=P.bias[:2])), ValueError, r"bias has shape \(2,\); need \(3,\)"),
    (LAYERNORM, (X, P._replace(weight=CODES[0])), TypeError, "weight has dtype uint8; need float32"),
    (LAYERNORM, (X, P._replace(bias=NAN[0])), ValueError, r"bias is nan at \[2\]; need finite numbers"),
    (LAYERNORM, (X, P._replace(eps=0.0)), ValueError, "eps is 0.0; need a finite number > 0"),
    (ADD_LAYERNORM, (X, X[:1], P), ValueError, r"residual has shape \(1, 3\); need \(2, 3\)"),
    (ADD_LAYERNORM, (X, CODES, P), TypeError, "residual has dtype uint8; need float32"),
    (GELU_U8_TABLE, (X, TABLE), TypeError, "codes has dtype float32; need uint8"),
    (GELU_U8_TABLE, (CODES[0], TABLE), ValueError, r"codes has shape \(3,\); need \(N, D\)"),
    (GELU_U8_TABLE, (CODES, TABLE[1:]), ValueError, r"table has shape \(255,\); need \(256,\)"),
    (GELU_U8_TABLE, (CODES, TABLE.view(np.int8)), TypeError, "table has dtype int8; need uint8"),
]


@pytest.mark.parametrize(("kernel", "inputs", "error", "message"), REJECTED)
def test_rejects(kernel, inputs, error, message):
    for run in (kernel.emulated, lambda *a: kernel.run(PORTABLE, *a)):
        with pytest.raises(error, match=message):
            run(*inputs)


def test_table_rejects():
    with pytest.raises(ValueError, match=r"y_scale has the element -1\.0; need every element > 0"):
        table(SCALE, np.array(-1, F32))
    with pytest.raises(TypeError, match="x_scale has dtype float64; need float32"):
        table(np.ones(()), SCALE)


def test_threads_are_checked():
    most = numba.config.NUMBA_NUM_THREADS
    for threads in (0, most + 1):
        with pytest.raises(ValueError, match=f"threads is {threads}; need 1 to {most}"):
            SOFTMAX.run(PORTABLE, X, threads=threads)


def test_a_cpu_without_the_instructions(monkeypatch):
    monkeypatch.setattr(cpu, "features", lambda: frozenset(["avx2"]))
    assert SOFTMAX.fastest() == GELU_U8_TABLE.fastest() == PORTABLE
    assert GELU.fastest() == NATIVE  # it has no instruction that LLVM cannot choose itself
    with pytest.raises(RuntimeError, match="look_up needs the CPU features avx512vbmi; use portable"):
        GELU_U8_TABLE.run(NATIVE, CODES, TABLE)
    with pytest.raises(RuntimeError, match="softmax_rows needs the CPU features avx512f; use portable"):
        SOFTMAX.run(NATIVE, X)
