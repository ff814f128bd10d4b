"""Numbers that look random and are the same for ever: from the raw words of PCG64, which NumPy promises to keep.

``numpy.random.Generator`` promises no such thing for its distributions.
"""

import math

import numpy as np


def words(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """u64."""
    return np.random.PCG64(seed).random_raw(math.prod(shape)).reshape(shape)


def integers(low: int, high: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """s64, low ... high, both included."""
    return (words(shape, seed) >> np.uint64(32)).astype(np.int64) % (high - low + 1) + low


def codes(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """u8, 0 ... 255."""
    return integers(0, 255, shape, seed).astype(np.uint8)


def weights(shape: tuple[int, ...], seed: int, density: float = 1.0) -> np.ndarray:
    """s8, -127 ... 127; each is 0 with the probability 1 - density."""
    alive = (words(shape, seed + 1) >> np.uint64(11)) < np.uint64(density * 2**53)
    return (integers(-127, 127, shape, seed) * alive).astype(np.int8)


def bell(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """f32 of mean 0 and variance 1, nearly normal: twelve numbers of 0 ... 1, added, minus 6."""
    uniform = (words((*shape, 12), seed) >> np.uint64(40)).astype(np.float64) / 2**24
    return (uniform.sum(-1) - 6).astype(np.float32)


def scalar(x: float) -> np.ndarray:
    """f32 ()."""
    return np.array(x, np.float32)
