"""Rung 2: instructions. Oracle: the manual's operation, byte by byte, in Python integers.

The oracles work on the raw bytes of a register (a list of 0 ... 255, byte 0 lowest) and know nothing of NumPy types.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import isa

LANES = range(0, 64, 16)


# --- scalar definitions ----------------------------------------------------------------------------------------------


def signed(raw):
    """Little-endian two's complement bytes -> int."""
    return int.from_bytes(bytes(raw), "little", signed=True)


def raw(value, size):
    """int -> its low ``size`` bytes, little-endian: wrapping."""
    return list((value % 256**size).to_bytes(size, "little"))


def scalar_vpmaddubsw(a, b):
    """For each word: SaturateToSignedWord(a[i+1] * b[i+1] + a[i] * b[i]), a zero-extended, b sign-extended."""
    out = []
    for i in range(0, len(a), 2):
        total = a[i + 1] * signed(b[i + 1 : i + 2]) + a[i] * signed(b[i : i + 1])
        out += raw(max(-0x8000, min(0x7FFF, total)), 2)
    return out


def scalar_vpmaddwd(a, b):
    """For each dword: the sum of two products of signed words, low 32 bits."""
    out = []
    for i in range(0, len(a), 4):
        out += raw(sum(signed(a[j : j + 2]) * signed(b[j : j + 2]) for j in (i, i + 2)), 4)
    return out


def scalar_vpaddd(a, b):
    """For each dword: the sum, low 32 bits."""
    return [byte for i in range(0, len(a), 4) for byte in raw(signed(a[i : i + 4]) + signed(b[i : i + 4]), 4)]


def scalar_vpdpbusd(acc, a, b):
    """For each dword: acc + four products of a zero-extended and a sign-extended byte, low 32 bits."""
    out = []
    for i in range(0, len(acc), 4):
        out += raw(signed(acc[i : i + 4]) + sum(a[j] * signed(b[j : j + 1]) for j in range(i, i + 4)), 4)
    return out


def scalar_unpack(a, b, size, offset):
    """For each 128-bit lane: interleave 8 bytes of a and of b, from byte ``offset`` of the lane, ``size`` at a time."""
    out = []
    for lane in LANES:
        for i in range(lane + offset, lane + offset + 8, size):
            out += a[i : i + size] + b[i : i + size]
    return out


# --- data: registers as bytes, extremes first ------------------------------------------------------------------------

EXTREME_BYTES = [0, 1, 127, 128, 129, 255]
PATTERNS = [[x] * 64 for x in EXTREME_BYTES] + [list(range(64)), list(range(255, 191, -1)), [0, 128] * 32]
PATTERNS += [np.random.default_rng(seed).integers(0, 256, 64).tolist() for seed in range(3)]


def register(data, dtype):
    return np.array(data, np.uint8).view(dtype)


def same_bytes(got, want, dtype):
    assert got.dtype == dtype, f"{got.dtype}, not {np.dtype(dtype)}"
    assert got.view(np.uint8).tolist() == want


def check_binary(function, scalar, types):
    """Every pair of patterns. types: of the two operands and of the result."""
    for a, b in itertools.product(PATTERNS, repeat=2):
        same_bytes(function(register(a, types[0]), register(b, types[1])), scalar(a, b), types[2])


def check_vpmaddubsw(function):
    check_binary(function, scalar_vpmaddubsw, (np.uint8, np.int8, np.int16))


def check_vpmaddwd(function):
    check_binary(function, scalar_vpmaddwd, (np.int16, np.int16, np.int32))


def check_vpaddd(function):
    check_binary(function, scalar_vpaddd, (np.int32, np.int32, np.int32))


def check_vpdpbusd(function):
    accs = [raw(value, 4) * 16 for value in (0, -1, 2**31 - 1, -(2**31), 2**24 + 1)]
    for acc, a, b in itertools.product(accs, PATTERNS, PATTERNS):
        got = function(register(acc, np.int32), register(a, np.uint8), register(b, np.int8))
        same_bytes(got, scalar_vpdpbusd(acc, a, b), np.int32)


def check_unpack(function, size, offset):
    for a, b in itertools.product(PATTERNS, repeat=2):
        want = scalar_unpack(a, b, size, offset)
        for dtype in (np.uint8, np.int8):
            same_bytes(function(register(a, dtype), register(b, dtype)), want, dtype)


def check_vpunpcklbw(function):
    check_unpack(function, 1, 0)


def check_vpunpckhbw(function):
    check_unpack(function, 1, 8)


