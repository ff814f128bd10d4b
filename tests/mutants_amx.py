"""Plausible wrong bf16 and AMX instructions, kernels and layouts. tests/test_mutants.py runs them."""

from types import FunctionType

import numpy as np
import test_2_amx as tiles
import test_2_bf16 as halves
import test_5_amx_bf16 as products
from mutants import Suite
from mutants_kernels import pair_saturating, swap
from test_1_arithmetic import F32

from refimpl.isa import amx, bf16
from refimpl.kernels import gemm_bf16 as dense
from refimpl.kernels import gemm_u8s8s32_amx as tiled
from refimpl.kernels.gemm_bf16 import GEMM_BF16
from refimpl.kernels.gemm_u8s8s32_amx import GEMM_AMX
from refimpl.kernels.layout import amx as amx_layout
from refimpl.kernels.layout import vnni2
from refimpl.nn import gemm_bf16 as oracle

U32 = np.uint32


def with_globals(function, **names):
    """The function with other globals; a name that it does not use would leave it right."""
    assert set(names) <= set(function.__code__.co_names)
    return FunctionType(function.__code__, function.__globals__ | names, function.__name__)


# --- bf16 ------------------------------------------------------------------------------------------------------------


def fma_with(**names):
    """``vdpbf16ps`` whose fma has other helpers."""
    return with_globals(bf16.vdpbf16ps, fma_daz_ftz=with_globals(bf16.fma_daz_ftz, **names))


def lower_first(acc, a, b):
    def exchanged(x):
        return np.ascontiguousarray(x.reshape(-1, 2)[:, ::-1]).ravel()

    return bf16.vdpbf16ps(acc, exchanged(a), exchanged(b))


def products_of(a, b):
    a, b = bf16.from_bf16(a), bf16.from_bf16(b)
    return [(a[..., e::2], b[..., e::2]) for e in (0, 1)]


def dot_then_add(acc, a, b):
    """The pair's sum rounded, then added: two roundings too, in the other order."""
    lower, upper = products_of(a, b)
    pair = bf16.fma_daz_ftz(bf16.fma_daz_ftz(np.zeros_like(acc), *upper), *lower)
    return bf16.fma_daz_ftz(acc, pair, np.ones(1, F32))


def unfused(acc, a, b):
    """Products rounded to f32, overflowing and flushed there, before they are added."""
    for x, y in products_of(a, b)[::-1]:
        product = bf16.fma_daz_ftz(np.zeros_like(x), x, y)
        acc = bf16.fma_daz_ftz(acc, product, np.ones(1, F32))
    return acc


def exact_once(acc, a, b):
    """Both products and acc in f64, one rounding."""
    with np.errstate(all="ignore"):
        total = acc.astype(np.float64) + sum(x.astype(np.float64) * y for x, y in products_of(a, b))
        return np.where(np.isfinite(total), total.astype(F32), bf16.vdpbf16ps(acc, a, b))


def another_fma(change):
    """vdpbf16ps with ``change(result, acc, x, y)`` after each fma."""

    def fma(acc, x, y):
        return change(bf16.fma_daz_ftz(acc, x, y), acc, x, y)

    return with_globals(bf16.vdpbf16ps, fma_daz_ftz=fma)


def default_nan(result, *_):
    return np.where(np.isnan(result), U32(0xFFC00000).view(F32), result)


def acc_nan_first(result, acc, *_):
    return np.where(np.isnan(acc), (acc.view(U32) | U32(0x400000)).view(F32), result)


def positive_indefinite(result, acc, x, y):
    made = np.isnan(result) & ~np.isnan(acc) & ~np.isnan(x) & ~np.isnan(y)
    return np.where(made, U32(0x7FC00000).view(F32), result)


def zero_without_sign(result, *_):
    return np.where(result == 0, F32(0), result)


def towards_zero(result, acc, x, y):
    """Chops instead of rounding, where the sum is inexact in f64 arithmetic."""
    with np.errstate(all="ignore"):
        exact = x.astype(np.float64) * y + acc
        over = np.abs(result.astype(np.float64)) > np.abs(exact)
        return np.where(over & np.isfinite(result), np.nextafter(result, F32(0)), result)


