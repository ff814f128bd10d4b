"""Looking bytes up in registers."""

from llvmlite import ir

from refimpl.isa import lookup as meaning
from refimpl.kernels.simd.lowering import Build, Instruction, call_llvm, on_registers
from refimpl.kernels.simd.registers import s8x64, u8x64, vector

U8 = u8x64.llvm


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


def _of_bytes(build: Build):
    """Typing of a look-up in two registers of one type."""

    def typing(index, low, high):
        return on_registers(low, (u8x64, low, low), build)(index, low, high) if low in (u8x64, s8x64) else None

    return typing


def _permute(builder: ir.IRBuilder, index: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """LLVM names it by the form that overwrites a table, and puts the index between the two."""
    return call_llvm(builder, U8, "llvm.x86.avx512.vpermi2var.qi.512", [low, index, high])


vpermi2b = Instruction(
    meaning.vpermi2b,
    arity=3,
    portable=_of_bytes(_pick),
    native=_of_bytes(_permute),
    feature="avx512vbmi",
)
vpblendmb = Instruction(
    meaning.vpblendmb,
    arity=3,
    portable=on_registers(
        u8x64,
        (u8x64, u8x64, u8x64),
        lambda builder, index, a, b: builder.select(builder.icmp_signed("<", index, ir.Constant(U8, [0] * 64)), b, a),
    ),
)
