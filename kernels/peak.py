"""The yardstick: how many multiply-accumulates per second one core's VNNI units can do at all.

Sixteen independent accumulators, no memory traffic: on a core with two 512-bit units this runs 128 MAC a cycle.
"""

import time

import numpy as np

from refimpl.kernels.simd.instructions.arithmetic import vpdpbusd, zero_s32
from refimpl.kernels.simd.instructions.memory import vmovdqu8_load, vmovdqu32_store, vpbroadcastd
from refimpl.kernels.simd.threefold import NATIVE, kernel, part

MACS_PER_STEP = 16 * 64


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


def measure(rounds: int = 20, steps: int = 20_000) -> float:
    """The best of ``rounds`` timings, in MAC/s. Raises RuntimeError on a CPU without AVX-512 VNNI."""
    run = dot_products.compiled(NATIVE)
    a, w, out = np.full(64, 255, np.uint8), np.arange(68, dtype=np.int8), np.zeros(256, np.int32)
    run(a, w, 1, out)
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run(a, w, steps, out)
        times.append(time.perf_counter() - begin)
    return MACS_PER_STEP * steps / min(times)
