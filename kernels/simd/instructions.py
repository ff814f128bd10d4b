"""The instruction set that kernels are written in: each instruction declared once.

The meaning is in ``refimpl.integer.isa``; here stand the portable LLVM form and the native one with the CPU feature
that it needs. Interleaves, loads and stores need no native form: LLVM selects ``vpunpcklbw``, ``vmovdqu8`` ... for the
portable one.
"""

from llvmlite import ir
from numba import types

from refimpl.integer import isa
from refimpl.kernels.simd.lowering import Instruction, is_flat, llvm_intrinsic, on_registers, pointer, shuffle
from refimpl.kernels.simd.registers import s8x64, s32x16, u8x64, vector

BYTES = {types.uint8: u8x64, types.int8: s8x64}


# --- arithmetic ------------------------------------------------------------------------------------------------------


def _dot_quads(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """vpdpbusd on 16-bit lanes: products of the even and the odd bytes fit s16; widen each half and add all four."""

    def constant(bits: int, value: int) -> ir.Constant:
        return ir.Constant(vector(bits, 512 // bits), [value] * (512 // bits))

    words = vector(16, 32)
    a, b = builder.bitcast(a, words), builder.bitcast(b, words)
    a_even, a_odd = builder.and_(a, constant(16, 255)), builder.lshr(a, constant(16, 8))
    b_even, b_odd = builder.ashr(builder.shl(b, constant(16, 8)), constant(16, 8)), builder.ashr(b, constant(16, 8))
    for products in (builder.mul(a_even, b_even), builder.mul(a_odd, b_odd)):
        pair = builder.bitcast(products, s32x16.llvm)
        low = builder.ashr(builder.shl(pair, constant(32, 16)), constant(32, 16))
        acc = builder.add(builder.add(acc, low), builder.ashr(pair, constant(32, 16)))
    return acc


_DOT = (s32x16, (s32x16, u8x64, s8x64))
vpdpbusd = Instruction(
    isa.vpdpbusd,
    arity=3,
    portable=on_registers(*_DOT, _dot_quads),
    native=llvm_intrinsic(*_DOT, "llvm.x86.avx512.vpdpbusd.512"),
    feature="avx512vnni",
)
zero_s32 = Instruction(
    isa.zero_s32, arity=0, portable=on_registers(s32x16, (), lambda builder: ir.Constant(s32x16.llvm, [0] * 16))
)


# --- interleaving ----------------------------------------------------------------------------------------------------


def _unpack(meaning, bits: int, high: bool) -> Instruction:
    """Interleave elements of ``bits`` bits from the low or high half of each 128-bit lane of two byte registers."""
    lane, total = 128 // bits, 512 // bits
    starts = [at + high * lane // 2 for at in range(0, total, lane)]
    indices = [i for start in starts for j in range(start, start + lane // 2) for i in (j, j + total)]

    def typing(a, b):
        build = lambda builder, x, y: shuffle(builder, x, y, bits, indices)  # noqa: E731
        return on_registers(a, (a, a), build)(a, b) if a in (u8x64, s8x64) else None

    return Instruction(meaning, arity=2, portable=typing)


vpunpcklbw = _unpack(isa.vpunpcklbw, 8, high=False)
vpunpckhbw = _unpack(isa.vpunpckhbw, 8, high=True)
vpunpcklwd = _unpack(isa.vpunpcklwd, 16, high=False)
vpunpckhwd = _unpack(isa.vpunpckhwd, 16, high=True)


# --- memory ----------------------------------------------------------------------------------------------------------


def _load(lanes_of: ir.Type, spread: list[int] | None):
    """Load ``lanes_of`` from array[at], unaligned; with ``spread``, shuffle its bytes into a 64-byte register."""

    def typing(array, at):
        if not is_flat(array, *BYTES):
            return None
        register = BYTES[array.dtype]

        def codegen(context, builder, signature, args):
            value = builder.load(pointer(context, builder, signature.args[0], *args, lanes_of))
            value.align = 1
            if spread is not None:
                value = builder.shuffle_vector(value, value, ir.Constant(vector(32, 64), spread))
            return value

        return register(array, types.intp), codegen

    return typing


vmovdqu8 = Instruction(isa.vmovdqu8, arity=2, portable=_load(vector(8, 64), None))
vpbroadcastd = Instruction(isa.vpbroadcastd, arity=2, portable=_load(vector(8, 4), [0, 1, 2, 3] * 16))


def _vmovdqu32(array, at, register):
    if not is_flat(array, types.int32) or register != s32x16:
        return None

    def codegen(context, builder, signature, args):
        stored = builder.store(args[2], pointer(context, builder, signature.args[0], *args[:2], s32x16.llvm))
        stored.align = 1
        return context.get_dummy_value()

    return types.void(array, types.intp, register), codegen


vmovdqu32 = Instruction(isa.vmovdqu32, arity=3, portable=_vmovdqu32)
