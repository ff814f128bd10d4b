"""Rung 2: expansion by bit masks. Oracle: one bit after the other, in Python integers."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.errors import TypingError
from test_1_arithmetic import equal, rng
from test_2_registers import NEEDS_JIT, ONE_HOT, execution, seen, show_s8

from refimpl import isa
from refimpl.kernels import cpu
from refimpl.kernels.simd.instructions.expand import kmovq_load, popcnt, vpexpandb
from refimpl.kernels.simd.instructions.memory import vmovdqu32_store
from refimpl.kernels.simd.threefold import NATIVE, PORTABLE, kernel

LACKING = ", ".join(sorted({"avx512vbmi2", "avx512vnni"} - cpu.features()))
JITTED = [PORTABLE, pytest.param(NATIVE, marks=pytest.mark.skipif(bool(LACKING), reason=f"this CPU lacks {LACKING}"))]
TARGETS = ["emulated", *JITTED]
ALL = 2**64 - 1
MASKS = [
    0,
    1,
    2**63,
    ALL,
    2**63 - 1,
    ALL - 1,
    0xAAAA_AAAA_AAAA_AAAA,
    0xFFFF_FFFF,
    ALL - 0xFFFF_FFFF,
    0x8000_0001_8000_0001,
]


def scalar_expand(memory, at, mask):
    out = []
    for j in range(64):
        out.append(memory[at] if mask >> j & 1 else 0)
        at += mask >> j & 1
    return np.array(out, np.int8)


def check_vpexpandb(expand):
    memory = rng(3).integers(-128, 128, 67, np.int8)
    for at in (0, 1, 3):
        for mask in [*MASKS, *rng(4).integers(0, ALL, 30, np.uint64, endpoint=True).tolist()]:
            equal(expand(memory, at, np.uint64(mask)), scalar_expand([*memory.tolist(), 0], at, mask))


def check_popcnt(count):
    for mask in MASKS + [2**j for j in range(64)]:
        assert count(np.uint64(mask)) == bin(mask).count("1")


def test_meanings():
    check_vpexpandb(isa.vpexpandb)
    check_popcnt(isa.popcnt)


@kernel
def expands(values, masks, hot, out, ends):
    """Every mask in turn, each from where the one before it ended; ``ends`` gets those places."""
    at = 0
    for i in range(masks.size):
        mask = kmovq_load(masks, i)
        show_s8(out, 64 * i, vpexpandb(values, at, mask), hot)
        at += popcnt(mask)
        ends[i] = at


def run_expands(target, values, masks):
    out, ends = np.full(64 * masks.size, -1, np.int32), np.zeros(masks.size, np.int64)
    execution(expands, target)(values, masks, ONE_HOT.view(np.uint8), out, ends)
    return seen(out, np.int8), ends


def check_run(target, masks):
    masks = np.array(masks, np.uint64)
    ends = np.cumsum([int(mask).bit_count() for mask in masks])
    values = rng(5).integers(-128, 128, ends[-1], np.int8)  # no byte more than is used
    want = [scalar_expand([*values.tolist(), 0], at, int(mask)) for at, mask in zip([0, *ends], masks, strict=False)]
    got, got_ends = run_expands(target, values, masks)
    equal(got, np.stack(want))
    assert got_ends.tolist() == ends.tolist()


@pytest.mark.parametrize("target", TARGETS)
def test_expansion(target):
    check_run(target, [*MASKS, *rng(6).integers(0, ALL, 20, np.uint64, endpoint=True)])


@settings(max_examples=40)
@given(st.lists(st.integers(0, ALL) | st.sampled_from(MASKS), min_size=1, max_size=5))
@pytest.mark.parametrize("target", TARGETS)
def test_any_masks(target, masks):
    check_run(target, masks)


GUARDED = """
import ctypes, mmap, sys
import numpy as np
sys.path.insert(0, {tests!r})
from test_2_expand import ALL, run_expands
page = mmap.PAGESIZE
pages = mmap.mmap(-1, 2 * page)
memory = np.frombuffer(pages, np.int8)
assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(memory.ctypes.data + page), page, 0) == 0
for mask in (ALL, 1, 2**63, 0, 7):
    values = memory[page - mask.bit_count() : page]
    got, ends = run_expands({target!r}, values, np.array([mask, 0], np.uint64))
    assert ends.tolist() == [mask.bit_count()] * 2 and not got.any()
