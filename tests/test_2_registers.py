"""Rung 2: registers and instructions in jitted code. Oracle: the NumPy meaning in refimpl.isa.

Small kernels load operands from arrays and store results. A byte register is seen
through ``vpdpbusd`` with one-hot quads, which picks byte p of every dword: four stores show all 64 bytes.
"""

import itertools
from functools import partial

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.errors import TypingError
from test_1_arithmetic import equal
from test_2_instructions import PATTERNS

from refimpl import isa
from refimpl.integer.narrow import wrap_s32
from refimpl.kernels import cpu
from refimpl.kernels.simd.instructions import arithmetic, interleave, memory
from refimpl.kernels.simd.instructions.arithmetic import (
    ones_s16,
    vpaddd,
    vpdpbusd,
    vpmaddubsw,
    vpmaddwd,
    vpsubd,
    zero_s32,
)
from refimpl.kernels.simd.instructions.interleave import vpord, vpunpckhbw, vpunpckhwd, vpunpcklbw, vpunpcklwd, vpxord
from refimpl.kernels.simd.instructions.memory import (
    prefetcht0,
    vinserti64x4,
    vmovdqu8_load,
    vmovdqu8_load_low,
    vmovdqu8_store,
    vmovdqu8_store_low,
    vmovdqu8_store_masked,
    vmovdqu32_load,
    vmovdqu32_store,
    vpbroadcastd,
)
from refimpl.kernels.simd.lowering import Instruction
from refimpl.kernels.simd.threefold import NATIVE, PORTABLE, kernel, part

LACKING = ", ".join(sorted(vpdpbusd.features - cpu.features()))
JITTED = [PORTABLE, pytest.param(NATIVE, marks=pytest.mark.skipif(bool(LACKING), reason=f"this CPU lacks {LACKING}"))]
TARGETS = ["emulated", *JITTED]
NEEDS_JIT = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT is set: nothing is compiled")
ONE_HOT = np.eye(4, dtype=np.int8).ravel()


def execution(source, target):
    """One of the three, as a function of arrays."""
    return source.emulated if target == "emulated" else source.compiled(target)


# --- seeing a register -----------------------------------------------------------------------------------------------


@part
def show_u8(out, at, register, hot):
    """The 64 bytes of a u8 register, as four registers of s32 at out[at]."""
    vmovdqu32_store(out, at, vpdpbusd(zero_s32(), register, vpbroadcastd(hot, 0)))
    vmovdqu32_store(out, at + 16, vpdpbusd(zero_s32(), register, vpbroadcastd(hot, 4)))
    vmovdqu32_store(out, at + 32, vpdpbusd(zero_s32(), register, vpbroadcastd(hot, 8)))
    vmovdqu32_store(out, at + 48, vpdpbusd(zero_s32(), register, vpbroadcastd(hot, 12)))


@part
def show_s8(out, at, register, hot):
    """The same for an s8 register."""
    vmovdqu32_store(out, at, vpdpbusd(zero_s32(), vpbroadcastd(hot, 0), register))
    vmovdqu32_store(out, at + 16, vpdpbusd(zero_s32(), vpbroadcastd(hot, 4), register))
    vmovdqu32_store(out, at + 32, vpdpbusd(zero_s32(), vpbroadcastd(hot, 8), register))
    vmovdqu32_store(out, at + 48, vpdpbusd(zero_s32(), vpbroadcastd(hot, 12), register))


def seen(out, dtype):
    """What ``show_u8`` and ``show_s8`` stored, as registers of bytes (R, 64)."""
    registers = out.reshape(-1, 4, 16).swapaxes(1, 2).reshape(-1, 64)
    assert (registers == registers.astype(dtype)).all()
    return registers.astype(dtype)


# --- every instruction -----------------------------------------------------------------------------------------------


@kernel
def dots(a, b, steps, out):
    """One accumulator, stored after each of ``steps`` dot products."""
    acc = zero_s32()
    for step in range(steps):
        acc = vpdpbusd(acc, vmovdqu8_load(a, 64 * step), vmovdqu8_load(b, 64 * step))
        vmovdqu32_store(out, 16 * step, acc)


