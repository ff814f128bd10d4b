"""Rung 5: the kernels of the encoder, on panels of 64 and of 32 tokens. Oracles: refimpl; integers are equal.

Emulated, portable and native must agree on every byte, and no token may depend on its place in a panel.
"""

import numba
import numpy as np
import pytest
from test_1_arithmetic import equal, rng
from test_2_registers import NEEDS_JIT, TARGETS, execution
from test_5_kernels import operands

from refimpl import bounds
from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.isa import f32 as isa_f32
from refimpl.isa.bf16 import vcvtneps2bf16
from refimpl.kernels.encoder import attention_f32, attention_u8s8, embed, half_rows, layernorm
from refimpl.kernels.encoder import rows as wide_rows
from refimpl.kernels.encoder.forms import FLOATS, FORMS
from refimpl.kernels.encoder.rows import load_row, spread, store_quantized
from refimpl.kernels.encoder.rows import width as tokens
from refimpl.kernels.layout import (
    bitmask_rows,
    broadcast_rows,
    bsr4x1,
    bsr32x32,
    bsr32x32_rows,
    panels,
    vnni4,
    vnni4_rows,
)
from refimpl.kernels.simd.instructions.f32 import broadcast_f32
from refimpl.kernels.simd.threefold import kernel
from refimpl.nn.attention import attention_context, attention_scores
from refimpl.nn.gelu import gelu
from refimpl.nn.gemm_bf16 import gemm_bf16
from refimpl.nn.layernorm import layernorm as layernorm_oracle
from refimpl.nn.params import Norm
from refimpl.nn.softmax import softmax
from refimpl.quant import attention as quantized
from refimpl.quant.linear import compensation, rescale
from refimpl.quant.symmetric import quantize_activation

WIDTHS = {64: lambda source: source, 32: half_rows.half}
THREADS = 2  # to whom scratch memory is shared out, though one does the work
STEP = np.array(0.05, np.float32)
on_targets = pytest.mark.parametrize("target", TARGETS)
on_widths = pytest.mark.parametrize("width", WIDTHS)


def flat(rows, width):
    """u8 (N, K) -> panels, flat."""
    return panels.pack_to(rows, width).reshape(-1)


def lanes(width):
    return {64: embed.WIDE_ORDER, 32: embed.HALF_ORDER}[width]


