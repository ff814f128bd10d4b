"""Vectors of the INT8 products, exact and pair-saturating, on every layout, with the next layer's codes.

    acc[n, m]   = sum of a[n, k] w[m, k]                                              s32
    codes[n, m] = requantize(acc[n, m] - 128 sum_k w[m, k])                           u8, code + 128

The oracles are those of ``refimpl.integer`` and ``refimpl.quant``. ``quads`` has the wrong versions.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from refimpl.integer.gemm import gemm_u8s8s32, gemm_u8s8s32_pair_saturating
from refimpl.integer.sparse_saturation import bsgemm_4x1_u8s8s32_pair_saturating
from refimpl.kernels.layout import bitmask, bsr4x1, bsr32x32, panels, vnni4
from refimpl.models.vectors import draw, published, quads
from refimpl.models.vectors.case import Arrays, Expected, Family, Operands, Version, exactly
from refimpl.models.vectors.wrong_codes import WRONG_CODES
from refimpl.quant.linear import compensation
from refimpl.quant.requantize import requantize

DIMS = {"N": ("a", 0), "M": ("w", 0), "K": ("w", 1)}
F32 = np.float32
EXACT_ONLY = ("beyond_2_24", "bert", "long")
"""Large cases in which saturation is no question of its own."""
Product = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Layout(NamedTuple):
    """module: of ``refimpl.kernels.layout``. reader: its quads; wrong: other readings. twin: the oracle of the
    pair-saturating kernel, ``pairs`` what that one pairs. panels: whether activations come in panels too. side: output
    channels in a block row that may be empty, or 0."""

    kernel: str
    module: Any
    reader: quads.Reader
    wrong: dict[str, quads.Reader]
    twin: Product = gemm_u8s8s32_pair_saturating
    pairs: str = "the pairs (k, k + 1), k even"
    panels: bool = False
    side: int = 0


LAYOUTS = [
    Layout(
        "gemm_u8s8s32",
        vnni4,
        quads.dense,
        {
            "tile_transposed": quads.dense_transposed,
            "first_tile_for_all": quads.dense_first_tile,
            "k_tail_dropped": quads.whole_quads(quads.dense),
        },
    ),
    Layout(
        "bsgemm_4x1_u8s8s32",
        bsr4x1,
        quads.blocks_4x1,
        {
            "group_transposed": quads.groups_transposed,
            "columns_are_neighbours": quads.neighbouring_columns,
            "last_group_dropped": quads.last_group_dropped,
        },
        bsgemm_4x1_u8s8s32_pair_saturating,
        "the pairs (0, 1) and (2, 3) of the stored columns of each group",
        panels=True,
        side=bsr4x1.ROWS,
    ),
    Layout(
        "bsgemm_32x32_u8s8s32",
        bsr32x32,
        quads.blocks_32x32,
        {
            "block_transposed": quads.blocks_transposed,
            "block_column_not_scaled": partial(quads.blocks_32x32, side=1),
            "last_block_dropped": quads.last_block_dropped,
            "k_tail_dropped": quads.whole_quads(quads.blocks_32x32),
        },
        side=bsr32x32.SIDE,
    ),
    Layout(
        "spgemm_bitmask_u8s8s32",
        bitmask,
        quads.expanded,
        {
            "highest_bit_first": quads.highest_bit_first,
            "starts_ignored": quads.starts_ignored,
            "k_tail_dropped": quads.whole_quads(quads.expanded),
        },
    ),
]


# --- operands --------------------------------------------------------------------------------------------------------


def _shifts(m: int, k: int) -> np.ndarray:
    """Weight scales, powers of two: a product times one of them is exact, so that some codes lie on ties."""
    return F32(2.0) ** -(np.arange(m) % 3 + np.floor(np.log2(k * 40))).astype(F32)


def _with_scales(a: np.ndarray, w: np.ndarray, weight_scale: np.ndarray | None = None) -> dict[str, np.ndarray]:
    scale = _shifts(*w.shape) if weight_scale is None else weight_scale
    return {"a": a, "w": w, "input_scale": F32(1)[...], "weight_scale": scale, "output_scale": F32(1)[...]}


def _extremes() -> dict[str, np.ndarray]:
    """Pairs that saturate at both ends, that just do not, and that only another pairing saturates."""
    rows = [[127] * 8, [-128] * 8, [127, -128] * 4, [64, 64, 65, 64] * 2, [-64, -64, -65, -64] * 2]
    rows += [[127, 0, 127, 0] * 2, [0, -127, 0, -127] * 2, [127, 127, 0, 0] * 2, [1, 0, 127, 127] * 2]
    activations = [[255] * 8, [255, 0] * 4, [0, 255] * 4, [255, 254] * 4, [128] * 8, [1] * 8, [0] * 8]
    return _with_scales(*published.arrays(activations, rows, np.uint8))


def _ties() -> dict[str, np.ndarray]:
    """Codes on .5 exactly, between even and odd, on both sides of 0, and beyond both limits."""
    a = (128 + np.arange(-140, 140, 7).clip(-128, 127)).astype(np.uint8)[:, None]
    w = np.array([[1], [-1], [3], [-5], [127]], np.int8)
    return _with_scales(a, w, np.array([0.5, 0.5, 0.5, 0.5, 0.25], F32))


def _ragged() -> dict[str, np.ndarray]:
    """Block rows with 0, 1, 3, 4, 5 and 8 live columns, and one that is empty in the middle of a block column."""
    w = np.zeros((4 * 9 + 2, 37), np.int8)
    for row, live in enumerate([4, 0, 1, 3, 0, 5, 8, 2, 4]):
        columns = (5 * np.arange(live) + 3 * row) % 37
        w[4 * row : 4 * row + 4, columns] = draw.weights((4, live), 40 + row, 0.8)
        w[4 * row, columns] = 127 - row
    w[-2:, [0, 36]] = 99, -100
    return _with_scales(draw.codes((3, 37), 50), w)


def _blocks(m: int, k: int, density: float, seed: int) -> np.ndarray:
    """Weights whose 4x1 blocks are alive with the probability ``density``; two of three 32x32 blocks are, too, but none
    of the second block row."""
    alive = draw.integers(0, 999, (-(-m // 4), k), seed + 5) < 1000 * density
    dead_squares = draw.integers(0, 2, (-(-m // 32), -(-k // 32)), seed + 6) == 0
    dead_squares[1:2] = True
    kept = alive.repeat(4, 0)[:m] & ~dead_squares.repeat(32, 0).repeat(32, 1)[:m, :k]
    return draw.weights((m, k), seed) * kept


def _bert() -> dict[str, np.ndarray]:
    """64 output channels of a layer with 192 input channels, 80 % pruned in 4x1 blocks, with real scales."""
    w = np.rint(draw.bell((64, 192), 60) * 32).clip(-127, 127).astype(np.int8)
    w *= (draw.integers(0, 9, (16, 192), 61) < 2).repeat(4, 0)
    a = (np.rint(draw.bell((7, 192), 62) * 30).clip(-128, 127) + 128).astype(np.uint8)
    weight_scale = (0.001 + draw.integers(0, 999, (64,), 63) * 1e-6).astype(F32)
    return {"a": a, "w": w, "input_scale": F32(0.0213)[...], "weight_scale": weight_scale,
            "output_scale": F32(0.0117)[...]}  # fmt: skip


def u8s8() -> list[Operands]:
    """Of every product of u8 by s8."""
    long = np.full((1, 521), 255, np.uint8)
    own = [
        Operands("one", "the smallest: M = N = K = 1", _with_scales(draw.codes((1, 1), 1), draw.weights((1, 1), 2))),
        Operands("tails", "tails of everything", _with_scales(draw.codes((7, 6), 3), draw.weights((5, 6), 4))),
        Operands(
            "two_tiles", "more than one tile of tokens and of output channels, K odd, an empty 32x32 block row",
            _with_scales(draw.codes((13, 67), 5), _blocks(70, 67, 0.9, 6)),
        ),
        Operands(
            "two_panels", "more than one panel of 64 tokens",
            _with_scales(draw.codes((70, 9), 8), draw.weights((5, 9), 9)),
        ),
        Operands("extremes", "a 0 and 255, w 127 and -128, pairs at the limits of s16", _extremes()),
        Operands(
            "beyond_2_24", "an odd sum beyond 2^24, which f32 cannot hold",
            _with_scales(long, np.full((2, 521), 127, np.int8) - np.array([[0], [1]], np.int8)),
        ),
        Operands("ties", "codes on .5 exactly and beyond both limits", _ties()),
        Operands("ragged", "empty block rows, groups of 1 to 4 live columns", _ragged()),
        Operands("all_zero", "no weight at all", _with_scales(draw.codes((3, 8), 10), np.zeros((8, 8), np.int8))),
        Operands("bert", "a slice of a pruned BERT layer", _bert()),
    ]  # fmt: skip
    public = [
        Operands(name, "what a CPU without VNNI is known to get wrong", _with_scales(*published.arrays(a, w, np.uint8)),
                 source)
        for name, (source, a, w) in published.U8S8.items()
    ]  # fmt: skip
    return own + public


def _packed(layout: Layout, operands: Operands) -> Operands:
    """With the arrays of the layout, and panels."""
    packed = layout.module.pack(operands.inputs["w"])._asdict()
    packed.pop("shape")
    extra = {"a_panels": panels.pack(operands.inputs["a"])} if layout.panels else {}
    return operands._replace(inputs=operands.inputs | packed | extra)


# --- families --------------------------------------------------------------------------------------------------------


def _codes(inputs: Arrays, acc: np.ndarray) -> np.ndarray:
    scales = (inputs[name] for name in ("input_scale", "weight_scale", "output_scale"))
    return requantize(acc - compensation(inputs["w"]), *scales)


def _outputs(inputs: Arrays, acc: np.ndarray) -> dict[str, np.ndarray]:
    return {"acc": acc, "codes": _codes(inputs, acc)}


def _version(reader: quads.Reader, dot: quads.Dot, unsigned: bool = True) -> Version:
    return lambda inputs: {"acc": quads.product(inputs, reader(inputs), dot, unsigned)}


def _narrow(product: Product) -> Version:
    return lambda inputs: {"acc": product(inputs["a"], inputs["w"]).clip(-32768, 32767)}


def _stale(side: int) -> Version:
    """An empty block row keeps the accumulators of the block row before it."""

    def version(inputs: Arrays) -> dict[str, np.ndarray]:
        acc = gemm_u8s8s32(inputs["a"], inputs["w"])
        for row in np.flatnonzero(np.diff(inputs["indptr"]) == 0):
            here = acc[:, side * row : side * (row + 1)]
            here[:] = acc[:, side * (row - 1) : side * row][:, : here.shape[1]] if row else 0
        return {"acc": acc}

    return version


def _in_f32(inputs: Arrays) -> dict[str, np.ndarray]:
    return {"acc": (inputs["a"].astype(F32) @ inputs["w"].astype(F32).T).astype(np.int32)}


def _family(layout: Layout, saturating: bool) -> Family:
    oracle = layout.twin if saturating else gemm_u8s8s32
    dot = quads.saturating if saturating else quads.exact
    right: Version = lambda inputs: {"acc": oracle(inputs["a"], inputs["w"])}  # noqa: E731
    dots = {"exact": quads.exact} | quads.WRONG_DOTS if saturating else {"pairs_saturate": quads.saturating}
    faults = {name: _version(reader, dot) for name, reader in layout.wrong.items()}
    faults |= {name: _version(layout.reader, wrong) for name, wrong in dots.items()}
    faults |= {"signs_swapped": _version(layout.reader, dot, unsigned=False), "acc_clips_to_s16": _narrow(oracle)}
    if not saturating:
        faults["acc_in_f32"] = _in_f32
        if layout.side:
            faults["empty_rows_not_zeroed"] = _stale(layout.side)
    if saturating and layout.module is bsr4x1:
        faults["pairs_of_the_dense_product"] = lambda inputs: {
            "acc": gemm_u8s8s32_pair_saturating(inputs["a"], inputs["w"])
        }
    faults |= {name: partial(_wrong_codes, right, wrong) for name, wrong in WRONG_CODES.items()}
    how = f"{layout.pairs} clipped to s16 first" if saturating else "exact"
    return Family(
        layout.kernel + "_pair_saturating" * saturating,
        f"acc[n, m] = sum_k a[n, k] w[m, k], {how}, in s32; a is u8, w is s8; any order of summation. "
        "codes = requantize(acc - 128 sum_k w[m, k]), see requantize.",
        DIMS,
        lambda inputs: exactly(**_outputs(inputs, right(inputs)["acc"])),
        faults,
        lambda: [_packed(layout, operands) for operands in u8s8() if not (saturating and operands.name in EXACT_ONLY)],
    )


def _wrong_codes(right: Version, wrong: Callable[..., np.ndarray], inputs: Arrays) -> dict[str, np.ndarray]:
    return {"codes": wrong(inputs, right(inputs)["acc"])}


def _shifted(product: Product, zero: int = 128, sign: int = 1, lowest: int = -128) -> Version:
    """s8 by s8 through u8 by s8."""

    def version(inputs: Arrays) -> dict[str, np.ndarray]:
        a = inputs["a"].clip(lowest, 127).view(np.uint8) ^ np.uint8(128)
        correction = sign * (zero * inputs["w"].sum(1, dtype=np.int32))
        return {"acc": product(a, inputs["w"]) - correction}

    return version


def _other_shifted(inputs: Arrays) -> dict[str, np.ndarray]:
    """The weights shifted in place of the activations."""
    return {"acc": _shifted(gemm_u8s8s32_pair_saturating)({"a": inputs["w"], "w": inputs["a"]})["acc"].T.copy()}


def s8s8() -> list[Operands]:
    """Of the products of s8 by s8."""
    lowest = np.full((2, 5), -128, np.int8)
    own = {
        "tails": ("tails of everything", draw.codes((7, 6), 70).view(np.int8), draw.weights((5, 6), 71)),
        "lowest": ("-128 on both sides", lowest, np.array([[-128] * 5, [127, 0, 1, -1, -127]], np.int8)),
        "long": ("a sum of weights beyond s16", draw.codes((1, 260), 74).view(np.int8), np.full((1, 260), 127, np.int8)),
        "bert": ("a slice of a layer", draw.codes((3, 96), 72).view(np.int8), draw.weights((32, 96), 73)),
    }
    cases = [Operands(name, about, {"a": a, "w": w}) for name, (about, a, w) in own.items()]
    for name, (source, rows, columns) in published.S8S8.items():
        a, w = published.arrays(rows, columns, np.int8)
        cases.append(Operands(name, "what a CPU without VNNI is known to get wrong", {"a": a, "w": w}, source))
    return [case._replace(inputs=case.inputs | {"values": vnni4.pack(case.inputs["w"]).values}) for case in cases]


def _s8s8_family(saturating: bool) -> Family:
    product = gemm_u8s8s32_pair_saturating if saturating else gemm_u8s8s32
    faults = {
        "no_compensation": _shifted(product, zero=0),
        "compensation_127": _shifted(product, zero=127),
        "compensation_added": _shifted(product, sign=-1),
        "lowest_is_minus_127": _shifted(product, lowest=-127),
    }
    faults |= (
        {"exact": _shifted(gemm_u8s8s32), "other_operand_shifted": _other_shifted}
        if saturating
        else {"pairs_saturate": _shifted(gemm_u8s8s32_pair_saturating)}
    )
    how = "with the pairs (k, k + 1), k even, of (a + 128) w clipped to s16" if saturating else "exact"
    return Family(
        "gemm_s8s8s32_shifted" + "_pair_saturating" * saturating,
        "acc[n, m] = sum_k (a[n, k] + 128) w[m, k] - 128 sum_k w[m, k], a and w s8, so that u8 x s8 hardware can"
        f" compute it; {how}, in s32.",
        DIMS,
        lambda inputs: {name: Expected(value) for name, value in _shifted(product)(inputs).items()},
        faults,
        lambda: [operands for operands in s8s8() if not (saturating and operands.name in EXACT_ONLY)],
    )


def families() -> list[Family]:
    """Every product in integers."""
    both = (False, True)
    return [*(_family(layout, s) for s in both for layout in LAYOUTS), *(_s8s8_family(s) for s in both)]
