"""Rung 5: the saturating twins. Oracles: refimpl, published dot products, and a real engine without VNNI.

A twin is its exact kernel with another dot product, so the shapes and layouts tested there count here too; what is
tested here is the arithmetic, on data that saturate in both directions, and the pairing.
"""

import platform

import numpy as np
import pytest
import test_7_engines as engines
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_1_arithmetic import GOLDEN, equal
from test_2_registers import NEEDS_JIT
from test_5_kernels import (
    BERT,
    CODES,
    INNER_LOOPS,
    SMALL,
    counts_as_documented,
    extreme,
    inner_loop,
    need_threads,
    operands,
)

from refimpl.integer.gemm import gemm_u8s8s32, gemm_u8s8s32_pair_saturating
from refimpl.integer.sparse_saturation import bsgemm_4x1_u8s8s32_pair_saturating
from refimpl.kernels import cpu
from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.kernels.bsgemm_4x1_u8s8s32_pair_saturating import BSGEMM_4X1_PAIR_SATURATING
from refimpl.kernels.gemm_u8s8s32 import GEMM
from refimpl.kernels.gemm_u8s8s32_pair_saturating import GEMM_PAIR_SATURATING
from refimpl.kernels.pairs import pair_dot
from refimpl.kernels.simd.exchange import exchange
from refimpl.kernels.simd.instructions.arithmetic import vpdpbusd, vpmaddwd
from refimpl.kernels.simd.threefold import NATIVE, PORTABLE

TWINS = [GEMM_PAIR_SATURATING, BSGEMM_4X1_PAIR_SATURATING]
LACKING = ", ".join(sorted({"avx512bw"} - cpu.features()))
needs_native = pytest.mark.skipif(bool(LACKING), reason=f"this CPU lacks {LACKING}")
by_name = pytest.mark.parametrize("kernel", TWINS, ids=[kernel.name for kernel in TWINS])
on_targets = pytest.mark.parametrize("target", [PORTABLE, pytest.param(NATIVE, marks=needs_native)])

# --- the oracle of the sparse one ------------------------------------------------------------------------------------


