"""Rung 5: layouts. Oracle: the index formula of each docstring, element by element, on Python lists."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_1_arithmetic import equal, rng

from refimpl.integer.gemm import MAX_K
from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.kernels.gemm_u8s8s32 import GEMM
from refimpl.kernels.layout import aligned, bsr4x1, panels, vnni4
from refimpl.kernels.layout.bsr4x1 import Bsr4x1
from refimpl.kernels.layout.vnni4 import Vnni4

SHAPES = [(1, 1), (4, 4), (3, 5), (5, 3), (9, 7), (64, 4), (65, 9), (130, 17)]  # M, K
DENSITIES = [0, 0.1, 0.5, 0.9, 1]
WEIGHTS = hnp.arrays(
    np.int8,
    st.tuples(st.integers(1, 70), st.integers(1, 20)),
    elements=st.sampled_from([0, 0, 0, -128, 127, 1]) | st.integers(-128, 127),
)


def weights(shape, density, seed=0):
    """s8 (M, K), zero but for a share of 4x1 blocks, whose own elements may be zero; the first block row is empty."""
    m, k = shape
    w = rng(seed).choice(np.array([0, 1, -1, 127, -128, 50], np.int8), (m, k))
    live = np.repeat(rng(seed + 1).random((-(-m // 4), k)) < density, 4, 0)
    if density < 1 and m > 4:
        live[:4] = False
    return w * live[:m]


def cases():
    for shape in SHAPES:
        for density in DENSITIES:
            yield weights(shape, density)


def same(got, want):
    """Equal packed weights: shape, and every array with its dtype."""
    assert got.shape == want.shape
    for x, y in zip(got[1:], want[1:], strict=True):
        equal(x, y)


# --- slow definitions ------------------------------------------------------------------------------------------------


def slow_bsr4x1(w):
    (m, k), w = w.shape, w.tolist()
    indptr, indices, values = [0], [], []
    for row in range(0, m, 4):
        block_row = w[row : row + 4] + [[0] * k] * (row + 4 - m)
        columns = [column for column in range(k) if any(x[column] for x in block_row)]
        padding = -len(columns) % 4
        block_row = [[x[column] for column in columns] + [0] * padding for x in block_row]
        columns += columns[-1:] * padding
        for g in range(0, len(columns), 4):
            values += [weight for x in block_row for weight in x[g : g + 4]]
        indices += columns
        indptr.append(indptr[-1] + len(columns) // 4)
    return Bsr4x1((m, k), np.array(indptr, np.int32), np.array(indices, np.int32), np.array(values, np.int8))


def slow_vnni4(w):
    m, k = w.shape
    values = np.zeros((-(-m // 64), -(-k // 4), 64, 4), np.int8)
    for i, j in np.ndindex(m, k):
        values[i // 64, j // 4, i % 64, j % 4] = w[i, j]
    return Vnni4((m, k), values.ravel())


def slow_panels(a):
    n, k = a.shape
    out = np.zeros((-(-n // 64), k, 64), a.dtype)
    for i, j in np.ndindex(n, k):
        out[i // 64, j, i % 64] = a[i, j]
    return out


def check_bsr4x1_pack(pack):
    for w in cases():
        same(pack(w), slow_bsr4x1(w))


def check_vnni4_pack(pack):
    for w in cases():
        same(pack(w), slow_vnni4(w))


def check_panels_pack(pack):
    for n, k in [(0, 3), (1, 1), (63, 5), (64, 2), (65, 7), (130, 3)]:
        a = rng(n).integers(0, 256, (n, k), np.uint8)
        equal(pack(a), slow_panels(a))


def check_unpack_accumulators(unpack):
    """Position 16 j + 4 l + i of a panel is token 16 l + 4 j + i."""
    for n, m in [(1, 1), (63, 4), (64, 8), (65, 3), (130, 4)]:
        acc = rng(n).integers(-(2**31), 2**31, (n, m), np.int32)
        out = np.zeros((-(-n // 64), m, 64), np.int32)
        for j, lane, i in np.ndindex(4, 4, 4):
            tokens = acc[16 * lane + 4 * j + i :: 64]
            out[: len(tokens), :, 16 * j + 4 * lane + i] = tokens
        equal(unpack(out, n), acc)


def test_packings_are_what_their_drawings_say():
    check_bsr4x1_pack(bsr4x1.pack)
    check_vnni4_pack(vnni4.pack)
    check_panels_pack(panels.pack)
    check_unpack_accumulators(panels.unpack_accumulators)


def test_the_example_of_bsr4x1():
    """The drawing in its docstring, with letters for weights."""
    rows = [b"a.bc.de", b"f.gh.ij", b"k.lm.no", b"p.qr.st"]
    w = np.array([[x * (x != ord(".")) for x in row] for row in rows], np.int8)
    packed = bsr4x1.pack(w)
    assert packed.indptr.tolist() == [0, 2]
    assert packed.indices.tolist() == [0, 2, 3, 5, 6, 6, 6, 6]
    assert packed.values.tobytes() == b"abcdfghiklmnpqrs" + b"e\0\0\0j\0\0\0o\0\0\0t\0\0\0"


# --- inverses --------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(WEIGHTS)
def test_unpack_inverts_pack(w):
    for layout in (bsr4x1, vnni4):
        packed = layout.pack(w)
        equal(layout.unpack(packed), w)
        same(layout.pack(layout.unpack(packed)), packed)
    equal(panels.unpack(panels.pack(w), len(w)), w)


@pytest.mark.parametrize("layout", [bsr4x1, vnni4])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", DENSITIES)
def test_unpack_inverts_pack_of_pruned_weights(layout, shape, density):
    w = weights(shape, density)
    equal(layout.unpack(layout.pack(w)), w)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float64])
def test_panels_of_any_dtype(dtype):
    a = rng().integers(0, 100, (70, 3)).astype(dtype)
    equal(panels.unpack(panels.pack(a), 70), a)


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 0, 64), (7, 5), (2, 3, 64)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float64])
def test_aligned(shape, dtype):
    for _ in range(20):
        array = aligned.empty(shape, dtype)
        assert (array.shape, array.dtype) == (shape, dtype)
        assert array.size == 0 or array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous
        assert array.flags.writeable


# --- what validate rejects -------------------------------------------------------------------------------------------

WEIGHT = np.zeros((10, 8), np.int8)
WEIGHT[0, [1, 2, 4, 6, 7]] = 1, 2, 3, 4, 5  # two groups, then none, then one with a row to spare
WEIGHT[9, [0, 3]] = 6, 7
SPARSE, DENSE = bsr4x1.pack(WEIGHT), vnni4.pack(WEIGHT)


def changed(array, at, value):
    array = array.copy()
    array[at] = value
    return array


def wrong_indptr(*values):
    return SPARSE._replace(indptr=np.array(values, np.int32))


def wrong_index(at, value):
    return SPARSE._replace(indices=changed(SPARSE.indices, at, value))


def wrong_value(at, value):
    return SPARSE._replace(values=changed(SPARSE.values, at, value))


WRONG_BSR4X1 = {
    "indptr in s64": (SPARSE._replace(indptr=SPARSE.indptr.astype(np.int64)), "indptr has dtype int64; need int32"),
    "indices a list": (SPARSE._replace(indices=[1, 2]), "indices is list; need an ndarray of int32"),
    "values in u8": (SPARSE._replace(values=SPARSE.values.view(np.uint8)), "values has dtype uint8; need int8"),
    "indptr too short": (wrong_indptr(0, 3), r"indptr has shape \(2,\); need \(4,\)"),
    "indptr 2-D": (SPARSE._replace(indptr=SPARSE.indptr[None]), r"indptr has shape \(1, 4\); need \(4,\)"),
    "indptr from 1": (wrong_indptr(1, 2, 2, 3), "indptr does not ascend from 0"),
    "indptr descends": (wrong_indptr(0, 4, 2, 3), "indptr does not ascend from 0"),
    "indptr wraps": (wrong_indptr(0, 2**31 - 1, -(2**31), 3), "indptr does not ascend from 0"),
    "indptr ends too soon": (wrong_indptr(0, 2, 2, 2), r"indices has shape \(12,\); need \(8,\)"),
    "indptr ends too late": (wrong_indptr(0, 2, 2, 2**31 - 1), r"indices has shape \(12,\); need \(8589934588,\)"),
    "values too short": (SPARSE._replace(values=SPARSE.values[:-16]), r"values has shape \(32,\); need \(48,\)"),
    "index too high": (wrong_index(4, 8), "indices has the column 8; need 0 to 7"),
    "index negative": (wrong_index(0, -1), "indices has the column -1; need 0 to 7"),
    "a column twice, too large": (
        wrong_value(slice(2), 100)._replace(indices=changed(SPARSE.indices, 1, 1)),
        "values of one row and column add up to 200; need -128 to 127",
    ),
    "rows beyond M": (wrong_value(32 + 8, 1), "values has weights in rows beyond M = 10"),
}
WRONG_VNNI4 = {
    "values in u8": (DENSE._replace(values=DENSE.values.view(np.uint8)), "values has dtype uint8; need int8"),
    "values a list": (DENSE._replace(values=[0]), "values is list; need an ndarray of int8"),
    "values too short": (DENSE._replace(values=DENSE.values[:-1]), r"values has shape \(511,\); need \(512,\)"),
    "rows beyond M": (
        DENSE._replace(values=changed(DENSE.values, 40, 1)),
        r"values has weights outside the shape \(10, 8\)",
    ),
    "columns beyond K": (DENSE._replace(shape=(10, 7)), r"values has weights outside the shape \(10, 7\)"),
}
WRONG_SHAPES = [(0, 8), (10, 0), (-10, 8), (10, -8), (10, MAX_K + 1), (10,), (10, 8, 1), (), (10.0, 8), ("10", 8)]


def rejects(call, message):
    error = TypeError if "dtype" in message or "ndarray" in message else ValueError
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("name", WRONG_BSR4X1)
def test_bsr4x1_rejects(name):
    packed, message = WRONG_BSR4X1[name]
    rejects(lambda: bsr4x1.validate(packed), message)
    rejects(lambda: bsr4x1.unpack(packed), message)


@pytest.mark.parametrize("name", WRONG_VNNI4)
def test_vnni4_rejects(name):
    packed, message = WRONG_VNNI4[name]
    rejects(lambda: vnni4.validate(packed), message)
    rejects(lambda: vnni4.unpack(packed), message)


@pytest.mark.parametrize("shape", WRONG_SHAPES, ids=str)
@pytest.mark.parametrize(("layout", "packed"), [(bsr4x1, SPARSE), (vnni4, DENSE)])
def test_wrong_shapes(layout, packed, shape):
    rejects(lambda: layout.validate(packed._replace(shape=shape)), "shape is .*; need integers")


@pytest.mark.parametrize("layout", [bsr4x1, vnni4])
def test_pack_rejects(layout):
    for w, message in [
        (WEIGHT.astype(np.int16), "w has dtype int16; need int8"),
        (WEIGHT.tolist(), "w is list; need an ndarray of int8"),
        (WEIGHT[0], r"w has shape \(8,\); need \(M, K\)"),
        (WEIGHT[:0], r"shape is \(0, 8\); need integers \(M, K\) with M >= 1 and 1 <= K <= 65793"),
        (WEIGHT[:, :0], r"shape is \(10, 0\); need"),
        (np.zeros((1, MAX_K + 1), np.int8), r"shape is \(1, 65794\); need"),
    ]:
        rejects(lambda w=w: layout.pack(w), message)


def test_bsr4x1_takes_any_order_and_repeated_columns():
    indices, values = SPARSE.indices.copy(), SPARSE.values.reshape(-1, 4, 4).copy()
    indices[:4], values[0] = indices[3::-1], values[0, :, ::-1]
    indices[5:8], values[1, 0] = [4, 4, 0], [2, 1, 2, 0]  # 5 = 2 + 3, where 3 is in column 4 already
    packed = SPARSE._replace(indices=indices, values=values.reshape(-1))
    want = WEIGHT.copy()
    want[0, indices[4]] = 2
    want[0, 4] = 3 + 1 + 2
    equal(bsr4x1.unpack(packed), want)
    a = rng(1).integers(0, 256, (3, 8), np.uint8)
    equal(BSGEMM_4X1.emulated(a, packed), BSGEMM_4X1.oracle(a, want))
    equal(bsr4x1.row_sums(packed), want.sum(1, dtype=np.int32))


def test_valid_ones_are_accepted():
    bsr4x1.validate(SPARSE)
    vnni4.validate(DENSE)
    for rows in range(1, 10):
        bsr4x1.validate(bsr4x1.pack(np.ones((rows, 5), np.int8)))


def test_what_pack_makes_is_validated_without_unpacking(monkeypatch):
    monkeypatch.delattr(bsr4x1, "_sums")
    for density in (0, 0.1, 0.5, 1):
        w = rng(0).integers(-128, 128, (11, 13)).astype(np.int8)
        bsr4x1.validate(bsr4x1.pack(w * (rng(1).random((11, 13)) < density).astype(np.int8)))
    for name in ("a column twice, too large", "two columns exchanged"):
        packed = WRONG_BSR4X1.get(name, (SPARSE._replace(indices=SPARSE.indices[[1, 0, *range(2, 12)]]),))[0]
        with pytest.raises(NameError, match="_sums"):
            bsr4x1.validate(packed)


# --- random corruption -----------------------------------------------------------------------------------------------


def corrupt(packed, random):
    """One to three changes to one field: new elements, elements exchanged, a part cut off or added, another shape."""
    field = random.choice(packed._fields)
    if field == "shape":
        return packed._replace(shape=tuple(int(max(-1, n + random.integers(-5, 6))) for n in packed.shape))
    array = getattr(packed, field).copy()
    for _ in range(random.integers(1, 4)):
        at = random.integers(0, array.size, 2)
        match random.integers(0, 6):
            case 0:
                array[at[0]] = random.integers(np.iinfo(array.dtype).min, np.iinfo(array.dtype).max)
            case 1:
                array[at[0]] = np.clip(array[at[0]] + random.integers(-2, 3), -128, 127)
            case 2:
                array[at[0]] = 0
            case 3:
                array[at] = array[at[::-1]]
            case 4:
                array[at[0]] = array[at[1]]
            case 5:
                parts = [array, array[: at[0]], array[:-4], array[:-16]]
                array = np.concatenate([parts[random.integers(4)], array[: random.choice([0, 0, 1, 4, 16])]])
        if not array.size:
            break
    return packed._replace(**{field: array})


@pytest.mark.parametrize(("layout", "kernel"), [(bsr4x1, BSGEMM_4X1), (vnni4, GEMM)], ids=["bsr4x1", "vnni4"])
def test_corrupted_weights_are_rejected_or_still_right(layout, kernel):
    """And an accepted one is safe: emulation, which checks every address, gives the product of what it unpacks to."""
    random, accepted, rejected = rng(8), 0, 0
    for case in range(600):
        packed = layout.pack(weights((int(random.integers(1, 12)), int(random.integers(1, 12))), 0.6, case))
        if not all(array.size for array in packed[1:]):
            continue
        packed = corrupt(packed, random)
        try:
            w = layout.unpack(packed)
        except ValueError:
            rejected += 1
            continue
        accepted += 1
        equal(layout.unpack(layout.pack(w)), w)
        if accepted % 4 == 0:
            a = random.integers(0, 256, (3, w.shape[1]), np.uint8)
            equal(kernel.emulated(a, packed), kernel.oracle(a, w))
    assert accepted > 50
    assert rejected > 200
