"""Loads and stores, of any alignment."""

from llvmlite import ir
from numba import types
from numba.core import cgutils

from refimpl import isa
from refimpl.kernels.simd.lowering import Instruction, call_llvm, is_flat, pointer
from refimpl.kernels.simd.registers import Register, s8x64, s32x16, u8x64, vector


def load(*registers: Register, loaded: ir.Type | None = None, spread: list[int] | None = None):
    """Typing of a load: the register whose dtype is the array's. ``spread`` says which elements of a short ``loaded``
    vector stand where; one beyond its end is 0."""

    def typing(array, at):
        register = next((r for r in registers if is_flat(array, r)), None)
        if register is None:
            return None

        def codegen(context, builder, signature, args):
            value = builder.load(pointer(context, builder, signature.args[0], *args, loaded or register.llvm))
            value.align = 1
            if spread is not None:
                zeros = ir.Constant(value.type, [0] * value.type.count)
                value = builder.shuffle_vector(value, zeros, ir.Constant(vector(32, len(spread)), spread))
            return value

        return register(array, types.intp), codegen

    return typing


def store(*registers: Register, stored: ir.VectorType | None = None):
    """Typing of a store of one of the registers to an array of its dtype; of its first elements, if ``stored`` is
    shorter."""

    def typing(array, at, register):
        if register not in registers or not is_flat(array, register):
            return None

        def codegen(context, builder, signature, args):
            value, kind = args[2], stored or register.llvm
            if stored is not None:
                value = builder.shuffle_vector(
                    value, value, ir.Constant(vector(32, kind.count), list(range(kind.count)))
                )
            builder.store(value, pointer(context, builder, signature.args[0], *args[:2], kind)).align = 1
            return context.get_dummy_value()

        return types.void(array, types.intp, register), codegen

    return typing


def _prefetch(array, at):
    """Typing of llvm.prefetch: to read, into every level of the cache."""
    if not isinstance(array, types.Array) or (array.ndim, array.layout) != (1, "C"):
        return None

    def codegen(context, builder, signature, args):
        word = ir.IntType(32)
        address = pointer(context, builder, signature.args[0], *args, ir.IntType(8))
        function = ir.FunctionType(ir.VoidType(), [address.type, word, word, word])
        prefetch = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
        builder.call(prefetch, [address, word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


def _insert(register, array, at):
    """Typing of a load into the upper half."""
    if register not in (u8x64, s8x64) or not is_flat(array, register):
        return None

    def codegen(context, builder, signature, args):
        half = builder.load(pointer(context, builder, signature.args[1], *args[1:], vector(8, 32)))
        half.align = 1
        whole = builder.shuffle_vector(half, half, ir.Constant(vector(32, 64), 2 * list(range(32))))
        return builder.shuffle_vector(args[0], whole, ir.Constant(vector(32, 64), [*range(32), *range(96, 128)]))

    return register(register, array, types.intp), codegen


def _store_masked(array, at, register, mask):
    """Typing of llvm.masked.store, which touches no byte whose bit is clear."""
    if register not in (u8x64, s8x64) or not is_flat(array, register) or mask != types.uint64:
        return None

    def codegen(context, builder, signature, args):
        address = pointer(context, builder, signature.args[0], *args[:2], register.llvm)
        bits = builder.bitcast(args[3], vector(1, 64))
        operands = [args[2], address, ir.Constant(ir.IntType(32), 1), bits]
        call_llvm(builder, ir.VoidType(), "llvm.masked.store.v64i8.p0", operands)
        return context.get_dummy_value()

    return types.void(array, types.intp, register, types.uint64), codegen


vmovdqu8_load = Instruction(isa.vmovdqu8_load, arity=2, portable=load(u8x64, s8x64))
vmovdqu8_store = Instruction(isa.vmovdqu8_store, arity=3, portable=store(u8x64, s8x64))
vpbroadcastd = Instruction(
    isa.vpbroadcastd, arity=2, portable=load(u8x64, s8x64, loaded=vector(8, 4), spread=[0, 1, 2, 3] * 16)
)
vmovdqu8_load_low = Instruction(
    isa.vmovdqu8_load_low,
    arity=2,
    portable=load(u8x64, s8x64, loaded=vector(8, 32), spread=[*range(32), *[32] * 32]),
)
vmovdqu8_store_low = Instruction(isa.vmovdqu8_store_low, arity=3, portable=store(u8x64, s8x64, stored=vector(8, 32)))
vmovdqu8_store_masked = Instruction(isa.vmovdqu8_store_masked, arity=4, portable=_store_masked)
vinserti64x4 = Instruction(isa.vinserti64x4, arity=3, portable=_insert)
vmovdqu32_load = Instruction(isa.vmovdqu32_load, arity=2, portable=load(s32x16))
vmovdqu32_store = Instruction(isa.vmovdqu32_store, arity=3, portable=store(s32x16))
prefetcht0 = Instruction(isa.prefetcht0, arity=2, portable=_prefetch)
