"""Dense float weights for broadcasting: tiles of 6 output channels, one input channel, or two of bf16, of each side by
side.

    w (M, K)            (ceil(M/6), K, 6)

                        tile m0:   k0 | m0 m1 m2 m3 m4 m5 |  k1 | m0 m1 m2 m3 m4 m5 |  ...

    values[m // 6, k, m % 6] = w[m, k]              rows from M on are +0

    with bf16:                 k0 k1 | m0 m0 m1 m1 ... m5 m5 |  k2 k3 | ...         values[m // 6, k // 2, m % 6, k % 2]

What ``vnni4_rows`` is for four input channels in a dword.
"""

import numpy as np

from refimpl import check
from refimpl.kernels.layout import aligned

TILE = 6


def pack(w: np.ndarray) -> np.ndarray:
    """f32 (M, K) -> f32 (ceil(M/6) * K * 6,)."""
    check.dtype("w", w, np.float32)
    check.shape("w", w, ("M", "K"))
    return _pack(w, 1)


def pack_pairs(w: np.ndarray) -> np.ndarray:
    """u16 (M, K), bf16, K even -> u16 (ceil(M/6) * K * 6,)."""
    check.dtype("w", w, np.uint16)
    check.shape("w", w, ("M", "K"))
    if w.shape[1] % 2:
        raise ValueError(f"w has shape {w.shape}; need an even number of input channels")
    return _pack(w, 2)


def _pack(w: np.ndarray, group: int) -> np.ndarray:
    padded = np.pad(w, ((0, -w.shape[0] % TILE), (0, 0)))
    return aligned.flat(padded.reshape(-1, TILE, w.shape[1] // group, group).swapaxes(1, 2))