def check_vpunpcklwd(function):
    check_unpack(function, 2, 0)


def check_vpunpckhwd(function):
    check_unpack(function, 2, 8)


def check_vpbroadcastd(function):
    memory = np.random.default_rng(0).integers(0, 256, 21, dtype=np.uint8)
    for at in range(18):
        for dtype in (np.uint8, np.int8):
            same_bytes(function(memory.view(dtype), at), memory[at : at + 4].tolist() * 16, dtype)


def check_vmovdqu8_load(function):
    memory = np.random.default_rng(0).integers(0, 256, 70, dtype=np.uint8)
    for at in range(7):
        for dtype in (np.uint8, np.int8):
            same_bytes(function(memory.view(dtype), at), memory[at : at + 64].tolist(), dtype)


def check_vpsubd(function):
    a = np.array([0, 1, -1, -(2**31), 2**31 - 1, 5, 7, -9] * 2, np.int32)
    want = [(int(x) - int(y) + 2**31) % 2**32 - 2**31 for x, y in zip(a, a[::-1], strict=True)]
    assert function(a, a[::-1].copy()).tolist() == want


def check_vpxord(function):
    a, b = (np.random.default_rng(i).integers(0, 256, 64, dtype=np.uint8) for i in (1, 2))
    same_bytes(function(a, b), [x ^ y for x, y in zip(a.tolist(), b.tolist(), strict=True)], np.uint8)


def check_vmovdqu8_load_low(function):
    memory = np.random.default_rng(0).integers(0, 256, 35, dtype=np.uint8)
    for at in range(4):
        for dtype in (np.uint8, np.int8):
            same_bytes(function(memory.view(dtype), at), memory[at : at + 32].tolist() + [0] * 32, dtype)


def check_vinserti64x4(function):
    memory = np.random.default_rng(0).integers(0, 256, 35, dtype=np.uint8)
    before = np.random.default_rng(1).integers(0, 256, 64, dtype=np.uint8)
    for at in range(4):
        for dtype in (np.uint8, np.int8):
            want = before[:32].tolist() + memory[at : at + 32].tolist()
            same_bytes(function(before.view(dtype), memory.view(dtype), at), want, dtype)


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_v")}


@pytest.mark.parametrize("name", CHECKS)
def test_instruction(name):
    CHECKS[name](getattr(isa, name))


# --- more of the same, on the true instructions ----------------------------------------------------------------------

BYTES = st.lists(st.sampled_from(EXTREME_BYTES) | st.integers(0, 255), min_size=64, max_size=64)


@settings(max_examples=50, deadline=None)
@given(BYTES, BYTES, BYTES)
def test_arithmetic_on_any_register(acc, a, b):
    u8, s8 = register(a, np.uint8), register(b, np.int8)
    same_bytes(isa.vpmaddubsw(u8, s8), scalar_vpmaddubsw(a, b), np.int16)
    same_bytes(isa.vpmaddwd(u8.view(np.int16), s8.view(np.int16)), scalar_vpmaddwd(a, b), np.int32)
    same_bytes(isa.vpaddd(u8.view(np.int32), s8.view(np.int32)), scalar_vpaddd(a, b), np.int32)
    same_bytes(isa.vpdpbusd(register(acc, np.int32), u8, s8), scalar_vpdpbusd(acc, a, b), np.int32)


