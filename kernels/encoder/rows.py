"""A row of a panel of 64 tokens, in registers: what differs between panels of 64 and of 32 tokens.

Kernels are written with these parts; ``half_rows`` has their twins, and ``half`` puts them in.

Order of the lanes. u8 rows are in the order of the tokens. s32 and f32 rows are in the order in which ``interleave``
leaves them: position 16 j + 4 l + i is token 16 l + 4 j + i. So four neighbouring tokens stay neighbours, and the
first of them is at ``place``.
"""

import inspect
from types import FunctionType
from typing import Any

import numpy as np

from refimpl.kernels import epilogue
from refimpl.kernels.bsgemm_4x1_shared_u8s8s32 import reload_quad as saved_quad
from refimpl.kernels.bsgemm_4x1_shared_u8s8s32 import save_quad
from refimpl.kernels.bsgemm_4x1_u8s8s32 import dot_row, interleave, zero_row
from refimpl.kernels.bsgemm_4x1_u8s8s32 import store_row as store_sums
from refimpl.kernels.epilogue import pack_tokens, start_row
from refimpl.kernels.rowwise import exp as exponential
from refimpl.kernels.rowwise import gelu as activation
from refimpl.kernels.rowwise.quantize import MAX
from refimpl.kernels.simd.instructions import arithmetic, bf16, convert, f32
from refimpl.kernels.simd.instructions import interleave as interleaving
from refimpl.kernels.simd.instructions.bf16 import vcvtne2ps2bf16, vmovdqu16_load, vmovdqu16_store, vpermw
from refimpl.kernels.simd.instructions.convert import vpackssdw, vpacksswb
from refimpl.kernels.simd.instructions.f32 import broadcast_f32, vmovups_load, vmovups_store
from refimpl.kernels.simd.instructions.interleave import vpxord
from refimpl.kernels.simd.instructions.memory import vmovdqu8_load, vmovdqu8_store, vmovdqu8_store_masked, vpbroadcastd
from refimpl.kernels.simd.threefold import Part, Threefold, part
from refimpl.quant.symmetric import ZERO_POINT

TOP_BITS = np.full(4, ZERO_POINT, np.uint8)
"""Flipping the top bit turns an s8 code into the u8 code + 128."""
PAIR_INDEX = np.arange(32, dtype=np.uint16).reshape(2, 16).T.reshape(-1)
"""Words 0, 16, 1, 17, ...: takes turns between the halves of a register."""

__all__ = ["dot_row", "save_quad", "saved_quad", "start_row", "store_sums", "zero_row"]


@part
def width():
    """Tokens in a panel."""
    return 64


@part
def place(token):
    """Where token 0, 4, ... of a panel is in an s32 or f32 row."""
    return token // 4 % 4 * 16 + token // 16 * 4


@part
def load_quad(x, at0, at1, at2, at3):
    """Four u8 or s8 rows -> the dwords (k0, k1, k2, k3) of all tokens."""
    return interleave(vmovdqu8_load(x, at0), vmovdqu8_load(x, at1), vmovdqu8_load(x, at2), vmovdqu8_load(x, at3))


@part
def load_row(x, at):
    """An f32 row."""
    return vmovups_load(x, at), vmovups_load(x, at + 16), vmovups_load(x, at + 32), vmovups_load(x, at + 48)


@part
def store_row(out, at, row):
    """An f32 row."""
    vmovups_store(out, at, row[0])
    vmovups_store(out, at + 16, row[1])
    vmovups_store(out, at + 32, row[2])
    vmovups_store(out, at + 48, row[3])


@part
def store_codes(out, at, codes):
    """An s32 row of codes, as u8."""
    vmovdqu8_store(out, at, pack_tokens(codes))


@part
def store_flipped(out, at, x, source, flip):
    """A row of codes from x[source], with the bits in ``flip`` flipped."""
    vmovdqu8_store(out, at, vpxord(vmovdqu8_load(x, source), flip))


@part
def store_lanes(out, at, x, source, mask):
    """The codes at x[source] of the tokens in a mask; those of the others stay as they are."""
    vmovdqu8_store_masked(out, at, vmovdqu8_load(x, source), mask)


@part
def load_pairs(x, at):
    """Two bf16 rows, as pairs in dwords: twice as many u16."""
    return (
        vmovdqu16_load(x, at),
        vmovdqu16_load(x, at + 32),
        vmovdqu16_load(x, at + 64),
        vmovdqu16_load(x, at + 96),
    )


@part
def save_pairs(out, at, row):
    """What ``load_pairs`` loads."""
    vmovdqu16_store(out, at, row[0])
    vmovdqu16_store(out, at + 32, row[1])
    vmovdqu16_store(out, at + 64, row[2])
    vmovdqu16_store(out, at + 96, row[3])


@part
def pair_up(low, high):
    """Sixteen f32 twice -> bf16 pairs (low, high) in dwords."""
    return vpermw(vmovdqu16_load(PAIR_INDEX, 0), vcvtne2ps2bf16(high, low))


@part
def spread(register):
    """The same register for all tokens."""
    return register, register, register, register


def _one(a):
    return apply(a[0]), apply(a[1]), apply(a[2]), apply(a[3])  # noqa: F821


def _two(a, b):
    return apply(a[0], b[0]), apply(a[1], b[1]), apply(a[2], b[2]), apply(a[3], b[3])  # noqa: F821


def _three(a, b, c):
    return (
        apply(a[0], b[0], c[0]),  # noqa: F821
        apply(a[1], b[1], c[1]),  # noqa: F821
        apply(a[2], b[2], c[2]),  # noqa: F821
        apply(a[3], b[3], c[3]),  # noqa: F821
    )


def lanewise(apply: Threefold, *forms: Any) -> Part:
    """``apply`` on the registers of one to three rows, by the form with as many operands."""
    form = forms[len(inspect.signature(apply.emulated).parameters) - 1]
    return Part(FunctionType(form.__code__, form.__globals__ | {"apply": apply}, f"{apply.__name__}_row"))


LANEWISE = {
    "dot": arithmetic.vpdpbusd,
    "minus": arithmetic.vpsubd,
    "flipped": interleaving.vpxord,
    "add": f32.vaddps,
    "subtract": f32.vsubps,
    "multiply": f32.vmulps,
    "divide": f32.vdivps,
    "larger": f32.vmaxps,
    "smaller": f32.vminps,
    "fused": f32.vfmadd,
    "root": f32.vsqrtps,
    "to_f32": convert.vcvtdq2ps,
    "to_s32": convert.vcvtps2dq,
    "exp": exponential.exp,
    "gelu": activation.gelu,
    "rescale": epilogue.rescale,
    "paired": pair_up,
    "dot_pairs": bf16.vdpbf16ps,
}
"""Functions of rows by what they do to each register."""

(
    dot,
    minus,
    flipped,
    add,
    subtract,
    multiply,
    divide,
    larger,
    smaller,
    fused,
    root,
    to_f32,
    to_s32,
    exp,
    gelu,
    rescale,
    paired,
    dot_pairs,
) = (lanewise(apply, _one, _two, _three) for apply in LANEWISE.values())


@part
def store_quantized(out, at, y, step):
    """An f32 row as u8 codes, in the bits of ``rowwise.quantize``: packing clamps below, flipping a bit adds 128."""
    codes = to_s32(smaller(divide(y, step), spread(broadcast_f32(MAX))))
    signed = vpacksswb(vpackssdw(codes[0], codes[1]), vpackssdw(codes[2], codes[3]))
    vmovdqu8_store(out, at, vpxord(signed, vpbroadcastd(TOP_BITS, 0)))
