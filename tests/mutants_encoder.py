"""Plausible wrong kernels of the encoder: a part exchanged for another, emulated. tests/test_mutants.py runs them."""

import numpy as np
import test_5_encoder as encoding
from mutants import Suite, half_away
from mutants_kernels import pair_saturating, signs_swapped

from refimpl import isa
from refimpl.isa import bf16 as isa_bf16
from refimpl.isa import f32 as isa_f32
from refimpl.kernels.encoder import (
    attention_f32,
    attention_u8s8,
    embed,
    half_rows,
    layernorm,
    linear_32x32,
    linear_f32,
    rows,
)
from refimpl.kernels.encoder.exponentials import exponentials
from refimpl.kernels.encoder.forms import FLOATS, FORMS
from refimpl.kernels.encoder.lanes import UP_TO, text_lanes
from refimpl.kernels.epilogue import rescale
from refimpl.kernels.simd.exchange import exchange
from refimpl.kernels.simd.instructions.arithmetic import vpdpbusd, vpsubd
from refimpl.kernels.simd.instructions.bf16 import vcvtne2ps2bf16, vdpbf16ps, vpermw
from refimpl.kernels.simd.instructions.convert import vcvtps2dq, vpackssdw, vpacksswb
from refimpl.kernels.simd.instructions.expand import popcnt, vpexpandb
from refimpl.kernels.simd.instructions.f32 import vdivps, vfmadd, vminps
from refimpl.kernels.simd.instructions.interleave import vpxord
from refimpl.kernels.simd.threefold import part


def changed(source, old, new):
    """The emulated kernel with one part or instruction exchanged."""
    return exchange(source, {old: part(new)}, "mutant", __name__).emulated


def half_changed(source, old, new):
    return changed(half_rows.half(source), old, new)


# --- linear layers ---------------------------------------------------------------------------------------------------

QUANTIZE, CODES, SUM, DENSE = (
    encoding.quantize_panels,
    encoding.SPARSE.stores.codes,
    encoding.SPARSE.stores.sum,
    encoding.DENSE.stores.f32,
)


def check_linear_codes(version):
    encoding.check_linear(version, 64, encoding.SPARSE, "codes")


def check_quantize(version):
    encoding.check_quantize(version, 64)


def check_linear_sum(version):
    encoding.check_linear(version, 32, encoding.SPARSE, "sum")


def check_dense_f32(version):
    encoding.check_linear(version, 64, encoding.DENSE, "f32")


def check_32x32(version):
    encoding.check_linear(version, 64, FORMS["32x32"], "f32")


def check_32x32_half(version):
    encoding.check_linear(version, 32, FORMS["32x32"], "f32")


def first_columns(indptr, indices, *rest):
    """As if the live blocks were the first ones of their row."""
    counted = np.concatenate([np.arange(n) for n in np.diff(indptr)])
    return linear_32x32.product(indptr, counted, *rest)


