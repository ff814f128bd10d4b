"""Vectors of the bf16 product: to the bit in the order of ``vdpbf16ps``, and within a bound in any order."""

from collections.abc import Callable

import numpy as np

from refimpl import bounds
from refimpl.isa.bf16 import from_bf16, vcvtneps2bf16
from refimpl.kernels.layout import vnni2
from refimpl.models.vectors import draw
from refimpl.models.vectors.case import Arrays, Expected, Family, Operands, Version, exactly
from refimpl.nn.gemm_bf16 import gemm_bf16

F32, F64 = np.float32, np.float64


def to_bf16(y: np.ndarray) -> np.ndarray:
    """Rounded to bf16, as f32."""
    return from_bf16(vcvtneps2bf16(y.astype(F32)))


def _tiny(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Numbers near 2**-64, positive, and 2**-60 in the two channels that are added first."""
    x = np.abs(draw.bell(shape, seed)) * F32(2**-64)
    x[:, :2] = 2**-60
    return x


def _halves() -> list[Operands]:
    def case(name: str, about: str, a: np.ndarray, w: np.ndarray) -> Operands:
        a, w = vcvtneps2bf16(a), vcvtneps2bf16(w)
        return Operands(name, about, {"a": a, "w": w, "values": vnni2.pack(w).values})

    def bells(n: int, m: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        return draw.bell((n, k), 140 + k), draw.bell((m, k), 141 + k)

    return [
        case("one", "M = N = K = 1", *bells(1, 1, 1)),
        case("tails", "tails of everything, K odd", *bells(7, 5, 9)),
        case("two_tiles", "more than one tile", *bells(13, 67, 12)),
        case("tiny", "products below 2^-126 that a fused sum keeps", _tiny((2, 10), 150), _tiny((3, 10), 151)),
        case("bert", "a slice of a layer", *bells(2, 4, 384)),
    ]


def _bf16(i: Arrays) -> dict[str, Expected]:
    exact = from_bf16(i["a"]).astype(F64) @ from_bf16(i["w"]).astype(F64).T
    return exactly(acc=gemm_bf16(i["a"], i["w"])) | {"y": Expected(exact, bounds.gemm_bf16(i["a"], i["w"]))}


def _paired_backwards(x: np.ndarray) -> np.ndarray:
    """The two channels of each pair exchanged."""
    even = np.pad(x, ((0, 0), (0, x.shape[1] % 2)))
    return np.ascontiguousarray(even.reshape(len(x), -1, 2)[:, :, ::-1]).reshape(even.shape)


def _chain(change: Callable[[np.ndarray], np.ndarray]) -> Version:
    """The right chain on changed operands; judged as ``acc`` only."""
    return lambda i: {"acc": gemm_bf16(change(i["a"]), change(i["w"]))}


def _odd_dropped(i: Arrays) -> dict[str, np.ndarray]:
    k = i["a"].shape[1] // 2 * 2
    acc = gemm_bf16(i["a"][:, :k], i["w"][:, :k])
    return {"acc": acc, "y": acc}


def _acc_in_bf16(i: Arrays) -> dict[str, np.ndarray]:
    return {"y": to_bf16(gemm_bf16(i["a"], i["w"]))}


GEMM_BF16 = Family(
    "gemm_bf16",
    "acc[n, m] = sum_k a[n, k] w[m, k] of bf16 held as u16, in f32, by fused multiply-adds from 0: pairs of channels"
    " ascending, the upper of each pair first, as vdpbf16ps does; y is the same in any order, within a bound.",
    {"N": ("a", 0), "M": ("w", 0), "K": ("w", 1)},
    _bf16,
    {
        "lower_channel_first": _chain(_paired_backwards),
        "channels_descending": _chain(lambda x: np.ascontiguousarray(x[:, ::-1])),
        "k_tail_dropped": _odd_dropped,
        "acc_in_bf16": _acc_in_bf16,
    },
    _halves,
)
