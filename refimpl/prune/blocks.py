"""Blocks of a weight matrix and their scores.

A block is ``rows`` output channels by ``columns`` input channels of a weight (M, K) in torch's order. The pattern that
the literature calls 4x1 (Intel Neural Compressor) or 1x4 (on the transposed ONNX initializer) is rows=4, columns=1:
four consecutive OUTPUT channels share one input channel.

Score of a block: the mean of |w| over its elements, computed in f64. Source: Fast DistilBERT on CPUs, appendix A.1.
"""

import numpy as np

from refimpl import check

BLOCK_4X1 = (4, 1)


def _grid(w: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """View (M, K) as (M / rows, rows, K / columns, columns)."""
    check.shape("w", w, ("M", "K"))
    rows, columns = block
    if w.shape[0] % rows or w.shape[1] % columns:
        raise ValueError(f"w has shape {w.shape}; need multiples of the block {rows}x{columns}")
    return w.reshape(w.shape[0] // rows, rows, w.shape[1] // columns, columns)


def block_scores(w: np.ndarray, block: tuple[int, int] = BLOCK_4X1) -> np.ndarray:
    """Mean magnitude of each block. w: float (M, K) -> f64 (M / rows, K / columns).

    >>> block_scores(np.array([[1.0], [-1.0], [2.0], [0.0]]))
    array([[1.]])
    """
    check.dtype("w", w, *check.FLOATS)
    check.finite("w", w)
    return np.abs(_grid(w, block).astype(np.float64)).mean((1, 3))


def expand(mask: np.ndarray, block: tuple[int, int] = BLOCK_4X1) -> np.ndarray:
    """A mask of blocks, bool (m, k) -> the mask of elements, bool (m * rows, k * columns)."""
    check.dtype("mask", mask, np.bool_)
    return mask.repeat(block[0], 0).repeat(block[1], 1)


def live_blocks(w: np.ndarray, block: tuple[int, int] = BLOCK_4X1) -> np.ndarray:
    """Which blocks hold any nonzero element. w: any dtype (M, K) -> bool (M / rows, K / columns)."""
    return (_grid(w, block) != 0).any((1, 3))