@pytest.mark.parametrize("other", [(0, 0), (255, 127), (255, -128), (1, -1)])
def test_vpmaddubsw_on_every_product(other):
    """All 65536 pairs of bytes in one half of a pair, beside four fixed products in the other; both halves."""
    a, b = (x.ravel() for x in np.meshgrid(np.arange(256), np.arange(-128, 128)))
    want = [max(-32768, min(32767, x * y + other[0] * other[1])) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    a = np.stack([a, np.full(a.size, other[0])], 1).astype(np.uint8)
    b = np.stack([b, np.full(b.size, other[1])], 1).astype(np.int8)
    for half in (slice(None), slice(None, None, -1)):
        got = isa.vpmaddubsw(a[:, half].ravel(), b[:, half].ravel())
        assert got.dtype == np.int16
        np.testing.assert_array_equal(got, want)


def test_vpmaddwd_wraps_in_one_case_only():
    low = np.full(2, -32768, np.int16)
    assert isa.vpmaddwd(low, low).tolist() == [-(2**31)]
    assert isa.vpmaddwd(low, np.array([-32768, -32767], np.int16)).tolist() == [2**31 - 32768]


def test_narrower_registers_and_stacks():
    """The AVX2 and SSE forms, and leading dimensions, give the same bytes as one register at a time."""
    a = register(PATTERNS[-1], np.uint8).reshape(2, 2, 16)
    b = register(PATTERNS[-2], np.int8).reshape(2, 2, 16)
    acc = register(PATTERNS[-3], np.int32).reshape(2, 2, 4)
    for stacked, flat in [
        (isa.vpmaddubsw(a, b), isa.vpmaddubsw(a.ravel(), b.ravel())),
        (isa.vpdpbusd(acc, a, b), isa.vpdpbusd(acc.ravel(), a.ravel(), b.ravel())),
    ]:
        assert stacked.shape[:2] == (2, 2)
        np.testing.assert_array_equal(stacked.ravel(), flat)


def test_store_and_zero():
    memory = np.zeros(18, np.int32)
    half = np.zeros(33, np.uint8)
    isa.vmovdqu8_store_low(half, 1, np.arange(64, dtype=np.uint8))
    assert half.tolist() == [0, *range(32)]
    isa.vmovdqu32_store(memory, 2, np.arange(16, dtype=np.int32))
    assert memory.tolist() == [0, 0, *range(16)]
    assert isa.zero_s32().tolist() == [0] * 16
    assert isa.zero_s32().dtype == np.int32


def test_a_prefetch_changes_nothing():
    memory = np.arange(64, dtype=np.uint8).view(np.int8)
    assert isa.prefetcht0(memory, 10**6) is None
    assert memory.tolist() == list(range(64))
    with pytest.raises(TypeError, match="array has dtype float64; need int8 or uint16 or int32"):
        isa.prefetcht0(np.zeros(4, np.float64), 0)


def test_a_load_is_a_copy():
    memory = np.zeros(64, np.uint8)
    isa.vmovdqu8_load(memory, 0)[0] = 1
    assert memory[0] == 0


U8, S32, REGISTER = np.zeros(64, np.uint8), np.zeros(20, np.int32), np.zeros(16, np.int32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: isa.vmovdqu8_load(U8, 1), "elements 1 to 64 of an array of 64"),
        (lambda: isa.vmovdqu8_load(U8, -1), "elements -1 to 62 of an array of 64"),
        (lambda: isa.vmovdqu8_load_low(U8, 33), "elements 33 to 64 of an array of 64"),
        (lambda: isa.vinserti64x4(U8, U8, 33), "elements 33 to 64 of an array of 64"),
        (lambda: isa.vpbroadcastd(U8, 61), "elements 61 to 64 of an array of 64"),
        (lambda: isa.vmovdqu32_store(S32, 5, REGISTER), "elements 5 to 20 of an array of 20"),
    ],
)
def test_memory_outside_the_array(call, message):
    with pytest.raises(IndexError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: isa.vpmaddubsw(U8, U8), TypeError, "b has dtype uint8; need int8"),
        (lambda: isa.vpmaddubsw(U8.view(np.int8), U8.view(np.int8)), TypeError, "a has dtype int8; need uint8"),
        (lambda: isa.vpmaddwd(REGISTER, REGISTER), TypeError, "a has dtype int32; need int16"),
        (lambda: isa.vpaddd(U8, REGISTER), TypeError, "a has dtype uint8; need int32"),
        (lambda: isa.vpdpbusd(U8, U8, U8.view(np.int8)), TypeError, "acc has dtype uint8; need int32"),
        (lambda: isa.vpunpcklbw(U8, U8.view(np.int8)), TypeError, "b has dtype int8; need uint8"),
        (lambda: isa.vmovdqu8_load(S32, 0), TypeError, "array has dtype int32; need uint8 or int8"),
        (lambda: isa.vinserti64x4(U8.view(np.int8), U8, 0), TypeError, "register has dtype int8; need uint8"),
        (lambda: isa.vpbroadcastd(S32, 0), TypeError, "array has dtype int32; need uint8 or int8"),
        (lambda: isa.vmovdqu32_store(U8, 0, U8), TypeError, "array has dtype uint8; need int32"),
        (lambda: isa.vmovdqu32_store(S32, 0, U8), TypeError, "register has dtype uint8; need int32"),
        (lambda: isa.vmovdqu8_load(U8.reshape(2, 32), 0), ValueError, r"array has shape \(2, 32\); need \(N,\)"),
    ],
)
def test_wrong_types(call, error, message):
    with pytest.raises(error, match=message):
        call()