def tile_of_the_row(indptr, indices, values, start, m, quads, base):
    """Always the first of the four tiles of a block row."""
    shifted = np.roll(start, m // 32 * 32 - m)
    return linear_32x32.product(indptr, indices, values, shifted, m // 32 * 32, quads, base)


def last_four_first(*arguments):
    acc = half_rows.TWINS[linear_32x32.product](*arguments)
    return acc[4:] + acc[:4]


def crossed(x, at0, at1, at2, at3):
    return rows.load_quad(x, at0, at2, at1, at3)


def nothing_to_start_from(value):
    return rows.zero_row()


def narrow(a, b):
    return np.maximum(vpacksswb.emulated(a, b).view(np.int8), -127).view(np.uint8)


def fused_rescale(acc, scale, bias):
    return isa_f32.vfmadd(acc.astype(np.float32), scale, bias)


LINEAR = [
    Suite(
        check_linear_codes,
        CODES.emulated,
        {
            "columns paired 02 13": changed(CODES, rows.load_quad, crossed),
            "pair sums saturate": changed(CODES, vpdpbusd, pair_saturating),
            "signs swapped": changed(CODES, vpdpbusd, signs_swapped),
            "compensation forgotten": changed(CODES, rows.start_row, nothing_to_start_from),
        },
    ),
    Suite(
        check_quantize,
        QUANTIZE.emulated,
        {
            "narrow range": changed(QUANTIZE, vpacksswb, narrow),
            "no limit above": changed(QUANTIZE, vminps, lambda a, b: a),
            "top bit not flipped": changed(QUANTIZE, vpxord, lambda a, b: a),
            "lanes stored as they are": changed(
                QUANTIZE, vpackssdw, lambda a, b: np.concatenate([a, b]).astype(np.int16)
            ),
            "rounded away from zero": changed(QUANTIZE, vcvtps2dq, lambda x: vcvtps2dq.emulated(half_away(x))),
        },
    ),
    Suite(
        check_linear_sum,
        half_rows.half(SUM).emulated,
        {
            "residual forgotten": half_changed(SUM, half_rows.TWINS[rows.add], lambda a, b: a),
            "scale and bias fused": half_changed(SUM, rescale, fused_rescale),
            "halves of the tokens exchanged": half_changed(
                SUM, half_rows.load_quad, lambda *at: half_rows.load_quad(*at)[::-1]
            ),
        },
    ),
    Suite(
        check_dense_f32,
        DENSE.emulated,
        {
            "columns paired 02 13": changed(DENSE, rows.load_quad, crossed),
            "scale and bias fused": changed(DENSE, rescale, fused_rescale),
            "a saved quad in another order": changed(
                DENSE, rows.saved_quad, lambda scratch, at: rows.saved_quad(scratch, at)[::-1]
            ),
        },
    ),
]

BLOCKS = FORMS["32x32"].stores.f32
LINEAR += [
    Suite(
        check_32x32,
        BLOCKS.emulated,
        {
            "live blocks moved to the left": changed(BLOCKS, linear_32x32.product, first_columns),
            "one tile for all of a block row": changed(BLOCKS, linear_32x32.product, tile_of_the_row),
            "columns paired 02 13": changed(BLOCKS, rows.load_quad, crossed),
        },
    ),
    Suite(
        check_32x32_half,
        half_rows.half(BLOCKS).emulated,
        {
            "four and four channels exchanged": half_changed(
                BLOCKS, half_rows.TWINS[linear_32x32.product], last_four_first
            ),
            "the second four not stored": half_changed(BLOCKS, linear_32x32.half_tile, lambda: 4),
        },
    ),
]

BITMASK = FORMS["bitmask"].stores.f32


def check_bitmask(version):
    encoding.check_linear(version, 64, FORMS["bitmask"], "f32")


def next_to_each_other(values, at, mask):
    """The nonzero bytes at the front of the register."""
    return isa.vpexpandb(values, at, np.uint64(2 ** isa.popcnt(mask) - 1))


LINEAR += [
    Suite(
        check_bitmask,
        BITMASK.emulated,
        {
            "not expanded": changed(BITMASK, vpexpandb, next_to_each_other),
            "one value behind": changed(BITMASK, vpexpandb, lambda x, at, mask: isa.vpexpandb(x, max(at - 1, 0), mask)),
            "an even number of values to a mask": changed(BITMASK, popcnt, lambda mask: isa.popcnt(mask) & ~1),
        },
    ),
]

F32 = FLOATS["f32"].stores.f32


def check_f32_linear(version):
    encoding.check_float_linear(version, 64, "f32", "f32")


def backwards(values, at, k, x, base):
    panel, tile = x[base : base + 64 * k].reshape(k, 64), values[at : at + 6 * k].reshape(k, 6)
    return linear_f32.product(tile[::-1].reshape(-1), 0, k, panel[::-1].reshape(-1), 0)


LINEAR += [
    Suite(
        check_f32_linear,
        F32.emulated,
        {
            "multiplied and added": changed(F32, vfmadd, lambda a, b, c: a * b + c),
            "channels from last to first": changed(F32, linear_f32.product, backwards),
            "bias forgotten": changed(F32, linear_f32.biased, lambda acc, bias, m: acc),
        },
    ),
]

BF16 = FLOATS["bf16"].stores.f32


def check_bf16_linear(version):
    encoding.check_float_linear(version, 32, "bf16", "f32")


def truncated(a, b):
    return np.concatenate([(x.view(np.uint32) >> 16).astype(np.uint16) for x in (b, a)])


def lower_first(acc, a, b):
    """The lower element of each pair before the upper one."""
    swapped = [x.reshape(-1, 2)[:, ::-1].reshape(-1) for x in (a, b)]
    return isa_bf16.vdpbf16ps(acc, *swapped)


def pair_rounded_once(acc, a, b):
    """Both products of a pair summed exactly."""
    x, y = (isa_bf16.from_bf16(operand).astype(np.float64).reshape(-1, 2) for operand in (a, b))
    return ((x * y).sum(1) + acc).astype(np.float32)


LINEAR += [
    Suite(
        check_bf16_linear,
        half_rows.half(BF16).emulated,
        {
            "x truncated": half_changed(BF16, vcvtne2ps2bf16, truncated),
            "rows exchanged in a pair": half_changed(BF16, vcvtne2ps2bf16, lambda a, b: isa_bf16.vcvtne2ps2bf16(b, a)),
            "rows one after the other": half_changed(BF16, vpermw, lambda index, a: a),
            "the lower channel first": half_changed(BF16, vdpbf16ps, lower_first),
            "one rounding a pair": half_changed(BF16, vdpbf16ps, pair_rounded_once),
        },
    ),
]

# --- attention and norm ----------------------------------------------------------------------------------------------

INTEGER, FLOAT, NORM = attention_u8s8.attention_u8s8, attention_f32.attention_f32, layernorm.layernorm_codes


def check_integer_heads(version):
    encoding.check_integer_attention(version, 64)


def check_f32_heads(version):
    encoding.check_f32_attention(version, 64)


def check_norm(version):
    encoding.check_layernorm(version, 32)


def padding_counts(x, at, n, padded):
    """Keys of padding take part in softmax."""
    return exponentials(x, at, padded, padded)


def all_lanes(skip, n, panel):
    return UP_TO[64]


def lanes_from_the_first(skip, n, panel):
    return UP_TO[min(n - 64 * panel, 64)]


def squares_twice(a, b, c):
    return isa_f32.vfmadd(a, b, isa_f32.vaddps(c, c))


def twelve_bits(a, b):
    """As if from an approximate reciprocal."""
    return isa_f32.vdivps(a, b) * np.float32(1 - 2**-12)


ATTENTION = [
    Suite(
        check_integer_heads,
        INTEGER.emulated,
        {
            "codes not flipped": changed(INTEGER, vpxord, lambda a, b: a),
            "compensation added": changed(INTEGER, vpsubd, lambda a, b: isa.vpaddd(a, b)),
            "keys in the order of the tokens": changed(INTEGER, rows.place, lambda token: token),
            "padding takes part": changed(INTEGER, exponentials, padding_counts),
            "probabilities truncated": changed(INTEGER, vcvtps2dq, lambda x: np.trunc(x).astype(np.int32)),
            "pair sums saturate": changed(INTEGER, vpdpbusd, pair_saturating),
            "other texts' lanes stored": changed(INTEGER, text_lanes, all_lanes),
            "texts begin with a panel": changed(INTEGER, text_lanes, lanes_from_the_first),
        },
    ),
    Suite(
        check_f32_heads,
        FLOAT.emulated,
        {
            "keys in the order of the tokens": changed(FLOAT, rows.place, lambda token: token),
            "padding takes part": changed(FLOAT, exponentials, padding_counts),
            "not divided by the sum": changed(FLOAT, rows.divide, lambda a, b: a),
            "other texts' lanes stored": changed(FLOAT, text_lanes, all_lanes),
        },
    ),
    Suite(
        check_norm,
        half_rows.half(NORM).emulated,
        {
            "variance about 0": half_changed(NORM, half_rows.TWINS[rows.subtract], lambda a, b: a),
            "not the root": half_changed(NORM, half_rows.TWINS[rows.root], lambda a: a),
            "squares added twice": half_changed(NORM, vfmadd, squares_twice),
            "division to twelve bits": half_changed(NORM, vdivps, twelve_bits),
        },
    ),
]

# --- first tokens ----------------------------------------------------------------------------------------------------


def check_pick(version):
    encoding.check_pick(version, 64, np.float32)


def picks(wrong):
    """The kernel with arguments changed: (x, first, places, lanes, d, out)."""
    return lambda *given: PICK(*wrong(*given))


PICK = embed.pick_first.emulated
PICKING = [
    Suite(
        check_pick,
        PICK,
        {
            "tokens in their own order": picks(lambda x, first, places, *rest: (x, first, np.sort(places), *rest)),
            "texts begin with a panel": picks(lambda x, first, *rest: (x, first // 64 * 64, *rest)),
            "one panel alone": picks(lambda x, first, *rest: (x, first[:32], *rest)),
        },
    )
]

ENCODER = [*LINEAR, *ATTENTION, *PICKING]
