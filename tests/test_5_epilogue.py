"""Rung 5: epilogues, and a fused kernel. Oracles: refimpl.quant for the parts that are exact, and the kernels one after
the other for the fused one; equal bits in both.
"""

import numba
import numpy as np
import pytest
from test_1_arithmetic import equal, rng
from test_2_f32 import same
from test_2_registers import JITTED, NEEDS_JIT, TARGETS, execution
from test_5_layouts import weights

from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.kernels import linear_gelu_4x1 as fused
from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.kernels.epilogue import multiplier, pack_tokens, requantize, rescale, rescale_add, store_channels
from refimpl.kernels.layout import bsr4x1, panels
from refimpl.kernels.rowwise.gelu import GELU
from refimpl.kernels.rowwise.quantize import QUANTIZE_ROWS
from refimpl.kernels.simd.instructions.f32 import vmovups_load, vmovups_store
from refimpl.kernels.simd.instructions.memory import vmovdqu8_store, vmovdqu32_load
from refimpl.kernels.simd.threefold import NATIVE, PORTABLE, kernel
from refimpl.nn.gelu import gelu as gelu_oracle
from refimpl.quant.linear import compensation
from refimpl.quant.linear import rescale as rescale_oracle
from refimpl.quant.requantize import requantize as requantize_oracle
from refimpl.quant.symmetric import quantize_activation

F32 = np.float32


# --- the parts -------------------------------------------------------------------------------------------------------


@kernel
def rescales(acc, scale, bias, residual, factor, floats, sums, codes):
    """Rows of 64 channels: acc, residual (R 64,); scale, bias, factor (64,)."""
    for at in range(0, acc.size, 16):
        a, m = vmovdqu32_load(acc, at), at % 64
        s, b = vmovups_load(scale, m), vmovups_load(bias, m)
        vmovups_store(floats, at, rescale(a, s, b))
        vmovups_store(sums, at, rescale_add(a, s, b, vmovups_load(residual, at)))
    for at in range(0, acc.size, 64):
        quad = (
            requantize(vmovdqu32_load(acc, at), vmovups_load(factor, 0)),
            requantize(vmovdqu32_load(acc, at + 16), vmovups_load(factor, 16)),
            requantize(vmovdqu32_load(acc, at + 32), vmovups_load(factor, 32)),
            requantize(vmovdqu32_load(acc, at + 48), vmovups_load(factor, 48)),
        )
        store_channels(codes, at, quad)


def accumulators(rows):
    """Small ones, ones that f32 cannot hold, and the ends of s32."""
    acc = rng(1).integers(-300_000, 300_000, (rows, 64))
    acc[1::3] = rng(2).integers(-(2**31), 2**31, acc[1::3].shape)
    acc[2] = np.resize([0, 1, -1, 2**24 + 1, -(2**24) - 1, 2**31 - 1, -(2**31)], 64)
    return acc.astype(np.int32)


def check_epilogue(function):
    """function: (acc, scale, bias, residual, factor) -> floats, sums, codes."""
    acc = accumulators(40)
    weight_scale = rng(3).uniform(1e-4, 1e-2, 64).astype(F32)
    bias, residual = rng(4).normal(0, 2, 64).astype(F32), rng(5).normal(0, 2, acc.shape).astype(F32)
    input_scale, output_scale = np.array(0.03, F32), np.array(0.07, F32)
    factor = multiplier(input_scale, weight_scale, output_scale)
    floats, sums, codes = function(acc, input_scale * weight_scale, bias, residual, factor)
    want = rescale_oracle(acc, input_scale, weight_scale, bias)
    same(floats, want)
    same(sums, want + residual)
    equal(codes, requantize_oracle(acc, input_scale, weight_scale, output_scale))
    assert len(np.unique(codes)) > 200
    ties = np.arange(-320, 320, dtype=np.int32).reshape(10, 64)  # halves, by a multiplier of 1/2
    ones, half = np.ones(64, F32), np.full(64, 0.5, F32)
    got = function(ties, ones, 0 * ones, np.zeros(ties.shape, F32), half)[2]
    equal(got, requantize_oracle(ties, np.array(1, F32), ones, np.array(2, F32)))


def epilogue(compiled):
    def function(acc, scale, bias, residual, factor):
        floats, sums = np.empty((2, acc.size), F32)
        codes = np.empty(acc.size, np.uint8)
        compiled(acc.ravel(), scale, bias, residual.ravel(), factor, floats, sums, codes)
        return [array.reshape(acc.shape) for array in (floats, sums, codes)]

    return function


@pytest.mark.parametrize("target", TARGETS)
def test_epilogue(target):
    check_epilogue(epilogue(execution(rescales, target)))


@kernel
def packs(codes, out):
    quad = (
        vmovdqu32_load(codes, 0),
        vmovdqu32_load(codes, 16),
        vmovdqu32_load(codes, 32),
        vmovdqu32_load(codes, 48),
    )
    vmovdqu8_store(out, 0, pack_tokens(quad))


