"""Rung 5: the ladders, and their first rung, the plain loops. Oracle: refimpl, integers equal."""

import re
import sys
from types import FunctionType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_1_arithmetic import equal
from test_2_registers import JITTED
from test_5_kernels import check_product, need_threads, operands

from refimpl.integer.gemm import MAX_K
from refimpl.kernels import gemm_u8s8s32_loops as loops
from refimpl.kernels.catalog import KERNELS, OTHERS
from refimpl.kernels.gemm_u8s8s32_loops import GEMM_LOOPS
from refimpl.kernels.ladder import LADDERS

RUNGS = [(name, rung) for name, ladder in LADDERS.items() for rung in ladder]
each_rung = pytest.mark.parametrize("rung", [r for _, r in RUNGS], ids=[f"{n}: {r.kernel.name}" for n, r in RUNGS])


# --- the ladders -----------------------------------------------------------------------------------------------------


@each_rung
def test_a_rung_is_of_the_catalog(rung):
    assert (KERNELS | OTHERS)[rung.kernel.name] is rung.kernel


@each_rung
def test_one_sentence_says_why(rung):
    assert re.fullmatch(r"[A-Z][^.]+\.", rung.why)


@pytest.mark.parametrize("ladder", LADDERS.values(), ids=LADDERS)
def test_no_rung_twice(ladder):
    names = [rung.kernel.name for rung in ladder]
    assert len(set(names)) == len(names) >= 2
    assert ladder[0].why.startswith("The first: ")


@each_rung
def test_a_rung_equals_its_oracle(rung):
    a, w = operands(33, 68, 96, 0.2)
    equal(rung.kernel.run(rung.kernel.fastest(), a, rung.kernel.pack(w)), rung.kernel.oracle(a, w))


def test_numbers_of_tokens():
    meant = {rung.kernel.name: [n for n in (1, 32, 33, 63, 64, 384) if rung.is_for(n)] for rung in LADDERS["4x1"]}
    always = [1, 32, 33, 63, 64, 384]
    assert list(meant.values()) == [always, always, [64, 384], [1, 32], [1, 32]]
    assert all(rung.is_for(sys.maxsize) for rung in LADDERS["dense"])


# --- the plain loops -------------------------------------------------------------------------------------------------


def test_emulated_loops():
    check_product(lambda a, w: GEMM_LOOPS.emulated(a, GEMM_LOOPS.pack(w)))


@pytest.mark.parametrize("target", JITTED)
@pytest.mark.parametrize("threads", [1, 2])
def test_compiled_loops(target, threads):
    need_threads(threads)
    check_product(lambda a, w: GEMM_LOOPS.run(target, a, GEMM_LOOPS.pack(w), threads))


@settings(max_examples=20)
@given(st.integers(0, 9), st.integers(1, 9), st.integers(1, 70), st.floats(0, 1))
def test_loops_on_any_shape(n, m, k, density):
    a, w = operands(n, m, k, density)
    packed, want = GEMM_LOOPS.pack(w), GEMM_LOOPS.oracle(a, w)
    for got in (GEMM_LOOPS.emulated(a, packed), GEMM_LOOPS.run(GEMM_LOOPS.fastest(), a, packed)):
        equal(got, want)


@pytest.mark.parametrize("target", JITTED)
@pytest.mark.parametrize("weight", [-128, 127])
def test_loops_reach_the_ends_of_s32(target, weight):
    a, w = np.full((1, MAX_K), 255, np.uint8), np.full((1, MAX_K), weight, np.int8)
    equal(GEMM_LOOPS.run(target, a, GEMM_LOOPS.pack(w)), np.array([[255 * weight * MAX_K]], np.int32))


def test_the_loops_leave_their_operands_alone():
    a, w = operands(3, 4, 5, 1)
    backwards, transposed = a[:, ::-1], np.asfortranarray(w)
    packed = GEMM_LOOPS.pack(transposed)
    equal(GEMM_LOOPS.unpack(packed), w)
    equal(GEMM_LOOPS.portable(backwards, packed), GEMM_LOOPS.oracle(backwards, w))
    assert packed.flags.c_contiguous
    assert not np.shares_memory(packed, transposed)
    assert not np.shares_memory(GEMM_LOOPS.unpack(packed), packed)


@pytest.mark.parametrize("check", [GEMM_LOOPS.pack, GEMM_LOOPS.unpack, GEMM_LOOPS.validate])
@pytest.mark.parametrize(
    ("w", "error", "message"),
    [
        (np.zeros((2, 3), np.uint8), TypeError, r"w has dtype uint8; need int8"),
        (np.zeros(3, np.int8), ValueError, r"w has shape \(3,\); need \(M, K\)"),
        (np.zeros((0, 3), np.int8), ValueError, r"shape is \(0, 3\); need integers"),
        (np.zeros((1, MAX_K + 1), np.int8), ValueError, rf"1 <= K <= {MAX_K}"),
    ],
)
def test_wrong_weights(check, w, error, message):
    with pytest.raises(error, match=message):
        check(w)


@pytest.mark.parametrize(
    ("a", "error", "message"),
    [
        (np.zeros((2, 3), np.int8), TypeError, r"a has dtype int8; need uint8"),
        (np.zeros((2, 4), np.uint8), ValueError, r"a has shape \(2, 4\); need \(N, 3\)"),
    ],
)
def test_wrong_activations(a, error, message):
    with pytest.raises(error, match=message):
        GEMM_LOOPS.portable(a, GEMM_LOOPS.pack(np.ones((2, 3), np.int8)))


# --- mutants ---------------------------------------------------------------------------------------------------------


def with_s32(convert):
    """The emulated loops with another conversion of codes and weights."""

    class Numbers:
        int32 = staticmethod(convert)

    code = loops.gemm_loops.emulated
    mutant = FunctionType(code.__code__, code.__globals__ | {"np": Numbers})
    return lambda a, w: GEMM_LOOPS.call(mutant, a, GEMM_LOOPS.pack(w))


def on_arguments(change):
    """The emulated loops on other arguments."""
    return lambda a, w: GEMM_LOOPS.call(lambda *given: loops.gemm_loops(*change(*given)), a, GEMM_LOOPS.pack(w))


MUTANTS = {
    "codes are s8": with_s32(lambda value: np.int32(np.array(value).astype(np.uint8).view(np.int8))),
    "weights are u8": with_s32(lambda value: np.int32(np.array(value).astype(np.uint8))),
    "last weight lost": on_arguments(lambda w, x, k, out, m: (np.append(w[:-1], np.int8(0)), x, k, out, m)),
    "weights of a neighbour": on_arguments(lambda w, x, k, out, m: (np.roll(w, k), x, k, out, m)),
    "symmetric weights": on_arguments(lambda w, x, k, out, m: (np.maximum(w, -127), x, k, out, m)),
}


def test_the_true_loops_are_accepted():
    check_product(with_s32(np.int32))
    check_product(on_arguments(lambda *given: given))


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_wrong_loops_are_rejected(mutant):
    with pytest.raises(AssertionError):
        check_product(mutant)
