"""Plausible wrong versions of the saturating twins, of expansion and of bitmask weights. See tests/mutants.py."""

import numpy as np
import test_2_expand as expansion
import test_5_bitmask as bitmasks
import test_5_saturating as saturating
from mutants import Suite
from mutants_kernels import swap

from refimpl import isa
from refimpl.integer.gemm import gemm_u8s8s32_pair_saturating
from refimpl.integer.narrow import saturate_s16
from refimpl.integer.sparse_saturation import bsgemm_4x1_u8s8s32_pair_saturating
from refimpl.kernels import gemm_u8s8s32 as dense
from refimpl.kernels import pairs
from refimpl.kernels import spgemm_bitmask_u8s8s32 as bitmask_kernel
from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.kernels.gemm_u8s8s32 import GEMM
from refimpl.kernels.layout import bitmask
from refimpl.kernels.simd.exchange import exchange
from refimpl.kernels.simd.instructions.arithmetic import vpdpbusd
from refimpl.kernels.simd.threefold import part
from refimpl.kernels.spgemm_bitmask_u8s8s32 import SPGEMM_BITMASK

# --- another dot product ---------------------------------------------------------------------------------------------


def products_of(x, w):
    return x.astype(np.int32).reshape(-1, 4) * w.astype(np.int32).reshape(-1, 4)


def dot_of(pair_sums):
    """A dot product from the pair sums of four products: s32 (16, 4) -> s32 (16, anything)."""
    return lambda acc, x, w: isa.vpaddd(acc, pair_sums(products_of(x, w)).sum(1).astype(np.int32))


def neighbours(p):
    return p.reshape(16, 2, 2).sum(2)


DOTS = {
    "exact": isa.vpdpbusd,
    "pair sums wrap": dot_of(lambda p: neighbours(p).astype(np.int16)),
    "pairs 02 13": dot_of(lambda p: saturate_s16(p[:, :2] + p[:, 2:]).astype(np.int32)),
    "pairs 03 12": dot_of(lambda p: saturate_s16(p[:, :2] + p[:, :1:-1]).astype(np.int32)),
    "quads saturate": dot_of(lambda p: saturate_s16(p.sum(1, keepdims=True)).astype(np.int32)),
    "sums of two pairs saturate again": dot_of(
        lambda p: saturate_s16(saturate_s16(neighbours(p)).astype(np.int32).sum(1, keepdims=True)).astype(np.int32)
    ),
    "lowest is -32767": dot_of(lambda p: np.clip(neighbours(p), -32767, 32767)),
    "saturates above only": dot_of(lambda p: np.minimum(neighbours(p), 32767)),
    "saturates below only": dot_of(lambda p: np.maximum(neighbours(p), -32768)),
    "signs swapped": lambda acc, x, w: pairs.pair_dot(acc, w.view(np.uint8), x.view(np.int8)),
}


def twin(kernel, dot, pack=None):
    source = exchange(kernel.source, {vpdpbusd: part(dot)}, "mutant", __name__)
    return lambda a, w: kernel.call(source.emulated, a, (pack or kernel.pack)(w))


def with_dots(check, kernel, more):
    mutants = {name: twin(kernel, dot) for name, dot in DOTS.items()}
    return Suite(check, twin(kernel, pairs.pair_dot.emulated), mutants | more)


def one_channel_on(a, w):
    """Pairs (-1, 0), (1, 2), ... along the input."""
    return gemm_u8s8s32_pair_saturating(np.pad(a, ((0, 0), (1, 0))), np.pad(w, ((0, 0), (1, 0))))


def live_columns(rows):
    """The oracle's formula with blocks of ``rows`` output channels."""

    def product(a, w):
        acc = np.zeros((len(a), len(w)), np.int32)
        for row in range(0, len(w), rows):
            live = w[row : row + rows].any(0)
            acc[:, row : row + rows] = gemm_u8s8s32_pair_saturating(a[:, live], w[row : row + rows, live])
        return acc

    return product


PAIRINGS = {
    "pairs of the dense product": gemm_u8s8s32_pair_saturating,
    "columns live in one row": live_columns(1),
    "columns live in eight rows": live_columns(8),
    "pairs of live columns from the end": lambda a, w: bsgemm_4x1_u8s8s32_pair_saturating(a[:, ::-1], w[:, ::-1]),
}

SATURATING = [
    with_dots(
        saturating.check_gemm_pair_saturating,
        GEMM,
        {"one channel on": one_channel_on, "pairs of the sparse product": bsgemm_4x1_u8s8s32_pair_saturating},
    ),
    with_dots(saturating.check_bsgemm_4x1_pair_saturating, BSGEMM_4X1, PAIRINGS),
    Suite(saturating.check_sparse_oracle, bsgemm_4x1_u8s8s32_pair_saturating, PAIRINGS),
]

# --- expansion -------------------------------------------------------------------------------------------------------


def mask_bits(mask):
    return np.array([int(mask) >> j & 1 for j in range(64)], bool)