@pytest.mark.parametrize("target", TARGETS)
def test_pack_tokens_restores_the_order_of_tokens(target):
    position = np.arange(64)
    token = 16 * (position // 4 % 4) + 4 * (position // 16) + position % 4  # as ``layout.panels`` draws it
    out = np.zeros(64, np.uint8)
    execution(packs, target)((3 * token).astype(np.int32), out)
    equal(out, np.arange(0, 192, 3, dtype=np.uint8))


# --- the fused kernel ------------------------------------------------------------------------------------------------

# N, M, K, density: tails of 64 tokens and of 4 channels, nothing at all, an empty block row
CASES = [(7, 5, 9, 0.6), (70, 10, 11, 0.5), (64, 8, 8, 0), (1, 1, 1, 1), (0, 3, 2, 1), (130, 4, 70, 0.3)]


def layer(n, m, k, density):
    u, w = rng(n).integers(0, 256, (n, k), np.uint8), weights((m, k), density, n)
    input_scale, output_scale = np.array(3e-4 / np.sqrt(k), F32), np.array(0.02, F32)
    weight_scale = rng(1).uniform(0.5, 2, m).astype(F32)
    bias = rng(2).normal(0, 1, m).astype(F32)
    return u, w, input_scale, weight_scale, bias, output_scale


def composition(u, w, input_scale, weight_scale, bias, output_scale):
    """The kernels one after the other."""
    acc = BSGEMM_4X1.portable(u, bsr4x1.pack(w)) - compensation(w)
    y = rescale_oracle(acc, input_scale, weight_scale, bias)
    return QUANTIZE_ROWS.run(PORTABLE, GELU.run(PORTABLE, y), output_scale)


def check_fused(function, cases=CASES):
    """function: (u8 panels, packed, output scale) -> u8 panels."""
    for case in cases:
        u, w, *scales, output_scale = layer(*case)
        x = panels.pack(u)
        x[-1:, :, case[0] % 64 or 64 :] = 77  # what stands in the place of missing tokens must not matter
        out = function(x, fused.pack(bsr4x1.pack(w), *scales), output_scale)
        assert out.shape == (len(x), case[1], 64)
        equal(panels.unpack(out, case[0]), composition(u, w, *scales, output_scale))


@pytest.mark.parametrize("target", TARGETS)
def test_fused(target):
    check_fused(lambda *inputs: fused.call(execution(fused.linear_gelu_4x1, target), *inputs))


@pytest.mark.parametrize("target", JITTED)
def test_fused_with_threads(target):
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("numba has 1 thread here")
    check_fused(lambda *inputs: fused.run(target, *inputs, threads=2))


def test_fused_is_the_layer_of_the_reference():
    """Codes at most one apart from GELU in f64, and few of them; the codes use much of their range."""
    u, w, *scales, output_scale = layer(130, 32, 70, 0.3)
    acc = gemm_u8s8s32(u, w) - compensation(w)
    y = gelu_oracle(rescale_oracle(acc, *scales).astype(np.float64)).astype(F32)
    want = quantize_activation(y, output_scale).astype(int)
    got = panels.unpack(fused.run(PORTABLE, panels.pack(u), fused.pack(bsr4x1.pack(w), *scales), output_scale), 130)
    assert np.abs(got - want).max() <= 1
    assert (got != want).mean() < 1e-3
    assert len(np.unique(want)) > 50


def test_fused_rejects():
    u, w, *scales, output_scale = layer(3, 4, 5, 1)
    weight, x = bsr4x1.pack(w), panels.pack(u)
    packed = fused.pack(weight, *scales)
    for error, message, run in (
        (TypeError, "x has dtype int8; need uint8", lambda: fused.run(PORTABLE, x.view(np.int8), packed, output_scale)),
        (ValueError, r"x has shape \(1, 4, 64\)", lambda: fused.run(PORTABLE, x[:, 1:], packed, output_scale)),
        (TypeError, "output_scale has dtype float64", lambda: fused.run(PORTABLE, x, packed, np.ones(()))),
        (ValueError, r"output_scale has shape \(1,\)", lambda: fused.run(PORTABLE, x, packed, np.ones(1, F32))),
        (ValueError, "output_scale has the element 0.0", lambda: fused.run(PORTABLE, x, packed, np.zeros((), F32))),
        (TypeError, "input_scale has dtype float64", lambda: fused.pack(weight, np.ones(()), *scales[1:])),
        (ValueError, r"weight_scale has shape \(3,\)", lambda: fused.pack(weight, scales[0], scales[1][1:], scales[2])),
        (ValueError, "weight_scale has the element", lambda: fused.pack(weight, scales[0], -scales[1], scales[2])),
        (ValueError, "bias is nan", lambda: fused.pack(weight, *scales[:2], scales[2] * F32(np.nan))),
        (ValueError, "threads is 0", lambda: fused.run(PORTABLE, x, packed, output_scale, 0)),
        (ValueError, "indptr does not ascend", lambda: fused.pack(weight._replace(indptr=weight.indptr + 1), *scales)),
    ):
        with pytest.raises(error, match=message):
            run()


@NEEDS_JIT
@pytest.mark.skipif(bool(fused.linear_gelu_4x1.missing()), reason="this CPU lacks an instruction of the native version")
def test_accumulators_stay_in_registers():
    """16 dot products a group and 3 packs an output channel, and nothing goes to the stack between the former."""
    fresh = numba.njit(nogil=True)(fused.linear_gelu_4x1._copy("listed", NATIVE))
    check_fused(lambda *inputs: fused.call(fresh, *inputs))
    (listing,) = fresh.inspect_asm().values()
    lines = listing.splitlines()
    dots = [i for i, line in enumerate(lines) if "vpdpbusd" in line]
    counts = [sum(name in line for line in lines) for name in ("vpackssdw", "vpackuswb")]
    assert (len(dots) % 16, counts) == (0, [8, 4])
    loop = lines[dots[0] : dots[-1] + 1]
    assert not [line for line in loop if "(%rsp" in line and "%zmm" in line]
