"""Interleaving: bytes or words of two registers taken in turns, inside each 128-bit lane.

Contract. Moves bits; no arithmetic.
"""

import numpy as np

from refimpl import check

LANE_BYTES = 16


def _unpack(a: np.ndarray, b: np.ndarray, item: int, high: bool) -> np.ndarray:
    """Interleave the low or high halves of each 128-bit lane, ``item`` bytes at a time."""
    check.same_dtype("b", b, a)
    half = LANE_BYTES // 2
    lanes = [r.view(np.uint8).reshape(-1, LANE_BYTES)[:, half * high : half * (high + 1)] for r in (a, b)]
    pairs = np.stack([lane.reshape(-1, half // item, item) for lane in lanes], axis=2)
    return pairs.reshape(-1).view(a.dtype)


def vpunpcklbw(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bytes a0 b0 a1 b1 ... a7 b7 of each 128-bit lane."""
    return _unpack(a, b, 1, False)


def vpunpckhbw(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bytes a8 b8 a9 b9 ... a15 b15 of each 128-bit lane."""
    return _unpack(a, b, 1, True)


def vpunpcklwd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """16-bit words a0 b0 ... a3 b3 of each 128-bit lane."""
    return _unpack(a, b, 2, False)


def vpunpckhwd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """16-bit words a4 b4 ... a7 b7 of each 128-bit lane."""
    return _unpack(a, b, 2, True)


def vpord(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bitwise or."""
    check.same_dtype("b", b, a)
    return a | b


def vpxord(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bitwise exclusive or."""
    check.same_dtype("b", b, a)
    return a ^ b