def slow_sparse(a, w):
    """The formula, in Python integers."""
    acc = np.zeros((len(a), len(w)), np.int32)
    for n, m in np.ndindex(*acc.shape):
        block_row = w[m // 4 * 4 : m // 4 * 4 + 4].tolist()
        columns = [k for k in range(w.shape[1]) if any(row[k] for row in block_row)]
        products = [int(a[n, k]) * int(w[m, k]) for k in columns] + [0]
        for j in range(0, len(columns), 2):
            acc[n, m] += max(-32768, min(32767, products[j] + products[j + 1]))
    return acc


def cases():
    """The whole range, and every pair as far from 0 as can be."""
    for case in SMALL:
        for codes in ("random", "255 and -128", "255 and 127", "255 and both"):
            yield extreme(codes, *operands(*case))


def check_sparse_oracle(oracle):
    for a, w in cases():
        equal(oracle(a, w), slow_sparse(a, w))


def test_sparse_oracle():
    check_sparse_oracle(bsgemm_4x1_u8s8s32_pair_saturating)


def test_sparse_oracle_without_zeros_is_the_dense_one():
    a, w = operands(9, 12, 31, 1)
    w[w == 0] = 127
    equal(bsgemm_4x1_u8s8s32_pair_saturating(a, w), gemm_u8s8s32_pair_saturating(a, w))


def test_sparse_oracle_rejects():
    a, w = operands(2, 3, 4, 1)
    most = np.ones((1, 65_794), np.uint8)
    for wrong, error, message in [
        ((a.astype(np.int8), w), TypeError, "a has dtype int8; need uint8"),
        ((a, w.astype(np.uint8)), TypeError, "w has dtype uint8; need int8"),
        ((a, w[0]), ValueError, r"w has shape \(4,\); need \(M, K\)"),
        ((a[:, :3], w), ValueError, r"a has shape \(2, 3\); need \(N, 4\)"),
        ((most, most.astype(np.int8)), ValueError, "w has 65794 input channels; need at most 65793"),
    ]:
        with pytest.raises(error, match=message):
            bsgemm_4x1_u8s8s32_pair_saturating(*wrong)


# --- equality --------------------------------------------------------------------------------------------------------


def check_gemm_pair_saturating(product):
    """product: (a, w) -> s32 (N, M)."""
    for a, w in cases():
        equal(product(a, w), gemm_u8s8s32_pair_saturating(a, w))


def check_bsgemm_4x1_pair_saturating(product):
    for a, w in cases():
        equal(product(a, w), slow_sparse(a, w))


@by_name
def test_the_data_saturate_in_both_directions(kernel):
    differences = np.concatenate([(kernel.oracle(a, w) - gemm_u8s8s32(a, w)).ravel() for a, w in cases()])
    assert (differences > 0).sum() > 100
    assert (differences < 0).sum() > 100
    assert (differences == 0).sum() > 100


def test_the_twins_differ():
    """From the exact product and from each other, in both directions."""
    a, w = operands(*BERT)
    dense, sparse, exact = (kernel.oracle(a, w) for kernel in (*TWINS, GEMM))
    assert (dense != exact).any()
    assert (sparse != exact).any()
    assert (dense < sparse).any()
    assert (dense > sparse).any()
    a = np.full((1, 4), 255, np.uint8)
    for row, want in [([127, 0, 127, 0], (64770, 32767)), ([1, 0, 127, 127], (33022, 65025))]:
        w = np.array([row], np.int8)
        assert tuple(kernel.emulated(a, kernel.pack(w)).item() for kernel in TWINS) == want


@by_name
def test_emulated(kernel):
    check = {GEMM_PAIR_SATURATING: check_gemm_pair_saturating}.get(kernel, check_bsgemm_4x1_pair_saturating)
    check(lambda a, w: kernel.emulated(a, kernel.pack(w)))


@NEEDS_JIT
@by_name
@on_targets
@pytest.mark.parametrize("threads", [1, 2])
def test_compiled(kernel, target, threads):
    need_threads(threads)
    for a, w in [*cases(), operands(*BERT), operands(*BERT[:3], 1)]:
        equal(kernel.run(target, a, kernel.pack(w), threads), kernel.oracle(a, w))


@NEEDS_JIT
@by_name
@on_targets
@settings(max_examples=60)
@given(st.integers(0, 140), st.integers(1, 140), st.integers(1, 140), st.floats(0, 1), CODES)
@example(1, 1, 1, 1.0, "255 and -128")
@example(2, 5, 65_793, 1.0, "255 and -128")  # the largest K: sums near -2**30
def test_compiled_on_any_shape(kernel, target, n, m, k, density, codes):
    a, w = extreme(codes, *operands(n, m, k, density))
    equal(kernel.run(target, a, kernel.pack(w)), kernel.oracle(a, w))


# --- from outside ----------------------------------------------------------------------------------------------------


@on_targets
@pytest.mark.parametrize("name", GOLDEN)
def test_published_dot_products(name, target):
    a, w, _, saturating = GOLDEN[name]
    a, w = np.array([a], np.uint8), np.array([w], np.int8)
    for kernel in TWINS:  # no weight is zero: both pair neighbours
        assert kernel.run(target, a, kernel.pack(w)).item() == saturating


@on_targets
def test_published_zero_points(target):
    """onnxruntime #7524, column 2: u8 with zero point 42 times s8 with zero point -26."""
    a = np.array([[238, 115, 94], [245, 111, 102], [158, 225, 48]], np.uint8)
    w = np.array([[125, 76, 35]], np.int8)
    correction = 26 * a.sum(1, dtype=np.int32) - 42 * w.sum(dtype=np.int32) + 3 * 42 * -26
    for kernel in TWINS:
        got = kernel.run(target, a, kernel.pack(w))[:, 0] + correction
        assert got.tolist() == [34491, 35057, 32465]


@needs_native
def test_openvino_without_vnni_returns_the_same(tmp_path):
    """The real instructions here, and a real engine that was told to do without VNNI: equal bits."""
    engines.needs("openvino")
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("ONEDNN_MAX_CPU_ISA=AVX512_CORE needs an x86-64 CPU")
    a, w = engines.saturating_operands()
    theirs = engines.product_in_another_process(
        "openvino", tmp_path / "product.npy", [], ONEDNN_MAX_CPU_ISA="AVX512_CORE"
    )
    equal(GEMM_PAIR_SATURATING.native(a, GEMM_PAIR_SATURATING.pack(w)), theirs.astype(np.int32))
    assert (theirs != GEMM.native(a, GEMM.pack(w))).mean() > 0.95


# --- the machine code ------------------------------------------------------------------------------------------------


@NEEDS_JIT
@needs_native
@by_name
def test_inner_loop(kernel):
    """One vpmaddubsw on a whole register for each vpdpbusd of the exact kernel, and then vpmaddwd with vpaddd or the
    two merged; none is spilled."""
    loop, exact = inner_loop(kernel, operands(7, 5, 9, 1)), {TWINS[0]: GEMM, TWINS[1]: BSGEMM_4X1}[kernel]
    counts_as_documented(loop, {"vpmaddubsw": INNER_LOOPS[exact.name]["vpdpbusd"], "vpdpbusd": 0})
    assert loop.counts.get("vpmaddwd", 0) + loop.counts.get("vpdpwssd", 0) == loop.counts["vpmaddubsw"]


# --- exchange --------------------------------------------------------------------------------------------------------


def test_a_twin_leaves_its_kernel_alone():
    assert GEMM.source.features == BSGEMM_4X1.source.features == {"avx512vnni"}
    for twin, kernel in zip(TWINS, (GEMM, BSGEMM_4X1), strict=True):
        assert twin.source.features == {"avx512bw"}
        assert twin.source.emulated.__code__ is kernel.source.emulated.__code__
        assert twin.source.__name__ == twin.name.replace("_u8s8s32", "")
    a, w = operands(2, 5, 8, 1)
    equal(GEMM.emulated(a, GEMM.pack(w)), gemm_u8s8s32(a, w))


def test_exchange_rejects_what_is_never_called():
    with pytest.raises(ValueError, match="gemm does not call vpmaddwd"):
        exchange(GEMM.source, {vpmaddwd: pair_dot}, "twin", __name__)
    twice = exchange(GEMM_PAIR_SATURATING.source, {pair_dot: vpdpbusd}, "back_again", __name__)
    a, w = operands(2, 5, 8, 1)
    equal(GEMM.call(twice.emulated, a, GEMM.pack(w)), gemm_u8s8s32(a, w))


@by_name
def test_a_cpu_without_the_instructions(kernel, monkeypatch):
    a, w = operands(2, 4, 4, 1)
    monkeypatch.setattr(cpu, "features", lambda: frozenset(["sse4.1", "avx2"]))
    assert kernel.fastest() == PORTABLE
    with pytest.raises(RuntimeError, match=f"{kernel.source.__name__} needs the CPU features avx512bw; use portable"):
        kernel.native(a, kernel.pack(w))
    equal(kernel.portable(a, kernel.pack(w)), kernel.oracle(a, w))


@by_name
def test_record_rejects(kernel):
    a, w = operands(2, 4, 5, 1)
    packed = kernel.pack(w)
    for run in (kernel.portable, kernel.emulated):
        with pytest.raises(TypeError, match="a has dtype int8; need uint8"):
            run(a.view(np.int8), packed)
        with pytest.raises(ValueError, match=r"a has shape \(2, 4\); need \(N, 5\)"):
            run(a[:, 1:], packed)
    with pytest.raises(ValueError, match="threads is 0; need 1 to"):
        kernel.portable(a, packed, 0)
