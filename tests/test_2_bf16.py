"""Rung 2: bf16 instructions. Oracles: the manual's operation in exact rationals, and the CPU's own instruction.

The rationals know nothing of NumPy's floats; they judge some thousand operands. The meaning in ``refimpl.isa.bf16`` is
then compared with the portable form and with the real instruction on hundreds of thousands, in every bit, NaN included.
"""

import itertools
from fractions import Fraction
from functools import cache

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError
from test_1_arithmetic import rng
from test_2_registers import NEEDS_JIT, execution

from refimpl.isa import bf16 as isa
from refimpl.kernels import cpu
from refimpl.kernels.simd.instructions import bf16
from refimpl.kernels.simd.instructions.bf16 import (
    vcvtne2ps2bf16,
    vcvtneps2bf16,
    vdpbf16ps,
    vmovdqu16_load,
    vmovdqu16_store,
    vpbroadcastd_pair,
    vpermw,
)
from refimpl.kernels.simd.instructions.f32 import vmovups_load, vmovups_store
from refimpl.kernels.simd.lowering import Instruction
from refimpl.kernels.simd.threefold import NATIVE, PORTABLE, kernel

LACKING = ", ".join(sorted(vdpbf16ps.features - cpu.features()))
NEEDS_NATIVE = pytest.mark.skipif(bool(LACKING), reason=f"this CPU lacks {LACKING}")
JITTED = [PORTABLE, pytest.param(NATIVE, marks=NEEDS_NATIVE)]
TARGETS = ["emulated", *JITTED]


def same_bits(got, want):
    """Equal shape, dtype and bits: the sign of a zero and the payload of a NaN count."""
    assert got.dtype == want.dtype, f"{got.dtype}, not {want.dtype}"
    assert got.shape == want.shape, f"{got.shape}, not {want.shape}"
    whole = f"u{got.dtype.itemsize}"
    np.testing.assert_array_equal(np.ascontiguousarray(got).view(whole), np.ascontiguousarray(want).view(whole))


# --- scalar definitions on bits --------------------------------------------------------------------------------------


def value(bits):
    """The exact value of a finite f32, subnormal numbers as zero."""
    exponent, fraction = bits >> 23 & 255, bits & 0x7FFFFF
    size = Fraction(0) if exponent == 0 else Fraction(2**23 + fraction) * Fraction(2) ** (exponent - 150)
    return -size if bits >> 31 else size


def is_nan(bits):
    return bits & 0x7FFFFFFF > 0x7F800000


def is_inf(bits):
    return bits & 0x7FFFFFFF == 0x7F800000


def is_zero(bits):
    return bits >> 23 & 255 == 0


def rounded(exact):
    """A nonzero rational -> f32 bits: 24 bits to nearest even, any exponent; then flushed or infinite."""
    sign, size = (exact < 0) << 31, abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent  # 2**exponent <= size < 2**(exponent + 1)
    significand = round(size / Fraction(2) ** (exponent - 23))  # Python rounds ties to even
    if significand == 2**24:
        significand, exponent = 2**23, exponent + 1
    if exponent < -126:
        return sign
    return sign | (0x7F800000 if exponent > 127 else (exponent + 127 << 23) + significand - 2**23)


def scalar_fma(acc, x, y):
    for bits in (x, y, acc):
        if is_nan(bits):
            return bits | 0x400000
    sign = (x ^ y) & 0x80000000
    if is_inf(x) or is_inf(y):
        wrong = is_zero(x) or is_zero(y) or (is_inf(acc) and (acc ^ sign) >> 31)
        return 0xFFC00000 if wrong else sign | 0x7F800000
    if is_inf(acc):
        return acc
    exact = value(x) * value(y) + value(acc)
    if exact:
        return rounded(exact)
    both_zero = (is_zero(x) or is_zero(y)) and is_zero(acc)
    return sign & acc & 0x80000000 if both_zero else 0


def scalar_vdpbf16ps(acc, a, b):
    """acc: bits, a and b: pairs of bits."""
    acc = scalar_fma(acc, a[1] << 16, b[1] << 16)
    return scalar_fma(acc, a[0] << 16, b[0] << 16)


def scalar_vcvtneps2bf16(bits):
    if is_nan(bits):
        return bits >> 16 | 0x40
    if is_inf(bits) or is_zero(bits):
        return bits >> 16 & (0xFFFF if is_inf(bits) else 0x8000)
    low = bits & 0xFFFF
    return (bits >> 16) + (low > 0x8000 or (low == 0x8000 and bits >> 16 & 1))


# --- operands --------------------------------------------------------------------------------------------------------

