"""The first half of a feed-forward block in one kernel: a block-sparse INT8 layer, GELU, and the next layer's codes.

    out[m, n] = quantize(gelu(rescale(sum_k (x[k, n] - 128) w[m, k])))      x: u8 codes, w: s8 in 4x1 blocks, out: u8

Contract. Bits of ``bsgemm_4x1``, ``refimpl.quant.rescale``, ``rowwise.gelu`` and ``rowwise.quantize`` one after the
other, for every shape and pattern. Panels go in and panels come out: what is stored is what the next layer reads.

The tile of ``bsgemm_4x1``. Its accumulators start from minus the compensation and never leave the registers as s32:
the four of one output channel become f32, then codes, and two packs later 64 bytes, in the order of the tokens.
"""

from typing import NamedTuple

import numba
import numpy as np

from refimpl import check
from refimpl.kernels import execution
from refimpl.kernels.bsgemm_4x1_u8s8s32 import dot_row, interleave
from refimpl.kernels.epilogue import pack_tokens, rescale, start_row
from refimpl.kernels.layout import aligned, bsr4x1, panels
from refimpl.kernels.layout.bsr4x1 import ROWS, Bsr4x1
from refimpl.kernels.rowwise.gelu import gelu
from refimpl.kernels.rowwise.quantize import quantize
from refimpl.kernels.simd.instructions.f32 import broadcast_f32, vbroadcastss
from refimpl.kernels.simd.instructions.memory import vmovdqu8_load, vmovdqu8_store, vpbroadcastd
from refimpl.kernels.simd.threefold import kernel, part
from refimpl.quant.linear import compensation_of


class LinearGelu4x1(NamedTuple):
    """weight: M output channels. start: s32 (M',), minus the compensation; scale, bias: f32 (M',); M' = 4 block rows.

    scale is the product of the input's and the weight's.
    """

    weight: Bsr4x1
    start: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


def pack(weight: Bsr4x1, input_scale: np.ndarray, weight_scale: np.ndarray, bias: np.ndarray) -> LinearGelu4x1:
    """input_scale: f32 (); weight_scale, bias: f32 (M,). Rows beyond M give GELU(0)."""
    bsr4x1.validate(weight)
    m = weight.shape[0]
    for name, array, shape in (
        ("input_scale", input_scale, ()),
        ("weight_scale", weight_scale, (m,)),
        ("bias", bias, (m,)),
    ):
        check.dtype(name, array, np.float32)
        check.shape(name, array, shape)
        (check.finite if name == "bias" else check.positive)(name, array)
    padding = (0, -m % ROWS)
    start, scale = -compensation_of(bsr4x1.row_sums(weight)), input_scale * weight_scale
    return LinearGelu4x1(weight, np.pad(start, padding), np.pad(scale, padding), np.pad(bias, padding))


@part
def codes_of(acc, scale, bias, output_scale):
    """Sixteen accumulators of one output channel -> codes, s32."""
    return quantize(gelu(rescale(acc, scale, bias)), output_scale)


@part
def store_row(out, at, row, scale, bias, output_scale):
    """Codes of one output channel for 64 tokens."""
    codes = (
        codes_of(row[0], scale, bias, output_scale),
        codes_of(row[1], scale, bias, output_scale),
        codes_of(row[2], scale, bias, output_scale),
        codes_of(row[3], scale, bias, output_scale),
    )
    vmovdqu8_store(out, at, pack_tokens(codes))


@kernel
def linear_gelu_4x1(indptr, indices, values, start, scale, bias, output_scale, x, k, out):
    """x: u8 (P K 64,) panels; out: u8 (P M' 64,) panels; the rest as in ``LinearGelu4x1``, output_scale: f32."""
    block_rows = indptr.size - 1
    for task in numba.prange(x.size // (64 * k) * block_rows):
        base, m, at = task // block_rows * k * 64, task % block_rows * 4, task * 256
        row0, row1, row2, row3 = (
            start_row(start[m]),
            start_row(start[m + 1]),
            start_row(start[m + 2]),
            start_row(start[m + 3]),
        )
        for g in range(indptr[task % block_rows], indptr[task % block_rows + 1]):
            quad = interleave(
                vmovdqu8_load(x, base + 64 * indices[4 * g]),
                vmovdqu8_load(x, base + 64 * indices[4 * g + 1]),
                vmovdqu8_load(x, base + 64 * indices[4 * g + 2]),
                vmovdqu8_load(x, base + 64 * indices[4 * g + 3]),
            )
            row0 = dot_row(row0, quad, vpbroadcastd(values, 16 * g))
            row1 = dot_row(row1, quad, vpbroadcastd(values, 16 * g + 4))
            row2 = dot_row(row2, quad, vpbroadcastd(values, 16 * g + 8))
            row3 = dot_row(row3, quad, vpbroadcastd(values, 16 * g + 12))
        step = broadcast_f32(output_scale)
        store_row(out, at, row0, vbroadcastss(scale, m), vbroadcastss(bias, m), step)
        store_row(out, at + 64, row1, vbroadcastss(scale, m + 1), vbroadcastss(bias, m + 1), step)
        store_row(out, at + 128, row2, vbroadcastss(scale, m + 2), vbroadcastss(bias, m + 2), step)
        store_row(out, at + 192, row3, vbroadcastss(scale, m + 3), vbroadcastss(bias, m + 3), step)


def call(compiled, x: np.ndarray, p: LinearGelu4x1, output_scale: np.ndarray) -> np.ndarray:
    """Panels of codes, u8 (P, K, 64), to panels of codes, u8 (P, M, 64). output_scale: f32 ()."""
    check.dtype("x", x, np.uint8)
    check.shape("x", x, ("P", p.weight.shape[1], panels.WIDTH))
    check.dtype("output_scale", output_scale, np.float32)
    check.shape("output_scale", output_scale, ())
    check.positive("output_scale", output_scale)
    out = aligned.empty((x.shape[0], p.start.size, panels.WIDTH), np.uint8)
    flat = np.ascontiguousarray(x).reshape(-1)
    sparse = p.weight
    compiled(
        sparse.indptr, sparse.indices, sparse.values, p.start, p.scale, p.bias,
        output_scale[()], flat, sparse.shape[1], out.reshape(-1),
    )  # fmt: skip
    return out[:, : sparse.shape[0]]


def run(target: str, x: np.ndarray, p: LinearGelu4x1, output_scale: np.ndarray, threads: int = 1) -> np.ndarray:
    """``call``, ``portable`` or ``native``. Threads beyond the first share out the tiles; the bits are the same."""
    with execution.compiled(linear_gelu_4x1, target, threads) as compiled:
        return call(compiled, x, p, output_scale)