def flushed_as_it_comes_out(acc, x, y):
    """Rounds to a subnormal f32 first and flushes what is subnormal then."""
    fma = with_globals(bf16.fma_daz_ftz, FLUSHED_BELOW=0.0)
    return bf16._flush(fma(acc, x, y))


DOT = Suite(
    halves.check_vdpbf16ps,
    bf16.vdpbf16ps,
    {
        "lower element first": lower_first,
        "dot product, then add": dot_then_add,
        "multiply, round, add": unfused,
        "one rounding for all": exact_once,
        "subnormal operands kept": fma_with(_flush=lambda x: x),
        "subnormal results kept": fma_with(FLUSHED_BELOW=0.0),
        "flushed before rounding": fma_with(FLUSHED_BELOW=2.0**-126),
        "flushed after rounding to a subnormal": with_globals(bf16.vdpbf16ps, fma_daz_ftz=flushed_as_it_comes_out),
        "truncated": another_fma(towards_zero),
        "every NaN the same": another_fma(default_nan),
        "NaN of acc first": another_fma(acc_nan_first),
        "indefinite without a sign": another_fma(positive_indefinite),
        "flushed zeros positive": another_fma(zero_without_sign),
        "a and b exchanged": lambda acc, a, b: bf16.vdpbf16ps(acc, b, a),
    },
)


def converted(bias, subnormal=False, nan=None):
    """The conversion with another number added to the bits, subnormal numbers kept, another NaN."""

    def convert(x):
        bits = x.view(U32) if subnormal else bf16._flush(x).view(U32)
        rounded = ((bits + bias(bits)) >> 16).astype(np.uint16)
        good = bf16.vcvtneps2bf16(x)
        return np.where(np.isnan(x), good if nan is None else nan(bits), rounded).astype(np.uint16)

    return convert


def nearest_even(bits):
    return U32(0x7FFF) + (bits >> 16 & 1)


TWO = Suite(
    halves.check_two,
    bf16.vcvtne2ps2bf16,
    {
        "halves exchanged": lambda a, b: bf16.vcvtne2ps2bf16(b, a),
        "lanes in turns": lambda a, b: bf16.vcvtne2ps2bf16(a, b).reshape(2, -1).T.reshape(-1),
    },
)
WORDS = Suite(
    halves.check_words,
    bf16.vpermw,
    {
        "operands exchanged": lambda index, a: bf16.vpermw(a, index),
        "index not cut to five bits": lambda index, a: np.where(index < 32, a[index % 32], np.uint16(0)),
        "scattered": lambda index, a: a[np.argsort(index % 32, kind="stable")],
    },
)
CONVERT = Suite(
    halves.check_vcvtneps2bf16,
    bf16.vcvtneps2bf16,
    {
        "half away from zero": converted(lambda bits: U32(0x8000)),
        "half towards zero": converted(lambda bits: U32(0x7FFF)),
        "half to odd": converted(lambda bits: U32(0x7FFF) + (~bits >> 16 & 1)),
        "truncated": converted(lambda bits: U32(0)),
        "subnormal kept": converted(nearest_even, subnormal=True),
        "NaN not made quiet": converted(nearest_even, nan=lambda bits: bits >> 16),
        "every NaN the same": converted(nearest_even, nan=lambda bits: U32(0x7FC0)),
    },
)


def paired_backwards(x):
    """Each pair of columns exchanged."""
    padded = np.pad(x, ((0, 0), (0, x.shape[1] % 2)))
    return padded.reshape(len(x), -1, 2)[:, :, ::-1].reshape(len(x), -1)


def f32_product(a, w):
    with np.errstate(all="ignore"):
        return bf16.from_bf16(a) @ bf16.from_bf16(w).T


ORACLE = Suite(
    products.check_gemm_bf16_oracle,
    oracle.gemm_bf16,
    {
        "lower element first": lambda a, w: oracle.gemm_bf16(paired_backwards(a), paired_backwards(w)),
        "K descending": lambda a, w: oracle.gemm_bf16(a[:, ::-1].copy(), w[:, ::-1].copy()),
        "f32 product": f32_product,
        "w for a": lambda a, w: oracle.gemm_bf16(w, a).T,
        "odd K dropped": lambda a, w: oracle.gemm_bf16(a[:, :-1], w[:, :-1]),
    },
)


def dense_product(execution=GEMM_BF16.source.emulated):
    return lambda a, w: GEMM_BF16.call(execution, a, GEMM_BF16.pack(w))


