"""Rung 5: the bf16 kernel in its three executions and the AMX kernel in its only one. Oracles: those of their records.

The bf16 bits depend on the order of summation, so equality is of bits; the distance from the exact product is judged
by ``bounds.gemm_bf16``.
"""

import re

import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_1_arithmetic import equal, rng
from test_2_bf16 import JITTED, NEEDS_NATIVE, SPECIAL, bf16s, same_bits, scalar_fma
from test_2_registers import NEEDS_JIT
from test_5_kernels import counts_as_documented, extreme, inner_loop, operands

from refimpl import bounds
from refimpl.isa.bf16 import from_bf16, vcvtneps2bf16
from refimpl.kernels import cpu
from refimpl.kernels.gemm_bf16 import GEMM_BF16
from refimpl.kernels.gemm_u8s8s32_amx import GEMM_AMX
from refimpl.kernels.layout import amx, vnni2
from refimpl.kernels.layout.amx import AmxWeights
from refimpl.kernels.layout.vnni2 import Vnni2
from refimpl.kernels.simd.threefold import PORTABLE
from refimpl.nn.gemm_bf16 import gemm_bf16

# --- bf16: the oracle ------------------------------------------------------------------------------------------------

# N, M, K: every tail of 6 tokens, 64 and 16 output channels, 2 input channels
SHAPES = [(1, 1, 1), (7, 5, 9), (13, 65, 4), (6, 64, 2), (0, 3, 2), (5, 130, 3), (12, 67, 13)]
NUMBERS = ["one size", "any bits", "tiny", "large", "special"]


def bf16_operands(n, m, k, numbers, seed=0):
    """bf16 (N, K) and (M, K) as u16: sums of like terms, all bits, sums near 2**-126, sums that overflow, specials."""
    if numbers == "special":
        pick = rng(seed)
        return (np.where(pick.random((r, k)) < 0.7, 0x3F80, pick.choice(SPECIAL, (r, k))).astype(np.uint16)
                for r in (n, m))  # fmt: skip
    exponents = {"one size": (120, 132), "any bits": (0, 256), "tiny": (60, 68), "large": (184, 193)}[numbers]
    return bf16s(exponents, (n, k), seed), bf16s(exponents, (m, k), seed + 2)


def check_gemm_bf16(product):
    for shape in SHAPES:
        for numbers in NUMBERS:
            a, w = bf16_operands(*shape, numbers)
            same_bits(product(a, w), gemm_bf16(a, w))


def check_gemm_bf16_oracle(product):
    """Against the documented chain in exact rationals."""
    for numbers, seed in [*((numbers, 0) for numbers in NUMBERS), *(("special", seed) for seed in range(1, 8))]:
        a, w = bf16_operands(3, 4, 9, numbers, seed)
        want = np.zeros((3, 4), np.uint32)
        for n, m in np.ndindex(3, 4):
            acc = 0
            for k in (1, 0, 3, 2, 5, 4, 7, 6, None, 8):
                acc = scalar_fma(acc, *(0 if k is None else int(row[k]) << 16 for row in (a[n], w[m])))
            want[n, m] = acc
        same_bits(product(a, w), want.view(np.float32))


def test_oracle():
    check_gemm_bf16_oracle(gemm_bf16)


def test_oracle_rejects():
    a, w = np.zeros((2, 3), np.uint16), np.zeros((4, 3), np.uint16)
    with pytest.raises(TypeError, match="a has dtype float32; need uint16"):
        gemm_bf16(a.astype(np.float32), w)
    with pytest.raises(TypeError, match="w has dtype int8; need uint16"):
        gemm_bf16(a, w.astype(np.int8))
    with pytest.raises(ValueError, match=r"w has shape \(4,\); need \(M, K\)"):
        gemm_bf16(a, w[:, 0])
    with pytest.raises(ValueError, match=r"a has shape \(2, 2\); need \(N, 3\)"):
        gemm_bf16(a[:, 1:], w)


@pytest.mark.parametrize("shape", [(4, 5, 1), (9, 17, 2), (16, 20, 768), (3, 4, 3001)])
def test_bound(shape):
    """The oracle keeps it, on sums that cancel and on sums that do not; a sum kept in bf16 does not."""
    n, m, k = shape
    for shift in (0.0, 2.0):
        a, w = (vcvtneps2bf16((rng(i).standard_normal((r, k)) + shift).astype(np.float32)) for i, r in ((1, n), (2, m)))
        exact = from_bf16(a).astype(np.float64) @ from_bf16(w).astype(np.float64).T
        bound = bounds.gemm_bf16(a, w)
        error = np.abs(gemm_bf16(a, w) - exact)
        assert (error <= bound).all()
        coarse = from_bf16(vcvtneps2bf16(gemm_bf16(a, w)))
        assert (np.abs(coarse - exact) > bound).any() or k > 2**8
        assert k <= 2 or error.max() > 0


