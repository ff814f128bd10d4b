"""Conversion between s32 and f32, and narrowing to bytes."""

from llvmlite import ir
from numba import types

from refimpl.isa import convert as meaning
from refimpl.kernels.simd.lowering import (
    Instruction,
    call_llvm,
    is_flat,
    llvm_intrinsic,
    mask_first,
    on_registers,
    pointer,
    splat,
)
from refimpl.kernels.simd.registers import Register, f32x16, s16x32, s32x16, u8x64, vector

LOWEST = -(2.0**31)


def _round_to_s32(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    """LLVM's own conversion truncates and is undefined outside s32, so round and clear the way first."""
    lowest, beyond = (ir.Constant(f32x16.llvm, [limit] * 16) for limit in (LOWEST, -LOWEST))
    rounded = call_llvm(builder, f32x16.llvm, "llvm.nearbyint.v16f32", [a])
    inside = builder.and_(builder.fcmp_ordered(">=", rounded, lowest), builder.fcmp_ordered("<", rounded, beyond))
    return builder.fptosi(builder.select(inside, rounded, lowest), s32x16.llvm)


def _convert_to_s32(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    """The instruction under a full mask, rounding as the CPU is set (4): to nearest even."""
    short, word = ir.IntType(16), ir.IntType(32)
    operands = [a, ir.Constant(s32x16.llvm, [0] * 16), ir.Constant(short, -1), ir.Constant(word, 4)]
    return call_llvm(builder, s32x16.llvm, "llvm.x86.avx512.mask.cvtps2dq.512", operands)


def _pack(result: Register, operand: Register, low: int, high: int):
    """Typing of a pack: saturate two registers to low ... high, take turns by 128-bit lanes, keep the low halves."""
    bits = 512 // operand.lanes
    lane = 128 // bits
    order = [
        i + j for start in range(0, operand.lanes, lane) for j in (0, operand.lanes) for i in range(start, start + lane)
    ]

    def saturate(builder, value):
        for comparison, limit in ((">", low), ("<", high)):
            bound = ir.Constant(operand.llvm, [limit] * operand.lanes)
            value = builder.select(builder.icmp_signed(comparison, value, bound), value, bound)
        return value

    def build(builder, a, b):
        indices = ir.Constant(vector(32, result.lanes), order)
        joined = builder.shuffle_vector(saturate(builder, a), saturate(builder, b), indices)
        return builder.trunc(joined, result.llvm)

    return on_registers(result, (operand, operand), build)


def _store_bytes_first(array, at, register, count):
    if register != s32x16 or not is_flat(array, u8x64):
        return None

    def codegen(context, builder, signature, args):
        bytes_ = vector(8, 16)
        address = pointer(context, builder, signature.args[0], *args[:2], bytes_)
        most = ir.Constant(s32x16.llvm, [255] * 16)
        clipped = builder.select(builder.icmp_unsigned("<", args[2], most), args[2], most)
        operands = [
            builder.trunc(clipped, bytes_),
            address,
            ir.Constant(ir.IntType(32), 1),
            mask_first(builder, args[3]),
        ]
        call_llvm(builder, ir.VoidType(), "llvm.masked.store.v16i8.p0", operands)
        return context.get_dummy_value()

    return types.void(array, types.intp, register, types.intp), codegen


broadcast_s32 = Instruction(
    meaning.broadcast_s32, arity=1, portable=on_registers(s32x16, (types.int32,), lambda b, value: splat(b, value))
)
vcvtdq2ps = Instruction(
    meaning.vcvtdq2ps,
    arity=1,
    portable=on_registers(f32x16, (s32x16,), lambda builder, a: builder.sitofp(a, f32x16.llvm)),
)
vcvtps2dq = Instruction(
    meaning.vcvtps2dq,
    arity=1,
    portable=on_registers(s32x16, (f32x16,), _round_to_s32),
    native=on_registers(s32x16, (f32x16,), _convert_to_s32),
    feature="avx512f",
)
vpackssdw = Instruction(
    meaning.vpackssdw,
    arity=2,
    portable=_pack(s16x32, s32x16, -(2**15), 2**15 - 1),
    native=llvm_intrinsic(s16x32, (s32x16, s32x16), "llvm.x86.avx512.packssdw.512"),
    feature="avx512bw",
)
vpackuswb = Instruction(
    meaning.vpackuswb,
    arity=2,
    portable=_pack(u8x64, s16x32, 0, 255),
    native=llvm_intrinsic(u8x64, (s16x32, s16x32), "llvm.x86.avx512.packuswb.512"),
    feature="avx512bw",
)
vpacksswb = Instruction(
    meaning.vpacksswb,
    arity=2,
    portable=_pack(u8x64, s16x32, -128, 127),
    native=llvm_intrinsic(u8x64, (s16x32, s16x32), "llvm.x86.avx512.packsswb.512"),
    feature="avx512bw",
)
vpmovusdb_store_first = Instruction(meaning.vpmovusdb_store_first, arity=4, portable=_store_bytes_first)