def dense_tile(tile=None, **callees):
    return dense_product(swap(dense.gemm_bf16, tile=tile or swap(dense.tile, **callees)))


def dense_dot(dot):
    return dense_tile(dot_token=swap(dense.dot_token, vdpbf16ps=dot))


GEMM = Suite(
    products.check_gemm_bf16,
    dense_product(),
    {
        "lower element first": dense_dot(lower_first),
        "dot product, then add": dense_dot(dot_then_add),
        "multiply, round, add": dense_dot(unfused),
        "last step left out": dense_tile(lambda v, start, steps, *rest: dense.tile(v, start, steps - 1, *rest)),
        "second 16 channels with the weights of the first": dense_tile(
            vmovdqu16_load=lambda v, at: bf16.vmovdqu16_load(v, at - 32 if at % 128 == 32 else at)
        ),
        "registers 1 and 2 exchanged": dense_tile(
            store_token=lambda out, at, token: dense.store_token(out, at, (token[0], token[2], token[1], token[3]))
        ),
        "second 64 channels with the weights of the first": dense_tile(lambda v, start, *rest: dense.tile(v, 0, *rest)),
        "every token is the first": dense_tile(
            lambda v, start, steps, x, base, k, *rest: dense.tile(
                v, start, steps, np.tile(x[base : base + k], 6), 0, k, *rest
            )
        ),
    },
)


# --- tiles -----------------------------------------------------------------------------------------------------------


def quads_of(state, t, dtype):
    return state.tiles[t, : state.rows[t], : state.colsb[t]].view(dtype).astype(np.int64)


def weights_unpacked(state, dst, a, b):
    """Reads b as K x N bytes one after the other instead of quads."""
    x, w = quads_of(state, a, np.uint8), np.ascontiguousarray(quads_of(state, b, np.int8))
    acc = np.ascontiguousarray(state.tiles[dst, : state.rows[dst], : state.colsb[dst]]).view(np.int32)
    return amx._with_product(state, dst, (acc + x @ w.reshape(x.shape[1], -1)).astype(np.int32))


def weights_with(change):
    """tdpbusd on a changed tile b, (rows, N, 4) -> the same shape."""

    def product(state, dst, a, b):
        changed, result = state.tiles.copy(), state.tiles.copy()
        used = changed[b, : state.rows[b], : state.colsb[b]]
        used[...] = change(used.reshape(len(used), -1, 4)).reshape(used.shape)
        result[dst] = amx.tdpbusd(state._replace(tiles=changed), dst, a, b).tiles[dst]
        return state._replace(tiles=result)

    return product


def saturating(state, dst, a, b):
    """Pair sums saturate to s16, as without VNNI."""
    x, w = state.tiles[a].copy(), state.tiles[b]
    acc = state.tiles[dst].view(np.int32)
    for k in range(16):
        dwords = np.repeat(x.reshape(16, 16, 1, 4)[:, k], 16, 1).reshape(16, 64)
        rows = [pair_saturating(acc[m], dwords[m], w[k].view(np.int8)) for m in range(16)]
        acc = np.stack(rows)
    tile = state.tiles.copy()
    tile[dst] = acc.view(np.uint8)
    return state._replace(tiles=tile)


def overwriting(state, dst, a, b):
    return amx.tdpbusd(amx.tilezero(state, dst), dst, a, b)


def last_row_left_out(state, dst, a, b):
    result = amx.tdpbusd(state, dst, a, b).tiles.copy()
    result[dst, state.rows[dst] - 1] = state.tiles[dst, state.rows[dst] - 1]
    return state._replace(tiles=result)


TDPBUSD = Suite(
    tiles.check_tdpbusd,
    amx.tdpbusd,
    {
        "signs swapped": amx.tdpbsud,
        "both signed": amx.tdpbssd,
        "both unsigned": amx.tdpbuud,
        "weights not in quads": weights_unpacked,
        "quads reversed": weights_with(lambda quads: quads[..., ::-1]),
        "pairs exchanged": weights_with(lambda quads: quads[..., [2, 3, 0, 1]]),
        "pair sums saturate": saturating,
        "dst overwritten": overwriting,
        "last row left out": last_row_left_out,
    },
)


