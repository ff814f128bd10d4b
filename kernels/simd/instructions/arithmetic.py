"""Integer multiplication and addition."""

from llvmlite import ir
from numba.core import cgutils

from refimpl import isa
from refimpl.kernels.simd.lowering import Instruction, llvm_intrinsic, on_registers
from refimpl.kernels.simd.registers import s8x64, s16x32, s32x16, u8x64, vector


def _splat(bits: int, value: int) -> ir.Constant:
    return ir.Constant(vector(bits, 512 // bits), [value] * (512 // bits))


def _words(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> tuple[tuple[ir.Value, ir.Value], ...]:
    """u8 a and s8 b -> the even bytes of both and the odd ones, each widened to 32 words; their products fit s16."""
    a, b = builder.bitcast(a, s16x32.llvm), builder.bitcast(b, s16x32.llvm)
    a_even, a_odd = builder.and_(a, _splat(16, 255)), builder.lshr(a, _splat(16, 8))
    b_even, b_odd = builder.ashr(builder.shl(b, _splat(16, 8)), _splat(16, 8)), builder.ashr(b, _splat(16, 8))
    return (a_even, b_even), (a_odd, b_odd)


def _dot_pairs(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """vpmaddwd. In this form LLVM finds the narrower instructions of that name: SSE2 has one, AVX2 another."""
    wide = vector(32, 32)
    products = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
    even, odd = (
        builder.shuffle_vector(products, products, ir.Constant(s32x16.llvm, list(range(first, 32, 2))))
        for first in (0, 1)
    )
    return builder.add(even, odd)


def _dot_quads(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """vpdpbusd: pairs of even bytes and pairs of odd ones, by vpmaddwd, which is exact."""
    for words in _words(builder, a, b):
        acc = builder.add(acc, _dot_pairs(builder, *words))
    return acc


def _saturating_pairs(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """vpmaddubsw: LLVM has a saturating addition."""
    even, odd = (builder.mul(*words) for words in _words(builder, a, b))
    add = ir.FunctionType(s16x32.llvm, [s16x32.llvm] * 2)
    return builder.call(cgutils.get_or_insert_function(builder.module, add, "llvm.sadd.sat.v32i16"), [even, odd])


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
