"""The parts of ``rows`` for a panel of 32 tokens: two registers, all in the order of the tokens."""

from functools import cache

from refimpl.kernels.bsgemm_4x1_half_u8s8s32 import QUAD_INDEX, dot_half, store_half, zero_half
from refimpl.kernels.encoder import linear_32x32, rows
from refimpl.kernels.encoder.rows import lanewise
from refimpl.kernels.rowwise.quantize import quantize
from refimpl.kernels.simd.exchange import exchange, exchange_in_part
from refimpl.kernels.simd.instructions.bf16 import vmovdqu16_load, vmovdqu16_store
from refimpl.kernels.simd.instructions.convert import broadcast_s32, vpmovusdb_store_first
from refimpl.kernels.simd.instructions.f32 import vmovups_load, vmovups_store
from refimpl.kernels.simd.instructions.interleave import vpxord
from refimpl.kernels.simd.instructions.lookup import vpermi2b
from refimpl.kernels.simd.instructions.memory import (
    vinserti64x4,
    vmovdqu8_load,
    vmovdqu8_load_low,
    vmovdqu8_store,
    vmovdqu8_store_low,
    vmovdqu8_store_masked,
)
from refimpl.kernels.simd.threefold import KernelSource, part


@part
def width():
    """Tokens in a panel."""
    return 32


@part
def place(token):
    """Where token 0, 4, ... of a panel is in an s32 or f32 row."""
    return token


@part
def start_row(value):
    """Accumulators that all start from one s32."""
    return broadcast_s32(value), broadcast_s32(value)


@part
def load_quad(x, at0, at1, at2, at3):
    """Four u8 rows -> the dwords (k0, k1, k2, k3) of all tokens."""
    first = vinserti64x4(vmovdqu8_load_low(x, at0), x, at1)
    second = vinserti64x4(vmovdqu8_load_low(x, at2), x, at3)
    return (
        vpermi2b(vmovdqu8_load(QUAD_INDEX, 0), first, second),
        vpermi2b(vmovdqu8_load(QUAD_INDEX, 64), first, second),
    )


@part
def save_quad(scratch, at, quad):
    """Keep interleaved rows: 128 bytes."""
    vmovdqu8_store(scratch, at, quad[0])
    vmovdqu8_store(scratch, at + 64, quad[1])


@part
def saved_quad(scratch, at):
    """What ``save_quad`` kept."""
    return vmovdqu8_load(scratch, at), vmovdqu8_load(scratch, at + 64)


@part
def load_row(x, at):
    """An f32 row."""
    return vmovups_load(x, at), vmovups_load(x, at + 16)


@part
def store_row(out, at, row):
    """An f32 row."""
    vmovups_store(out, at, row[0])
    vmovups_store(out, at + 16, row[1])


@part
def store_codes(out, at, codes):
    """An s32 row of codes, as u8."""
    vpmovusdb_store_first(out, at, codes[0], 16)
    vpmovusdb_store_first(out, at + 16, codes[1], 16)


@part
def store_quantized(out, at, y, step):
    """An f32 row as u8 codes."""
    store_codes(out, at, (quantize(y[0], step[0]), quantize(y[1], step[1])))


@part
def store_flipped(out, at, x, source, flip):
    """A row of codes from x[source], with the bits in ``flip`` flipped."""
    vmovdqu8_store_low(out, at, vpxord(vmovdqu8_load_low(x, source), flip))


@part
def store_lanes(out, at, x, source, mask):
    """The codes at x[source] of the tokens in a mask; those of the others stay as they are."""
    vmovdqu8_store_masked(out, at, vmovdqu8_load_low(x, source), mask)


@part
def load_pairs(x, at):
    """Two bf16 rows, as pairs in dwords: twice as many u16."""
    return vmovdqu16_load(x, at), vmovdqu16_load(x, at + 32)


@part
def save_pairs(out, at, row):
    """What ``load_pairs`` loads."""
    vmovdqu16_store(out, at, row[0])
    vmovdqu16_store(out, at + 32, row[1])


@part
def spread(register):
    """The same register for all tokens."""
    return register, register


def _one(a):
    return apply(a[0]), apply(a[1])  # noqa: F821


def _two(a, b):
    return apply(a[0], b[0]), apply(a[1], b[1])  # noqa: F821


def _three(a, b, c):
    return apply(a[0], b[0], c[0]), apply(a[1], b[1], c[1])  # noqa: F821


TWINS = {
    rows.dot_row: dot_half,
    rows.zero_row: zero_half,
    rows.store_sums: store_half,
    rows.save_quad: save_quad,
    rows.saved_quad: saved_quad,
    **{
        getattr(rows, twin.__name__): twin
        for twin in (
            width,
            place,
            start_row,
            load_quad,
            load_row,
            store_row,
            load_pairs,
            save_pairs,
            store_codes,
            store_quantized,
            store_flipped,
            store_lanes,
            spread,
        )
    },
    **{getattr(rows, name): lanewise(apply, _one, _two, _three) for name, apply in rows.LANEWISE.items()},
}

TWINS |= {
    linear_32x32.tile: linear_32x32.half_tile,
    linear_32x32.product: exchange_in_part(linear_32x32.product_of_eight, TWINS),
}


@cache
def half(source: KernelSource) -> KernelSource:
    """The twin of a kernel for panels of 32 tokens."""
    twin = exchange(source, TWINS, f"{source.__name__}_half", source.emulated.__module__)
    twin.recipe = half, (source,)
    return twin
