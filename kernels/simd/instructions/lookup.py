"""Looking bytes up in registers."""

from llvmlite import ir

from refimpl.isa import lookup as meaning
from refimpl.kernels.simd.lowering import Instruction, call_llvm, on_registers
from refimpl.kernels.simd.registers import u8x64, vector

U8 = u8x64.llvm
OPERANDS = (u8x64, u8x64, u8x64)


def _pick(builder: ir.IRBuilder, index: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """Byte by byte, from a copy of the table in memory."""
    word = ir.IntType(32)
    both = builder.shuffle_vector(low, high, ir.Constant(vector(32, 128), list(range(128))))
    index = builder.and_(index, ir.Constant(U8, [127] * 64))
    result = ir.Constant(U8, [0] * 64)
    for lane in range(64):
        at = builder.zext(builder.extract_element(index, ir.Constant(word, lane)), word)
        result = builder.insert_element(result, builder.extract_element(both, at), ir.Constant(word, lane))
    return result


def _permute(builder: ir.IRBuilder, index: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """LLVM names it by the form that overwrites a table, and puts the index between the two."""
    return call_llvm(builder, U8, "llvm.x86.avx512.vpermi2var.qi.512", [low, index, high])


vpermi2b = Instruction(
    meaning.vpermi2b,
    arity=3,
    portable=on_registers(u8x64, OPERANDS, _pick),
    native=on_registers(u8x64, OPERANDS, _permute),
    feature="avx512vbmi",
)
vpblendmb = Instruction(
    meaning.vpblendmb,
    arity=3,
    portable=on_registers(
        u8x64,
        OPERANDS,
        lambda builder, index, a, b: builder.select(builder.icmp_signed("<", index, ir.Constant(U8, [0] * 64)), b, a),
    ),
)
