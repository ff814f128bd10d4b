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
from refimpl.models.vectors import quads
from refimpl.models.vectors.case import Arrays, Expected, Family, Operands, Version, exactly
from refimpl.models.vectors.operands import s8s8, u8s8
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