POSITIVE = np.array([0, 0x7F, 0x80, 0x3F80, 0x7F7F, 0x7F80, 0x7F81, 0x7FC2], np.uint16)
SPECIAL = np.concatenate([POSITIVE, POSITIVE | 0x8000])
"""Zero, subnormal, smallest normal, 1, largest, infinite, signalling NaN, quiet NaN; and their opposites."""


def bf16s(exponents, size, seed):
    """Any sign and fraction, biased exponents from a range."""
    bits = rng(seed).integers(0, 2**16, size) & 0x807F
    return (bits | rng(seed + 1).integers(*exponents, size) << 7).astype(np.uint16)


def f32s(exponents, size, seed):
    bits = rng(seed).integers(0, 2**32, size) & 0x807FFFFF
    return (bits | rng(seed + 1).integers(*exponents, size) << 23).astype(np.uint32).view(np.float32)


def upper_only(pairs):
    pairs = pairs.copy()
    pairs[0::2] = 0
    return pairs


def near_ties(n):
    """acc + 2**-24 of it, a little more or a little less: the lower product decides about the tie or comes too late."""
    acc = f32s((127, 128), n, 1)
    a, b = np.full(2 * n, 0x3F80, np.uint16), bf16s((90, 100), 2 * n, 2)
    first = rng(3).integers(0, 2, n)
    b[2 * np.arange(n) + first] = np.where(rng(4).random(n) < 0.5, 0x3380, 0xB380)  # 2**-24
    return acc, a, b


def cancelling(n):
    """acc = -(a1 b1) to one place, then a small product."""
    a, b = bf16s((120, 130), 2 * n, 5), bf16s((120, 130), 2 * n, 6)
    a[0::2] = bf16s((90, 125), n, 7)
    acc = -isa.from_bf16(a)[1::2] * isa.from_bf16(b)[1::2]
    return (acc.view(np.uint32) + rng(8).integers(0, 2, n).astype(np.uint32)).view(np.float32), a, b


def beyond_f32(n):
    """Products above the largest f32 that an accumulator of the other sign brings back, and the like."""
    return f32s((251, 255), n, 9), bf16s((188, 193), 2 * n, 10), bf16s((188, 193), 2 * n, 11)


def near_smallest(n):
    """Sums around 2**-126, where flushing before or after rounding differs."""
    acc = np.where(rng(12).random(n) < 0.5, np.float32(2**-126), -np.float32(2**-126)).astype(np.float32)
    return acc, upper_only(bf16s((38, 66), 2 * n, 13)), bf16s((38, 66), 2 * n, 14)


def special(n):
    """Every special value met by every other in every place, or as many of these as n allows."""
    picks = np.array(list(itertools.product(range(len(SPECIAL)), repeat=4)))
    picks = np.resize(rng(15).permutation(picks), (n, 4))
    acc = SPECIAL[np.arange(n) * 7 % len(SPECIAL)].astype(np.uint32) << 16 | rng(16).integers(0, 2, n).astype(np.uint32)
    return acc.view(np.float32), SPECIAL[picks[:, :2]].ravel(), SPECIAL[picks[:, 2:]].ravel()


OPERANDS = {
    "any bits": lambda n: (f32s((0, 256), n, 17), bf16s((0, 256), 2 * n, 18), bf16s((0, 256), 2 * n, 19)),
    "sums of one size": lambda n: (f32s((120, 135), n, 20), bf16s((122, 132), 2 * n, 21), bf16s((122, 132), 2 * n, 22)),
    "near ties": near_ties,
    "cancelling": cancelling,
    "beyond f32": beyond_f32,
    "tiny": lambda n: (f32s((0, 4), n, 23), bf16s((55, 72), 2 * n, 24), bf16s((55, 72), 2 * n, 25)),
    "near the smallest": near_smallest,
    "special": special,
}
FEW, MANY = 512, 1 << 16


@cache
def judged():
    """FEW operands of every kind and what the rationals say."""
    acc, a, b = (np.concatenate(part) for part in zip(*(make(FEW) for make in OPERANDS.values()), strict=True))
    pairs = zip(acc.view(np.uint32).tolist(), a.reshape(-1, 2).tolist(), b.reshape(-1, 2).tolist(), strict=True)
    want = np.array([scalar_vdpbf16ps(*each) for each in pairs], np.uint32).view(np.float32)
    return acc, a, b, want


