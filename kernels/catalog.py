"""Every product kernel by its name."""

from refimpl.kernels.bsgemm_4x1_half_u8s8s32 import BSGEMM_4X1_HALF
from refimpl.kernels.bsgemm_4x1_shared32_u8s8s32 import BSGEMM_4X1_SHARED32
from refimpl.kernels.bsgemm_4x1_shared_u8s8s32 import BSGEMM_4X1_SHARED
from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.kernels.bsgemm_4x1_u8s8s32_pair_saturating import BSGEMM_4X1_PAIR_SATURATING
from refimpl.kernels.bsgemm_32x32_u8s8s32 import BSGEMM_32X32
from refimpl.kernels.gemm_bf16 import GEMM_BF16
from refimpl.kernels.gemm_u8s8s32 import GEMM
from refimpl.kernels.gemm_u8s8s32_amx import GEMM_AMX, EmulatedKernel
from refimpl.kernels.gemm_u8s8s32_loops import GEMM_LOOPS
from refimpl.kernels.gemm_u8s8s32_pair_saturating import GEMM_PAIR_SATURATING
from refimpl.kernels.record import Kernel
from refimpl.kernels.spgemm_bitmask_u8s8s32 import SPGEMM_BITMASK

KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        BSGEMM_4X1,
        BSGEMM_4X1_HALF,
        BSGEMM_4X1_SHARED,
        BSGEMM_4X1_SHARED32,
        BSGEMM_32X32,
        BSGEMM_4X1_PAIR_SATURATING,
        GEMM,
        GEMM_PAIR_SATURATING,
        SPGEMM_BITMASK,
    )
}
"""u8 x s8 -> s32, in three executions."""

OTHERS = {kernel.name: kernel for kernel in (GEMM_AMX, GEMM_BF16, GEMM_LOOPS)}
"""GEMM_AMX is emulated only; GEMM_BF16 is bf16 x bf16 -> f32; GEMM_LOOPS has no instruction to watch."""

WATCHED: dict[str, Kernel | EmulatedKernel] = {**KERNELS, GEMM_AMX.name: GEMM_AMX, GEMM_BF16.name: GEMM_BF16}
"""Those made of instructions."""
