"""Rung 2: f32 registers, conversions and byte look-up. Oracles: exact rational arithmetic for the meaning of the
instructions in refimpl.isa, then that meaning for the jitted forms, the native instruction included.
"""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from numba.core.errors import TypingError
from test_1_arithmetic import equal, rng
from test_2_registers import JITTED, NEEDS_JIT, TARGETS, execution

from refimpl.isa import convert as convert_meaning
from refimpl.isa import f32 as meaning
from refimpl.isa import lookup as lookup_meaning
from refimpl.isa.arithmetic import vpaddd as vpaddd_meaning
from refimpl.kernels.simd.instructions import convert, f32, lookup
from refimpl.kernels.simd.instructions.arithmetic import vpaddd
from refimpl.kernels.simd.instructions.convert import (
    broadcast_s32,
    vcvtdq2ps,
    vcvtps2dq,
    vpackssdw,
    vpacksswb,
    vpackuswb,
    vpmovusdb_store_first,
)
from refimpl.kernels.simd.instructions.f32 import (
    broadcast_f32,
    reduce_add,
    reduce_max,
    vaddps,
    vblendmps,
    vbroadcastss,
    vdivps,
    vfmadd,
    vmaxps,
    vminps,
    vmovups_load,
    vmovups_load_first,
    vmovups_store,
    vmovups_store_first,
    vmulps,
    vrndscaleps,
    vscalefps,
    vsqrtps,
    vsubps,
    zero_f32,
)
from refimpl.kernels.simd.instructions.lookup import vpblendmb, vpermi2b
from refimpl.kernels.simd.instructions.memory import (
    vmovdqu8_load,
    vmovdqu8_store,
    vmovdqu32_load,
    vmovdqu32_store,
)
from refimpl.kernels.simd.lowering import Instruction
from refimpl.kernels.simd.threefold import kernel

F32 = np.float32
MAGNITUDES = [0, 2**-149, 3 * 2**-149, 2**-126 - 2**-149, 2**-126, 2**-75, 2**-24, 0.5, 1 - 2**-24, 1, 1 + 2**-23]
MAGNITUDES += [1.5, 2.5, 2 - 2**-23, 3, 2**23 - 0.5, 2**24 - 1, 2**31 - 128, 2**31, 2**64, 2**127, 2**128 - 2**104]
SPECIAL = np.array([*MAGNITUDES, *(-m for m in MAGNITUDES), -0.0, np.inf, -np.inf, np.nan], F32)


def same(got, want):
    """Equal bits; any NaN is as good as another."""
    assert got.dtype == want.dtype == F32
    assert got.shape == want.shape
    wrong = (got.view(np.int32) != want.view(np.int32)) & ~(np.isnan(got) & np.isnan(want))
    assert not wrong.any(), f"{got[wrong][:4]} for {want[wrong][:4]} at {np.flatnonzero(wrong)[:4]}"


def bits(n, seed):
    """Any bits: NaN, infinities, subnormal numbers, all exponents."""
    return rng(seed).integers(0, 2**32, n, np.uint32).view(F32)


def near_cancellation(n, seed):
    """a, b, c with c close to -a b, to a tie of a b, or far below its last bit: where a second rounding shows."""
    r = rng(seed)
    a, b = ((r.integers(0, 2**24, n) * 2.0 ** r.integers(-40, 40, n)).astype(F32) for _ in range(2))
    exact = a.astype(np.float64) * b
    shift = r.choice([0, 2.0**-24, -(2.0**-24), 2.0**-23, 2.0**-30, 2.0**-47], n)
    small = exact * 2.0 ** r.integers(-80, -20, n)
    return a, b, np.where(r.random(n) < 0.5, -exact * (1 + shift), r.choice([-1, 1], n) * small).astype(F32)


def ties(n, seed):
    """a b exactly half way between two f32 numbers, and c as small as f32 has it, of either sign."""
    r = rng(seed)
    a = (2 * r.integers(2**11, 2**12, n) + 1).astype(F32)  # 13 bits, odd, times 12 bits, odd: 25 bits, odd
    b = (2 * r.integers(2**10, 2**11, n) + 1).astype(F32)
    exact = a.astype(np.int64) * b.astype(np.int64)
    keep = (exact >> 24 == 1) & (exact & 1 == 1)
    c = r.choice([0, 2.0**-149, -(2.0**-149), 2.0**-40, -(2.0**-40)], n).astype(F32)
    return a[keep], b[keep], c[keep]


