"""Plausible wrong kernels and layouts: the emulated source with callees exchanged. tests/test_mutants.py runs them."""

from types import FunctionType, SimpleNamespace

import numpy as np
import test_5_kernels as kernels
import test_5_layouts as layouts
from mutants import Suite

from refimpl import isa
from refimpl.kernels import bsgemm_4x1_half_u8s8s32 as half
from refimpl.kernels import bsgemm_4x1_u8s8s32 as sparse
from refimpl.kernels import gemm_u8s8s32 as dense
from refimpl.kernels.bsgemm_4x1_half_u8s8s32 import BSGEMM_4X1_HALF
from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.kernels.gemm_u8s8s32 import GEMM
from refimpl.kernels.layout import bsr4x1, panels, vnni4
from refimpl.kernels.simd.threefold import Part


def swap(function, **callees):
    """The emulated function with other callees; a name that it does not use would leave it right."""
    function = function.emulated if isinstance(function, Part) else function
    assert set(callees) <= set(function.__code__.co_names)
    return FunctionType(function.__code__, function.__globals__ | callees, function.__name__)


def pair_saturating(acc, a, b):
    """vpdpbusd as CPUs without VNNI emulate it: pair sums saturate to s16."""
    return isa.vpaddd(acc, isa.vpmaddwd(isa.vpmaddubsw(a, b), np.ones(32, np.int16)))


def signs_swapped(acc, a, b):
    return isa.vpdpbusd(acc, b.view(np.uint8), a.view(np.int8))


# --- block-sparse ----------------------------------------------------------------------------------------------------


def sparse_product(execution=BSGEMM_4X1.source.emulated, call=BSGEMM_4X1.call, pack=BSGEMM_4X1.pack):
    return lambda a, w: call(execution, a, pack(w))


def sparse_tile(tile=None, **callees):
    """The kernel with another tile, or with the tile's callees exchanged."""
    return sparse_product(swap(sparse.bsgemm_4x1, tile=tile or swap(sparse.tile, **callees)))


def interleaved(**callees):
    return sparse_tile(interleave=swap(sparse.interleave, **callees))


def bsgemm_with(indices):
    def execution(indptr, columns, values, x, k, out):
        sparse.bsgemm_4x1(indptr, indices(columns, k), values, x, k, out)

    return sparse_product(execution)


def padding_repeats_its_weights(w):
    """The zeros of a last group are the weights of the column that it repeats."""
    packed = bsr4x1.pack(w)
    blocks = packed.values.reshape(-1, 4, 4).copy()
    for j in range(1, 4):
        dead = ~blocks[:, :, j].any(1)
        blocks[dead, :, j] = blocks[dead, :, j - 1]
    return packed._replace(values=blocks.reshape(-1))


