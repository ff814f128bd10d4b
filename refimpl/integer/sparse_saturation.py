"""What the block-sparse 4x1 product would return on a CPU without VNNI: saturation of pairs of *surviving* columns.

    acc[n, m] = sum_(j even) clip(a[n, c_j] w[m, c_j] + a[n, c_j+1] w[m, c_j+1], -32768, 32767)

where c_0 < c_1 < ... are the input channels in which the block of m, the output channels 4 (m // 4) ... + 3, has a
nonzero weight; an odd number of them is padded with a zero. A dense product pairs the channels (0, 1), (2, 3), ...
whether they are zero or not, so on the same weights the two saturate different sums and are wrong in different places.

Contract. As ``refimpl.integer.gemm``: u8 x s8 -> s32, no s32 overflow, no rounding. The pairing follows from the
storage of four live columns to a dword (Intel Extension for Transformers, BSR 4x1) lowered to ``vpmaddubsw``; no engine
is known to ship such a kernel.
"""

import numpy as np

from refimpl import check
from refimpl.integer.gemm import gemm_u8s8s32_pair_saturating

ROWS = 4


def bsgemm_4x1_u8s8s32_pair_saturating(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The pair-saturating product with pairs taken from the live columns of each four output channels.

    Parameters
    ----------
    a : u8 (N, K)
    w : s8 (M, K), K <= MAX_K

    Returns
    -------
    s32 (N, M)

    Raises
    ------
    TypeError, ValueError
        For another dtype, shape or a K that is too large.

    Pruning moves 127 and 127 into one pair, which now saturates, or tears such a pair apart:

    >>> a = np.full((1, 4), 255, np.uint8)
    >>> for row in ([127, 0, 127, 0], [1, 0, 127, 127]):
    ...     w = np.array([row], np.int8)
    ...     print(gemm_u8s8s32_pair_saturating(a, w), bsgemm_4x1_u8s8s32_pair_saturating(a, w))
    [[64770]] [[32767]]
    [[33022]] [[65025]]
    """
    check.dtype("a", a, np.uint8)
    check.dtype("w", w, np.int8)
    check.shape("w", w, ("M", "K"))
    check.shape("a", a, ("N", w.shape[1]))
    acc = np.zeros((a.shape[0], w.shape[0]), np.int32)
    for row in range(0, w.shape[0], ROWS):
        block_row = w[row : row + ROWS]
        live = np.flatnonzero(block_row.any(0))
        acc[:, row : row + ROWS] = gemm_u8s8s32_pair_saturating(a[:, live], block_row[:, live])
    return acc
