"""Matrix product bf16 x bf16 -> f32 as a chain of ``vdpbf16ps``: the oracle of the kernels.

    acc[n, m] = +0
    for each pair p = 0, 1, ...:   acc[n, m] = fma(acc[n, m], a[n, 2 p + 1], w[m, 2 p + 1])
                                   acc[n, m] = fma(acc[n, m], a[n, 2 p],     w[m, 2 p])

Contract. The bits depend on the order, and this is the order: pairs of input channels ascending, the upper of each
pair first. Each fma rounds once to f32, to nearest, ties to even; subnormal operands and results are zeros; NaN as in
``refimpl.isa.bf16``. An odd K is padded with +0 in both operands. ``refimpl.bounds.gemm_bf16`` bounds the distance
from the exact product.

M output channels, N tokens, K input channels.
"""

import numpy as np

from refimpl import check
from refimpl.isa.bf16 import fma_daz_ftz, from_bf16


def gemm_bf16(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The product, to the bit.

    Parameters
    ----------
    a : u16 (N, K), bf16
    w : u16 (M, K), bf16

    Returns
    -------
    f32 (N, M)
    """
    check.dtype("a", a, np.uint16)
    check.dtype("w", w, np.uint16)
    check.shape("w", w, ("M", "K"))
    check.shape("a", a, ("N", w.shape[1]))
    odd = w.shape[1] % 2
    x_NK, w_MK = (from_bf16(np.pad(matrix, ((0, 0), (0, odd)))) for matrix in (a, w))
    acc = np.zeros((len(a), len(w)), np.float32)
    for pair in range(0, w_MK.shape[1], 2):
        for k in (pair + 1, pair):
            acc = fma_daz_ftz(acc, x_NK[:, k, None], w_MK[None, :, k])
    return acc
