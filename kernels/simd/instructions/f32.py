"""f32 arithmetic on sixteen lanes, by operations that LLVM turns into the instruction on any x86 CPU that has it."""

from functools import reduce

from llvmlite import ir
from numba import types

from refimpl.isa import f32 as meaning
from refimpl.kernels.simd.instructions.memory import load, store
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
from refimpl.kernels.simd.registers import f32x16, vector

F32 = f32x16.llvm
UNARY, BINARY, TERNARY, QUATERNARY = ((f32x16, (f32x16,) * arity) for arity in (1, 2, 3, 4))


# --- memory ----------------------------------------------------------------------------------------------------------


def _load_first(array, at, count, others):
    if others != f32x16 or not is_flat(array, f32x16):
        return None

    def codegen(context, builder, signature, args):
        address = pointer(context, builder, signature.args[0], *args[:2], F32)
        operands = [address, ir.Constant(ir.IntType(32), 1), mask_first(builder, args[2]), args[3]]
        return call_llvm(builder, F32, "llvm.masked.load.v16f32.p0", operands)

    return f32x16(array, types.intp, types.intp, others), codegen


def _store_first(array, at, register, count):
    if register != f32x16 or not is_flat(array, f32x16):
        return None

    def codegen(context, builder, signature, args):
        address = pointer(context, builder, signature.args[0], *args[:2], F32)
        operands = [args[2], address, ir.Constant(ir.IntType(32), 1), mask_first(builder, args[3])]
        call_llvm(builder, ir.VoidType(), "llvm.masked.store.v16f32.p0", operands)
        return context.get_dummy_value()

    return types.void(array, types.intp, register, types.intp), codegen


vmovups_load = Instruction(meaning.vmovups_load, arity=2, portable=load(f32x16))
vmovups_store = Instruction(meaning.vmovups_store, arity=3, portable=store(f32x16))
vmovups_load_first = Instruction(meaning.vmovups_load_first, arity=4, portable=_load_first)
vmovups_store_first = Instruction(meaning.vmovups_store_first, arity=4, portable=_store_first)
vbroadcastss = Instruction(
    meaning.vbroadcastss, arity=2, portable=load(f32x16, loaded=ir.VectorType(ir.FloatType(), 1), spread=[0] * 16)
)
broadcast_f32 = Instruction(
    meaning.broadcast_f32, arity=1, portable=on_registers(f32x16, (types.float32,), lambda b, value: splat(b, value))
)
zero_f32 = Instruction(
    meaning.zero_f32, arity=0, portable=on_registers(f32x16, (), lambda builder: ir.Constant(F32, [0.0] * 16))
)


# --- arithmetic ------------------------------------------------------------------------------------------------------


def _operation(name: str):
    """The LLVM operation of that name, such as fadd."""
    return on_registers(*BINARY, lambda builder, a, b: getattr(builder, name)(a, b))


def _choice(comparison: str):
    """a where the ordered comparison holds, else b: Intel's rule for NaN and zeros."""
    return on_registers(*BINARY, lambda builder, a, b: builder.select(builder.fcmp_ordered(comparison, a, b), a, b))


def _scale(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """In f64, where 2**-300 ... 2**300 are normal and the product is exact; then one rounding."""

    def constant(value: float) -> ir.Constant:
        return ir.Constant(wide, [value] * 16)

    wide, bits = ir.VectorType(ir.DoubleType(), 16), vector(64, 16)
    power = builder.fpext(b, wide)
    power = builder.select(builder.fcmp_ordered(">", power, constant(-300.0)), power, constant(-300.0))
    power = builder.select(builder.fcmp_ordered("<", power, constant(300.0)), power, constant(300.0))
    floor = builder.fptosi(call_llvm(builder, wide, "llvm.floor.v16f64", [power]), bits)
    biased = builder.add(floor, ir.Constant(bits, [1023] * 16))
    factor = builder.bitcast(builder.shl(biased, ir.Constant(bits, [52] * 16)), wide)
    return builder.fptrunc(builder.fmul(builder.fpext(a, wide), factor), F32)


def _scalef(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """The instruction under a full mask, rounding as the CPU is set (4): to nearest even."""
    short, word = ir.IntType(16), ir.IntType(32)
    operands = [a, b, a, ir.Constant(short, -1), ir.Constant(word, 4)]
    return call_llvm(builder, F32, "llvm.x86.avx512.mask.scalef.ps.512", operands)


vaddps = Instruction(meaning.vaddps, arity=2, portable=_operation("fadd"))
vsubps = Instruction(meaning.vsubps, arity=2, portable=_operation("fsub"))
vmulps = Instruction(meaning.vmulps, arity=2, portable=_operation("fmul"))
vdivps = Instruction(meaning.vdivps, arity=2, portable=_operation("fdiv"))
vsqrtps = Instruction(meaning.vsqrtps, arity=1, portable=llvm_intrinsic(*UNARY, "llvm.sqrt.v16f32"))
vmaxps = Instruction(meaning.vmaxps, arity=2, portable=_choice(">"))
vminps = Instruction(meaning.vminps, arity=2, portable=_choice("<"))
vblendmps = Instruction(
    meaning.vblendmps,
    arity=4,
    portable=on_registers(
        *QUATERNARY, lambda builder, a, b, x, y: builder.select(builder.fcmp_ordered(">", a, b), x, y)
    ),
)
vfmadd = Instruction(meaning.vfmadd, arity=3, portable=llvm_intrinsic(*TERNARY, "llvm.fma.v16f32"))
vrndscaleps = Instruction(meaning.vrndscaleps, arity=1, portable=llvm_intrinsic(*UNARY, "llvm.nearbyint.v16f32"))
vscalefps = Instruction(
    meaning.vscalefps,
    arity=2,
    portable=on_registers(*BINARY, _scale),
    native=on_registers(*BINARY, _scalef),
    feature="avx512f",
)


# --- across lanes ----------------------------------------------------------------------------------------------------


def _by_halves(combine):
    """Typing of a tree over the lanes: ``combine`` of the lower and the upper half, four times."""

    def build(builder, a):
        def step(value, half):
            low, high = (ir.Constant(vector(32, half), list(range(s, s + half))) for s in (0, half))
            return combine(
                builder, builder.shuffle_vector(value, value, low), builder.shuffle_vector(value, value, high)
            )

        return builder.extract_element(reduce(step, (8, 4, 2, 1), a), ir.Constant(ir.IntType(32), 0))

    return on_registers(types.float32, (f32x16,), build)


reduce_add = Instruction(meaning.reduce_add, arity=1, portable=_by_halves(lambda b, low, high: b.fadd(low, high)))
reduce_max = Instruction(
    meaning.reduce_max,
    arity=1,
    portable=_by_halves(lambda b, low, high: b.select(b.fcmp_ordered(">", low, high), low, high)),
)