@kernel
def unpacks_u8(a, b, hot, out):
    x, y = vmovdqu8_load(a, 0), vmovdqu8_load(b, 0)
    show_u8(out, 0, vpunpcklbw(x, y), hot)
    show_u8(out, 64, vpunpckhbw(x, y), hot)
    show_u8(out, 128, vpunpcklwd(x, y), hot)
    show_u8(out, 192, vpunpckhwd(x, y), hot)


@kernel
def unpacks_s8(a, b, hot, out):
    x, y = vmovdqu8_load(a, 0), vmovdqu8_load(b, 0)
    show_s8(out, 0, vpunpcklbw(x, y), hot)
    show_s8(out, 64, vpunpckhbw(x, y), hot)
    show_s8(out, 128, vpunpcklwd(x, y), hot)
    show_s8(out, 192, vpunpckhwd(x, y), hot)


@kernel
def loads_u8(memory, at, hot, out):
    show_u8(out, 0, vmovdqu8_load(memory, at), hot)
    show_u8(out, 64, vpbroadcastd(memory, at), hot)
    show_u8(out, 128, vmovdqu8_load_low(memory, at), hot)
    show_u8(out, 192, vinserti64x4(vmovdqu8_load(memory, 7), memory, at), hot)


@kernel
def loads_s8(memory, at, hot, out):
    show_s8(out, 0, vmovdqu8_load(memory, at), hot)
    show_s8(out, 64, vpbroadcastd(memory, at), hot)
    show_s8(out, 128, vmovdqu8_load_low(memory, at), hot)
    show_s8(out, 192, vinserti64x4(vmovdqu8_load(memory, 7), memory, at), hot)


@kernel
def differences(a, b, out):
    prefetcht0(a, 1000)
    vmovdqu32_store(out, 0, vpsubd(vmovdqu32_load(a, 0), vmovdqu32_load(b, 0)))


@kernel
def half_stores(a, b, flipped):
    vmovdqu8_store_low(flipped, 3, vpxord(vmovdqu8_load(a, 0), vmovdqu8_load(b, 0)))


@kernel
def masked_stores(a, at, mask, out):
    vmovdqu8_store_masked(out, at, vmovdqu8_load(a, 0), mask)


@kernel
def stores_zero(out, at):
    vmovdqu32_store(out, at, zero_s32())


BY_TYPE = {
    np.uint8: (unpacks_u8, loads_u8, ONE_HOT),
    np.int8: (unpacks_s8, loads_s8, ONE_HOT.view(np.uint8)),
}
UNPACKS = (isa.vpunpcklbw, isa.vpunpckhbw, isa.vpunpcklwd, isa.vpunpckhwd)


def run_dots(target, a, b):
    """a: u8 (S, 64), b: s8 (S, 64) -> s32 (S, 16), each row with the rows before it."""
    out = np.full(16 * len(a), -1, np.int32)
    execution(dots, target)(a.ravel(), b.ravel(), len(a), out)
    return out.reshape(-1, 16)


def check_unpacks(target, a, b, dtype):
    source, _, hot = BY_TYPE[dtype]
    out = np.full(256, -1, np.int32)
    execution(source, target)(a, b, hot, out)
    equal(seen(out, dtype), np.stack([meaning(a, b) for meaning in UNPACKS]))


@pytest.mark.parametrize("target", TARGETS)
def test_vpdpbusd(target):
    pairs = np.array(list(itertools.product(PATTERNS, repeat=2)), np.uint8)
    a, b = pairs[:, 0].copy(), pairs[:, 1].copy().view(np.int8)
    acc, want = isa.zero_s32(), []
    for row in zip(a, b, strict=True):
        want.append(acc := isa.vpdpbusd(acc, *row))
    equal(run_dots(target, a, b), np.stack(want))


@pytest.mark.parametrize("target", TARGETS)
def test_vpdpbusd_wraps(target):
    """The accumulator passes -2**31 after 16 448 of the most negative steps."""
    steps = 16_600
    a, b = np.full((steps, 64), 255, np.uint8), np.full((steps, 64), -128, np.int8)
    want = wrap_s32(np.arange(1, steps + 1) * (4 * 255 * -128))
    assert want[16_448] > 0 > want[16_447]
    equal(run_dots(target, a, b), np.repeat(want[:, None], 16, 1))


