"""Expansion of compacted bytes by bit masks, which are u64 scalars.

LLVM scalarizes the portable form on CPUs without AVX-512 VBMI2: right everywhere, one branch a byte there.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils

from refimpl import isa
from refimpl.kernels.simd.lowering import Instruction, is_flat, pointer
from refimpl.kernels.simd.registers import s8x64, vector


def _load(array, at):
    """Typing of a scalar load without NumPy's meaning of negative indices, which would cost instructions."""
    if not (isinstance(array, types.Array) and (array.ndim, array.layout, array.dtype) == (1, "C", types.uint64)):
        return None

    def codegen(context, builder, signature, args):
        return builder.load(pointer(context, builder, signature.args[0], *args, ir.IntType(64)))

    return types.uint64(array, types.intp), codegen


def _expand(array, at, mask):
    """Typing of llvm.masked.expandload, which reads popcnt(mask) bytes and no more."""
    if not is_flat(array, s8x64) or mask != types.uint64:
        return None

    def codegen(context, builder, signature, args):
        address = pointer(context, builder, signature.args[0], *args[:2], ir.IntType(8))
        bits = builder.bitcast(args[2], vector(1, 64))
        load = ir.FunctionType(s8x64.llvm, [address.type, bits.type, s8x64.llvm])
        function = cgutils.get_or_insert_function(builder.module, load, "llvm.masked.expandload.v64i8")
        return builder.call(function, [address, bits, ir.Constant(s8x64.llvm, [0] * 64)])

    return s8x64(array, types.intp, types.uint64), codegen


def _count(mask):
    """Typing of llvm.ctpop on a u64; the result is an index."""

    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return (types.intp(types.uint64), codegen) if mask == types.uint64 else None


vpexpandb = Instruction(isa.vpexpandb, arity=3, portable=_expand, native=_expand, feature="avx512vbmi2")
kmovq_load = Instruction(isa.kmovq_load, arity=2, portable=_load)
popcnt = Instruction(isa.popcnt, arity=1, portable=_count)
