"""Rung 2: AMX. Oracle: the manual's operation, dword by dword in Python integers and exact rationals.

No machine with AMX takes part: what stands here is the manual, read twice.
"""

import numpy as np
import pytest
from test_1_arithmetic import equal, rng
from test_2_bf16 import bf16s, f32s, same_bits, scalar_fma
from test_2_instructions import signed

from refimpl.isa import amx
from refimpl.isa.bf16 import from_bf16, vdpbf16ps

SHAPES = [(16, 16, 16), (1, 1, 1), (3, 5, 7), (16, 2, 1), (2, 16, 9), (7, 7, 16)]  # M, K in dwords, N


def for_product(m, k, n):
    """Tile 2 is to become the product of tile 5 and tile 0; tile 7 stands by."""
    rows, colsb = [0] * 8, [0] * 8
    for t, shape in {2: (m, 4 * n), 5: (m, 4 * k), 0: (k, 4 * n), 7: (4, 8)}.items():
        rows[t], colsb[t] = shape
    return amx.ldtilecfg(amx.configuration(tuple(rows), tuple(colsb)))


def filled(state, bytes_of):
    """Every configured tile loaded from ``bytes_of(t, size)``."""
    for t in range(8):
        if state.rows[t]:
            memory = bytes_of(t, state.rows[t] * state.colsb[t])
            state = amx.tileloadd(state, t, memory, 0, state.colsb[t])
    return state


def random_bytes(seed):
    return lambda t, size: rng(seed + t).integers(0, 256, size).astype(np.uint8)


def extreme_bytes(t, size):
    """Products of the largest size, accumulators next to wrapping."""
    if t == 2:
        return np.resize(np.array([2**31 - 1, -(2**31)], np.int32).view(np.uint8), size)
    return np.resize(np.array([255, 128, 127, 128, 255, 255, 128], np.uint8), size)


