"""Integer multiplication and addition."""

from llvmlite import ir
from numba.core import cgutils

from refimpl import isa
from refimpl.kernels.simd.lowering import Instruction, llvm_intrinsic, on_registers
from refimpl.kernels.simd.registers import s8x64, s16x32, s32x16, u8x64, vector


def _splat(bits: int, value: int) -> ir.Constant:
    return ir.Constant(vector(bits, 512 // bits), [value] * (512 // bits))


def _byte_products(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> tuple[ir.Value, ir.Value]:
    """u8 times s8, which fits s16: the products of the even bytes and those of the odd ones, 32 words each."""
    a, b = builder.bitcast(a, s16x32.llvm), builder.bitcast(b, s16x32.llvm)
    a_even, a_odd = builder.and_(a, _splat(16, 255)), builder.lshr(a, _splat(16, 8))
    b_even, b_odd = builder.ashr(builder.shl(b, _splat(16, 8)), _splat(16, 8)), builder.ashr(b, _splat(16, 8))
    return builder.mul(a_even, b_even), builder.mul(a_odd, b_odd)


def _words(builder: ir.IRBuilder, a: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The even words and the odd ones, widened to 16 dwords each."""
    a = builder.bitcast(a, s32x16.llvm)
    return builder.ashr(builder.shl(a, _splat(32, 16)), _splat(32, 16)), builder.ashr(a, _splat(32, 16))


def _dot_quads(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """vpdpbusd: the products of all four bytes, added."""
    for products in _byte_products(builder, a, b):
        for words in _words(builder, products):
            acc = builder.add(acc, words)
    return acc


def _saturating_pairs(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """vpmaddubsw: LLVM has a saturating addition."""
    even, odd = _byte_products(builder, a, b)
    add = ir.FunctionType(s16x32.llvm, [s16x32.llvm] * 2)
    return builder.call(cgutils.get_or_insert_function(builder.module, add, "llvm.sadd.sat.v32i16"), [even, odd])


def _dot_pairs(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """vpmaddwd."""
    (a_even, a_odd), (b_even, b_odd) = _words(builder, a), _words(builder, b)
    return builder.add(builder.mul(a_even, b_even), builder.mul(a_odd, b_odd))


_DOT = (s32x16, (s32x16, u8x64, s8x64))
vpdpbusd = Instruction(
    isa.vpdpbusd,
    arity=3,
    portable=on_registers(*_DOT, _dot_quads),
    native=llvm_intrinsic(*_DOT, "llvm.x86.avx512.vpdpbusd.512"),
    feature="avx512vnni",
)
zero_s32 = Instruction(isa.zero_s32, arity=0, portable=on_registers(s32x16, (), lambda builder: _splat(32, 0)))

_MADDUBS, _MADDW = (s16x32, (u8x64, s8x64)), (s32x16, (s16x32, s16x32))
vpmaddubsw = Instruction(
    isa.vpmaddubsw,
    arity=2,
    portable=on_registers(*_MADDUBS, _saturating_pairs),
    native=llvm_intrinsic(*_MADDUBS, "llvm.x86.avx512.pmaddubs.w.512"),
    feature="avx512bw",
)
vpmaddwd = Instruction(
    isa.vpmaddwd,
    arity=2,
    portable=on_registers(*_MADDW, _dot_pairs),
    native=llvm_intrinsic(*_MADDW, "llvm.x86.avx512.pmaddw.d.512"),
    feature="avx512bw",
)
vpaddd = Instruction(
    isa.vpaddd,
    arity=2,
    portable=on_registers(s32x16, (s32x16, s32x16), lambda builder, a, b: builder.add(a, b)),
)
vpsubd = Instruction(
    isa.vpsubd,
    arity=2,
    portable=on_registers(s32x16, (s32x16, s32x16), lambda builder, a, b: builder.sub(a, b)),
)
ones_s16 = Instruction(isa.ones_s16, arity=0, portable=on_registers(s16x32, (), lambda builder: _splat(16, 1)))
