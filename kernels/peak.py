"""The yardsticks: what a core can do at all.

    dot_products    multiply-accumulates of u8 and s8, by vpdpbusd
    multiply_adds   the same of f32, by fused multiply-adds
    reads           bytes that are loaded from wherever a block of memory lies

The first two have sixteen independent accumulators and no memory traffic: on a core with two 512-bit units they run 128
and 32 MAC a cycle. The third does nothing with what it loads but what it takes for the load not to be left out.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numba
import numpy as np

from refimpl.kernels import execution
from refimpl.kernels.layout import aligned
from refimpl.kernels.simd.exchange import exchange
from refimpl.kernels.simd.instructions.arithmetic import vpdpbusd, zero_s32
from refimpl.kernels.simd.instructions.f32 import vbroadcastss, vfmadd, vmovups_load, vmovups_store, zero_f32
from refimpl.kernels.simd.instructions.interleave import vpxord
from refimpl.kernels.simd.instructions.memory import (
    vmovdqu8_load,
    vmovdqu8_store,
    vmovdqu32_store,
    vpbroadcastd,
)
from refimpl.kernels.simd.threefold import NATIVE, kernel, part

MACS_PER_STEP = 16 * 64
F32_MACS_PER_STEP = 16 * 16
BLOCK = 8 * 64
"""Bytes that ``reads`` loads in a step."""
LEAST_READ = 2**24
"""Bytes that a yardstick loads at least: a call from Python takes as long as some tens of thousands."""


@part
def start(x, w, i):
    """A first value of its own for each accumulator: equal ones would be merged by the compiler."""
    return vpdpbusd(zero_s32(), x, vpbroadcastd(w, 4 * i))


@kernel
def dot_products(a, w, steps, out):
    """Repeat sixteen vpdpbusd ``steps`` times. a: u8 (64,), w: s8 (68,), out: s32 (256,)."""
    x, y = vmovdqu8_load(a, 0), vpbroadcastd(w, 64)
    r0, r1, r2, r3 = start(x, w, 0), start(x, w, 1), start(x, w, 2), start(x, w, 3)
    r4, r5, r6, r7 = start(x, w, 4), start(x, w, 5), start(x, w, 6), start(x, w, 7)
    r8, r9, r10, r11 = start(x, w, 8), start(x, w, 9), start(x, w, 10), start(x, w, 11)
    r12, r13, r14, r15 = start(x, w, 12), start(x, w, 13), start(x, w, 14), start(x, w, 15)
    for _ in range(steps):
        r0, r1, r2, r3 = vpdpbusd(r0, x, y), vpdpbusd(r1, x, y), vpdpbusd(r2, x, y), vpdpbusd(r3, x, y)
        r4, r5, r6, r7 = vpdpbusd(r4, x, y), vpdpbusd(r5, x, y), vpdpbusd(r6, x, y), vpdpbusd(r7, x, y)
        r8, r9, r10, r11 = vpdpbusd(r8, x, y), vpdpbusd(r9, x, y), vpdpbusd(r10, x, y), vpdpbusd(r11, x, y)
        r12, r13, r14, r15 = vpdpbusd(r12, x, y), vpdpbusd(r13, x, y), vpdpbusd(r14, x, y), vpdpbusd(r15, x, y)
    for i, r in enumerate((r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, r13, r14, r15)):
        vmovdqu32_store(out, 16 * i, r)


@part
def fused(acc, x, y):
    """In the order of vpdpbusd's operands."""
    return vfmadd(x, y, acc)


@part
def spread(w, byte):
    """The f32 number at a quarter of vpbroadcastd's index."""
    return vbroadcastss(w, byte // 4)


multiply_adds = exchange(
    dot_products,
    {
        vpdpbusd: fused,
        zero_s32: zero_f32,
        vmovdqu8_load: vmovups_load,
        vpbroadcastd: spread,
        vmovdqu32_store: vmovups_store,
    },
    "multiply_adds",
    __name__,
)
"""``dot_products`` in f32. a: f32 (16,), w: f32 (17,), out: f32 (256,)."""


@part
def load_block(x, at):
    """Eight registers."""
    return (
        vmovdqu8_load(x, at),
        vmovdqu8_load(x, at + 64),
        vmovdqu8_load(x, at + 128),
        vmovdqu8_load(x, at + 192),
        vmovdqu8_load(x, at + 256),
        vmovdqu8_load(x, at + 320),
        vmovdqu8_load(x, at + 384),
        vmovdqu8_load(x, at + 448),
    )


@kernel
def reads(x, times, shares, out):
    """Load each of ``shares`` parts of x ``times`` times. x: u8 (shares n BLOCK,), n from 1; out: u8 (shares 64,), the
    exclusive or of all that was loaded and of the first block again."""
    size = x.size // shares
    for share in numba.prange(shares):
        r = load_block(x, share * size)
        r0, r1, r2, r3, r4, r5, r6, r7 = r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7]
        for _ in range(times):
            for block in range(size // BLOCK):
                y = load_block(x, share * size + block * BLOCK)
                r0, r1, r2, r3 = vpxord(r0, y[0]), vpxord(r1, y[1]), vpxord(r2, y[2]), vpxord(r3, y[3])
                r4, r5, r6, r7 = vpxord(r4, y[4]), vpxord(r5, y[5]), vpxord(r6, y[6]), vpxord(r7, y[7])
        half, rest = vpxord(vpxord(r0, r1), vpxord(r2, r3)), vpxord(vpxord(r4, r5), vpxord(r6, r7))
        vmovdqu8_store(out, share * 64, vpxord(half, rest))


class Yardstick(NamedTuple):
    """run: does ``amount`` multiply-accumulates, or loads as many bytes."""

    run: Callable[[], None]
    amount: int


def integer_peak(steps: int = 20_000) -> Yardstick:
    """MACs of one core's VNNI units. Raises RuntimeError on a CPU without AVX-512 VNNI."""
    a, w, out = np.full(64, 255, np.uint8), np.arange(68, dtype=np.int8), np.zeros(256, np.int32)
    return Yardstick(partial(dot_products.compiled(NATIVE), a, w, steps, out), MACS_PER_STEP * steps)


def f32_peak(steps: int = 20_000) -> Yardstick:
    """MACs of one core's units for f32."""
    a, w, out = np.ones(16, np.float32), np.arange(17, dtype=np.float32), np.zeros(256, np.float32)
    run = multiply_adds.compiled(execution.fastest(multiply_adds))
    return Yardstick(partial(run, a, w, steps, out), F32_MACS_PER_STEP * steps)


def read_peak(size: int, threads: int = 1) -> Yardstick:
    """Bytes that ``threads`` cores load together, again and again from a block of about ``size`` bytes: from the
    nearest cache that holds it, or from memory."""
    block = aligned.empty((-(-size // (threads * BLOCK)) * threads * BLOCK,), np.uint8)
    block[:] = 1
    times, out = -(-LEAST_READ // block.size), np.zeros(64 * threads, np.uint8)
    run = reads.compiled(execution.fastest(reads), parallel=threads > 1)
    return Yardstick(partial(run, block, times, threads, out), times * block.size)


def measure(rounds: int = 20, steps: int = 20_000) -> float:
    """``integer_peak`` in MAC/s, the best of ``rounds``. Raises RuntimeError on a CPU without AVX-512 VNNI."""
    integer_peak(1).run()
    run, amount = integer_peak(steps)
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return amount / min(times)
