"""Integer multiplication and addition."""

from llvmlite import ir

from refimpl import isa
from refimpl.kernels.simd.lowering import Instruction, llvm_intrinsic, on_registers
from refimpl.kernels.simd.registers import s8x64, s32x16, u8x64, vector


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