def few_bf16(seed):
    """Sums of one size, with subnormal and cancelling terms among them; f32 accumulators in tile 2."""

    def make(t, size):
        if t == 2:
            return f32s((124, 132), size // 4, seed).view(np.uint8)
        numbers = bf16s((122, 132), size // 2, seed + t)
        numbers[:: 5 + t] = bf16s((0, 70), numbers[:: 5 + t].size, seed)
        return numbers.view(np.uint8)

    return make


def tiny_bf16(t, size):
    """Products around 2**-126: sums that fall below it."""
    if t == 2:
        return f32s((0, 3), size // 4, 30).view(np.uint8)
    return bf16s((60, 68), size // 2, 31 + t).view(np.uint8)


# --- products --------------------------------------------------------------------------------------------------------


def scalar_product(state, dword):
    """The manual's loops. dword: (accumulator bytes, row m of a, column n of b as lists of dwords) -> u32."""
    out = np.zeros((16, 64), np.uint8)
    dst, a, b = (state.tiles[t].reshape(16, 16, 4).tolist() for t in (2, 5, 0))
    for m in range(state.rows[2]):
        for n in range(state.colsb[2] // 4):
            depth = range(state.colsb[5] // 4)
            bits = dword(dst[m][n], [a[m][k] for k in depth], [b[k][n] for k in depth])
            out[m, 4 * n : 4 * n + 4] = list(bits.to_bytes(4, "little"))
    return out


def integer_dword(sign_a, sign_b):
    def extend(byte, is_signed):
        return signed([byte]) if is_signed else byte

    def dword(acc, row, column):
        total = signed(acc)
        for x, w in zip(row, column, strict=True):
            total += sum(extend(i, sign_a) * extend(j, sign_b) for i, j in zip(x, w, strict=True))
        return total % 2**32

    return dword


def bf16_dword(acc, row, column):
    chains = [0, 0]
    for x, w in zip(row, column, strict=True):
        for e in (0, 1):
            halves = (int.from_bytes(bytes(side[2 * e : 2 * e + 2]), "little") << 16 for side in (x, w))
            chains[e] = scalar_fma(chains[e], *halves)
    one = 0x3F800000
    return scalar_fma(scalar_fma(chains[1], chains[0], one), int.from_bytes(bytes(acc), "little"), one)


def check_product(product, dword, contents):
    for shape in SHAPES:
        for content in contents:
            before = filled(for_product(*shape), content)
            after = product(before, 2, 5, 0)
            equal(after.tiles[2], scalar_product(before, dword))
            others = [t for t in range(8) if t != 2]
            equal(after.tiles[others], before.tiles[others])
            assert after[:4] == before[:4]


INTEGER_CONTENTS = [random_bytes(1), extreme_bytes]
SIGNS = {"tdpbusd": (False, True), "tdpbssd": (True, True), "tdpbsud": (True, False), "tdpbuud": (False, False)}


def check_tdpbusd(product):
    check_product(product, integer_dword(*SIGNS["tdpbusd"]), INTEGER_CONTENTS)


def check_tdpbf16ps(product):
    check_product(product, bf16_dword, [few_bf16(2), tiny_bf16])


@pytest.mark.parametrize("name", SIGNS)
def test_integer_products(name):
    check_product(getattr(amx, name), integer_dword(*SIGNS[name]), INTEGER_CONTENTS)


def test_tdpbf16ps():
    check_tdpbf16ps(amx.tdpbf16ps)


def test_tdpbf16ps_is_not_vdpbf16ps():
    """The same products in another order: other bits somewhere, the same within rounding."""
    state = filled(for_product(16, 16, 16), few_bf16(2))
    got = amx.tdpbf16ps(state, 2, 5, 0).tiles[2].view(np.float32)
    acc = state.tiles[2].view(np.float32)
    a, b = state.tiles[5].view(np.uint16), state.tiles[0].view(np.uint16)
    for k in range(16):
        acc = vdpbf16ps(acc, np.tile(a[:, 2 * k : 2 * k + 2], (1, 16)), np.tile(b[k], (16, 1)))
    assert (got != acc).any()
    size = np.abs(from_bf16(a)) @ np.abs(from_bf16(b).reshape(16, 16, 2).transpose(0, 2, 1).reshape(32, 16)) + 100
    assert (np.abs(got - acc) <= 40 * 2**-23 * size).all()


def test_special_values_go_through_tdpbf16ps():
    """One output: inf * 0 in the even chain is indefinite; a NaN of dst wins."""

    def only(t, size):
        values = {2: [0, 0x7FC1] if size == 4 else [], 5: [0x7F80, 0x3F80], 0: [0, 0x3F80]}[t] if t != 7 else [0] * 16
        return np.array(values, np.uint16).view(np.uint8)

    state = filled(for_product(1, 1, 1), only)
    assert amx.tdpbf16ps(state, 2, 5, 0).tiles[2].view(np.uint32)[0, 0] == 0x7FC10000
    state = amx.tilezero(state, 2)
    assert amx.tdpbf16ps(state, 2, 5, 0).tiles[2].view(np.uint32)[0, 0] == 0xFFC00000


# --- loads and stores ------------------------------------------------------------------------------------------------

MEMORY = np.arange(4096, dtype=np.int64).astype(np.uint8) | 1
LOADS = [((16, 64), 0, 64, 0), ((3, 12), 5, 40, 0), ((5, 4), 0, 0, 0), ((4, 64), 1, 65, 2), ((16, 60), 2, 100, 15)]
"""(rows, colsb), at, stride, start_row; no byte of the memory is 0."""


def one_tile(shape, start_row=0):
    rows, colsb = shape
    image = amx.configuration((0, rows), (0, colsb))
    image[1] = start_row
    return amx.ldtilecfg(image)


def check_tileloadd(load):
    for shape, at, stride, start_row in LOADS:
        before = amx.tileloadd(one_tile(shape), 1, MEMORY, 77, 64)
        got = load(before._replace(start_row=start_row), 1, MEMORY, at, stride)
        want = before.tiles.copy()
        want[1, start_row:] = 0
        for r in range(start_row, shape[0]):
            for c in range(shape[1]):
                want[1, r, c] = MEMORY[at + r * stride + c]
        equal(got.tiles, want)
        assert got[:4] == before[:4]


def check_tilestored(store):
    for shape, at, stride, start_row in LOADS:
        state = amx.tileloadd(one_tile(shape), 1, MEMORY, 77, 64)
        memory = np.full(4096, 0xEE, np.uint8)
        want = memory.copy()
        got = store(state._replace(start_row=start_row), 1, memory, at, stride)
        for r in range(start_row, shape[0]):
            for c in range(shape[1]):
                want[at + r * stride + c] = state.tiles[1, r, c]
        equal(memory, want)
        equal(got.tiles, state.tiles)
        assert got.start_row == 0


def test_memory():
    check_tileloadd(amx.tileloadd)
    check_tilestored(amx.tilestored)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.float32])
def test_memory_of_any_type_is_addressed_by_element(dtype):
    memory = MEMORY.view(dtype)
    state = amx.tileloadd(one_tile((3, 8)), 1, memory, 2, 5)
    size = memory.itemsize
    for r in range(3):
        equal(state.tiles[1, r, :8], MEMORY[(2 + 5 * r) * size :][:8])
    out = np.zeros(64, dtype)
    amx.tilestored(state, 1, out, 2, 5)
    got = amx.tileloadd(one_tile((3, 8)), 1, out, 2, 5)
    equal(got.tiles, state.tiles)


def test_tilezero():
    state = filled(for_product(3, 4, 5), random_bytes(3))
    got = amx.tilezero(state, 5)
    assert not got.tiles[5].any()
    equal(got.tiles[[0, 2, 7]], state.tiles[[0, 2, 7]])


def test_the_state_is_not_changed_in_place():
    state = filled(for_product(3, 4, 5), random_bytes(4))
    before = state.tiles.copy()
    amx.tdpbusd(state, 2, 5, 0)
    amx.tilezero(state, 5)
    amx.tileloadd(state, 2, MEMORY, 0, 64)
    equal(state.tiles, before)
    with pytest.raises(ValueError, match="read-only"):
        state.tiles[0, 0, 0] = 1


# --- configuration ---------------------------------------------------------------------------------------------------


def check_ldtilecfg(load):
    """colsb is little-endian u16; every legal pair of rows and colsb is kept; the tiles are cleared."""
    rows, colsb = (16, 1, 0, 3, 16, 7, 0, 2), (64, 1, 0, 12, 2, 63, 0, 64)
    image = np.zeros(64, np.uint8)
    image[0], image[1] = 1, 9
    for t in range(8):
        image[16 + 2 * t], image[48 + t] = colsb[t], rows[t]
    state = load(image)
    assert state[:4] == (1, 9, colsb, rows)
    equal(state.tiles, np.zeros((8, 16, 64), np.uint8))
    image[17] = 1  # 64 + 256 bytes
    try:
        message = f"accepted {load(image)[:4]}"
    except ValueError as error:
        message = str(error)
    assert message == "tile 0 has 16 rows of 320 bytes; need at most 16 of 64"


def test_ldtilecfg():
    check_ldtilecfg(amx.ldtilecfg)


def test_sttilecfg_inverts():
    image = amx.configuration((16, 3, 0, 1), (64, 4, 0, 61))
    image[1] = 5
    equal(amx.sttilecfg(amx.ldtilecfg(image)), image)


def test_palette_0_configures_nothing():
    image = np.full(64, 255, np.uint8)
    image[0] = 0
    state = amx.ldtilecfg(image)
    equal(amx.sttilecfg(state), np.zeros(64, np.uint8))
    with pytest.raises(ValueError, match="tile 0 is not configured"):
        amx.tilezero(state, 0)


@pytest.mark.parametrize(
    ("at", "byte", "message"),
    [
        (0, 2, "palette is 2; need 0 or 1"),
        (2, 1, "image has 1 in byte 2; need 0: it is reserved"),
        (15, 7, "image has 7 in byte 15; need 0"),
        (32, 64, "image has 64 in byte 32; need 0"),
        (47, 1, "image has 1 in byte 47; need 0"),
        (56, 16, "image has 16 in byte 56; need 0"),
        (63, 1, "image has 1 in byte 63; need 0"),
        (48, 17, "tile 0 has 17 rows of 64 bytes; need at most 16 of 64"),
        (16, 65, "tile 0 has 16 rows of 65 bytes; need at most 16 of 64"),
        (48, 0, "tile 0 has 0 rows of 64 bytes; need both or neither to be 0"),
        (16, 0, "tile 0 has 16 rows of 0 bytes; need both or neither to be 0"),
        (55, 1, "tile 7 has 1 rows of 0 bytes; need both or neither to be 0"),
    ],
)
def test_what_raises_gp(at, byte, message):
    image = amx.configuration((16,), (64,))
    amx.ldtilecfg(image)
    image[at] = byte
    with pytest.raises(ValueError, match=message):
        amx.ldtilecfg(image)


def test_ldtilecfg_rejects():
    with pytest.raises(TypeError, match="image has dtype int8; need uint8"):
        amx.ldtilecfg(np.zeros(64, np.int8))
    with pytest.raises(ValueError, match=r"image has shape \(63,\); need \(64,\)"):
        amx.ldtilecfg(np.zeros(63, np.uint8))


def configured(*shapes):
    return amx.ldtilecfg(amx.configuration(*zip(*shapes, strict=True)))


@pytest.mark.parametrize(
    ("shapes", "operands", "message"),
    [
        ([(2, 8), (2, 12), (3, 8)], (0, 0, 2), "tiles are 0, 0, 2; need three different ones"),
        ([(2, 8), (2, 12), (3, 8)], (0, 1, 1), "tiles are 0, 1, 1; need three different ones"),
        ([(2, 8), (2, 12), (3, 8)], (0, 1, 3), "tile 3 is not configured"),
        ([(2, 8), (2, 12), (3, 8)], (0, 1, 8), "tile 8 is not configured"),
        ([(2, 8), (2, 12), (3, 8)], (-1, 1, 2), "tile -1 is not configured"),
        ([(2, 6), (2, 12), (3, 6)], (0, 1, 2), "tile 0 has rows of 6 bytes; need a multiple of 4"),
        ([(2, 8), (2, 13), (3, 8)], (0, 1, 2), "tile 1 has rows of 13 bytes; need a multiple of 4"),
        ([(3, 8), (2, 12), (3, 8)], (0, 1, 2), r"tiles have \(rows, bytes\) \[\(3, 8\), \(2, 12\), \(3, 8\)\]; need"),
        ([(2, 4), (2, 12), (3, 8)], (0, 1, 2), r"need \(M, 4 N\), \(M, 4 K\), \(K, 4 N\)"),
        ([(2, 8), (2, 16), (3, 8)], (0, 1, 2), r"need \(M, 4 N\), \(M, 4 K\), \(K, 4 N\)"),
    ],
)
@pytest.mark.parametrize("product", [amx.tdpbusd, amx.tdpbf16ps])
def test_what_a_product_rejects(product, shapes, operands, message):
    state = configured(*shapes)
    with pytest.raises(ValueError, match=message):
        product(state, *operands)


@pytest.mark.parametrize("move", [amx.tileloadd, amx.tilestored])
def test_what_a_load_and_a_store_reject(move):
    state, memory = configured((2, 8), (2, 6)), np.zeros(16, np.uint8)
    with pytest.raises(ValueError, match="tile 2 is not configured"):
        move(state, 2, memory, 0, 8)
    with pytest.raises(ValueError, match="tile 1 has rows of 6 bytes; need a multiple of 4"):
        move(state, 1, memory, 0, 8)
    with pytest.raises(ValueError, match="start_row is 2; tile 0 has 2 rows"):
        move(state._replace(start_row=2), 0, memory, 0, 8)
    with pytest.raises(IndexError, match="bytes 9 to 16 of an array of 16 bytes"):
        move(state, 0, memory, 0, 9)
    with pytest.raises(IndexError, match="bytes -8 to -1 of an array of 16 bytes"):
        move(state, 0, memory, 0, -8)
    for wrong in (memory.reshape(2, 8), np.zeros(32, np.uint8)[::2], [0] * 16):
        with pytest.raises(ValueError, match="memory needs to be a contiguous 1-D array"):
            move(state, 0, wrong, 0, 8)


def test_same_bits_sees_zeros_and_nan():
    """The yardstick of this file and the next."""
    for one, other in [(0.0, -0.0), (np.nan, -np.nan)]:
        with pytest.raises(AssertionError):
            same_bits(np.float32([one]), np.float32([other]))
