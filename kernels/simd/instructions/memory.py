"""Loads and stores, of any alignment."""

from llvmlite import ir
from numba import types

from refimpl import isa
from refimpl.kernels.simd.lowering import Instruction, is_flat, pointer
from refimpl.kernels.simd.registers import Register, s8x64, s32x16, u8x64, vector


def load(*registers: Register, loaded: ir.Type | None = None, spread: list[int] | None = None):
    """Typing of a load: the register whose dtype is the array's. ``spread`` repeats a short ``loaded`` vector."""

    def typing(array, at):
        register = next((r for r in registers if is_flat(array, r)), None)
        if register is None:
            return None

        def codegen(context, builder, signature, args):
            value = builder.load(pointer(context, builder, signature.args[0], *args, loaded or register.llvm))
            value.align = 1
            if spread is not None:
                value = builder.shuffle_vector(value, value, ir.Constant(vector(32, len(spread)), spread))
            return value

        return register(array, types.intp), codegen

    return typing


def store(*registers: Register):
    """Typing of a store of one of the registers to an array of its dtype."""

    def typing(array, at, register):
        if register not in registers or not is_flat(array, register):
            return None

        def codegen(context, builder, signature, args):
            stored = builder.store(args[2], pointer(context, builder, signature.args[0], *args[:2], register.llvm))
            stored.align = 1
            return context.get_dummy_value()

        return types.void(array, types.intp, register), codegen

    return typing


vmovdqu8_load = Instruction(isa.vmovdqu8_load, arity=2, portable=load(u8x64, s8x64))
vmovdqu8_store = Instruction(isa.vmovdqu8_store, arity=3, portable=store(u8x64, s8x64))
vpbroadcastd = Instruction(
    isa.vpbroadcastd, arity=2, portable=load(u8x64, s8x64, loaded=vector(8, 4), spread=[0, 1, 2, 3] * 16)
)
vmovdqu32_load = Instruction(isa.vmovdqu32_load, arity=2, portable=load(s32x16))
vmovdqu32_store = Instruction(isa.vmovdqu32_store, arity=3, portable=store(s32x16))
