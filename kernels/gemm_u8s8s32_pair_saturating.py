"""Dense INT8 product as CPUs without VNNI compute it, on any CPU: the saturating twin of ``gemm_u8s8s32``.

    acc[n, m] = sum_(k even) clip(a[n, k] w[m, k] + a[n, k+1] w[m, k+1], -32768, 32767)

Contract. Bits of ``refimpl.integer.gemm_u8s8s32_pair_saturating`` for every M, N, K; these are the bits of oneDNN (and
so OpenVINO) and of ONNX Runtime on AVX2 and on AVX-512 without VNNI.

Layout, tiles and call are those of the exact kernel; only the dot product differs: ``vpmaddubsw``, ``vpmaddwd`` by
ones, ``vpaddd`` for each ``vpdpbusd``. VNNI-4 puts the channels 4 i ... 4 i + 3 into a dword, so pairs are (k, k + 1).
"""

from refimpl.integer.gemm import gemm_u8s8s32_pair_saturating
from refimpl.kernels.gemm_u8s8s32 import GEMM
from refimpl.kernels.pairs import pair_dot
from refimpl.kernels.simd.exchange import exchange
from refimpl.kernels.simd.instructions.arithmetic import vpdpbusd

GEMM_PAIR_SATURATING = GEMM._replace(
    name="gemm_u8s8s32_pair_saturating",
    oracle=gemm_u8s8s32_pair_saturating,
    source=exchange(GEMM.source, {vpdpbusd: pair_dot}, "gemm_pair_saturating", __name__),
)