def test_bound_in_f32_of_another_order():
    """NumPy's own f32 product, whatever its order, keeps the bound too."""
    a, w = bf16_operands(8, 9, 500, "one size")
    exact = from_bf16(a).astype(np.float64) @ from_bf16(w).astype(np.float64).T
    assert (np.abs(from_bf16(a) @ from_bf16(w).T - exact) <= bounds.gemm_bf16(a, w)).all()


# --- bf16: the kernel ------------------------------------------------------------------------------------------------


def test_emulated_bf16():
    check_gemm_bf16(lambda a, w: GEMM_BF16.emulated(a, GEMM_BF16.pack(w)))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("target", JITTED)
def test_compiled_bf16(target, threads):
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip(f"numba has {numba.config.NUMBA_NUM_THREADS} thread here")
    check_gemm_bf16(lambda a, w: GEMM_BF16.run(target, a, GEMM_BF16.pack(w), threads))


@NEEDS_JIT
@pytest.mark.parametrize("numbers", ["one size", "any bits"])
@pytest.mark.parametrize("target", JITTED)
def test_compiled_bf16_on_a_bert_layer(target, numbers):
    a, w = bf16_operands(40, 384, 384, numbers)
    same_bits(GEMM_BF16.run(target, a, GEMM_BF16.pack(w)), gemm_bf16(a, w))


@settings(max_examples=8)
@given(st.integers(0, 9), st.integers(1, 70), st.integers(1, 6), st.sampled_from(NUMBERS), st.integers(0, 99))
def test_emulated_bf16_on_any_shape(n, m, k, numbers, seed):
    a, w = bf16_operands(n, m, k, numbers, seed)
    same_bits(GEMM_BF16.emulated(a, GEMM_BF16.pack(w)), gemm_bf16(a, w))


@NEEDS_JIT
@pytest.mark.parametrize("target", JITTED)
@settings(max_examples=60)
@given(st.integers(0, 40), st.integers(1, 140), st.integers(1, 60), st.sampled_from(NUMBERS), st.integers(0, 99))
@example(64, 64, 64, "any bits", 1)
def test_compiled_bf16_on_any_shape(target, n, m, k, numbers, seed):
    a, w = bf16_operands(n, m, k, numbers, seed)
    same_bits(GEMM_BF16.run(target, a, GEMM_BF16.pack(w)), gemm_bf16(a, w))


@pytest.mark.parametrize("target", JITTED)
def test_bf16_in_any_memory(target):
    a, w = bf16_operands(20, 24, 30, "one size")
    frozen = np.asfortranarray(a[::2, ::3])
    frozen.flags.writeable = False
    packed = GEMM_BF16.pack(w[::2, ::3])
    packed.values.flags.writeable = False
    same_bits(GEMM_BF16.run(target, frozen, packed), gemm_bf16(a[::2, ::3], w[::2, ::3]))


def test_bf16_without_the_instruction(monkeypatch):
    a, w = bf16_operands(2, 4, 4, "one size")
    monkeypatch.setattr(cpu, "features", lambda: frozenset(["avx512vnni"]))
    assert GEMM_BF16.fastest() == PORTABLE
    with pytest.raises(RuntimeError, match="gemm_bf16 needs the CPU features avx512bf16; use portable"):
        GEMM_BF16.native(a, GEMM_BF16.pack(w))
    same_bits(GEMM_BF16.portable(a, GEMM_BF16.pack(w)), gemm_bf16(a, w))


def test_bf16_rejects():
    a, w = bf16_operands(2, 4, 5, "one size")
    packed = GEMM_BF16.pack(w)
    for run in (GEMM_BF16.portable, GEMM_BF16.emulated):
        with pytest.raises(TypeError, match="a has dtype float32; need uint16"):
            run(from_bf16(a), packed)
        with pytest.raises(ValueError, match=r"a has shape \(2, 4\); need \(N, 5\)"):
            run(a[:, 1:], packed)


@NEEDS_JIT
@NEEDS_NATIVE
def test_the_inner_loop_is_what_the_docstring_counts():
    counts_as_documented(inner_loop(GEMM_BF16, bf16_operands(7, 5, 9, "one size")), {"vdpbf16ps": 24})


# --- AMX -------------------------------------------------------------------------------------------------------------

# N, M, K: blocks of 32 with both, one or no second half, tails of 16, several steps of 64
AMX_SHAPES = [(1, 1, 1), (16, 16, 64), (32, 32, 64), (33, 17, 65), (7, 40, 130), (40, 5, 6), (17, 33, 63), (0, 3, 2)]


def check_amx_gemm(product):
    for shape in AMX_SHAPES:
        a, w = operands(*shape, 1)
        equal(product(a, w), GEMM_AMX.oracle(a, w))


def test_emulated_amx():
    check_amx_gemm(lambda a, w: GEMM_AMX.emulated(a, GEMM_AMX.pack(w)))
    a, w = operands(40, 48, 384, 0.2)
    equal(GEMM_AMX.emulated(a, GEMM_AMX.pack(w)), GEMM_AMX.oracle(a, w))


