"""Blocks of a weight matrix and their scores.

A block is ``rows`` output channels by ``columns`` input channels of a weight (M, K) in torch's order. The pattern that
the literature calls 4x1 (Intel Neural Compressor) or 1x4 (on the transposed ONNX initializer) is rows=4, columns=1:
four consecutive OUTPUT channels share one input channel. A block of one axis, ``(rows,)``, divides a vector such as a
bias.

Score of a block: a reduction of its elements' scores, computed in f64. The paper and the Model Compression Research
Package take the mean of |w| (``block_scores``), or the maximum; Intel Neural Compressor v2.5 (patterns/base.py,
criterion_reduce_type) the mean, the sum or the maximum of any criterion. Mean and sum rank blocks of one layer alike,
but not layers with blocks of different sizes against each other. Source: Fast DistilBERT on CPUs, appendix A.1.
"""

import numpy as np

from refimpl import check

BLOCK_4X1 = (4, 1)


def block_count(w: np.ndarray, block: tuple[int, ...]) -> tuple[int, ...]:
    """How many blocks w has along each axis, (M, K) -> (m, k). Raises ValueError if they do not divide it."""
    return _grid(w, block).shape[::2]


def _grid(w: np.ndarray, block: tuple[int, ...]) -> np.ndarray:
    """View (M, K) as (M / rows, rows, K / columns, columns), (M,) as (M / rows, rows)."""
    check.shape("w", w, ("M", "K")[: len(block)])
    if any(size % part for size, part in zip(w.shape, block, strict=True)):
        raise ValueError(f"w has shape {w.shape}; need multiples of the block {'x'.join(map(str, block))}")
    return w.reshape([n for size, part in zip(w.shape, block, strict=True) for n in (size // part, part)])


def _inner(block: tuple[int, ...]) -> tuple[int, ...]:
    """The axes within a block of what ``_grid`` returns."""
    return tuple(range(1, 2 * len(block), 2))


def block_mean(scores: np.ndarray, block: tuple[int, ...] = BLOCK_4X1) -> np.ndarray:
    """The mean of each block, float (M, K) -> f64 (M / rows, K / columns)."""
    return _floats(scores, block).mean(_inner(block))


def block_sum(scores: np.ndarray, block: tuple[int, ...] = BLOCK_4X1) -> np.ndarray:
    """The sum of each block, float (M, K) -> f64 (M / rows, K / columns)."""
    return _floats(scores, block).sum(_inner(block))


def block_max(scores: np.ndarray, block: tuple[int, ...] = BLOCK_4X1) -> np.ndarray:
    """The maximum of each block, float (M, K) -> f64 (M / rows, K / columns)."""
    return _floats(scores, block).max(_inner(block))


def block_total(w: np.ndarray, block: tuple[int, ...]) -> np.ndarray:
    """The sum of each block in the dtype of w, in any order. (M, K) -> (m, k)."""
    return _grid(w, block).sum(_inner(block), dtype=w.dtype)


def _floats(w: np.ndarray, block: tuple[int, ...]) -> np.ndarray:
    check.dtype("w", w, *check.FLOATS)
    check.finite("w", w)
    return _grid(w, block).astype(np.float64)


def block_scores(w: np.ndarray, block: tuple[int, ...] = BLOCK_4X1) -> np.ndarray:
    """Mean magnitude of each block. w: float (M, K) -> f64 (M / rows, K / columns).

    >>> block_scores(np.array([[1.0], [-1.0], [2.0], [0.0]]))
    array([[1.]])
    """
    check.dtype("w", w, *check.FLOATS)
    return block_mean(np.abs(w), block)


def expand(mask: np.ndarray, block: tuple[int, ...] = BLOCK_4X1) -> np.ndarray:
    """A mask of blocks, bool or float (m, k) -> the mask of elements, (m * rows, k * columns)."""
    check.dtype("mask", mask, np.bool_, *check.FLOATS)
    for axis, size in enumerate(block):
        mask = mask.repeat(size, axis)
    return mask


def live_blocks(w: np.ndarray, block: tuple[int, ...] = BLOCK_4X1) -> np.ndarray:
    """Which blocks hold any nonzero element. w: any dtype (M, K) -> bool (M / rows, K / columns)."""
    return (_grid(w, block) != 0).any(_inner(block))