@cache
def numbers():
    """f32 of every kind, ties of both parities among them, and their bf16."""
    ties = (np.arange(2**16, dtype=np.uint32)[::37] << 16) + np.array(
        [[0x7FFF], [0x8000], [0x8001], [0], [1]], np.uint32
    )
    bits = np.concatenate([ties.ravel(), f32s((0, 256), 6000, 26).view(np.uint32)])
    bits = bits[: bits.size // 16 * 16]
    return bits.view(np.float32), np.array([scalar_vcvtneps2bf16(x) for x in bits.tolist()], np.uint16)


# --- meaning ---------------------------------------------------------------------------------------------------------


def check_vdpbf16ps(dot):
    acc, a, b, want = judged()
    same_bits(dot(acc, a, b), want)


def check_vcvtneps2bf16(convert):
    x, want = numbers()
    same_bits(convert(x), want)


def check_two(convert):
    """The second operand below the first."""
    x, want = (array.reshape(-1, 16) for array in numbers())
    for i in range(1, len(x)):
        same_bits(convert(x[i], x[i - 1]), want[i - 1 : i + 1].reshape(-1))


def check_words(pick):
    """Only five bits of an index count."""
    index, a = (rng(seed).integers(0, 2**16, 32).astype(np.uint16) for seed in range(2))
    same_bits(pick(index, a), np.array([a[i & 31] for i in index.tolist()], np.uint16))


def test_meaning():
    check_vdpbf16ps(isa.vdpbf16ps)
    check_vcvtneps2bf16(isa.vcvtneps2bf16)
    check_two(isa.vcvtne2ps2bf16)
    check_words(isa.vpermw)


def test_every_kind_of_result_is_met():
    bits = judged()[-1].view(np.uint32)
    kinds = {"+0": bits == 0, "-0": bits == 2**31, "inf": is_inf(bits), "indefinite": bits == 0xFFC00000}
    kinds |= {"NaN": is_nan(bits), "smallest": bits << 1 == 0x1000000}
    assert {kind: hits.any() for kind, hits in kinds.items()} == dict.fromkeys(kinds, True)


def test_bf16_is_exact_in_f32():
    every = np.arange(2**16).astype(np.uint16)
    assert (isa.from_bf16(every).view(np.uint32) == every.astype(np.uint32) * 2**16).all()
    normal = every[(every & 0x7F80 != 0) & (every & 0x7F80 != 0x7F80)]
    same_bits(isa.vcvtneps2bf16(isa.from_bf16(normal)), normal)


def test_rejects():
    f32, u16 = np.zeros(16, np.float32), np.zeros(32, np.uint16)
    with pytest.raises(TypeError, match="acc has dtype float64; need float32"):
        isa.vdpbf16ps(f32.astype(np.float64), u16, u16)
    with pytest.raises(TypeError, match="a has dtype float32; need uint16"):
        isa.vdpbf16ps(f32, f32, u16)
    with pytest.raises(TypeError, match="x has dtype uint16; need float32"):
        isa.vcvtneps2bf16(u16)
    with pytest.raises(TypeError, match="index has dtype int16; need uint16"):
        isa.vpermw(u16.view(np.int16), u16)
    with pytest.raises(TypeError, match="a has dtype float32; need uint16"):
        isa.vpermw(u16, f32)
    with pytest.raises(TypeError, match="array has dtype int16; need uint16"):
        isa.vmovdqu16_load(u16.view(np.int16), 0)
    with pytest.raises(TypeError, match="register has dtype float32; need uint16"):
        isa.vmovdqu16_store(u16, 0, f32)
    for at in (-1, 1):
        with pytest.raises(IndexError, match=f"elements {at} to {at + 31} of an array of 32"):
            isa.vmovdqu16_load(u16, at)
    with pytest.raises(IndexError, match="elements 31 to 32 of an array of 32"):
        isa.vpbroadcastd_pair(u16, 31)


# --- three executions ------------------------------------------------------------------------------------------------


@kernel
def dots(acc, a, b, out):
    for i in range(acc.size // 16):
        register = vdpbf16ps(vmovups_load(acc, 16 * i), vmovdqu16_load(a, 32 * i), vmovdqu16_load(b, 32 * i))
        vmovups_store(out, 16 * i, register)


@kernel
def conversions(x, out):
    for i in range(x.size // 16):
        vmovdqu16_store(out, 16 * i, vcvtneps2bf16(vmovups_load(x, 16 * i)))


@kernel
def pairs_of(a, b, index, out):
    for i in range(a.size // 16):
        words = vcvtne2ps2bf16(vmovups_load(a, 16 * i), vmovups_load(b, 16 * i))
        vmovdqu16_store(out, 64 * i, words)
        vmovdqu16_store(out, 64 * i + 32, vpermw(vmovdqu16_load(index, 32 * i), words))


@kernel
def copies(a, out, pairs):
    vmovdqu16_store(out, 1, vmovdqu16_load(a, 3))
    vmovdqu16_store(pairs, 1, vpbroadcastd_pair(a, 5))


def dot_by(target):
    def dot(acc, a, b):
        out = np.full(acc.shape, 7, np.float32)
        execution(dots, target)(acc, a, b, out)
        return out

    return dot


def convert_by(target):
    def convert(x):
        out = np.full(x.shape, 7, np.uint16)
        execution(conversions, target)(x, out)
        return out

    return convert


@pytest.mark.parametrize("target", TARGETS)
def test_executions(target):
    check_vdpbf16ps(dot_by(target))
    check_vcvtneps2bf16(convert_by(target))


@NEEDS_JIT
@pytest.mark.parametrize("kind", OPERANDS)
@pytest.mark.parametrize("target", JITTED)
def test_vdpbf16ps_on_many(target, kind):
    """Half a million operands in all; natively, this is the CPU's verdict on ``refimpl.isa.bf16``."""
    acc, a, b = OPERANDS[kind](MANY)
    same_bits(dot_by(target)(acc, a, b), isa.vdpbf16ps(acc, a, b))


@NEEDS_JIT
@pytest.mark.parametrize("target", JITTED)
def test_vcvtneps2bf16_on_many(target):
    """Every upper half with the lower halves around the tie, and random ones."""
    upper = np.arange(2**16, dtype=np.uint32) << 16
    for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, rng(27).integers(0, 2**16, 2**16).astype(np.uint32)):
        x = (upper + low).astype(np.uint32).view(np.float32)
        same_bits(convert_by(target)(x), isa.vcvtneps2bf16(x))


@pytest.mark.parametrize("target", TARGETS)
def test_loads_and_stores(target):
    a = rng().integers(0, 2**16, 40).astype(np.uint16)
    out, pairs = np.zeros(34, np.uint16), np.zeros(34, np.uint16)
    execution(copies, target)(a, out, pairs)
    same_bits(out, np.concatenate([[0], a[3:35], [0]]).astype(np.uint16))
    same_bits(pairs, np.concatenate([[0], np.tile(a[5:7], 16), [0]]).astype(np.uint16))


def check_pairs(run):
    """The conversion of two registers is that of each; any index picks, its upper bits not looked at."""
    x, words = numbers()
    a, b, halves = x, np.roll(x, 16), words.reshape(-1, 16)
    index = rng(3).integers(0, 2**16, 2 * x.size).astype(np.uint16)
    out = np.zeros(4 * x.size, np.uint16)
    run(a, b, index, out)
    want = np.concatenate([np.roll(halves, 1, axis=0), halves], 1)
    same_bits(out.reshape(-1, 64)[:, :32].copy(), want)
    same_bits(out.reshape(-1, 64)[:, 32:].copy(), np.take_along_axis(want, index.reshape(-1, 32) % 32, 1))


@pytest.mark.parametrize("target", TARGETS)
def test_pairs(target):
    check_pairs(execution(pairs_of, target))


def test_every_instruction_is_tested():
    tested = {name for source in (dots, conversions, pairs_of, copies) for name in source.calls}
    own = {name for name, value in vars(bf16).items() if isinstance(value, Instruction)}
    assert tested == own | {"vmovups_load", "vmovups_store"}


def test_features():
    assert dots.features == conversions.features == pairs_of.features == {"avx512bf16"}
    assert copies.features == frozenset()


PAIRS = *np.zeros((2, 16), np.float32), np.zeros(32, np.uint16), np.zeros(64, np.uint16)


@NEEDS_JIT
@NEEDS_NATIVE
def test_the_native_form_is_the_instruction():
    for source, arrays, mnemonic in [
        (dots, (*judged()[:3], np.zeros(judged()[0].size, np.float32)), "vdpbf16ps"),
        (conversions, (numbers()[0], np.zeros(numbers()[0].size, np.uint16)), "vcvtneps2bf16"),
        (pairs_of, PAIRS, "vcvtne2ps2bf16"),
    ]:
        for target, there in [(NATIVE, True), (PORTABLE, False)]:
            fresh = numba.njit(source._copy("listed", target))
            fresh(*arrays)
            (listing,) = fresh.inspect_asm().values()
            assert (mnemonic in listing) is there
            assert source is not pairs_of or "vpermw" in listing


@NEEDS_JIT
@pytest.mark.parametrize("target", JITTED)
def test_wrong_types_do_not_compile(target):
    acc, a, out = np.zeros(16, np.float32), np.zeros(32, np.uint16), np.zeros(16, np.float32)
    execution(dots, target)(acc, a, a, out)
    for wrong in [(acc, a.view(np.int16), a, out), (acc, a[::2], a, out), (a, a, a, out), (acc, a, a, a)]:
        with pytest.raises(TypingError):
            execution(dots, target)(*wrong)