def reversed_bits(mask):
    return np.uint64(int(f"{int(mask):064b}"[::-1], 2))


def low_half(mask):
    return np.uint64(int(mask) % 2**32)


EXPANSION = [
    Suite(
        expansion.check_vpexpandb,
        isa.vpexpandb,
        {
            "highest bit first": lambda array, at, mask: isa.vpexpandb(array, at, reversed_bits(mask)),
            "only 32 bits": lambda array, at, mask: isa.vpexpandb(array, at, low_half(mask)),
            "selects, not expands": lambda array, at, mask: np.resize(array[at:], 64) * mask_bits(mask).astype(np.int8),
            "compresses": lambda array, at, mask: np.pad(
                np.resize(array[at:], 64)[mask_bits(mask)], (0, 64 - isa.popcnt(mask))
            ),
            "unsigned bytes": lambda array, at, mask: isa.vpexpandb(array, at, mask).view(np.uint8),
            "the place ignored": lambda array, at, mask: isa.vpexpandb(array, 0, mask),
        },
    ),
    Suite(
        expansion.check_popcnt,
        isa.popcnt,
        {
            "of 32 bits": lambda mask: isa.popcnt(low_half(mask)),
            "of 63 bits": lambda mask: isa.popcnt(np.uint64(int(mask) % 2**63)),
            "the highest bit": lambda mask: int(mask).bit_length(),
        },
    ),
]

# --- bitmask weights -------------------------------------------------------------------------------------------------


def layout_with(change):
    """``pack`` with fields changed."""
    return lambda w: (packed := bitmask.pack(w))._replace(**change(packed))


def stored_zeros(w):
    packed = bitmask.pack(np.where(w == 0, 1, w).astype(np.int8))
    values = bitmask.pack(w)
    return packed._replace(values=np.resize(values.values, packed.values.size))


LAYOUT = Suite(
    bitmasks.check_bitmask_pack,
    bitmask.pack,
    {
        "highest bit first": layout_with(
            lambda p: {"masks": np.array([reversed_bits(mask) for mask in p.masks], np.uint64)}
        ),
        "highest byte first": layout_with(lambda p: {"masks": p.masks.byteswap()}),
        "bits of the zeros": layout_with(lambda p: {"masks": ~p.masks}),
        "starts inclusive": layout_with(lambda p: {"starts": np.append(p.starts[1:], p.starts[-1])}),
        "starts are counts": layout_with(lambda p: {"starts": np.append(0, np.diff(p.starts))}),
        "values backwards": layout_with(lambda p: {"values": p.values[::-1]}),
        "zeros stored": stored_zeros,
    },
)


def bitmask_product(execution):
    return lambda a, w: SPGEMM_BITMASK.call(execution, a, SPGEMM_BITMASK.pack(w))


def bitmask_tile(tile=None, **callees):
    return bitmask_product(swap(bitmask_kernel.spgemm_bitmask, tile=tile or swap(bitmask_kernel.tile, **callees)))


def expand_with(**callees):
    return bitmask_tile(expand=swap(bitmask_kernel.expand, **callees))


def never_advances(values, at, masks, i):
    return bitmask_kernel.expand(values, at, masks, i)[0], at


def exchanged_registers(values, at, masks, i):
    w, end = bitmask_kernel.expand(values, at, masks, i)
    return (w[0], w[2], w[1], w[3]), end


BITMASK = Suite(
    bitmasks.check_spgemm_bitmask,
    bitmask_product(bitmask_kernel.spgemm_bitmask.emulated),
    {
        "counts 32 bits": expand_with(popcnt=lambda mask: isa.popcnt(low_half(mask))),
        "every step begins at the tile's start": bitmask_tile(expand=never_advances),
        "registers 1 and 2 exchanged": bitmask_tile(expand=exchanged_registers),
        "nothing expanded": expand_with(
            vpexpandb=lambda values, at, mask: np.resize(np.append(values[at:], np.int8(0)), 64)
        ),
        "the first tile's values": bitmask_tile(
            lambda values, at, *rest: bitmask_kernel.tile(np.resize(values, 2 * values.size + 64), 0, *rest)
        ),
        "last step left out": bitmask_tile(
            lambda values, at, masks, start, steps, *rest: bitmask_kernel.tile(
                values, at, masks, start, steps - 1, *rest
            )
        ),
        "pair sums saturate": bitmask_tile(dot_token=swap(dense.dot_token, vpdpbusd=pairs.pair_dot)),
        "signs swapped": bitmask_tile(
            dot_token=swap(
                dense.dot_token, vpdpbusd=lambda acc, x, w: isa.vpdpbusd(acc, w.view(np.uint8), x.view(np.int8))
            )
        ),
        "second token tile with the first's activations": bitmask_tile(
            lambda values, at, masks, start, steps, x, base, *rest: bitmask_kernel.tile(
                values, at, masks, start, steps, x, 0, *rest
            )
        ),
    },
)

SATURATING_AND_BITMASK = [*SATURATING, *EXPANSION, LAYOUT, BITMASK]