@settings(max_examples=60)
@given(
    st.integers(0, 70), st.integers(1, 70), st.integers(1, 140), st.floats(0, 1),
    st.sampled_from(["random", "255 and -128", "255 and both"]),
)  # fmt: skip
@example(2, 3, 65_793, 1.0, "255 and -128")  # the largest K: sums near -2**31
def test_emulated_amx_on_any_shape(n, m, k, density, codes):
    a, w = extreme(codes, *operands(n, m, k, density))
    equal(GEMM_AMX.emulated(a, GEMM_AMX.pack(w)), GEMM_AMX.oracle(a, w))


def test_amx_rejects():
    a, w = operands(2, 4, 5, 1)
    packed = GEMM_AMX.pack(w)
    with pytest.raises(TypeError, match="a has dtype int8; need uint8"):
        GEMM_AMX.emulated(a.view(np.int8), packed)
    with pytest.raises(ValueError, match=r"a has shape \(2, 4\); need \(N, 5\)"):
        GEMM_AMX.emulated(a[:, 1:], packed)


# --- layouts ---------------------------------------------------------------------------------------------------------

LAYOUT_SHAPES = [(1, 1), (4, 4), (16, 64), (17, 65), (64, 2), (65, 9), (130, 17), (33, 130)]  # M, K


def bits_of(shape, dtype):
    return rng(sum(shape)).integers(1, 2 ** (8 * np.dtype(dtype).itemsize), shape).astype(dtype)


def check_amx_pack(pack):
    for m, k in LAYOUT_SHAPES:
        w = bits_of((m, k), np.uint8).view(np.int8)
        values = np.zeros((-(-m // 16), -(-k // 64), 16, 16, 4), np.int8)
        for i, j in np.ndindex(m, k):
            values[i // 16, j // 64, j % 64 // 4, i % 16, j % 4] = w[i, j]
        got = pack(w)
        assert got.shape == (m, k)
        equal(got.values, values.ravel())


def check_vnni2_pack(pack):
    for m, k in LAYOUT_SHAPES:
        w = bits_of((m, k), np.uint16)
        values = np.zeros((-(-m // 64), -(-k // 2), 64, 2), np.uint16)
        for i, j in np.ndindex(m, k):
            values[i // 64, j // 2, i % 64, j % 2] = w[i, j]
        got = pack(w)
        assert got.shape == (m, k)
        equal(got.values, values.ravel())


def test_packings_are_what_their_drawings_say():
    check_amx_pack(amx.pack)
    check_vnni2_pack(vnni2.pack)


@pytest.mark.parametrize(("layout", "dtype"), [(amx, np.int8), (vnni2, np.uint16)], ids=["amx", "vnni2"])
@pytest.mark.parametrize("shape", LAYOUT_SHAPES)
def test_unpack_inverts_pack(layout, dtype, shape):
    w = bits_of(shape, dtype)
    packed = layout.pack(w)
    assert packed.values.ctypes.data % 64 == 0
    equal(layout.unpack(packed), w)


@pytest.mark.parametrize(
    ("layout", "record", "dtype", "wrong", "size", "tail"),
    [(amx, AmxWeights, np.int8, np.uint8, 1024, 4), (vnni2, Vnni2, np.uint16, np.int16, 128 * 2, 2)],
    ids=["amx", "vnni2"],
)
def test_validate_rejects(layout, record, dtype, wrong, size, tail):
    w = np.ones((2, 3), dtype)
    packed = layout.pack(w)
    for read in (layout.validate, layout.unpack):
        with pytest.raises(TypeError, match=f"values has dtype {np.dtype(wrong)}; need {np.dtype(dtype)}"):
            read(packed._replace(values=packed.values.view(wrong)))
        with pytest.raises(ValueError, match=rf"values has shape \({size - 1},\); need \({size},\)"):
            read(packed._replace(values=packed.values[1:]))
        for shape in [(0, 3), (2,), (2, 0), (2.0, 3)]:
            with pytest.raises(ValueError, match=rf"shape is {re.escape(str(shape))}; need integers \(M, K\)"):
                read(packed._replace(shape=shape))
        for at in (size - 1, 2 * tail):  # a column from K on and a row from M on
            values = packed.values.copy()
            values[at] = 1
            with pytest.raises(ValueError, match=r"values has weights outside the shape \(2, 3\)"):
                read(record((2, 3), values))
    with pytest.raises(TypeError, match=f"w has dtype {np.dtype(wrong)}; need {np.dtype(dtype)}"):
        layout.pack(w.view(wrong))
    with pytest.raises(ValueError, match=r"w has shape \(2,\); need \(M, K\)"):
        layout.pack(w[:, 0])
    with pytest.raises(ValueError, match=r"shape is \(2, 0\); need integers"):
        layout.pack(w[:, :0])


def test_amx_limits_k():
    with pytest.raises(ValueError, match=r"shape is \(1, 65794\); need integers .* 1 <= K <= 65793"):
        amx.pack(np.zeros((1, 65_794), np.int8))
