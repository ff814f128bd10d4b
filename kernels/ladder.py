"""Ladders: the kernels of one product in the order of speed, each with what it does better than the one before.

    dense       gemm_u8s8s32_loops -> gemm_u8s8s32
    sparse 4x1  gemm_u8s8s32 -> bsgemm_4x1_u8s8s32 -> bsgemm_4x1_shared_u8s8s32 (from 64 tokens on)
                                                   -> bsgemm_4x1_half_u8s8s32 or bsgemm_4x1_shared32_u8s8s32 (to 32)

The last steps depend on the CPU: sharing pays where the units of vpdpbusd also interleave (Intel's), and costs where
they do not (AMD's Zen 5). Every rung gives the bits of its kernel's oracle. The first rung of the sparse ladder
multiplies the zeros too.
"""

import sys
from typing import NamedTuple

from refimpl.kernels.bsgemm_4x1_half_u8s8s32 import BSGEMM_4X1_HALF
from refimpl.kernels.bsgemm_4x1_shared32_u8s8s32 import BSGEMM_4X1_SHARED32
from refimpl.kernels.bsgemm_4x1_shared_u8s8s32 import BSGEMM_4X1_SHARED
from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.kernels.gemm_u8s8s32 import GEMM
from refimpl.kernels.gemm_u8s8s32_loops import GEMM_LOOPS
from refimpl.kernels.record import Kernel


class Rung(NamedTuple):
    """kernel: of the catalog; why: one sentence, why it is faster than the rung before; fewest, most: the numbers of
    tokens that it is meant for. It is right for any number."""

    kernel: Kernel
    why: str
    fewest: int = 1
    most: int = sys.maxsize

    def is_for(self, tokens: int) -> bool:
        """Whether it is meant for so many tokens."""
        return self.fewest <= tokens <= self.most


DENSE = (
    Rung(GEMM_LOOPS, "The first: three loops, one product at a time as far as the source says."),
    Rung(GEMM, "One vpdpbusd makes 64 products, and a tile of 24 accumulators uses each loaded register 4 or 6 times."),
)

SPARSE_4X1 = (
    Rung(GEMM, "The first: the dense kernel, for which a pruned weight costs as much as any other."),
    Rung(BSGEMM_4X1, "Only live blocks are stored and multiplied, and 4 rows share the activations of a block."),
    Rung(
        BSGEMM_4X1_SHARED,
        "Columns that several block rows of a slab have are interleaved once, which frees the units of vpdpbusd.",
        fewest=64,
    ),
    Rung(
        BSGEMM_4X1_HALF,
        "A panel of 32 tokens spares a short text the products with 32 tokens of padding.",
        most=32,
    ),
    Rung(
        BSGEMM_4X1_SHARED32,
        "The same from bytes that are spread to words beforehand, with interleaved columns shared in a slab.",
        most=32,
    ),
)

LADDERS = {"dense": DENSE, "4x1": SPARSE_4X1}