@pytest.mark.parametrize("dtype", BY_TYPE, ids=["u8", "s8"])
@pytest.mark.parametrize("target", TARGETS)
def test_unpacks(target, dtype):
    for a, b in itertools.product(np.array(PATTERNS, np.uint8).view(dtype), repeat=2):
        check_unpacks(target, a, b, dtype)


@pytest.mark.parametrize("dtype", BY_TYPE, ids=["u8", "s8"])
@pytest.mark.parametrize("target", TARGETS)
def test_loads(target, dtype):
    """From any address: aligned, crossing lines, the first and the last possible."""
    _, source, hot = BY_TYPE[dtype]
    memory = np.random.default_rng(1).integers(0, 256, 200, np.uint8).view(dtype)
    for at in (0, 1, 2, 3, 63, 64, 65, 136):
        out = np.full(256, -1, np.int32)
        execution(source, target)(memory, at, hot, out)
        loads = isa.vmovdqu8_load, isa.vpbroadcastd, isa.vmovdqu8_load_low, partial(isa.vinserti64x4, memory[7:71])
        equal(seen(out, dtype), np.stack([load(memory, at) for load in loads]))


@pytest.mark.parametrize("target", TARGETS)
def test_differences(target):
    a, b = (np.random.default_rng(i).integers(-(2**31), 2**31, 16).astype(np.int32) for i in (1, 2))
    out = np.zeros(16, np.int32)
    execution(differences, target)(a, b, out)
    equal(out, isa.vpsubd(a, b))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8], ids=["u8", "s8"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_half_store_touches_32_bytes(target, dtype):
    a, b = (np.random.default_rng(i).integers(0, 256, 64, np.uint8).view(dtype) for i in (1, 2))
    out = np.full(40, 77, dtype)
    execution(half_stores, target)(a, b, out)
    equal(out, np.concatenate([np.full(3, 77, dtype), (a ^ b)[:32], np.full(5, 77, dtype)]))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_a_masked_store_touches_the_bytes_of_the_mask(target, dtype):
    a = np.arange(64, dtype=dtype)
    for mask in (0, 1, 1 << 63, 2**64 - 1, 0b1011 << 30, 0xAAAA_0000_FFFF_5555):
        expected = np.full(70, 99, dtype)
        places = [j for j in range(64) if mask >> j & 1]
        expected[5:][places] = a[places]
        out = np.full(70, 99, dtype)
        execution(masked_stores, target)(a, 5, np.uint64(mask), out)
        equal(out, expected)
    edge = np.full(8, 99, dtype)  # the other 62 bytes of the register lie outside the array
    execution(masked_stores, target)(a, 6, np.uint64(0b11), edge)
    equal(edge, np.array([99] * 6 + [0, 1], dtype))


@pytest.mark.parametrize("target", TARGETS)
def test_store_touches_sixteen_elements(target):
    for at in (0, 1, 7, 16, 24):
        out = np.arange(1, 41, dtype=np.int32)
        execution(stores_zero, target)(out, at)
        assert np.flatnonzero(out == 0).tolist() == list(range(at, at + 16))
        assert (out[out != 0] == np.flatnonzero(out) + 1).all()


REGISTER = st.binary(min_size=64, max_size=64).map(lambda raw: np.frombuffer(raw, np.uint8).copy())


@settings(max_examples=60)
@given(REGISTER, REGISTER)
@pytest.mark.parametrize("target", TARGETS)
def test_any_operands(target, a, b):
    for dtype in BY_TYPE:
        check_unpacks(target, a.view(dtype), b.view(dtype), dtype)
    equal(run_dots(target, a[None], b[None].view(np.int8))[0], isa.vpdpbusd(isa.zero_s32(), a, b.view(np.int8)))


@kernel
def pairs(a, b, c, d, out):
    """The words that vpmaddubsw makes of two pairs of registers: their products, the sums of the first, and both."""
    x, y = vpmaddubsw(vmovdqu8_load(a, 0), vmovdqu8_load(b, 0)), vpmaddubsw(vmovdqu8_load(c, 0), vmovdqu8_load(d, 0))
    products, sums = vpmaddwd(x, y), vpmaddwd(x, ones_s16())
    vmovdqu32_store(out, 0, products)
    vmovdqu32_store(out, 16, sums)
    vmovdqu32_store(out, 32, vpaddd(products, sums))


def check_pairs(target, a, b, c, d):
    x, y = isa.vpmaddubsw(a, b), isa.vpmaddubsw(c, d)
    products, sums = isa.vpmaddwd(x, y), isa.vpmaddwd(x, isa.ones_s16())
    out = np.full(48, -1, np.int32)
    execution(pairs, target)(a, b, c, d, out)
    equal(out.reshape(3, 16), np.stack([products, sums, isa.vpaddd(products, sums)]))
    return out


@pytest.mark.parametrize("target", TARGETS)
def test_pairs(target):
    """Any two registers; the second ones pick the even words, the odd ones, or are as large as can be."""
    one, far = np.ones(64, np.uint8), np.full(64, 255, np.uint8)
    even, odd = np.resize(np.array([[1, 0, 0, 0], [0, 0, 1, 0]], np.int8), (2, 1, 4)).repeat(16, 1).reshape(2, 64)
    low, high = np.full(64, -128, np.int8), np.full(64, 127, np.int8)
    for a, b in itertools.product(np.array(PATTERNS, np.uint8), repeat=2):
        for c, d in [(one, even), (one, odd), (far, low), (far, high), (b, a.view(np.int8))]:
            check_pairs(target, a, b.view(np.int8), c, d)
    out = check_pairs(target, far, low, far, low)
    assert out[[0, 16, 32]].tolist() == [-(2**31), -(2**16), 2**31 - 2**16]  # both sums that can wrap


def test_every_instruction_is_tested():
    def called(source):
        for callee in source.calls.values():
            yield from (callee,) if isinstance(callee, Instruction) else called(callee)

    sources = [
        dots,
        pairs,
        differences,
        half_stores,
        masked_stores,
        stores_zero,
        copies,
        ors,
        *(source for case in BY_TYPE.values() for source in case[:2]),
    ]
    tested = {instruction for source in sources for instruction in called(source)}
    modules = (arithmetic, interleave, memory)
    assert tested == {value for module in modules for value in vars(module).values() if isinstance(value, Instruction)}


@kernel
def ors(a, b, out):
    """Both orders."""
    vmovdqu8_store(out, 0, vpord(vmovdqu8_load(a, 0), vmovdqu8_load(b, 0)))
    vmovdqu8_store(out, 64, vpord(vmovdqu8_load(b, 0), vmovdqu8_load(a, 0)))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_vpord(target, dtype):
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 256, (2, 64)).astype(np.uint8).view(dtype)
    out = np.zeros(128, dtype)
    execution(ors, target)(a, b, out)
    equal(out, np.array([int(x) | int(y) for x, y in zip(a, b, strict=True)] * 2, dtype))


