"""The dot product of CPUs without VNNI: the one difference between an exact kernel and its saturating twin."""

from refimpl.kernels.simd.instructions.arithmetic import ones_s16, vpaddd, vpmaddubsw, vpmaddwd
from refimpl.kernels.simd.threefold import part


@part
def pair_dot(acc, x, w):
    """In place of ``vpdpbusd``: products of u8 and s8, pair sums saturated to s16, then exact s32 sums.

    On a CPU that has VNNI, LLVM may merge the last two instructions into ``vpdpwssd``: the same bits.
    """
    return vpaddd(acc, vpmaddwd(vpmaddubsw(x, w), ones_s16()))
