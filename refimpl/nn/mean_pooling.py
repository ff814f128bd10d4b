"""Sentence embedding: the mean over unmasked tokens, then division by the Euclidean norm.

    mean_pool      y[b] = sum_t mask[b, t] x[b, t] / sum_t mask[b, t]
    l2_normalize   y[b] = x[b] / max(sqrt(sum_d x[b, d]^2), 1e-12)

Contract. The divisors are at least 1e-9 and 1e-12, so that nothing is divided by zero. Errors: ``bounds.mean_pool``,
``bounds.l2_normalize``. Source: Reimers, Gurevych, arXiv 1908.10084, section 3; constants of sentence-transformers.
"""

import numpy as np

from refimpl import check


def mean_pool(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """x: float (B, T, D), mask: integer or bool (B, T); returns float (B, D)."""
    check.dtype("x", x, *check.FLOATS)
    check.shape("x", x, ("B", "T", "D"))
    check.shape("mask", mask, x.shape[:2])
    weights = (mask != 0).astype(x.dtype)[..., None]
    return (x * weights).sum(1) / np.maximum(weights.sum(1), x.dtype.type(1e-9))


def l2_normalize(x: np.ndarray) -> np.ndarray:
    """x: float (B, D); returns float (B, D), each row of length 1."""
    check.dtype("x", x, *check.FLOATS)
    norm = np.sqrt((x * x).sum(-1, keepdims=True))
    return x / np.maximum(norm, x.dtype.type(1e-12))


def mean_pool_backward(dy: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """dy: float (B, D) -> dx (B, T, D): each token's share."""
    weights = (mask != 0).astype(dy.dtype)[..., None]
    return dy[:, None] * (weights / np.maximum(weights.sum(1, keepdims=True), dy.dtype.type(1e-9)))


def l2_normalize_backward(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dy, x: float (B, D) -> dx = (dy - y (y . dy)) / norm; dy / 1e-12 for a row shorter than that."""
    norm = np.sqrt((x * x).sum(-1, keepdims=True))
    least = dy.dtype.type(1e-12)
    y = np.where(norm > least, x / np.maximum(norm, least), 0)
    return (dy - y * (y * dy).sum(-1, keepdims=True)) / np.maximum(norm, least)