def bf16_chain(chain):
    """tdpbf16ps by ``chain(acc (M, N), x (M, K, 2), w (K, N, 2))``, all f32."""

    def product(state, dst, a, b):
        x, w, acc = (np.ascontiguousarray(state.tiles[t, : state.rows[t], : state.colsb[t]]) for t in (a, b, dst))
        x, w = (bf16.from_bf16(side.view(np.uint16)).reshape(len(side), -1, 2) for side in (x, w))
        return amx._with_product(state, dst, chain(acc.view(F32), x, w))

    return product


def chained(order, start_at_acc=False):
    """Every product into one chain, the elements of each pair in ``order``."""

    def chain(acc, x, w):
        total = acc if start_at_acc else np.zeros_like(acc)
        for k in range(len(w)):
            for e in order:
                total = bf16.fma_daz_ftz(total, x[:, k, None, e], w[None, k, :, e])
        return total if start_at_acc else bf16.fma_daz_ftz(acc, total, np.ones(1, F32))

    return chain


def two_chains(acc, x, w, fma=bf16.fma_daz_ftz, even_into_acc=False):
    one, chains = np.ones(1, F32), [np.zeros_like(acc), np.zeros_like(acc)]
    for k in range(len(w)):
        for e in (0, 1):
            chains[e] = fma(chains[e], x[:, k, None, e], w[None, k, :, e])
    if even_into_acc:
        return fma(fma(acc, chains[0], one), chains[1], one)
    return fma(acc, fma(chains[1], chains[0], one), one)


def kept_subnormal(acc, x, w):
    return two_chains(acc, x, w, with_globals(bf16.fma_daz_ftz, _flush=lambda x: x))


def unflushed_results(acc, x, w):
    return two_chains(acc, x, w, with_globals(bf16.fma_daz_ftz, FLUSHED_BELOW=0.0))


TDPBF16PS = Suite(
    tiles.check_tdpbf16ps,
    bf16_chain(two_chains),
    {
        "as vdpbf16ps": bf16_chain(chained((1, 0), start_at_acc=True)),
        "one chain": bf16_chain(chained((0, 1))),
        "one chain from dst": bf16_chain(chained((0, 1), start_at_acc=True)),
        "even and odd added to dst in turn": bf16_chain(lambda *all: two_chains(*all, even_into_acc=True)),
        "subnormal operands kept": bf16_chain(kept_subnormal),
        "subnormal results kept": bf16_chain(unflushed_results),
    },
)


def configured_as(move, **fields):
    """A load or store under another configuration, put back afterwards."""

    def moved(state, t, memory, at, stride):
        return move(state._replace(**fields), t, memory, at, stride)._replace(colsb=state.colsb, rows=state.rows)

    return moved


def with_stride(move):
    return lambda state, t, memory, at, stride: move(state, t, memory, at, state.colsb[t])


def stale_rows(state, t, memory, at, stride):
    """Rows beyond the configured ones keep what the tile held."""
    loaded = amx.tileloadd(state, t, memory, at, stride)
    cleared = loaded.tiles.copy()
    cleared[t, : state.start_row] = 0
    return loaded._replace(tiles=cleared)


LOAD = Suite(
    tiles.check_tileloadd,
    amx.tileloadd,
    {
        "colsb ignored": configured_as(amx.tileloadd, colsb=(64,) * 8),
        "rows ignored": configured_as(amx.tileloadd, rows=(16,) * 8),
        "stride ignored": with_stride(amx.tileloadd),
        "start_row ignored": configured_as(amx.tileloadd, start_row=0),
        "rows before start_row cleared": stale_rows,
        "start_row kept": lambda state, *rest: amx.tileloadd(state, *rest)._replace(start_row=state.start_row),
    },
)
STORE = Suite(
    tiles.check_tilestored,
    amx.tilestored,
    {
        "colsb ignored": configured_as(amx.tilestored, colsb=(64,) * 8),
        "rows ignored": configured_as(amx.tilestored, rows=(16,) * 8),
        "stride ignored": with_stride(amx.tilestored),
        "start_row ignored": configured_as(amx.tilestored, start_row=0),
    },
)


def colsb_as_bytes(image):
    image = image.copy()
    image[17:32:2] = 0
    return amx.ldtilecfg(image)