@kernel
def copies(a, b, out_a, out_b):
    """Bytes and dwords, loaded and stored at an odd place."""
    vmovdqu8_store(out_a, 1, vmovdqu8_load(a, 3))
    vmovdqu32_store(out_b, 1, vmovdqu32_load(b, 3))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_loads_and_stores_copy(target, dtype):
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 256, 67).astype(np.uint8).view(dtype), rng.integers(-(2**31), 2**31, 19).astype(np.int32)
    out_a, out_b = np.zeros(66, dtype), np.zeros(18, np.int32)
    execution(copies, target)(a, b, out_a, out_b)
    equal(out_a, np.concatenate([[0], a[3:], [0]]).astype(dtype))
    equal(out_b, np.concatenate([[0], b[3:], [0]]).astype(np.int32))


def test_features_are_inherited():
    assert vpdpbusd.features == {"avx512vnni"}
    assert vpmaddubsw.features == vpmaddwd.features == {"avx512bw"}
    assert vpunpcklbw.features == vpaddd.features == ones_s16.features == frozenset()
    assert show_u8.features == dots.features == {"avx512vnni"}
    assert stores_zero.features == frozenset()
    assert stores_zero.runs_natively()


# --- what does not type-check ----------------------------------------------------------------------------------------


@kernel
def dot(a, b, out):
    vmovdqu32_store(out, 0, vpdpbusd(zero_s32(), vmovdqu8_load(a, 0), vmovdqu8_load(b, 0)))