print("done")
"""


@NEEDS_JIT
@pytest.mark.skipif(sys.platform != "linux", reason="protects a page as Linux does")
@pytest.mark.parametrize("target", JITTED)
def test_nothing_outside_is_read(target, request):
    """The bytes end where a page begins that may not be read."""
    program = GUARDED.format(tests=str(request.path.parent), target=target)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["done"]), done.stderr


# --- what is rejected ------------------------------------------------------------------------------------------------


def test_meanings_reject():
    values, masks, one = np.zeros(4, np.int8), np.zeros(2, np.uint64), np.uint64(1)
    for call, error, message in [
        (lambda: isa.vpexpandb(values.view(np.uint8), 0, one), TypeError, "array has dtype uint8; need int8"),
        (lambda: isa.vpexpandb(values, 0, 1), TypeError, "mask is int; need uint64"),
        (lambda: isa.popcnt(np.int64(1)), TypeError, "mask is int64; need uint64"),
        (lambda: isa.vpexpandb(values[None], 0, one), ValueError, r"array has shape \(1, 4\); need \(N,\)"),
        (lambda: isa.vpexpandb(values, 3, np.uint64(3)), IndexError, "elements 3 to 4 of an array of 4"),
        (lambda: isa.vpexpandb(values, -1, one), IndexError, "elements -1 to -1 of an array of 4"),
        (lambda: isa.kmovq_load(masks.view(np.int64), 0), TypeError, "array has dtype int64; need uint64"),
        (lambda: isa.kmovq_load(masks[None], 0), ValueError, r"array has shape \(1, 2\); need \(N,\)"),
        (lambda: isa.kmovq_load(masks, 2), IndexError, "elements 2 to 2 of an array of 2"),
        (lambda: isa.kmovq_load(masks, -1), IndexError, "elements -1 to -1 of an array of 2"),
    ]:
        with pytest.raises(error, match=message):
            call()


@kernel
def count_of_an_index(values, masks, hot, out, ends):
    ends[0] = popcnt(masks.size)


@kernel
def expansion_by_an_index(values, masks, hot, out, ends):
    show_s8(out, 0, vpexpandb(values, 0, masks.size), hot)


@kernel
def a_mask_stored(values, masks, hot, out, ends):
    vmovdqu32_store(out, 0, kmovq_load(masks, 0))


VALUES, MASK, OUT, ENDS = np.zeros(64, np.int8), np.zeros(4, np.uint64), np.zeros(256, np.int32), np.zeros(4, np.int64)
HOT = ONE_HOT.view(np.uint8)
WRONG = {
    "u8 values": (expands, VALUES.view(np.uint8), MASK),
    "2-D values": (expands, VALUES[None], MASK),
    "s64 masks": (expands, VALUES, MASK.view(np.int64)),
    "strided masks": (expands, VALUES, MASK[::2]),
    "f64 masks": (expands, VALUES, MASK.view(np.float64)),
    "count of an index": (count_of_an_index, VALUES, MASK),
    "expansion by an index": (expansion_by_an_index, VALUES, MASK),
    "a mask stored": (a_mask_stored, VALUES, MASK),
}


@NEEDS_JIT
@pytest.mark.parametrize("target", JITTED)
@pytest.mark.parametrize("name", WRONG)
def test_wrong_operands_do_not_compile(name, target):
    source, values, masks = WRONG[name]
    with pytest.raises(TypingError):
        execution(source, target)(values, masks, HOT, OUT, ENDS)


def test_features():
    assert vpexpandb.features == {"avx512vbmi2"}
    assert popcnt.features == kmovq_load.features == frozenset()
