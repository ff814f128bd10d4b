"""AVX-512 BF16, and loads and stores of its operands.

The portable forms compute the same bits without a fused multiply-add: sums in f64 rounded to odd, as in
``refimpl.isa.bf16``. llvmlite has no bfloat; a type that prints the word is all that the intrinsics need.
"""

from llvmlite import ir

from refimpl.isa import bf16 as isa
from refimpl.kernels.simd.instructions.memory import load, store
from refimpl.kernels.simd.lowering import Instruction, call_llvm, on_registers
from refimpl.kernels.simd.registers import f32x16, u16x16, u16x32, vector

SIGN, EXPONENT, QUIET, INDEFINITE = 0x80000000, 0x7F800000, 0x00400000, 0xFFC00000
DWORDS, QWORDS, DOUBLES = vector(32, 16), vector(64, 16), ir.VectorType(ir.DoubleType(), 16)


class _Bfloat(ir.Type):
    """LLVM's bfloat."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bfloat)

    def __hash__(self) -> int:
        return hash(_Bfloat)


BF16X16, BF16X32 = (ir.VectorType(_Bfloat(), lanes) for lanes in (16, 32))


def _all(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _flush(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """Subnormal numbers become zeros of their sign."""
    small = builder.icmp_unsigned("==", builder.and_(bits, _all(DWORDS, EXPONENT)), _all(DWORDS, 0))
    return builder.select(small, builder.and_(bits, _all(DWORDS, SIGN)), bits)


def _sum_to_odd(builder: ir.IRBuilder, product: ir.Value, addend: ir.Value) -> ir.Value:
    """f64 product + addend, an inexact sum with its last bit 1."""
    total = builder.fadd(product, addend)
    back = builder.fsub(total, product)
    error = builder.fadd(builder.fsub(product, builder.fsub(total, back)), builder.fsub(addend, back))
    bits, zero = builder.bitcast(total, QWORDS), _all(DOUBLES, 0.0)
    inexact = builder.fcmp_ordered("!=", error, zero)  # false for a NaN, which an infinite total leaves
    even = builder.icmp_unsigned("==", builder.and_(bits, _all(QWORDS, 1)), _all(QWORDS, 0))
    signs = builder.fcmp_ordered(">", error, zero), builder.fcmp_ordered(">", total, zero)
    step = builder.select(builder.xor(*signs), _all(QWORDS, -1), _all(QWORDS, 1))  # neighbouring bits: away from 0
    moved = builder.select(builder.and_(inexact, even), builder.add(bits, step), bits)
    return builder.bitcast(moved, DOUBLES)


def _fma(builder: ir.IRBuilder, acc: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    """``fma_daz_ftz`` on the bits of f32."""
    operands = [_flush(builder, bits) for bits in (acc, y, x)]
    floats = [builder.bitcast(bits, f32x16.llvm) for bits in operands]
    wide = [builder.fpext(value, DOUBLES) for value in floats]
    total = _sum_to_odd(builder, builder.fmul(wide[2], wide[1]), wide[0])
    bits = builder.bitcast(builder.fptrunc(total, f32x16.llvm), DWORDS)
    size = builder.and_(builder.bitcast(total, QWORDS), _all(QWORDS, 2**63 - 1))
    tiny = builder.fcmp_ordered("<", builder.bitcast(size, DOUBLES), _all(DOUBLES, isa.FLUSHED_BELOW))
    bits = builder.select(tiny, builder.and_(bits, _all(DWORDS, SIGN)), bits)
    bits = builder.select(builder.fcmp_unordered("uno", total, total), _all(DWORDS, INDEFINITE), bits)
    for operand, value in zip(operands, floats, strict=True):
        nan = builder.fcmp_unordered("uno", value, value)
        bits = builder.select(nan, builder.or_(operand, _all(DWORDS, QUIET)), bits)
    return bits


def _dot_pairs(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """vdpbf16ps: the upper elements of the dwords, then the lower ones."""
    acc, a, b = (builder.bitcast(value, DWORDS) for value in (acc, a, b))
    upper, sixteen = _all(DWORDS, 0xFFFF0000), _all(DWORDS, 16)
    acc = _fma(builder, acc, builder.and_(a, upper), builder.and_(b, upper))
    acc = _fma(builder, acc, builder.shl(a, sixteen), builder.shl(b, sixteen))
    return builder.bitcast(acc, f32x16.llvm)


def _dot_pairs_native(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    operands = [acc, builder.bitcast(a, BF16X32), builder.bitcast(b, BF16X32)]
    return call_llvm(builder, f32x16.llvm, "llvm.x86.avx512bf16.dpbf16ps.512", operands)


def _convert(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """vcvtneps2bf16: half a unit less one and the last bit that stays, added to the bits."""
    bits = _flush(builder, builder.bitcast(x, DWORDS))
    last = builder.and_(builder.lshr(bits, _all(DWORDS, 16)), _all(DWORDS, 1))
    rounded = builder.add(bits, builder.add(last, _all(DWORDS, 0x7FFF)))
    nan = builder.fcmp_unordered("uno", x, x)
    rounded = builder.select(nan, builder.or_(bits, _all(DWORDS, QUIET)), rounded)
    return builder.trunc(builder.lshr(rounded, _all(DWORDS, 16)), u16x16.llvm)


def _convert_native(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return builder.bitcast(call_llvm(builder, BF16X16, "llvm.x86.avx512bf16.cvtneps2bf16.512", [x]), u16x16.llvm)


def _two(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """vcvtne2ps2bf16: b, then a."""
    halves = _convert(builder, b), _convert(builder, a)
    return builder.shuffle_vector(*halves, ir.Constant(vector(32, 32), list(range(32))))


def _two_native(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    words = call_llvm(builder, BF16X32, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", [a, b])
    return builder.bitcast(words, u16x32.llvm)


def _pick(builder: ir.IRBuilder, index: ir.Value, a: ir.Value) -> ir.Value:
    """vpermw, word by word; LLVM makes the instruction of it where there is one."""
    word, result = ir.IntType(32), ir.Constant(u16x32.llvm, [0] * 32)
    index = builder.and_(index, _all(u16x32.llvm, 31))
    for lane in range(32):
        at = builder.zext(builder.extract_element(index, ir.Constant(word, lane)), word)
        result = builder.insert_element(result, builder.extract_element(a, at), ir.Constant(word, lane))
    return result


_DOT = (f32x16, (f32x16, u16x32, u16x32))
vdpbf16ps = Instruction(
    isa.vdpbf16ps,
    arity=3,
    portable=on_registers(*_DOT, _dot_pairs),
    native=on_registers(*_DOT, _dot_pairs_native),
    feature="avx512bf16",
)
vcvtneps2bf16 = Instruction(
    isa.vcvtneps2bf16,
    arity=1,
    portable=on_registers(u16x16, (f32x16,), _convert),
    native=on_registers(u16x16, (f32x16,), _convert_native),
    feature="avx512bf16",
)
_TWO, _WORDS = (u16x32, (f32x16, f32x16)), (u16x32, (u16x32, u16x32))
vcvtne2ps2bf16 = Instruction(
    isa.vcvtne2ps2bf16,
    arity=2,
    portable=on_registers(*_TWO, _two),
    native=on_registers(*_TWO, _two_native),
    feature="avx512bf16",
)
vpermw = Instruction(isa.vpermw, arity=2, portable=on_registers(*_WORDS, _pick))
vmovdqu16_load = Instruction(isa.vmovdqu16_load, arity=2, portable=load(u16x32))
vmovdqu16_store = Instruction(isa.vmovdqu16_store, arity=3, portable=store(u16x32, u16x16))
vpbroadcastd_pair = Instruction(
    isa.vpbroadcastd_pair, arity=2, portable=load(u16x32, loaded=vector(16, 2), spread=[0, 1] * 16)
)
