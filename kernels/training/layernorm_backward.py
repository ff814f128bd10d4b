"""The gradient of layer normalization; see ``refimpl.nn.layernorm`` for the equation.

    x^ = (x - mean) / root,  g = dy weight,  dx = (g - mean g - x^ mean(g x^)) / root

Contract. mean and root are those of ``rowwise.layernorm``, to the bit. Sums over a row go through sixteen running sums,
those with products fused, and then by halves. dweight and dbias are summed over the rows of each of CHUNKS chunks, in
order, and the chunks' sums by the caller, in order: so the bits do not depend on the number of threads. Equal bits
everywhere. Oracle: ``refimpl.nn.layernorm.layernorm_backward`` in f64, within ``bound``.
"""

import numba
import numpy as np

from refimpl import bounds
from refimpl.bounds import F32, gamma
from refimpl.kernels.simd.instructions.f32 import (
    broadcast_f32,
    reduce_add,
    vaddps,
    vdivps,
    vfmadd,
    vmovups_load_first,
    vmovups_store_first,
    vmulps,
    vsqrtps,
    vsubps,
    zero_f32,
)
from refimpl.kernels.simd.threefold import kernel, part

CHUNKS = 32


@part
def first(x, at, left):
    """The next sixteen of a row, zeros beyond."""
    return vmovups_load_first(x, at, left, zero_f32())


@part
def over(total, length):
    """The mean of what sixteen running sums hold, in all lanes."""
    return vdivps(broadcast_f32(reduce_add(total)), broadcast_f32(length))


@part
def row_backward(dy, x, at, d, length, weight, eps, dx, sums, to):
    """One row. sums: dweight at ``to``, dbias at ``to + d``, added to."""
    total, squares, g_sum, gx_sum = zero_f32(), zero_f32(), zero_f32(), zero_f32()
    for i in range(0, d, 16):
        total = vaddps(total, first(x, at + i, d - i))
    mean = over(total, length)
    for i in range(0, d, 16):
        c = vsubps(vmovups_load_first(x, at + i, d - i, mean), mean)
        squares = vfmadd(c, c, squares)
    root = vsqrtps(vaddps(over(squares, length), broadcast_f32(eps)))
    for i in range(0, d, 16):
        normalized = vdivps(vsubps(vmovups_load_first(x, at + i, d - i, mean), mean), root)
        given = first(dy, at + i, d - i)
        g = vmulps(given, first(weight, i, d - i))
        g_sum, gx_sum = vaddps(g_sum, g), vfmadd(g, normalized, gx_sum)
        vmovups_store_first(sums, to + i, vfmadd(given, normalized, first(sums, to + i, d - i)), d - i)
        vmovups_store_first(sums, to + d + i, vaddps(first(sums, to + d + i, d - i), given), d - i)
    g_mean, gx_mean = over(g_sum, length), over(gx_sum, length)
    for i in range(0, d, 16):
        normalized = vdivps(vsubps(vmovups_load_first(x, at + i, d - i, mean), mean), root)
        g = vmulps(first(dy, at + i, d - i), first(weight, i, d - i))
        rest = vsubps(vsubps(g, g_mean), vmulps(normalized, gx_mean))
        vmovups_store_first(dx, at + i, vdivps(rest, root), d - i)


@kernel
def layernorm_backward_rows(dy, x, d, length, weight, eps, dx, sums):
    """dy, x, dx: f32 (N d,); weight: f32 (d,); length: d as f32; sums: f32 (CHUNKS 2 d,), zeros."""
    chunks = sums.size // (2 * d)
    rows = x.size // d
    for chunk in numba.prange(chunks):
        for row in range(chunk * rows // chunks, (chunk + 1) * rows // chunks):
            row_backward(dy, x, row * d, d, length, weight, eps, dx, sums, chunk * 2 * d)


def bound(dy: np.ndarray, x: np.ndarray, weight: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far dx (N, D), dweight and dbias (D,) may be off, f32 (N, D) given; no row is constant.

    x^ is a layer norm of weight 1 and bias 0, and its bound E covers |x^| times the relative error of root: at
    most E / |x^|, at any element. A mean of a row passes ceil(D / 16) additions, four by halves and a division.
    """
    one, (rows, d) = np.ones_like(weight), x.shape
    wide, dy = x.astype(np.float64), dy.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    root = np.sqrt((centred * centred).mean(-1, keepdims=True) + eps)
    normalized, g, steps = centred / root, dy * weight, gamma(-(-d // 16) + 6)
    off = bounds.layernorm(x, one, eps, 0 * one)
    relative = (off / np.maximum(np.abs(normalized), 1e-30)).min(-1, keepdims=True)

    def mean(terms: np.ndarray) -> np.ndarray:
        return np.asarray(np.abs(terms).mean(-1, keepdims=True))

    size, product = np.abs(normalized) + off, np.abs(g) * (np.abs(normalized) + off)
    first_off, second_off = (F32 + steps) * mean(g), mean(g * off) + (F32 + steps) * mean(product)
    second = mean(product)
    parts = np.abs(g) + mean(g) + size * second
    rest_off = F32 * np.abs(g) + first_off + size * second_off + off * second + gamma(3) * parts
    dx = (rest_off + (parts + rest_off) * (relative + F32) / (1 - relative)) / root
    added = gamma(-(-rows // CHUNKS) + CHUNKS + 1)
    dweight = (np.abs(dy) * off + added * np.abs(dy) * size).sum(0)
    return dx, dweight, added * np.abs(dy).sum(0)
