"""Rung 5: kernels. Oracle: the one that each record names, in refimpl; the integers are equal.

Every kernel is one source with three executions, and all three must agree with the oracle.
"""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_1_arithmetic import equal, rng
from test_2_registers import JITTED, LACKING, NEEDS_JIT, TARGETS, execution
from test_5_layouts import weights

from refimpl.kernels import cpu, peak
from refimpl.kernels.bsgemm_4x1_half_u8s8s32 import BSGEMM_4X1_HALF
from refimpl.kernels.bsgemm_4x1_shared32_u8s8s32 import BSGEMM_4X1_SHARED32
from refimpl.kernels.bsgemm_4x1_shared_u8s8s32 import BSGEMM_4X1_SHARED
from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.kernels.bsgemm_32x32_u8s8s32 import BSGEMM_32X32
from refimpl.kernels.gemm_u8s8s32 import GEMM
from refimpl.kernels.simd import assembly
from refimpl.kernels.simd.threefold import NATIVE, PORTABLE

KERNELS = [BSGEMM_4X1, BSGEMM_4X1_HALF, BSGEMM_4X1_SHARED, BSGEMM_4X1_SHARED32, BSGEMM_32X32, GEMM]
by_name = pytest.mark.parametrize("kernel", KERNELS, ids=[kernel.name for kernel in KERNELS])
on_targets = pytest.mark.parametrize("target", JITTED)
needs_native = pytest.mark.skipif(bool(LACKING), reason=f"this CPU lacks {LACKING}")

# N, M, K, density: every tail of 64 and 6 tokens, of 4, 16 and 64 output channels, of 4 input channels
SMALL = [
    (7, 5, 9, 0.6),
    (70, 10, 11, 0.5),
    (13, 65, 4, 1),
    (65, 4, 6, 1),
    (1, 1, 1, 1),
    (64, 8, 8, 0),
    (6, 64, 5, 0.3),
    (0, 3, 2, 1),
    (12, 67, 13, 0.9),
    (1, 4, 64, 1),
]
BERT = (10, 96, 96, 0.2) if numba.config.DISABLE_JIT else (40, 384, 384, 0.2)


def operands(n, m, k, density, seed=0):
    """Codes of the whole range; the first token is all 255, the last two live rows all 127 and all -128."""
    a = rng(seed).integers(0, 256, (n, k), np.uint8)
    a[:1] = 255
    w = weights((m, k), density, seed)
    w[-2:] = np.where(w[-2:] == 0, 0, np.array([[127], [-128]], np.int8)[-len(w) :])
    return a, w


# --- equality --------------------------------------------------------------------------------------------------------


def check_product(product):
    """product: (a, w) -> s32 (N, M)."""
    for case in SMALL:
        a, w = operands(*case)
        equal(product(a, w), GEMM.oracle(a, w))


def check_bsgemm_4x1_kernel(product):
    check_product(product)


def check_bsgemm_4x1_half_kernel(product):
    check_product(product)


def check_gemm_kernel(product):
    check_product(product)


def need_threads(threads):
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip(f"numba has {numba.config.NUMBA_NUM_THREADS} thread here")


@by_name
def test_emulated(kernel):
    check_product(lambda a, w: kernel.emulated(a, kernel.pack(w)))


@by_name
@on_targets
@pytest.mark.parametrize("threads", [1, 2])
def test_compiled(kernel, target, threads):
    """The small cases and a BERT layer, pruned to 80 % and dense."""
    need_threads(threads)
    check_product(lambda a, w: getattr(kernel, target)(a, kernel.pack(w), threads))
    for density in (BERT[-1], 1):
        a, w = operands(*BERT[:3], density)
        equal(kernel.run(target, a, kernel.pack(w), threads), kernel.oracle(a, w))


CODES = st.sampled_from(["random", "255 and -128", "255 and 127", "255 and both"])


def extreme(codes, a, w):
    """The case's pattern of zeros with the largest products; sums as far from 0 as K allows."""
    if codes == "random":
        return a, w
    signs = {"255 and -128": [-128], "255 and 127": [127], "255 and both": [127, -128]}[codes]
    return np.full_like(a, 255), np.where(w != 0, np.resize(np.array(signs, np.int8), w.shape), np.int8(0))


@by_name
@settings(max_examples=20)
@given(st.integers(0, 70), st.integers(1, 9), st.integers(1, 14), st.floats(0, 1), CODES)
@example(3, 70, 5, 1.0, "255 and -128")
@example(129, 4, 5, 1.0, "255 and 127")
def test_emulated_on_any_shape(kernel, n, m, k, density, codes):
    a, w = extreme(codes, *operands(n, m, k, density))
    equal(kernel.emulated(a, kernel.pack(w)), kernel.oracle(a, w))