def triples():
    special = np.array(list(itertools.product(SPECIAL, repeat=3)), F32).T
    random = (bits(2**17, 1), bits(2**17, 2), bits(2**17, 3))
    parts = [special, random, near_cancellation(2**18, 4), ties(2**17, 5)]
    joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return [np.ascontiguousarray(column[: column.size // 16 * 16]) for column in joined]


# --- the meaning -----------------------------------------------------------------------------------------------------


def rounded(exact):
    """A rational number to the nearest f32, ties to even; the numbers here do not overflow."""
    if exact == 0:
        return F32(0)
    size = abs(exact)
    exponent = max(-149, size.numerator.bit_length() - size.denominator.bit_length() - 24)
    exponent += size >= 2**24 * Fraction(2) ** exponent
    return F32(np.ldexp(float(round(size / Fraction(2) ** exponent)), exponent) * (1 if exact > 0 else -1))


def check_vfmadd(fma):
    cases = [near_cancellation(3000, 6), ties(3000, 7)]
    for a, b, c in cases:
        want = [rounded(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))) for x, y, z in zip(a, b, c)]  # noqa: B905
        got = fma(a, b, c)
        wrong = (got != np.array(want, F32)).sum()
        assert wrong == 0, f"{wrong} of {a.size} differ"


def test_vfmadd_is_exact_arithmetic_rounded_once():
    check_vfmadd(meaning.vfmadd)


def test_vscalefps_rounds_once():
    a = np.array([3 * 2**-1, 5 * 2**-2, 7 * 2**-2, 1.25, -1.5, 0], F32)
    for power in (-400, -151, -150, -149, -148, 0, 126):
        want = [rounded(Fraction(float(x)) * Fraction(2) ** power) for x in a]
        assert (meaning.vscalefps(a, np.full(6, power, F32)) == np.array(want)).all()
    assert np.isinf(meaning.vscalefps(a[:5], np.full(5, 400, F32))).all()


def test_reductions_are_trees():
    a = np.array([2**24, *[1] * 14, -(2**24)], F32)
    assert meaning.reduce_add(a) == 13  # exactly it is 14, from left to right 0; 2**24 + 1 went to the even neighbour
    assert meaning.reduce_max(np.arange(16, dtype=F32)) == 15


# --- the jitted forms ------------------------------------------------------------------------------------------------


@kernel
def fma_all(a, b, c, out):
    for at in range(0, a.size, 16):
        vmovups_store(out, at, vfmadd(vmovups_load(a, at), vmovups_load(b, at), vmovups_load(c, at)))


@pytest.mark.parametrize("target", TARGETS)
def test_vfmadd(target):
    a, b, c = (column[:4096] if target == "emulated" else column for column in triples())
    out = np.empty_like(a)
    execution(fma_all, target)(a, b, c, out)
    same(out, meaning.vfmadd(a, b, c))


@kernel
def binary_all(a, b, out):
    n = a.size
    for at in range(0, n, 16):
        x, y = vmovups_load(a, at), vmovups_load(b, at)
        vmovups_store(out, at, vaddps(x, y))
        vmovups_store(out, n + at, vsubps(x, y))
        vmovups_store(out, 2 * n + at, vmulps(x, y))
        vmovups_store(out, 3 * n + at, vdivps(x, y))
        vmovups_store(out, 4 * n + at, vmaxps(x, y))
        vmovups_store(out, 5 * n + at, vminps(x, y))


BINARY = (meaning.vaddps, meaning.vsubps, meaning.vmulps, meaning.vdivps, meaning.vmaxps, meaning.vminps)


@pytest.mark.parametrize("target", TARGETS)
def test_binary(target):
    a, b, _ = (column[:2048] if target == "emulated" else column for column in triples())
    out = np.empty(6 * a.size, F32)
    execution(binary_all, target)(a, b, out)
    same(out.reshape(6, -1), np.stack([function(a, b) for function in BINARY]))


@kernel
def blend_all(a, b, c, out):
    for at in range(0, a.size, 16):
        x, y = vmovups_load(a, at), vmovups_load(b, at)
        vmovups_store(out, at, vblendmps(x, y, vmovups_load(c, at), y))


@pytest.mark.parametrize("target", TARGETS)
def test_blend(target):
    a, b, c = (column[:4096] if target == "emulated" else column for column in triples())
    out = np.empty_like(a)
    execution(blend_all, target)(a, b, c, out)
    same(out, np.array([z if x > y else y for x, y, z in zip(a, b, c, strict=True)], F32))


@kernel
def unary_all(a, powers, out, whole):
    n = a.size
    for at in range(0, n, 16):
        x = vmovups_load(a, at)
        vmovups_store(out, at, vsqrtps(x))
        vmovups_store(out, n + at, vrndscaleps(x))
        vmovups_store(out, 2 * n + at, vscalefps(x, vmovups_load(powers, at)))
        vmovdqu32_store(whole, at, vcvtps2dq(x))


def unary_operands(n):
    halves = (rng(1).integers(-(2**22), 2**22, n) + rng(2).choice([0, 0.5], n)).astype(F32)
    wide = (rng(3).integers(-(2**33), 2**33, n)).astype(F32)
    a = np.concatenate([np.resize(SPECIAL, n), halves, wide, bits(n, 4)])
    powers = np.concatenate([rng(5).uniform(-310, 310, 2 * n), rng(6).integers(-160, 160, 2 * n)]).astype(F32)
    return a, powers


@pytest.mark.parametrize("target", TARGETS)
def test_unary(target):
    a, powers = unary_operands(256 if target == "emulated" else 2**15)
    out, whole = np.empty(3 * a.size, F32), np.empty(a.size, np.int32)
    execution(unary_all, target)(a, powers, out, whole)
    same(out.reshape(3, -1), np.stack([meaning.vsqrtps(a), meaning.vrndscaleps(a), meaning.vscalefps(a, powers)]))
    equal(whole, convert_meaning.vcvtps2dq(a))


@kernel
def integer_all(a, b, out, bytes_, signed, floats):
    for i in range(a.size // 64):
        at = 64 * i
        x0, x1 = vmovdqu32_load(a, at), vmovdqu32_load(a, at + 16)
        x2, x3 = vmovdqu32_load(a, at + 32), vmovdqu32_load(a, at + 48)
        vmovups_store(floats, 16 * i, vcvtdq2ps(x0))
        vmovdqu8_store(bytes_, at, vpackuswb(vpackssdw(x0, x1), vpackssdw(x2, x3)))
        vmovdqu8_store(signed, at, vpacksswb(vpackssdw(x0, x1), vpackssdw(x2, x3)))
        vmovdqu32_store(out, 16 * i, vpaddd(vpaddd(x0, vmovdqu32_load(b, at)), broadcast_s32(b[i])))


@pytest.mark.parametrize("target", TARGETS)
def test_integers(target):
    corners = np.array([0, 1, 127, 128, 255, 256, 32767, 32768, 2**24 + 1, 2**24 + 3, 2**31 - 1], np.int64)
    a = np.concatenate([corners, -corners - 1, rng(1).integers(-400, 400, 500), rng(2).integers(-(2**31), 2**31, 500)])
    a = np.resize(rng(3).permutation(a), 1024).astype(np.int32)
    b = rng(4).integers(-(2**31), 2**31, 1024).astype(np.int32)
    out, (bytes_, signed), floats = np.empty(256, np.int32), np.empty((2, 1024), np.uint8), np.empty(256, F32)
    execution(integer_all, target)(a, b, out, bytes_, signed, floats)
    groups = a.reshape(16, 4, 16)
    lanes = groups.reshape(16, 4, 4, 4).swapaxes(1, 2).reshape(1024)  # as narrowing inside lanes orders them
    equal(bytes_, np.clip(lanes, 0, 255).astype(np.uint8))
    equal(signed.view(np.int8), np.clip(lanes, -128, 127).astype(np.int8))
    same(floats, groups[:, 0].ravel().astype(F32))
    sums = [vpaddd_meaning(vpaddd_meaning(x, y), np.full(16, z)) for x, y, z in zip(groups[:, 0], b.reshape(16, 4, 16)[:, 0], b)]  # fmt: skip  # noqa: B905, E501
    equal(out.reshape(16, 16), np.stack(sums))


@kernel
def lanes_all(a, at, count, value, out, first, bytes_):
    x = vmovups_load_first(a, at, count, broadcast_f32(value))
    vmovups_store(out, 0, x)
    vmovups_store(out, 16, vbroadcastss(a, at))
    vmovups_store(out, 32, zero_f32())
    vmovups_store(out, 48, broadcast_f32(reduce_add(x)))
    vmovups_store(out, 64, broadcast_f32(reduce_max(x)))
    vmovups_store_first(first, at, x, count)
    vpmovusdb_store_first(bytes_, at, vcvtps2dq(x), count)


@pytest.mark.parametrize("target", TARGETS)
def test_lanes_and_tails(target):
    """Every count, up to the end of the array and no further."""
    for count in range(17):
        at = 20 - count
        a = rng(count).normal(0, 300, max(20, at + 1)).astype(F32)
        out, first, bytes_ = np.zeros(80, F32), np.full(24, 7, F32), np.full(24, 7, np.uint8)
        execution(lanes_all, target)(a, at, count, F32(1e8), out, first, bytes_)
        x = np.concatenate([a[at : at + count], np.full(16 - count, 1e8, F32)])
        sums = np.full(16, meaning.reduce_add(x)), np.full(16, meaning.reduce_max(x))
        same(out.reshape(5, 16), np.stack([x, np.full(16, a[at]), np.zeros(16, F32), *sums]))
        want = np.full(24, 7, F32)
        want[at : at + count] = x[:count]
        same(first, want)
        narrow = np.where(np.rint(x) < 0, 255, np.clip(np.rint(x), 0, 255))  # negative numbers are large unsigned ones
        equal(bytes_, np.concatenate([[7] * at, narrow[:count], [7] * 4]).astype(np.uint8))


@kernel
def looks_up(index, low, high, out):
    x = vmovdqu8_load(index, 0)
    a, b = vmovdqu8_load(low, 0), vmovdqu8_load(high, 0)
    vmovdqu8_store(out, 0, vpermi2b(x, a, b))
    vmovdqu8_store(out, 64, vpblendmb(x, a, b))


@kernel
def looks_up_s8(index, low, high, out):
    vmovdqu8_store(out, 0, vpermi2b(vmovdqu8_load(index, 0), vmovdqu8_load(low, 0), vmovdqu8_load(high, 0)))


@pytest.mark.parametrize("target", TARGETS)
def test_lookup(target):
    for start in range(0, 256, 64):
        index = rng(start).permutation(np.arange(start, start + 64)).astype(np.uint8)
        low, high = rng(1).integers(0, 256, (2, 64), np.uint8)
        out = np.empty(128, np.uint8)
        execution(looks_up, target)(index, low, high, out)
        equal(out, np.concatenate([lookup_meaning.vpermi2b(index, low, high), np.where(index < 128, low, high)]))
        equal(out[:64], np.concatenate([low, high])[index % 128])
        signed = np.empty(64, np.int8)
        execution(looks_up_s8, target)(index, low.view(np.int8), high.view(np.int8), signed)
        equal(signed, out[:64].view(np.int8))


def test_every_instruction_is_tested():
    sources = [fma_all, binary_all, blend_all, unary_all, integer_all, lanes_all, looks_up]
    tested = {callee for source in sources for callee in source.calls.values()}
    declared = {v for module in (f32, convert, lookup) for v in vars(module).values() if isinstance(v, Instruction)}
    assert declared <= tested


# --- what does not type-check ----------------------------------------------------------------------------------------


@kernel
def integers_added(a, b, out):
    vmovups_store(out, 0, vaddps(vmovdqu32_load(b, 0), vmovups_load(a, 0)))


@kernel
def bytes_loaded(a, b, out):
    vmovups_store(out, 0, vmovups_load(b, 0))


@kernel
def wide_scalar(a, b, out):
    vmovups_store(out, 0, broadcast_f32(1.5))


@kernel
def floats_packed(a, b, out):
    vmovdqu8_store(out, 0, vpackuswb(vmovups_load(a, 0), vmovups_load(a, 0)))


@kernel
def tail_of_integers(a, b, out):
    vmovups_store(out, 0, vmovups_load_first(b, 0, 3, zero_f32()))


@kernel
def tail_to_integers(a, b, out):
    vmovups_store_first(b, 0, zero_f32(), 3)


@kernel
def bytes_to_floats(a, b, out):
    vpmovusdb_store_first(out, 0, vmovdqu32_load(b, 0), 3)


WRONG = [
    integers_added, bytes_loaded, wide_scalar, floats_packed, tail_of_integers, tail_to_integers, bytes_to_floats,
]  # fmt: skip


@NEEDS_JIT
@pytest.mark.parametrize("target", JITTED)
@pytest.mark.parametrize("source", WRONG, ids=lambda source: source.__name__)
def test_wrong_types_do_not_compile(source, target):
    with pytest.raises(TypingError):
        execution(source, target)(np.zeros(16, F32), np.zeros(16, np.int32), np.zeros(16, F32))


@pytest.mark.parametrize("source", WRONG, ids=lambda source: source.__name__)
def test_wrong_types_are_rejected_when_emulated(source):
    with pytest.raises(TypeError):
        source.emulated(np.zeros(16, F32), np.zeros(16, np.int32), np.zeros(16, F32))


def test_emulated_lanes_stay_inside():
    a = np.zeros(20, F32)
    for action in (
        lambda: meaning.vmovups_load(a, 5),
        lambda: meaning.vmovups_load_first(a, 18, 3, meaning.zero_f32()),
        lambda: meaning.vmovups_store_first(a, 18, meaning.zero_f32(), 3),
        lambda: convert_meaning.vpmovusdb_store_first(np.zeros(20, np.uint8), 18, convert_meaning.broadcast_s32(0), 3),
    ):
        with pytest.raises(IndexError, match="of an array of 20"):
            action()
