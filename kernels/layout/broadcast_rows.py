"""Dense float weights for broadcasting: tiles of 6 output channels, one input channel of each side by side.

    w (M, K)            (ceil(M/6), K, 6)

                        tile m0:   k0 | m0 m1 m2 m3 m4 m5 |  k1 | m0 m1 m2 m3 m4 m5 |  ...

    values[m // 6, k, m % 6] = w[m, k]              rows from M on are 0

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
    padded = np.pad(w, ((0, -w.shape[0] % TILE), (0, 0)))
    return aligned.flat(padded.reshape(-1, TILE, w.shape[1]).swapaxes(1, 2))