def reversed_tiles(image):
    state = amx.ldtilecfg(image)
    return state._replace(colsb=state.colsb[::-1], rows=state.rows[::-1])


CONFIGURATION = Suite(
    tiles.check_ldtilecfg,
    amx.ldtilecfg,
    {
        "rows and colsb of the tiles reversed": reversed_tiles,
        "start_row cleared": lambda image: amx.ldtilecfg(image)._replace(start_row=0),
        "upper byte of colsb ignored": colsb_as_bytes,
    },
)


# --- the kernel on tiles ---------------------------------------------------------------------------------------------


def tiled_product(execution=GEMM_AMX.source, pack=GEMM_AMX.pack):
    return lambda a, w: GEMM_AMX.call(execution, a, pack(w))


def tiled_block(**callees):
    return tiled_product(swap(tiled.gemm, block=swap(tiled.block, **callees)))


def stored(place):
    """tilestored of tile ``place(t)``, where that one is in use."""

    def store(state, t, *rest):
        other = place(t)
        tile = state.tiles[other] if state.rows[other] else state.tiles[t]
        tiles = state.tiles.copy()
        tiles[t] = tile
        return amx.tilestored(state._replace(tiles=tiles), t, *rest)._replace(tiles=state.tiles)

    return store


def quads_transposed(w):
    packed = amx_layout.pack(w)
    values = packed.values.reshape(-1, 16, 4).swapaxes(1, 2)
    return packed._replace(values=np.ascontiguousarray(values).reshape(-1))


def first_weights_twice(state, t, memory, at, stride):
    """Tile 7 is loaded with the weights of tile 6."""
    if t == 7:
        tiles = state.tiles.copy()
        tiles[7, :, : state.colsb[7]] = state.tiles[6, :, : state.colsb[7]]
        return state._replace(tiles=tiles)
    return amx.tileloadd(state, t, memory, at, stride)


def shortened(values, x, k, out, m, token, tokens, channel, channels):
    """The block without its last 64 input channels."""
    x = x.copy().reshape(-1, k)
    x[:, k - 64 :] = 0
    tiled.block(values, x.reshape(-1), k, out, m, token, tokens, channel, channels)


KERNEL = Suite(
    products.check_amx_gemm,
    tiled_product(),
    {
        "signs swapped": tiled_block(tdpbusd=amx.tdpbsud),
        "both signed": tiled_block(tdpbusd=amx.tdpbssd),
        "dst overwritten": tiled_block(tdpbusd=overwriting),
        "pair sums saturate": tiled_block(tdpbusd=saturating),
        "tiles 1 and 2 exchanged": tiled_block(tilestored=stored(lambda t: (0, 2, 1, 3)[t])),
        "second 16 channels with the weights of the first": tiled_block(tileloadd=first_weights_twice),
        "weights not in quads": tiled_product(pack=quads_transposed),
        "last step left out": tiled_product(swap(tiled.gemm, block=shortened)),
    },
)


def with_values(layout, change):
    return lambda w: (packed := layout.pack(w))._replace(values=np.ascontiguousarray(change(packed.values)).reshape(-1))


LAYOUTS = [
    Suite(
        products.check_amx_pack,
        amx_layout.pack,
        {
            "quads transposed": quads_transposed,
            "VNNI-2": with_values(amx_layout, lambda v: v.reshape(-1, 16, 16, 2, 2).transpose(0, 1, 3, 2, 4)),
            "quads of a tile by channel": with_values(amx_layout, lambda v: v.reshape(-1, 16, 16, 4).swapaxes(1, 2)),
            "bytes of a quad reversed": with_values(amx_layout, lambda v: v.reshape(-1, 4)[:, ::-1]),
        },
    ),
    Suite(
        products.check_vnni2_pack,
        vnni2.pack,
        {
            "not interleaved": with_values(vnni2, lambda v: v.reshape(-1, 64, 2).swapaxes(1, 2)),
            "pairs exchanged": with_values(vnni2, lambda v: v.reshape(-1, 2)[:, ::-1]),
        },
    ),
]

AMX_AND_BF16 = [
    DOT,
    TWO,
    WORDS,
    CONVERT,
    ORACLE,
    GEMM,
    TDPBUSD,
    TDPBF16PS,
    LOAD,
    STORE,
    CONFIGURATION,
    KERNEL,
    *LAYOUTS,
]