def flat_f32(rows, width):
    """f32 (N, D) -> panels in the order of the lanes, flat; padding is 0."""
    padded = np.zeros((-(-len(rows) // width) * width, rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    out = np.zeros(padded.size, np.float32)
    embed.to_panels.emulated(padded.reshape(-1), lanes(width), np.uint64(rows.shape[1]), out)
    return out


def rows_of(flat_panels, width, d, tokens):
    """Back from u8 or f32 panels."""
    array = flat_panels.reshape(-1, d, width)
    if array.dtype == np.float32:
        array = array[:, :, np.argsort(lanes(width))]
    return panels.unpack(array, tokens)


# --- linear layers ---------------------------------------------------------------------------------------------------

SHAPES = [(1, 12, 8, 1), (33, 16, 20, 0.5), (70, 20, 12, 0.3), (5, 76, 72, 0.9)]
"""N, M, K, density; in tiles of six, none, four and two channels are left over. The last has dead 32x32 blocks."""
SPARSE, DENSE = FORMS["4x1"], FORMS["dense"]
KINDS = [(SPARSE.name, kind) for kind in SPARSE.stores._fields]
KINDS += [(name, "f32") for name in FORMS if name != SPARSE.name]
"""Every store, and every form; the stores of all forms are the same."""
on_kinds = pytest.mark.parametrize(("name", "kind"), KINDS)


def linear(name, kind, width):
    """The kernel."""
    return WIDTHS[width](getattr(FORMS[name].stores, kind))


def layer_operands(n, m, k, density):
    """a: u8 (n, k); w: s8 (m, k), whose first 32 channels are dead, and a block of the next."""
    a, w = operands(n, m, k, density)
    if m > 64:
        w[:32] = w[32:64, 32:64] = 0
    return a, w


def run_linear(version, kind, form, width, a, w, scale, bias, residual):
    """(N, M): codes or f32."""
    m, k = w.shape
    x, step = flat(a, width), np.full(m, STEP)
    out = flat_f32(residual, width) if kind == "sum" else np.zeros(x.size // k * m, dtype_of(kind))
    parameters = [np.pad(p, (0, -m % form.tile)) for p in (-compensation(w), scale, bias, step)]
    scratch = (np.zeros(size, dtype) for dtype, size in form.scratch(k, x.size // k, THREADS))
    version(*form.pack(bsr4x1.pack(w)), *parameters, x, k, *scratch, out)
    return rows_of(out, width, m, len(a))


def dtype_of(kind):
    return np.uint8 if kind.endswith("codes") else np.float32


@on_targets
@on_widths
@on_kinds
def test_linear(target, width, name, kind):
    check_linear(execution(linear(name, kind, width), target), width, FORMS[name], kind)


def check_linear(version, width, form, kind):
    for n, m, k, density in SHAPES:
        a, w = layer_operands(n, m, k, density)
        scale = rng(3).uniform(1e-4, 2e-4, m).astype(np.float32)
        bias, residual = rng(4).normal(0, 1, m).astype(np.float32), rng(5).normal(0, 1, (n, m)).astype(np.float32)
        got = run_linear(version, kind, form, width, a, w, scale, bias, residual)
        y = rescale(gemm_u8s8s32(a, w) - compensation(w), np.array(1, np.float32), scale, bias)
        if kind == "gelu_codes":
            exact = gelu(y.astype(np.float64)) / STEP
            room = 0.5 + bounds.gelu(y) / STEP + 1e-5  # the quotient's own rounding, below 2**-23 of 128
            assert (np.abs(got.astype(int) - 128 - exact.clip(-128, 127)) <= room).all()
        elif kind == "gelu_f32":
            assert (np.abs(got - gelu(y.astype(np.float64))) <= bounds.gelu(y)).all()
        else:
            want = y + residual if kind == "sum" else y
            equal(got, quantize_activation(y, STEP) if kind == "codes" else want)


@kernel
def quantize_panels(x, step, out):
    for row in numba.prange(x.size // tokens()):
        store_quantized(out, row * tokens(), load_row(x, row * tokens()), spread(broadcast_f32(step)))


def check_quantize(version, width):
    """Ties, both ends, and quotients beyond s32."""
    ends = [-129, -128.5, -128, -127.5, 126.5, 127, 127.5, 128, 2.0**31, -(2.0**31), 1e30, -1e30, 0.5, 1.5, -0.5, -1.5]
    x = np.concatenate([np.array(ends), rng(1).uniform(-140, 140, 2 * 64 - len(ends))]).astype(np.float32)
    for step in (np.float32(1), np.float32(0.3)):
        out = np.zeros(x.size, np.uint8)
        version(x.reshape(-1, width)[:, lanes(width)].reshape(-1), step, out)
        equal(out, quantize_activation(x, np.array(step)))


@on_targets
@on_widths
def test_quantize(target, width):
    check_quantize(execution(WIDTHS[width](quantize_panels), target), width)


def run_float_linear(version, kind, form, width, a, w, bias, residual):
    """(N, M): codes or f32."""
    m, k = w.shape
    x, step = flat_f32(a, width), np.full(m, STEP)
    out = flat_f32(residual, width) if kind == "sum" else np.zeros(x.size // k * m, dtype_of(kind))
    parameters = [np.pad(p, (0, -m % form.tile)) for p in (bias, step)]
    scratch = (np.zeros(size, dtype) for dtype, size in form.scratch(k, x.size // k, THREADS))
    version(*form.pack(w), *parameters, x, k, *scratch, out)
    return rows_of(out, width, m, len(a))


FLOAT_KINDS = [(name, kind) for name in FLOATS for kind in ("f32", "sum")]
on_float_kinds = pytest.mark.parametrize(("name", "kind"), FLOAT_KINDS)


def float_linear(name, kind, width):
    """The kernel."""
    return WIDTHS[width](getattr(FLOATS[name].stores, kind))


@on_targets
@on_widths
@on_float_kinds
def test_float_linear(target, width, name, kind):
    check_float_linear(execution(float_linear(name, kind, width), target), width, name, kind)


def in_order(a, w):
    """The product that the f32 kernel promises: input channels one after the other, each step rounded once."""
    acc = np.zeros((len(a), len(w)), np.float32)
    for k in range(w.shape[1]):
        acc = isa_f32.vfmadd(a[:, k, None], w[None, :, k], acc)
    return acc


PRODUCTS = {"f32": in_order, "bf16": gemm_bf16}
ROUNDED = {"f32": lambda x: x, "bf16": vcvtneps2bf16}


def check_float_linear(version, width, name, kind):
    for n, m, k, _ in SHAPES[:3]:
        a, w = (rng(i).normal(0.5, 1, shape).astype(np.float32) for i, shape in enumerate(((n, k), (m, k))))
        bias, residual = rng(4).normal(0, 1, m).astype(np.float32), rng(5).normal(0, 1, (n, m)).astype(np.float32)
        rounded = ROUNDED[name](w)
        got = run_float_linear(version, kind, FLOATS[name], width, a, rounded, bias, residual)
        y = PRODUCTS[name](ROUNDED[name](a), rounded) + bias
        if kind.startswith("gelu"):
            exact, room = gelu(y.astype(np.float64)), bounds.gelu(y)
            if kind == "gelu_codes":
                exact, room = (exact / STEP).clip(-128, 127) + 128, 0.5 + room / STEP + 1e-5
            assert (np.abs(got - exact) <= room).all()
        else:
            want = y + residual if kind == "sum" else y
            equal(got, quantize_activation(y, STEP) if kind == "codes" else want)


def test_bitmask_rows_layout():
    for shape in ((6, 4), (7, 5), (1, 1), (20, 44)):
        w = rng(0).integers(-127, 128, shape).astype(np.int8) * (rng(1).random(shape) < 0.5)
        starts, masks, values = bitmask_rows.pack(w)
        dense, tiles = vnni4_rows.pack(w).values.reshape(len(starts), -1), masks.reshape(len(starts), -1)
        for t, bits in enumerate(np.unpackbits(tiles.view(np.uint8), axis=1, bitorder="little")):
            expanded = np.zeros(bits.size, np.int8)
            expanded[bits != 0] = values[starts[t] :][: bits.sum()]
            equal(expanded[: dense.shape[1]], dense[t])
            assert not bits[dense.shape[1] :].any()
        assert values.size == np.count_nonzero(w)


def test_broadcast_rows_layout():
    for shape in ((6, 4), (7, 5), (1, 1), (20, 3)):
        w = rng(0).normal(0, 1, shape).astype(np.float32)
        tiles = broadcast_rows.pack(w).reshape(-1, shape[1], 6)
        for m, k in np.ndindex(*shape):
            assert tiles[m // 6, k, m % 6] == w[m, k]
        assert np.count_nonzero(tiles) == w.size
        words = rng(1).integers(1, 2**16, (shape[0], 2 * shape[1])).astype(np.uint16)
        tiles = broadcast_rows.pack_pairs(words).reshape(-1, shape[1], 6, 2)
        for m, k in np.ndindex(*words.shape):
            assert tiles[m // 6, k // 2, m % 6, k % 2] == words[m, k]
        assert np.count_nonzero(tiles) == words.size
    with pytest.raises(TypeError, match="w has dtype float64; need float32"):
        broadcast_rows.pack(np.zeros((6, 4)))
    with pytest.raises(TypeError, match="w has dtype float64; need uint16"):
        broadcast_rows.pack_pairs(np.zeros((6, 4)))
    with pytest.raises(ValueError, match=r"w has shape \(6, 3\); need an even number of input channels"):
        broadcast_rows.pack_pairs(np.zeros((6, 3), np.uint16))


@NEEDS_JIT
@on_widths
def test_the_executions_of_gelu_agree(width):
    n, m, k, density = SHAPES[2]
    a, w = operands(n, m, k, density)
    rest = np.full(m, 2e-4, np.float32), rng(4).normal(0, 1, m).astype(np.float32), np.zeros((n, m), np.float32)
    found = [
        run_linear(execution(linear("4x1", "gelu_codes", width), target), "gelu_codes", SPARSE, width, a, w, *rest)
        for target in [t.values[0] if hasattr(t, "values") else t for t in TARGETS]
        if target_runs(target, linear("4x1", "gelu_codes", width))
    ]
    for other in found[1:]:
        equal(other, found[0])


def target_runs(target, source):
    return target != "native" or source.runs_natively()


def test_rows_layout():
    for shape in ((6, 4), (7, 5), (1, 1), (12, 9), (72, 70)):
        w = rng(0).integers(-127, 128, shape).astype(np.int8)
        w[:32, :32] *= max(shape) < 64
        packed = vnni4_rows.pack(w)
        tiles = packed.values.reshape(-(-shape[0] // 6), -(-shape[1] // 4), 6, 4)
        for m, k in np.ndindex(*shape):
            assert tiles[m // 6, k // 4, m % 6, k % 4] == w[m, k]
        assert np.count_nonzero(tiles) == np.count_nonzero(w)
        blocks, shared = bsr32x32_rows.pack(w), bsr32x32.pack(w)
        equal(blocks.indptr, shared.indptr)
        equal(blocks.indices, shared.indices)
        equal(np.sort(blocks.values), np.sort(shared.values))
        for m, k in np.ndindex(*shape):
            first, last = blocks.indptr[m // 32 : m // 32 + 2]
            b = np.flatnonzero(blocks.indices[first:last] == k // 32)
            at = 1024 * first + 256 * (m % 32 // 8 * (last - first) + b) + k % 32 // 4 * 32 + m % 8 * 4 + k % 4
            assert (blocks.values[at] if b.size else 0) == w[m, k]
    with pytest.raises(TypeError, match="w has dtype float32; need int8"):
        vnni4_rows.pack(np.zeros((6, 4), np.float32))
    assert isinstance(packed, vnni4.Vnni4)


# --- attention -------------------------------------------------------------------------------------------------------

D, HEADS = 16, 2


def heads(rows):
    """(N, D) -> (1, H, N, E)."""
    return rows.reshape(1, len(rows), HEADS, -1).transpose(0, 2, 1, 3)


def laid_out(texts, width, align=4):
    """Where texts of so many tokens begin, panels in all, and the most tokens of the panels of one."""
    counts = np.array(texts, np.int64)
    each = -(-counts // align) * align
    first = np.cumsum(each) - each
    spans = -(-(first % width + counts) // width)
    return first, counts, int(-(-each.sum() // width)), int(spans.max()) * width


TEXTS = [3, 33, 1, 70, 6]
UNTOUCHED = 99


def only_of_texts(rows, first, lengths):
    """Tokens of no text keep what was there."""
    mine = np.zeros(len(rows), bool)
    for start, n in zip(first, lengths, strict=True):
        mine[start : start + n] = True
    assert not mine.all()
    assert (rows[~mine] == UNTOUCHED).all()


def run_integer(version, width, q, k, v, factors, dtype=np.uint8):
    """Context of each text, texts laid one after the other."""
    first, lengths, count, most = laid_out(TEXTS, width, width if dtype == np.float32 else 4)
    x, e = np.full((count * width, 3 * D), 77, np.uint8), D // HEADS
    for text, (start, n) in enumerate(zip(first, lengths, strict=True)):
        x[start : start + n] = np.concatenate([q[text], k[text], v[text]], 1)
    codes, out = flat(x, width), np.full(count * width * D, UNTOUCHED, dtype)
    version(
        codes, codes.view(np.int8), first, lengths, HEADS, D, factors, most, np.zeros((e + 2 * most) * width, np.uint8),
        np.zeros(2 * e * most, np.int8), np.zeros(most, np.int32), np.zeros(most * width, np.float32), 1, out,
    )  # fmt: skip
    rows = rows_of(out, width, D, count * width)
    if dtype == np.uint8:
        only_of_texts(rows, first, lengths)
    return [rows[start : start + n] for start, n in zip(first, lengths, strict=True)]


@on_targets
@on_widths
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_integer_attention(target, width, dtype):
    source = {np.uint8: attention_u8s8.attention_u8s8, np.float32: attention_u8s8.attention_u8s8_to_f32}[dtype]
    check_integer_attention(execution(WIDTHS[width](source), target), width, dtype)


def check_integer_attention(version, width, dtype=np.uint8):
    q, k, v = (
        [rng(1 + i + 9 * t).integers(0, 256, (n, D)).astype(np.uint8) for t, n in enumerate(TEXTS)] for i in range(3)
    )
    scale = np.array(0.01, np.float32)
    factors = quantized.scores_multiplier(scale, scale, D // HEADS), quantized.context_multiplier(scale), STEP[()]
    got = run_integer(version, width, q, k, v, np.array(factors, np.float32), dtype)
    for text, n in enumerate(TEXTS):
        ks, vs = ((heads(x[text]).astype(np.int16) - 128).astype(np.int8) for x in (k, v))
        mask = np.ones((1, n), np.int64)
        scores = quantized.scaled_scores(quantized.integer_scores(heads(q[text]), ks), factors[0], mask)
        near = 255 * softmax(scores.astype(np.float64))
        room = 255 * bounds.softmax(scores) + 3 * bounds.F32 * near
        assert (np.abs(near % 1 - 0.5) > room).all()  # none so near to a tie that a right kernel may round it otherwise
        context = quantized.scaled_context(quantized.integer_context(np.rint(near).astype(np.uint8), vs), factors[1])
        want = context.transpose(0, 2, 1, 3).reshape(n, D)
        equal(got[text], want if dtype == np.float32 else quantize_activation(want, STEP))


@on_targets
@on_widths
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_f32_attention(target, width, dtype):
    source = {np.uint8: attention_f32.attention_f32, np.float32: attention_f32.attention_f32_to_f32}[dtype]
    check_f32_attention(execution(WIDTHS[width](source), target), width, dtype)


def check_f32_attention(version, width, dtype=np.uint8):
    x = [rng(t).normal(0, 1, (n, 3 * D)).astype(np.float32) for t, n in enumerate(TEXTS)]
    first, lengths, count, most = laid_out(TEXTS, width, width if dtype == np.float32 else 4)
    together = np.zeros((count * width, 3 * D), np.float32)
    for text, start in enumerate(first):
        together[start : start + len(x[text])] = x[text]
    out = np.full(count * width * D, UNTOUCHED, dtype)
    factors = np.array([1 / np.sqrt(D // HEADS), STEP], np.float32)
    scratch, row = np.zeros(most * width, np.float32), np.zeros(width, np.uint8)
    version(flat_f32(together, width), first, lengths, HEADS, D, factors, most, scratch, row, 1, out)
    codes = rows_of(out, width, D, count * width)
    if dtype == np.uint8:
        only_of_texts(codes, first, lengths)
    for text, n in enumerate(TEXTS):
        q, k, v = (heads(x[text][:, i * D : (i + 1) * D]) for i in range(3))
        wide = [y.astype(np.float64) for y in (q, k, v)]
        scores = attention_scores(wide[0], wide[1], np.ones((1, n), np.int64))
        probs = softmax(scores)
        exact = attention_context(probs, wide[2]).transpose(0, 2, 1, 3).reshape(n, D)
        probs_error = bounds.softmax(scores, x_error=bounds.attention_scores(q, k))
        room = bounds.attention_context(probs, v) + probs_error @ np.abs(v) * (1 + 1e-6)
        room = room.transpose(0, 2, 1, 3).reshape(n, D)
        got = codes[first[text] :][:n]
        if dtype == np.uint8:
            got, exact, room = got.astype(int) - 128, exact / STEP, 0.5 + room / STEP + 1e-5
        assert (np.abs(got - exact) <= room).all()


# --- the rest --------------------------------------------------------------------------------------------------------


@on_targets
@on_widths
@pytest.mark.parametrize("coded", [True, False])
def test_layernorm(target, width, coded):
    source = layernorm.layernorm_codes if coded else layernorm.layernorm_f32
    check_layernorm(execution(WIDTHS[width](source), target), width, coded)


def check_layernorm(version, width, coded=True):
    for n, d in ((1, 8), (35, 24), (70, 12)):
        x = rng(n).normal(3, 2, (n, d)).astype(np.float32)
        weight, bias = rng(1).normal(1, 0.1, d).astype(np.float32), rng(2).normal(0, 0.1, d).astype(np.float32)
        y = flat_f32(x, width)
        codes = np.zeros(y.size * coded, np.uint8)
        version(y, d, np.float32(d), weight, bias, np.float32(1e-12), STEP[()], codes)
        got = rows_of(y, width, d, n)
        wide = x.astype(np.float64)
        norm = layernorm_oracle(wide, Norm(weight.astype(np.float64), bias.astype(np.float64), 1e-12))
        assert (np.abs(got - norm) <= bounds.layernorm(x, weight, 1e-12, bias)).all()
        if codes.size:
            equal(rows_of(codes, width, d, n), quantize_activation(got, STEP))


@on_targets
@on_widths
def test_embeddings_and_the_way_back(target, width):
    d, n = 20, 2 * width
    ids, places, types = (rng(i).integers(0, high, n).astype(np.uint64) for i, high in enumerate((50, 30, 2)))
    codes, scale = rng(3).integers(-127, 128, (50, d)).astype(np.int8), rng(4).uniform(0.1, 1, 50).astype(np.float32)
    position, kinds = (rng(5).normal(0, 1, (size, d)).astype(np.float32) for size in (30, 2))
    out, laid = np.zeros(n * d, np.float32), np.zeros(n * d, np.float32)
    for token_type in (kinds, np.zeros((0, d), np.float32)):
        given = codes.reshape(-1), scale, position.reshape(-1), token_type.reshape(-1)
        execution(embed.embed, target)(ids, places, types, *given, np.uint64(d), out)
        want = codes[ids].astype(np.float32) * scale[ids][:, None] + position[places]
        want = want + token_type[types] if token_type.size else want
        equal(out.reshape(n, d), want)
    execution(embed.to_panels, target)(out, lanes(width), np.uint64(d), laid)
    equal(laid.reshape(2, d, width), want.reshape(2, width, d)[:, lanes(width)].transpose(0, 2, 1))
    sources, back = np.array([n - 1, -1, 0, width, 5]), np.ones(5 * d, np.float32)
    execution(embed.to_rows, target)(laid, sources, np.argsort(lanes(width)).astype(np.uint64), np.uint64(d), back)
    equal(back.reshape(5, d), np.where(sources[:, None] < 0, np.float32(0), want[sources]))


def check_pick(version, width, dtype):
    """From three panels, of texts that begin anywhere, to two half ones, the lanes of which that are left are zeros."""
    d, picked, first = 5, 32, np.sort(rng(0).permutation(3 * width)[:37])
    x = rng(1).integers(1, 255, (3 * width, d)).astype(dtype)
    order = [lanes(w) if dtype == np.float32 else np.arange(w, dtype=np.uint64) for w in (width, picked)]
    laid = x.reshape(3, width, d)[:, order[0]].swapaxes(1, 2)
    out = np.full(2 * d * picked, 9, dtype)
    version(laid.ravel(), first, *(np.argsort(part).astype(np.uint64) for part in order), np.uint64(d), out)
    want = np.zeros((2 * picked, d), dtype)
    want[: first.size] = x[first]
    equal(out.reshape(2, d, picked), want.reshape(2, picked, d)[:, order[1]].swapaxes(1, 2))


@on_targets
@on_widths
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_the_first_token_of_each_text(target, width, dtype):
    check_pick(execution(embed.pick_first, target), width, dtype)


def test_every_part_has_a_twin():
    parts = {name for name in vars(wide_rows) if isinstance(vars(wide_rows)[name], type(wide_rows.width))}
    named = {name for name in parts if not name.startswith(("interleave", "pack_tokens", "pair_up"))}
    assert {getattr(wide_rows, name) for name in named} <= set(half_rows.TWINS)


@pytest.mark.parametrize("columns", [2**16, 2**16 + 4])
def test_indices_of_any_width(columns):
    codes = np.zeros((4, columns), np.int8)
    codes[:, -1] = 1
    assert FORMS["4x1"].pack(bsr4x1.pack(codes))[1].max() == columns - 1