@NEEDS_JIT
@by_name
@on_targets
@settings(max_examples=60)
@given(st.integers(0, 140), st.integers(1, 140), st.integers(1, 140), st.floats(0, 1), CODES, st.integers(1, 2))
@example(1, 1, 1, 1.0, "255 and -128", 1)
@example(64, 64, 64, 1.0, "255 and both", 2)
@example(2, 5, 65_793, 1.0, "255 and -128", 1)  # the largest K: sums near -2**31
def test_compiled_on_any_shape(kernel, target, n, m, k, density, codes, threads):
    a, w = extreme(codes, *operands(n, m, k, density))
    equal(
        kernel.run(target, a, kernel.pack(w), min(threads, numba.config.NUMBA_NUM_THREADS)),
        kernel.oracle(a, w),
    )


@by_name
@on_targets
def test_operands_in_any_memory(kernel, target):
    """Activations and weights as strided, column-major or read-only views."""
    a, w = operands(20, 24, 30, 0.7)
    want = kernel.oracle(a[::2, ::3], w[::2, ::3])
    equal(kernel.run(target, a[::2, ::3], kernel.pack(w[::2, ::3])), want)
    frozen = np.asfortranarray(a[::2, ::3])
    frozen.flags.writeable = False
    packed = kernel.pack(np.asfortranarray(w[::2, ::3]))
    for array in packed:
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    equal(kernel.run(target, frozen, packed), want)


WITHOUT_JIT = """
import sys
import numpy as np
from refimpl.kernels.{module} import {record} as kernel
a = np.arange(7 * 9, dtype=np.uint8).reshape(7, 9) * 4
w = np.arange(-20, 25, dtype=np.int8).reshape(5, 9) * 5
for target in sys.argv[1:]:
    for threads in (1, 2):
        got = kernel.run(target, a, kernel.pack(w), threads)
        assert got.dtype == np.int32 and (got == kernel.oracle(a, w)).all()
print(kernel.source.compiled("portable").__name__)
"""


@pytest.mark.parametrize(
    ("module", "record"), [("bsgemm_4x1_u8s8s32", "BSGEMM_4X1"), ("gemm_u8s8s32", "GEMM")], ids=["sparse", "dense"]
)
def test_without_jit(module, record):
    """With NUMBA_DISABLE_JIT every execution is the emulated one."""
    targets = [PORTABLE, NATIVE] if BSGEMM_4X1.source.runs_natively() else [PORTABLE]
    script = WITHOUT_JIT.format(module=module, record=record)
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", script, *targets], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [{"BSGEMM_4X1": "bsgemm_4x1", "GEMM": "gemm"}[record]]


# --- what a record rejects -------------------------------------------------------------------------------------------


@by_name
def test_a_cpu_without_the_instructions(kernel, monkeypatch):
    a, w = operands(2, 4, 4, 1)
    monkeypatch.setattr(cpu, "features", lambda: frozenset(["sse4.1", "avx2"]))
    assert kernel.fastest() == PORTABLE
    needed = ", ".join(sorted(kernel.source.features))
    message = f"{kernel.source.__name__} needs the CPU features {needed}; use portable"
    with pytest.raises(RuntimeError, match=message):
        kernel.native(a, kernel.pack(w))
    equal(kernel.portable(a, kernel.pack(w)), kernel.oracle(a, w))


@by_name
def test_a_cpu_with_the_instructions(kernel, monkeypatch):
    monkeypatch.setattr(cpu, "features", lambda: frozenset(["avx512vnni", "avx512vbmi"]))
    assert kernel.fastest() == NATIVE


@by_name
def test_record_rejects(kernel):
    a, w = operands(2, 4, 5, 1)
    packed = kernel.pack(w)
    for run in (kernel.portable, kernel.emulated):
        with pytest.raises(TypeError, match="a has dtype int8; need uint8"):
            run(a.view(np.int8), packed)
        with pytest.raises(ValueError, match=r"a has shape \(2, 4\); need \(N, 5\)"):
            run(a[:, 1:], packed)
        with pytest.raises(ValueError, match=r"a has shape \(5,\); need \(N, 5\)"):
            run(a[0], packed)
    most = numba.config.NUMBA_NUM_THREADS
    for threads in (0, -1, most + 1):
        with pytest.raises(ValueError, match=f"threads is {threads}; need 1 to {most}"):
            kernel.portable(a, packed, threads)


@by_name
def test_the_number_of_threads_is_put_back(kernel):
    before = numba.get_num_threads()
    a, w = operands(2, 4, 5, 1)
    kernel.portable(a, kernel.pack(w), 1)
    assert numba.get_num_threads() == before


# --- the machine code ------------------------------------------------------------------------------------------------


