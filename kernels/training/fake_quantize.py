"""Fake quantization and its gradients in one pass each; see ``refimpl.quant.fake`` for the equations.

    y = rint(clip(x / step)) step          dx = dy inside, else 0          dhigh = sum over a range of dy slope

Contract. y, dx and every slope have the bits of ``refimpl.quant.fake``; what is outside is seen from x again. dhigh is
summed over chunks of CHUNK elements of a range, each through sixteen running sums, fused, and then by halves; the
chunks' sums are added in f64 and rounded once: ``bound``. So the bits do not depend on the number of threads. What is
not finite is no error, unlike in the reference: y is NaN there, at infinity too, where clipping would hide it. Equal
bits everywhere.
"""

import numba
import numpy as np

from refimpl import check
from refimpl.bounds import gamma
from refimpl.kernels.layout import aligned
from refimpl.kernels.simd.instructions.f32 import (
    broadcast_f32,
    reduce_add,
    vaddps,
    vblendmps,
    vdivps,
    vfmadd,
    vmaxps,
    vminps,
    vmovups_load_first,
    vmovups_store_first,
    vmulps,
    vrndscaleps,
    vsubps,
    zero_f32,
)
from refimpl.kernels.simd.threefold import kernel
from refimpl.kernels.training.linear import Run, flat
from refimpl.quant.fake import FakeCache, Levels, Width, ends, sign_of, step_of

CHUNK = 1024
ONE = np.float32(1)


@kernel
def fake_quantize_ranges(x, n, steps, lowest, highest, y):
    """x, y: f32 (R n,); steps: f32 (R,); lowest, highest: f32."""
    chunks = (n + CHUNK - 1) // CHUNK
    for chunk in numba.prange(steps.size * chunks):
        row, start = chunk // chunks, chunk % chunks * CHUNK
        at, count = row * n + start, min(CHUNK, n - start)
        step, low, high = broadcast_f32(steps[row]), broadcast_f32(lowest), broadcast_f32(highest)
        for i in range(0, count, 16):
            v = vmovups_load_first(x, at + i, count - i, zero_f32())
            code = vrndscaleps(vminps(vmaxps(vdivps(v, step), low), high))
            code = vaddps(code, vsubps(v, v))  # + 0, or NaN
            vmovups_store_first(y, at + i, vmulps(code, step), count - i)


@kernel
def fake_quantize_backward_ranges(dy, cache, n, ranges, ratio, dx, sums):
    """dy, dx: f32 (R n,); cache: x and y, like dy; ranges: high, low, width, f32 (R,); ratio: f32; sums: f32 (R C,) of
    C = ceil(n / CHUNK) chunks."""
    (x, y), (highs, lows, widths) = cache, ranges
    chunks = (n + CHUNK - 1) // CHUNK
    for chunk in numba.prange(sums.size):
        row, start = chunk // chunks, chunk % chunks * CHUNK
        at, count = row * n + start, min(CHUNK, n - start)
        high, low, width = broadcast_f32(highs[row]), broadcast_f32(lows[row]), broadcast_f32(widths[row])
        total = zero_f32()
        for i in range(0, count, 16):
            v = vmovups_load_first(x, at + i, count - i, zero_f32())
            g = vmovups_load_first(dy, at + i, count - i, zero_f32())
            error = vsubps(vmovups_load_first(y, at + i, count - i, zero_f32()), v)
            slope = vblendmps(low, v, broadcast_f32(ratio), vdivps(error, width))
            total = vfmadd(g, vblendmps(v, high, broadcast_f32(ONE), slope), total)
            inside = vblendmps(low, v, zero_f32(), vblendmps(v, high, zero_f32(), g))
            vmovups_store_first(dx, at + i, inside, count - i)
        sums[chunk] = reduce_add(total)


def fake_quantize(run: Run, x: np.ndarray, high: np.ndarray, levels: Levels) -> tuple[np.ndarray, FakeCache]:
    """x: f32 (...) with high (), or (M, ...) with high (M,).

    Raises TypeError, or ValueError where shapes do not fit or high is not finite.
    """
    check.dtype("x", x, np.float32)
    check.same_dtype("high", high, x)
    if high.ndim:
        check.shape("high", high, x.shape[:1])
    steps, y = step_of(high, levels).reshape(-1), aligned.empty(x.shape, np.float32)
    limits = np.float32(levels.lowest), np.float32(levels.highest)
    run(fake_quantize_ranges, flat(x), _length(x, high), steps, *limits, y.reshape(-1))
    return y, FakeCache(x, y, high, levels)


def fake_quantize_backward(run: Run, width: Width, dy: np.ndarray, cache: FakeCache) -> tuple[np.ndarray, np.ndarray]:
    """dx of the shape of x, dhigh of that of high."""
    x, y, high, levels = cache
    check.same_dtype("dy", dy, x)
    check.shape("dy", dy, x.shape)
    n, found, dx = _length(x, high), ends(high, levels, width), aligned.empty(x.shape, np.float32)
    sums = np.empty((high.size, -(-n // CHUNK)), np.float32)
    ranges = tuple(flat(part) for part in found[:3])
    run(
        fake_quantize_backward_ranges,
        flat(dy),
        (flat(x), flat(y)),
        n,
        ranges,
        found.ratio,
        dx.reshape(-1),
        sums.reshape(-1),
    )
    with np.errstate(over="ignore", invalid="ignore"):
        dhigh = sums.sum(1, dtype=np.float64).astype(np.float32).reshape(high.shape)
    return dx, np.asarray(dhigh * sign_of(high))


def bound(terms: np.ndarray) -> np.ndarray:
    """How far dhigh (R,) may be off the sum of the terms dy slope, f32 or f64 (R, n).

    A term passes ceil(CHUNK / 16) fused additions, four by halves, at most one unit of f32 in f64, for any number of
    chunks below 2**28, and the last rounding. 2**-140 is for subnormal numbers.
    """
    length = min(terms.shape[1], CHUNK)
    return gamma(-(-length // 16) + 6) * np.abs(terms.astype(np.float64)).sum(1) + 2.0**-140


def _length(x: np.ndarray, high: np.ndarray) -> int:
    """Elements of a range."""
    return x.size // max(high.size, 1)
