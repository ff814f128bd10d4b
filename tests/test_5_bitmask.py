"""Rung 5: bitmask weights. Oracles: the index formula, element by element; the exact product; a CPU without VBMI2."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_1_arithmetic import equal, rng
from test_2_expand import JITTED, LACKING
from test_2_registers import NEEDS_JIT
from test_5_kernels import BERT, CODES, SMALL, counts_as_documented, extreme, inner_loop, need_threads, operands
from test_5_layouts import SHAPES, WEIGHTS, changed, corrupt, rejects, same, weights

from refimpl.integer.gemm import MAX_K
from refimpl.kernels import cpu
from refimpl.kernels.layout import bitmask, vnni4
from refimpl.kernels.layout.bitmask import Bitmask
from refimpl.kernels.simd.threefold import PORTABLE
from refimpl.kernels.spgemm_bitmask_u8s8s32 import SPGEMM_BITMASK as KERNEL

on_targets = pytest.mark.parametrize("target", JITTED)
needs_native = pytest.mark.skipif(bool(LACKING), reason=f"this CPU lacks {LACKING}")


def scattered(shape, density, seed=0):
    """s8 (M, K) of the whole range; each weight by itself is zero or not."""
    w = rng(seed).integers(-128, 128, shape, np.int8)
    return w * (rng(seed + 1).random(shape) < density)


# --- layout ----------------------------------------------------------------------------------------------------------


def slow_bitmask(w):
    (m, k), w = w.shape, w.tolist()
    tiles, steps = -(-m // 64), -(-k // 4)
    starts, masks, values = [0], [], []
    for tile in range(tiles):
        for register in range(4 * steps):
            step, first, mask = register // 4, 64 * tile + 16 * (register % 4), 0
            for j in range(64):
                row, column = first + j // 4, 4 * step + j % 4
                if row < m and column < k and w[row][column]:
                    mask += 2**j
                    values.append(w[row][column])
            masks.append(mask)
        starts.append(len(values))
    return Bitmask((m, k), np.array(starts, np.int64), np.array(masks, np.uint64), np.array(values, np.int8))


def check_bitmask_pack(pack):
    for shape in [*SHAPES, (129, 6)]:
        for density in (0, 0.1, 0.5, 1):
            w = scattered(shape, density)
            same(pack(w), slow_bitmask(w))


def test_packing_is_what_its_drawing_says():
    check_bitmask_pack(bitmask.pack)
    w = np.zeros((16, 4), np.int8)
    w.reshape(-1)[[0, 3, 5, 61]] = 1, 2, 3, 4
    packed = bitmask.pack(w)
    assert packed.masks.tolist() == [2**0 + 2**3 + 2**5 + 2**61, 0, 0, 0]
    assert packed.values.tolist() == [1, 2, 3, 4]
    assert packed.starts.tolist() == [0, 4]


@settings(max_examples=60)
@given(WEIGHTS)
def test_unpack_inverts_pack(w):
    packed = bitmask.pack(w)
    equal(bitmask.unpack(packed), w)
    same(bitmask.pack(bitmask.unpack(packed)), packed)


def test_size():
    w = scattered((130, 17), 0.3)
    packed = bitmask.pack(w)
    assert bitmask.size(packed) == np.count_nonzero(w) + 8 * 3 * 5 * 4 + 8 * 4
    for shape in [(64, 4), (3072, 768), (128, 1000), (190, 62)]:
        dense = vnni4.pack(np.zeros(shape, np.int8)).values.nbytes
        share = bitmask.break_even_density(shape)
        w = np.zeros(shape, np.int8)
        w.reshape(-1)[: round(share * w.size)] = 1
        assert bitmask.size(bitmask.pack(w)) == dense, shape
    assert bitmask.break_even_density((1, 1)) == 1.0
    with pytest.raises(ValueError, match="shape is"):
        bitmask.break_even_density((0, 1))


WEIGHT = np.zeros((70, 7), np.int8)
WEIGHT[0, [1, 2, 4, 6]] = 1, 2, 3, -4
WEIGHT[69, [0, 3]] = 6, 7
PACKED = bitmask.pack(WEIGHT)


def with_bit(index, bit, on=True):
    """The masks with one bit set or cleared, and everything else made to fit."""
    mask = int(PACKED.masks[index])
    masks = changed(PACKED.masks, index, mask | 1 << bit if on else mask & ~(1 << bit))
    starts = bitmask._starts(masks, 70)
    return Bitmask((70, 7), starts, masks, np.ones(starts[-1], np.int8))


OUTSIDE = r"masks has weights outside the shape \(70, 7\)"
WRONG = {
    "starts in s32": (PACKED._replace(starts=PACKED.starts.astype(np.int32)), "starts has dtype int32; need int64"),
    "masks in s64": (PACKED._replace(masks=PACKED.masks.view(np.int64)), "masks has dtype int64; need uint64"),
    "values in u8": (PACKED._replace(values=PACKED.values.view(np.uint8)), "values has dtype uint8; need int8"),
    "values a list": (PACKED._replace(values=[1]), "values is list; need an ndarray of int8"),
    "starts too short": (PACKED._replace(starts=PACKED.starts[:2]), r"starts has shape \(2,\); need \(3,\)"),
    "masks too short": (PACKED._replace(masks=PACKED.masks[:-1]), r"masks has shape \(15,\); need \(16,\)"),
    "masks 2-D": (PACKED._replace(masks=PACKED.masks[None]), r"masks has shape \(1, 16\); need \(16,\)"),
    "values too short": (PACKED._replace(values=PACKED.values[:-1]), r"values has shape \(5,\); need \(6,\)"),
    "values too long": (PACKED._replace(values=np.ones(7, np.int8)), r"values has shape \(7,\); need \(6,\)"),
    "starts from 1": (PACKED._replace(starts=PACKED.starts + 1), r"starts is 1 at \[0\]; .* have 0 bits set"),
    "an inner start": (PACKED._replace(starts=changed(PACKED.starts, 1, 3)), r"starts is 3 at \[1\]; .* have 4 bits"),
    "the last start": (PACKED._replace(starts=changed(PACKED.starts, 2, 2**62)), r"at \[2\]; .* have 6 bits set"),
    "a bit more": (PACKED._replace(masks=changed(PACKED.masks, 0, ~np.uint64(0))), r"starts is 4 at \[1\]"),
    "a zero value": (PACKED._replace(values=changed(PACKED.values, 3, 0)), r"values is 0 at \[3\]; need nonzero"),
    "a row beyond M": (with_bit(8, 4 * 6), OUTSIDE),
    "the last row of the last tile": (with_bit(11, 63), OUTSIDE),
    "a column beyond K": (with_bit(4, 3), OUTSIDE),
}


@pytest.mark.parametrize("name", WRONG)
def test_validate_rejects(name):
    packed, message = WRONG[name]
    rejects(lambda: bitmask.validate(packed), message)
    rejects(lambda: bitmask.unpack(packed), message)


@pytest.mark.parametrize("shape", [(0, 7), (70, 0), (70, MAX_K + 1), (70,), (70.0, 7)], ids=str)
def test_wrong_shapes(shape):
    rejects(lambda: bitmask.validate(PACKED._replace(shape=shape)), "shape is .*; need integers")


def test_pack_rejects():
    rejects(lambda: bitmask.pack(WEIGHT.astype(np.int16)), "w has dtype int16; need int8")
    rejects(lambda: bitmask.pack(WEIGHT[0]), r"w has shape \(7,\); need \(M, K\)")


def test_valid_ones_are_accepted():
    bitmask.validate(PACKED)
    bitmask.validate(with_bit(8, 4 * 5))
    bitmask.validate(with_bit(0, 2, on=False))


def test_corrupted_weights_are_rejected_or_still_canonical():
    """And an accepted one is safe: emulation, which checks every address, gives the product of what it unpacks to."""
    random, accepted, rejected = rng(8), 0, 0
    for case in range(400):
        packed = bitmask.pack(weights((int(random.integers(1, 12)), int(random.integers(1, 12))), 0.6, case))
        if not packed.values.size:
            continue
        packed = corrupt_fields(packed, random)
        try:
            w = bitmask.unpack(packed)
        except ValueError:
            rejected += 1
            continue
        accepted += 1
        same(bitmask.pack(w), packed)
        if accepted % 8 == 0:
            a = random.integers(0, 256, (3, w.shape[1]), np.uint8)
            equal(KERNEL.emulated(a, packed), KERNEL.oracle(a, w))
    assert accepted > 50
    assert rejected > 150


def corrupt_fields(packed, random):
    """As for the other layouts, and every third time one bit of a mask flipped."""
    if random.integers(3):
        packed = corrupt(packed._replace(masks=packed.masks.view(np.int64)), random)
        return packed._replace(masks=packed.masks.view(np.uint64))
    at, bit = random.integers(packed.masks.size), random.integers(64)
    return packed._replace(masks=changed(packed.masks, at, int(packed.masks[at]) ^ 1 << int(bit)))


# --- kernel ----------------------------------------------------------------------------------------------------------


def cases():
    """Every tail with blocks of zeros and with scattered ones; every number of tokens up to three tiles."""
    for case in SMALL:
        yield operands(*case)
    for n in range(1, 18):
        m, k, density = 60 + n, 3 + n, (0.05, 0.2, 0.5, 0.9)[n % 4]
        a = rng(n).integers(0, 256, (n, k), np.uint8)
        a[-1] = 255
        yield a, scattered((m, k), density, n)


def check_spgemm_bitmask(product):
    """product: (a, w) -> s32 (N, M)."""
    for a, w in cases():
        equal(product(a, w), KERNEL.oracle(a, w))


def test_emulated():
    check_spgemm_bitmask(lambda a, w: KERNEL.emulated(a, KERNEL.pack(w)))


@NEEDS_JIT
@on_targets
@pytest.mark.parametrize("threads", [1, 2])
def test_compiled(target, threads):
    need_threads(threads)
    check_spgemm_bitmask(lambda a, w: KERNEL.run(target, a, KERNEL.pack(w), threads))
    for density in (0, BERT[-1], 1):
        a, w = operands(*BERT[:3], 1)[0], scattered(BERT[1:3], density)
        equal(KERNEL.run(target, a, KERNEL.pack(w), threads), KERNEL.oracle(a, w))


@NEEDS_JIT
@on_targets
@settings(max_examples=60)
@given(st.integers(0, 40), st.integers(1, 140), st.integers(1, 140), st.floats(0, 1), CODES)
@example(1, 1, 1, 1.0, "255 and -128")
@example(2, 5, 65_793, 1.0, "255 and -128")  # the largest K: sums near -2**31
def test_compiled_on_any_shape(target, n, m, k, density, codes):
    a, w = extreme(codes, rng(n).integers(0, 256, (n, k), np.uint8), scattered((m, k), density, k))
    equal(KERNEL.run(target, a, KERNEL.pack(w)), KERNEL.oracle(a, w))


PLAIN = """
import sys
sys.path.insert(0, {tests!r})
from test_5_bitmask import KERNEL, check_spgemm_bitmask
check_spgemm_bitmask(lambda a, w: KERNEL.portable(a, KERNEL.pack(w)))
(listing,) = KERNEL.source.versions["portable"].inspect_asm().values()
print("vpexpandb" in listing)
"""


@NEEDS_JIT
def test_portable_without_vbmi2(request, tmp_path):
    """Compiled for a CPU with SSE2 only, where LLVM loads byte by byte."""
    environment = os.environ | {"NUMBA_CPU_NAME": "generic", "REFIMPL_CACHE_DIR": str(tmp_path)}
    program = PLAIN.format(tests=str(request.path.parent))
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["False"]), done.stderr


@NEEDS_JIT
@needs_native
def test_inner_loop():
    """Four expansions for 24 dot products, and no accumulator or weight leaves its register."""
    documented = {"vpdpbusd": 24, "vpexpandb": 4, "popcntq": 4}
    counts_as_documented(inner_loop(KERNEL, operands(7, 5, 9, 1)), documented)


# --- what the record rejects -----------------------------------------------------------------------------------------


def test_a_cpu_without_the_instructions(monkeypatch):
    a, w = operands(2, 4, 4, 1)
    monkeypatch.setattr(cpu, "features", lambda: frozenset(["avx512vnni"]))
    assert KERNEL.fastest() == PORTABLE
    with pytest.raises(RuntimeError, match="spgemm_bitmask needs the CPU features avx512vbmi2; use portable"):
        KERNEL.native(a, KERNEL.pack(w))
    equal(KERNEL.portable(a, KERNEL.pack(w)), KERNEL.oracle(a, w))


def test_record_rejects():
    a, w = operands(2, 4, 5, 1)
    packed = KERNEL.pack(w)
    for run in (KERNEL.portable, KERNEL.emulated):
        with pytest.raises(TypeError, match="a has dtype int8; need uint8"):
            run(a.view(np.int8), packed)
        with pytest.raises(ValueError, match=r"a has shape \(2, 4\); need \(N, 5\)"):
            run(a[:, 1:], packed)
    with pytest.raises(ValueError, match="threads is 0; need 1 to"):
        KERNEL.portable(a, packed, 0)