@kernel
def bytes_as_accumulator(a, b, out):
    vmovdqu32_store(out, 0, vpdpbusd(vmovdqu8_load(a, 0), vmovdqu8_load(a, 0), vmovdqu8_load(b, 0)))


@kernel
def bytes_stored(a, b, out):
    vmovdqu32_store(out, 0, vmovdqu8_load(a, 0))


@kernel
def signs_interleaved(a, b, out):
    vmovdqu32_store(
        out, 0, vpdpbusd(zero_s32(), vpunpcklbw(vmovdqu8_load(a, 0), vmovdqu8_load(b, 0)), vmovdqu8_load(b, 0))
    )


@kernel
def accumulators_interleaved(a, b, out):
    vmovdqu32_store(out, 0, vpunpcklbw(zero_s32(), zero_s32()))


@kernel
def words_broadcast(a, b, out):
    vmovdqu32_store(out, 0, vpdpbusd(zero_s32(), vpbroadcastd(out, 0), vmovdqu8_load(b, 0)))


@kernel
def words_stored(a, b, out):
    vmovdqu32_store(out, 0, vpmaddubsw(vmovdqu8_load(a, 0), vmovdqu8_load(b, 0)))


@kernel
def pairs_of_swapped_signs(a, b, out):
    vmovdqu32_store(out, 0, vpmaddwd(vpmaddubsw(vmovdqu8_load(b, 0), vmovdqu8_load(a, 0)), ones_s16()))


@kernel
def bytes_as_words(a, b, out):
    vmovdqu32_store(out, 0, vpmaddwd(vmovdqu8_load(b, 0), ones_s16()))


@kernel
def words_added(a, b, out):
    vmovdqu32_store(out, 0, vpaddd(zero_s32(), ones_s16()))


U8, S8, S32 = np.zeros(256, np.uint8), np.zeros(256, np.int8), np.zeros(32, np.int32)
WRONG_ARRAYS = {
    "s8 for u8": (S8, S8, S32),
    "u8 for s8": (U8, U8, S32),
    "operands swapped": (S8, U8, S32),
    "2-D load": (U8.reshape(4, 64), S8, S32),
    "column-major load": (U8.reshape(4, 64, order="F"), S8, S32),
    "strided load": (U8[::2], S8, S32),
    "u16 load": (U8.view(np.uint16), S8, S32),
    "bool load": (U8.view(np.bool_), S8, S32),
    "2-D store": (U8, S8, S32.reshape(2, 16)),
    "strided store": (U8, S8, S32[::2]),
    "u32 store": (U8, S8, S32.view(np.uint32)),
    "s64 store": (U8, S8, np.zeros(32, np.int64)),
    "f32 store": (U8, S8, S32.view(np.float32)),
}
WRONG_REGISTERS = [
    bytes_as_accumulator,
    bytes_stored,
    signs_interleaved,
    accumulators_interleaved,
    words_broadcast,
    words_stored,
    pairs_of_swapped_signs,
    bytes_as_words,
    words_added,
]


@NEEDS_JIT
@pytest.mark.parametrize("target", JITTED)
@pytest.mark.parametrize("name", WRONG_ARRAYS)
def test_wrong_arrays_do_not_compile(name, target):
    with pytest.raises(TypingError):
        execution(dot, target)(*WRONG_ARRAYS[name])


@NEEDS_JIT
@pytest.mark.parametrize("target", JITTED)
@pytest.mark.parametrize("source", WRONG_REGISTERS, ids=lambda source: source.__name__)
def test_wrong_registers_do_not_compile(source, target):
    with pytest.raises(TypingError):
        execution(source, target)(U8, S8, S32)


@pytest.mark.parametrize("target", TARGETS)
def test_the_right_ones_compile(target):
    execution(dot, target)(U8, S8, S32)
