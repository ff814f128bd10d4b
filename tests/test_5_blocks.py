"""Rung 5: the layouts of shared 4x1 groups and of 32x32 blocks, and the search for groups to share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutants_kernels import swap
from test_1_arithmetic import equal, rng
from test_5_kernels import check_product
from test_5_layouts import weights

from refimpl.kernels import bsgemm_4x1_shared32_u8s8s32 as shared32
from refimpl.kernels import bsgemm_4x1_shared_u8s8s32 as shared
from refimpl.kernels import bsgemm_32x32_u8s8s32 as wide
from refimpl.kernels.layout import bsr4x1_shared, bsr32x32, panels
from refimpl.kernels.layout.sharing import find_shared

SHAPES = (st.integers(1, 130), st.integers(1, 150), st.floats(0, 1))


def blocky(m, k, density, seed=0):
    """Weights whose 32x32 blocks are dead or alive."""
    live = rng(seed).random((-(-m // 32), -(-k // 32))) < density
    return weights((m, k), 1, seed) * live.repeat(32, 0).repeat(32, 1)[:m, :k]


# --- what rows can share ---------------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(1, 140), st.floats(0, 1))
def test_shared_quads_partition_the_live_columns(r, k, density):
    live = rng(r).random((r, k)) < density
    rows, columns, left = find_shared(live)
    covered = left.astype(int)
    for sharers, quad in zip(rows, columns, strict=True):
        assert len(sharers) >= 2
        assert (np.diff(sharers) > 0).all()
        assert (np.diff(quad) > 0).all()
        covered[np.ix_(sharers, quad)] += 1
    equal(covered, live.astype(int))


def test_equal_rows_share_everything():
    live = np.zeros((5, 64), bool)
    live[:, [1, 7, 9, 20, 40, 41, 60, 63]] = True
    rows, columns, left = find_shared(live)
    assert [sharers.tolist() for sharers in rows] == [[0, 1, 2, 3, 4]] * 2
    assert columns.tolist() == [[1, 7, 9, 20], [40, 41, 60, 63]]
    assert not left.any()


def test_a_random_pattern_shares():
    """At 80 % sparsity 16 block rows of 768 columns share about half of their groups."""
    packed = bsr4x1_shared.pack(weights((768, 768), 0.2))
    loaded = sum(packed.bounds[3::3] - packed.bounds[2::3])
    assert 0.3 < loaded / packed.bounds[-1] < 0.7


# --- layouts ---------------------------------------------------------------------------------------------------------


@given(*SHAPES, st.sampled_from([1, 3, 16]))
def test_shared_is_invertible(m, k, density, slab):
    w = weights((m, k), density, m)
    equal(bsr4x1_shared.unpack(bsr4x1_shared.pack(w, slab)), w)


@given(*SHAPES)
def test_32x32_is_invertible(m, k, density):
    w = blocky(m, k, density, m)
    packed = bsr32x32.pack(w)
    equal(bsr32x32.unpack(packed), w)
    for g in range(packed.indices.size):  # the index formula of the docstring
        r = int(np.searchsorted(packed.indptr, g, side="right")) - 1
        i, s, j = 5, 3, 2
        row, column = 32 * r + i, 32 * packed.indices[g] + 4 * s + j
        inside = row < m and column < k
        assert packed.values[1024 * g + 128 * s + 4 * i + j] == (w[row, column] if inside else 0)


@given(st.integers(0, 140), st.integers(1, 9))
def test_word_panels(n, k):
    a = rng(n).integers(0, 256, (n, k), np.uint8)
    words = panels.pack_words(a).view("<u2")
    for token, channel in ((0, 0), (n - 1, k - 1)):
        if n:
            low, high = words[token // 32, channel, :, token % 32]
            assert (low, high) == (int(a[token, channel]), 256 * int(a[token, channel]))


# --- a packed weight from outside ------------------------------------------------------------------------------------

SHARED = bsr4x1_shared.pack(np.repeat(weights((32, 64), 1)[:8], 4, 0), 8)
WIDE = bsr32x32.pack(blocky(40, 70, 1))


def changed(packed, name, at, value):
    array = getattr(packed, name).copy()
    array[at] = value
    return packed._replace(**{name: array})


@pytest.mark.parametrize(
    ("packed", "error", "message"),
    [
        (SHARED._replace(bounds=SHARED.bounds.astype(np.int64)), TypeError, "bounds has dtype int64; need int32"),
        (SHARED._replace(bounds=SHARED.bounds[1:]), ValueError, r"bounds has shape \(24,\); need \(25,\)"),
        (changed(SHARED, "bounds", 0, 1), ValueError, "bounds does not ascend from 0"),
        (changed(SHARED, "bounds", 3, 9999), ValueError, "bounds does not ascend from 0"),
        (SHARED._replace(indices=SHARED.indices[4:]), ValueError, "indices has shape"),
        (SHARED._replace(values=SHARED.values[1:]), ValueError, "values has shape"),
        (changed(SHARED, "indices", 0, 64), ValueError, "indices has a column outside 0 to 63 in block row 0"),
        (changed(SHARED, "indices", 0, -1), ValueError, "indices has a column outside 0 to 63 in block row 0"),
        (changed(SHARED, "indices", -1, 99), ValueError, "loads a slot that no earlier block row of the slab saved"),
        (changed(SHARED, "group_slots", 0, SHARED.slots), ValueError, "group_slots has a slot outside 0 to"),
        (changed(SHARED, "group_slots", 0, -1), ValueError, "group_slots has a slot outside 0 to"),
        (changed(SHARED, "group_slots", 0, 1), ValueError, "group_slots saves to a slot twice, in block row 0"),
        (SHARED._replace(slab=0), ValueError, "slab is 0 and slots is .*; need at least 1 and 0"),
        (SHARED._replace(slab=1), ValueError, "loads a slot that no earlier block row of the slab saved"),
        (SHARED._replace(shape=(32, 0)), ValueError, "need integers"),
    ],
)
def test_shared_is_validated(packed, error, message):
    with pytest.raises(error, match=message):
        bsr4x1_shared.validate(packed)


@pytest.mark.parametrize(
    ("packed", "error", "message"),
    [
        (WIDE._replace(indices=WIDE.indices.astype(np.int64)), TypeError, "indices has dtype int64; need int32"),
        (WIDE._replace(indptr=WIDE.indptr[1:]), ValueError, "indptr has shape"),
        (changed(WIDE, "indptr", 0, 1), ValueError, "indptr does not ascend from 0"),
        (WIDE._replace(indices=WIDE.indices[1:]), ValueError, "indices has shape"),
        (WIDE._replace(values=WIDE.values[1:]), ValueError, "values has shape"),
        (changed(WIDE, "indices", 0, 3), ValueError, "indices has a block column outside 0 to 2"),
        (changed(WIDE, "indices", 0, -1), ValueError, "indices has a block column outside 0 to 2"),
        (changed(WIDE, "indices", 0, 1), ValueError, "indices of a block row do not ascend"),
        (changed(WIDE, "values", slice(0, 1024), 0), ValueError, "values has a block of zeros"),
        (changed(WIDE, "values", -1, 1), ValueError, r"values has weights outside the shape \(40, 70\)"),
    ],
)
def test_32x32_is_validated(packed, error, message):
    with pytest.raises(error, match=message):
        bsr32x32.validate(packed)


# --- wrong kernels ---------------------------------------------------------------------------------------------------


def product(module, record, **callees):
    name = record.source.__name__
    execution = swap(getattr(module, name), **callees)
    return lambda a, w: record.call(execution, a, record.pack(w))


def check_shared(product):
    """The small cases, and block rows with equal columns, so that groups are saved and loaded."""
    check_product(product)
    w = np.repeat(weights((8, 40), 0.6, 3), 4, 0)
    w[::2] = np.where(w[::2] != 0, -w[::2], 0)
    a = rng(4).integers(0, 256, (40, 40), np.uint8)
    equal(product(a, w), shared.BSGEMM_4X1_SHARED.oracle(a, w))


WRONG = {
    "nothing is saved": product(shared, shared.BSGEMM_4X1_SHARED, save_quad=lambda scratch, at, quad: None),
    "the first slot is loaded": product(
        shared,
        shared.BSGEMM_4X1_SHARED,
        reload_quad=lambda scratch, at: shared.reload_quad(scratch, 0),
    ),
    "registers of a saved quad exchanged": product(
        shared,
        shared.BSGEMM_4X1_SHARED,
        save_quad=lambda scratch, at, quad: shared.save_quad(scratch, at, (quad[1], quad[0], quad[2], quad[3])),
    ),
    "low and high words exchanged": product(
        shared32,
        shared32.BSGEMM_4X1_SHARED32,
        combine=lambda x, base, columns, g: shared32.combine(x, base, columns, g)[::-1],
    ),
    "slots of half the size": product(shared32, shared32.BSGEMM_4X1_SHARED32, SLOT=64),
    "slots overlap": product(shared, shared.BSGEMM_4X1_SHARED, SLOT=64),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_kernel_is_rejected(wrong):
    with pytest.raises(AssertionError):
        check_shared(WRONG[wrong])


def test_the_true_kernels_are_accepted():
    for module, record in ((shared, shared.BSGEMM_4X1_SHARED), (shared32, shared32.BSGEMM_4X1_SHARED32)):
        check_shared(product(module, record))


def check_wide(product):
    for n, m, k, density in ((13, 40, 70, 0.6), (1, 64, 96, 0.5), (12, 32, 32, 1)):
        a, w = rng(n).integers(0, 256, (n, k), np.uint8), blocky(m, k, density, 7)
        equal(product(a, w), wide.BSGEMM_32X32.oracle(a, w))


def test_wrong_32x32_kernels_are_rejected():
    check_wide(product(wide, wide.BSGEMM_32X32))
    swapped = product(
        wide,
        wide.BSGEMM_32X32,
        dot_tokens=lambda acc, x, at, k, w0, w1: wide.dot_tokens(acc, x, at, k, w1, w0),
    )
    with pytest.raises(AssertionError):
        check_wide(swapped)
    late = product(
        wide,
        wide.BSGEMM_32X32,
        dot_tokens=lambda acc, x, at, k, w0, w1: wide.dot_tokens(acc, x, at, 0, w0, w1),
    )
    with pytest.raises(AssertionError):
        check_wide(late)
