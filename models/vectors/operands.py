"""Operands of the INT8 products: tails, extremes, ties, empty blocks, a slice of a layer, and published ones."""

import numpy as np

from refimpl.kernels.layout import vnni4
from refimpl.models.vectors import draw, published
from refimpl.models.vectors.case import Operands

F32 = np.float32


def _shifts(m: int, k: int) -> np.ndarray:
    """Weight scales, powers of two: a product times one of them is exact, so that some codes lie on ties."""
    return F32(2.0) ** -(np.arange(m) % 3 + np.floor(np.log2(k * 40))).astype(F32)


def _with_scales(a: np.ndarray, w: np.ndarray, weight_scale: np.ndarray | None = None) -> dict[str, np.ndarray]:
    scale = _shifts(*w.shape) if weight_scale is None else weight_scale
    return {"a": a, "w": w, "input_scale": draw.scalar(1), "weight_scale": scale, "output_scale": draw.scalar(1)}


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
    return {"a": a, "w": w, "input_scale": draw.scalar(0.0213), "weight_scale": weight_scale,
            "output_scale": draw.scalar(0.0117)}  # fmt: skip


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


def s8s8() -> list[Operands]:
    """Of the products of s8 by s8."""
    lowest = np.full((2, 5), -128, np.int8)
    own = {
        "tails": ("tails of everything", draw.codes((7, 6), 70).view(np.int8), draw.weights((5, 6), 71)),
        "lowest": ("-128 on both sides", lowest, np.array([[-128] * 5, [127, 0, 1, -1, -127]], np.int8)),
        "long": (
            "a sum of weights beyond s16",
            draw.codes((1, 260), 74).view(np.int8),
            np.full((1, 260), 127, np.int8),
        ),
        "bert": ("a slice of a layer", draw.codes((3, 96), 72).view(np.int8), draw.weights((32, 96), 73)),
    }
    cases = [Operands(name, about, {"a": a, "w": w}) for name, (about, a, w) in own.items()]
    for name, (source, rows, columns) in published.S8S8.items():
        a, w = published.arrays(rows, columns, np.int8)
        cases.append(Operands(name, "what a CPU without VNNI is known to get wrong", {"a": a, "w": w}, source))
    return [case._replace(inputs=case.inputs | {"values": vnni4.pack(case.inputs["w"]).values}) for case in cases]