SPARSE = Suite(
    kernels.check_bsgemm_4x1_kernel,
    sparse_product(),
    {
        "low and high bytes swapped": interleaved(vpunpcklbw=isa.vpunpckhbw, vpunpckhbw=isa.vpunpcklbw),
        "low and high words swapped": interleaved(vpunpcklwd=isa.vpunpckhwd, vpunpckhwd=isa.vpunpcklwd),
        "bytes for words": interleaved(vpunpcklwd=isa.vpunpcklbw, vpunpckhwd=isa.vpunpckhbw),
        "columns paired 02 13": sparse_tile(interleave=lambda a, b, c, d: sparse.interleave(a, c, b, d)),
        "pair sums saturate": sparse_tile(dot_row=swap(sparse.dot_row, vpdpbusd=pair_saturating)),
        "signs swapped": sparse_tile(dot_row=swap(sparse.dot_row, vpdpbusd=signs_swapped)),
        "row 2 with the weights of row 1": sparse_tile(
            vpbroadcastd=lambda values, at: isa.vpbroadcastd(values, at - 4 if at % 16 == 8 else at)
        ),
        "rows 1 and 2 exchanged": sparse_tile(
            store_row=lambda out, at, row: sparse.store_row(out, at + (0, 64, -64, 0)[at // 64 % 4], row)
        ),
        "registers 1 and 2 exchanged": sparse_tile(
            store_row=lambda out, at, row: sparse.store_row(out, at, (row[0], row[2], row[1], row[3]))
        ),
        "accumulators read in the order of tokens": sparse_product(
            call=swap(
                sparse.call,
                panels=SimpleNamespace(pack=panels.pack, unpack_accumulators=panels.unpack, WIDTH=panels.WIDTH),
            )
        ),
        "last group left out": sparse_tile(lambda v, i, start, stop, *rest: sparse.tile(v, i, start, stop - 1, *rest)),
        "first group left out": sparse_tile(lambda v, i, start, stop, *rest: sparse.tile(v, i, start + 1, stop, *rest)),
        "a block row runs into the next": sparse_tile(
            lambda v, i, start, stop, *rest: sparse.tile(v, i, start, min(stop + 1, v.size // 16), *rest)
        ),
        "second panel reads the first": sparse_tile(
            lambda v, i, start, stop, x, base, *rest: sparse.tile(v, i, start, stop, x, 0, *rest)
        ),
        "indices off by one": bsgemm_with(lambda columns, k: (columns + 1) % k),
        "indices ignored": bsgemm_with(lambda columns, k: (np.arange(columns.size) % k).astype(np.int32)),
        "padding repeats its weights": sparse_product(pack=padding_repeats_its_weights),
    },
)


# --- block-sparse, 32 tokens -----------------------------------------------------------------------------------------


def half_product(execution=BSGEMM_4X1_HALF.source.emulated, call=BSGEMM_4X1_HALF.call):
    return lambda a, w: call(execution, a, bsr4x1.pack(w))


def half_with(**callees):
    return half_product(swap(half.bsgemm_4x1_half, **callees))


def with_index(change):
    return half_product(lambda quads, *rest: half.bsgemm_4x1_half(change(quads), *rest))


HALF = Suite(
    kernels.check_bsgemm_4x1_half_kernel,
    half_product(),
    {
        "columns paired 02 13": with_index(lambda quads: quads.reshape(-1, 4)[:, [0, 2, 1, 3]].ravel()),
        "halves of the tokens exchanged": with_index(lambda quads: np.roll(quads, 64)),
        "interleaved in lanes": half_product(
            call=swap(
                half.call,
                panels=SimpleNamespace(
                    pack_to=panels.pack_to, unpack=panels.unpack_word_accumulators, HALF=panels.HALF
                ),
            )
        ),
        "pair sums saturate": half_with(
            dot_block_half=swap(half.dot_block_half, dot_half=swap(half.dot_half, vpdpbusd=pair_saturating))
        ),
        "second column twice": half_with(
            half_quad=swap(half.half_quad, vinserti64x4=lambda low, x, at: np.tile(x[at : at + 32], 2))
        ),
        "last group left out": half_product(
            lambda quads, indptr, *rest: half.bsgemm_4x1_half(quads, np.maximum(indptr - 1, 0), *rest)
        ),
        "rows 1 and 2 exchanged": half_with(
            store_half=lambda out, at, row: half.store_half(out, at + (0, 32, -32, 0)[at // 32 % 4], row)
        ),
    },
)


# --- dense -----------------------------------------------------------------------------------------------------------


def dense_product(execution=GEMM.source.emulated):
    return lambda a, w: GEMM.call(execution, a, GEMM.pack(w))


def dense_tile(tile=None, **callees):
    return dense_product(swap(dense.gemm, tile=tile or swap(dense.tile, **callees)))


def tail_dropped(a, w):
    """Only whole quads of input channels."""
    a = a.copy()
    a[:, a.shape[1] // 4 * 4 :] = 0
    return dense_product()(a, w)


def tiles_overlap(values, start, steps, x, base, k, *rest):
    """Token tiles five apart instead of six."""
    dense.tile(values, start, steps, x, base // k * 5 // 6 * k, k, *rest)


DENSE = Suite(
    kernels.check_gemm_kernel,
    dense_product(),
    {
        "pair sums saturate": dense_tile(dot_token=swap(dense.dot_token, vpdpbusd=pair_saturating)),
        "signs swapped": dense_tile(dot_token=swap(dense.dot_token, vpdpbusd=signs_swapped)),
        "token tiles overlap": dense_tile(tiles_overlap),
        "K tail dropped": tail_dropped,
        "last step left out": dense_tile(lambda v, start, steps, *rest: dense.tile(v, start, steps - 1, *rest)),
        "second 64 channels with the weights of the first": dense_tile(
            lambda v, start, steps, *rest: dense.tile(v, 0, steps, *rest)
        ),
        "second 16 channels with the weights of the first": dense_tile(
            vmovdqu8_load=lambda v, at: isa.vmovdqu8_load(v, at - 64 if at % 256 == 64 else at)
        ),
        "registers 1 and 2 exchanged": dense_tile(
            store_token=lambda out, at, token: dense.store_token(out, at, (token[0], token[2], token[1], token[3]))
        ),
        "every token is the first": dense_tile(
            lambda v, start, steps, x, base, k, *rest: dense.tile(
                v, start, steps, np.tile(x[base : base + k], 6), 0, k, *rest
            )
        ),
    },
)


# --- layouts ---------------------------------------------------------------------------------------------------------


def bsr4x1_with(field, change):
    """``pack`` with one of its arrays changed."""

    def pack(w):
        packed = bsr4x1.pack(w)
        return packed._replace(**{field: change(packed)})

    return pack


def zero_padding_column(packed):
    indices = packed.indices.copy()
    indices[~packed.values.reshape(-1, 4, 4).any(1).reshape(-1)] = 0
    return indices


def by_column(packed):
    return np.ascontiguousarray(packed.values.reshape(-1, 4, 4).swapaxes(1, 2)).reshape(-1)


def fully_live(w):
    """Keeps a block only if no weight in it is zero."""
    padded = np.pad(w, ((0, -len(w) % 4), (0, 0)))
    live = (padded.reshape(-1, 4, w.shape[1]) != 0).all(1)
    return bsr4x1.pack(w * np.repeat(live, 4, 0)[: len(w)])


def vnni4_with(change):
    return lambda w: (packed := vnni4.pack(w))._replace(values=change(packed.values).reshape(-1))


LAYOUTS = [
    Suite(
        layouts.check_bsr4x1_pack,
        bsr4x1.pack,
        {
            "padding in column 0": bsr4x1_with("indices", zero_padding_column),
            "groups by column": bsr4x1_with("values", by_column),
            "indptr counts columns": bsr4x1_with("indptr", lambda packed: 4 * packed.indptr),
            "padding repeats its weights": padding_repeats_its_weights,
            "blocks with a zero dropped": fully_live,
        },
    ),
    Suite(
        layouts.check_vnni4_pack,
        vnni4.pack,
        {
            "not interleaved": vnni4_with(lambda v: v.reshape(-1, 64, 4).swapaxes(1, 2).copy()),
            "VNNI-2": vnni4_with(lambda v: v.reshape(-1, 64, 2, 2).swapaxes(1, 2).copy()),
            "rows reversed in a dword": vnni4_with(lambda v: v.reshape(-1, 4)[:, ::-1].copy()),
        },
    ),
    Suite(
        layouts.check_panels_pack,
        panels.pack,
        {
            "tokens by channels": lambda a: panels.pack(a).reshape(-1, 64, a.shape[1]).swapaxes(1, 2).copy(),
            "last token repeated": lambda a: np.where(
                np.arange(panels.pack(a).shape[0] * 64).reshape(-1, 1, 64) < len(a),
                panels.pack(a),
                a[-1:].max(initial=1),
            ),
        },
    ),
    Suite(
        layouts.check_unpack_accumulators,
        panels.unpack_accumulators,
        {
            "in the order of tokens": panels.unpack,
            "lane and dword exchanged": lambda acc, n: panels.unpack_accumulators(
                acc.reshape(*acc.shape[:2], 4, 4, 4).swapaxes(3, 4).reshape(acc.shape), n
            ),
        },
    ),
]

KERNELS = [SPARSE, HALF, DENSE, *LAYOUTS]