def inner_loop(kernel, operands, target=NATIVE):
    """Of a fresh version, once its product is right: one that comes from the cache on disk has no listing."""
    fresh = numba.njit(nogil=True)(kernel.source._copy("listed", target))
    a, w = operands
    equal(kernel.call(fresh, a, kernel.pack(w)), kernel.oracle(a, w))
    return assembly.Listing(assembly.inner_loop("\n".join(fresh.inspect_asm().values())), True)


def counts_as_documented(loop, documented):
    """LLVM may unroll: whole multiples of the documented numbers; on whole registers, none of them on the stack."""
    dot, per_step = next(iter(documented.items()))
    unrolled, rest = divmod(loop.counts.get(dot, 0), per_step)
    assert unrolled >= 1
    assert rest == 0
    assert {name: loop.counts.get(name, 0) for name in documented} == {n: unrolled * c for n, c in documented.items()}
    assert all("%zmm" in line.operands for line in loop.loop if line.mnemonic == dot)
    assert not loop.spills


INNER_LOOPS = {
    BSGEMM_4X1.name: {"vpdpbusd": 16, "vpunpcklbw": 2, "vpunpckhbw": 2, "vpunpcklwd": 2, "vpunpckhwd": 2},
    BSGEMM_4X1_HALF.name: {"vpdpbusd": 8},
    BSGEMM_4X1_SHARED.name: {"vpdpbusd": 16},
    BSGEMM_4X1_SHARED32.name: {"vpdpbusd": 8},
    BSGEMM_32X32.name: {"vpdpbusd": 24},
    GEMM.name: {"vpdpbusd": 24},
}


@NEEDS_JIT
@needs_native
@by_name
def test_the_inner_loop_is_what_the_docstring_counts(kernel):
    counts_as_documented(inner_loop(kernel, operands(7, 5, 9, 1)), INNER_LOOPS[kernel.name])


@NEEDS_JIT
@pytest.mark.skipif("avx2" not in cpu.features(), reason="this CPU lacks AVX2")
def test_portable_products_are_of_pairs():
    """LLVM finds vpmaddwd in the portable form, or vpdpwssd, which adds too, and multiplies nothing in another way: two
    for each of 24 vpdpbusd, or four of half the width."""
    counts = inner_loop(GEMM, operands(7, 5, 9, 1), PORTABLE).counts
    pairs = sum(counts.get(name, 0) for name in ("vpmaddwd", "vpdpwssd"))
    assert pairs >= 48
    assert pairs % 48 == 0
    assert not {"vpmullw", "vpmulld"} & set(counts)


@pytest.mark.parametrize("target", TARGETS)
def test_the_yardstick_computes(target):
    a, w = rng(1).integers(0, 256, 64, np.uint8), rng(2).integers(-128, 128, 68, np.int8)
    out, steps = np.zeros(256, np.int32), 3
    execution(peak.dot_products, target)(a, w, steps, out)
    quads = w.reshape(17, 4).astype(np.int32)
    want = [a.reshape(16, 4).astype(np.int32) @ (quads[i] + steps * quads[16]) for i in range(16)]
    equal(out.reshape(16, 16), np.stack(want))


@pytest.mark.parametrize("target", TARGETS)
def test_the_f32_yardstick_computes(target):
    a, w = (rng(i).integers(-9, 10, size).astype(np.float32) for i, size in ((1, 16), (2, 17)))
    out, steps = np.zeros(256, np.float32), 3
    execution(peak.multiply_adds, target)(a, w, steps, out)
    equal(out.reshape(16, 16), np.outer(w[:16] + steps * w[16], a))  # small integers: exact


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("shares", "blocks", "times"), [(1, 1, 1), (3, 2, 1), (2, 5, 3)])
def test_the_yardstick_reads_everything(target, shares, blocks, times):
    x = rng(3).integers(0, 256, (shares, blocks * peak.BLOCK // 64, 64), np.uint8)
    out = np.zeros(64 * shares, np.uint8)
    execution(peak.reads, target)(x.reshape(-1), times, shares, out)
    seen = np.concatenate([x[:, : peak.BLOCK // 64], *[x] * times], 1)
    equal(out.reshape(shares, 64), np.bitwise_xor.reduce(seen, 1))


@NEEDS_JIT
@needs_native
def test_the_yardstick_measures():
    assert 1e8 < peak.measure(rounds=2, steps=1000) < 1e13


@NEEDS_JIT
def test_yardsticks_do_what_they_count():
    """Twice the steps or bytes, twice the amount; each runs."""
    assert peak.f32_peak(20).amount == 2 * peak.f32_peak(10).amount == 20 * 256
    for size, threads in ((1000, 1), (peak.LEAST_READ + 1, 3)):
        run, amount = peak.read_peak(size, threads)
        assert peak.LEAST_READ <= amount < peak.LEAST_READ + max(size, threads * peak.BLOCK) + threads * peak.BLOCK
        if threads == 1:
            run()
