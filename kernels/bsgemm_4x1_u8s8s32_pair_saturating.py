"""Block-sparse INT8 product as a CPU without VNNI would compute it: the saturating twin of ``bsgemm_4x1_u8s8s32``.

    acc[n, m] = sum_(j even) clip(a[n, c_j] w[m, c_j] + a[n, c_j+1] w[m, c_j+1], -32768, 32767)

with c_0 < c_1 < ... the live columns of the block row of m. Contract. Bits of
``refimpl.integer.sparse_saturation.bsgemm_4x1_u8s8s32_pair_saturating`` for every M, N, K and every pattern of zeros.

A dword holds four *stored* columns, so the saturating pairs are (c_0, c_1), (c_2, c_3) of each group, not the
neighbours (0, 1), (2, 3) of the dense twin. On the same weights the two are wrong in different places:

    a = 255 255 255 255       w = 127   0  127   0        w =   1   0  127 127
    dense pairs                  (127   0)(127   0)            (  1   0)(127 127)
                                  32385 +  32385 = 64770          255 + *32767 = 33022
    sparse pairs                 (127 127)                     (  1 127)(127   .)
                                 *32767          = 32767         32640 +  32385 = 65025
    exact                                          64770                          65025

Hence a model pruned in blocks needs its own emulation: what the dense product does to it on an old CPU says nothing
about the sparse one.
"""

from refimpl.integer.sparse_saturation import bsgemm_4x1_u8s8s32_pair_saturating
from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.kernels.pairs import pair_dot
from refimpl.kernels.simd.exchange import exchange
from refimpl.kernels.simd.instructions.arithmetic import vpdpbusd

BSGEMM_4X1_PAIR_SATURATING = BSGEMM_4X1._replace(
    name="bsgemm_4x1_u8s8s32_pair_saturating",
    oracle=bsgemm_4x1_u8s8s32_pair_saturating,
    source=exchange(BSGEMM_4X1.source, {vpdpbusd: pair_dot}, "bsgemm_4x1_pair_saturating", __name__),
)
