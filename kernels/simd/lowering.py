"""From a declaration to a numba intrinsic: how an instruction becomes LLVM code.

A ``build`` function gets the LLVM builder and the operands' LLVM values and returns the result's. ``Instruction`` is
the third kind of threefold: NumPy meaning, portable LLVM form, native LLVM intrinsic.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import as_dtype

from refimpl.kernels.simd.registers import Register, vector
from refimpl.kernels.simd.threefold import NATIVE, Threefold

Build = Callable[..., ir.Value]

_BY_ARITY: dict[int, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    0: lambda f: lambda context: f(),
    1: lambda f: lambda context, a: f(a),
    2: lambda f: lambda context, a, b: f(a, b),
    3: lambda f: lambda context, a, b, c: f(a, b, c),
    4: lambda f: lambda context, a, b, c, d: f(a, b, c, d),
}  # numba reads an intrinsic's arity from its signature, so each arity needs a function of its own


class Instruction(Threefold):
    """One instruction; ``native`` is None where LLVM selects the real instruction from the portable form itself."""

    def __init__(self, meaning: Callable[..., Any], arity: int, portable: Any, native: Any = None, feature: str = ""):
        super().__init__(meaning)
        self.features = frozenset([feature] if feature else [])
        self._portable = _intrinsic(meaning.__name__, arity, portable)
        self._native = _intrinsic(meaning.__name__, arity, native) if native else self._portable

    def compiled(self, target: str) -> Callable[..., Any]:
        return self._native if target == NATIVE else self._portable


def _intrinsic(name: str, arity: int, typing: Callable[..., Any]) -> Callable[..., Any]:
    definition = _BY_ARITY[arity](typing)
    definition.__name__ = definition.__qualname__ = name
    return intrinsic(definition)


def on_registers(result: types.Type, operands: tuple[types.Type, ...], build: Build) -> Callable[..., Any]:
    """Typing of an instruction from registers to a register; either may be a scalar."""

    def codegen(context, builder, signature, args):
        return build(builder, *args)

    def typing(*args):
        return (result(*operands), codegen) if args == operands else None

    return typing


def call_llvm(builder: ir.IRBuilder, result: ir.Type, name: str, operands: list[ir.Value]) -> ir.Value:
    """A call of the LLVM function of that name."""
    function = ir.FunctionType(result, [operand.type for operand in operands])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), operands)


def llvm_intrinsic(result: Register, operands: tuple[Register, ...], name: str) -> Callable[..., Any]:
    """Typing of an instruction that LLVM offers by name, such as llvm.x86.avx512.vpdpbusd.512."""

    def build(builder, *args):
        return call_llvm(builder, result.llvm, name, list(args))

    return on_registers(result, operands, build)


def shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, bits: int, indices: list[int]) -> ir.Value:
    """LLVM's shufflevector on elements of ``bits`` bits, back in the type of ``a``."""
    wide = vector(bits, 512 // bits)
    picked = builder.shuffle_vector(
        builder.bitcast(a, wide), builder.bitcast(b, wide), ir.Constant(vector(32, len(indices)), indices)
    )
    return builder.bitcast(picked, a.type)


def splat(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """A scalar in all sixteen lanes."""
    one = builder.insert_element(ir.Constant(ir.VectorType(value.type, 16), ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, ir.Constant(vector(32, 16), [0] * 16))


def mask_first(builder: ir.IRBuilder, count: ir.Value) -> ir.Value:
    """The mask of the first ``count`` (s64) of sixteen lanes."""
    return builder.icmp_signed("<", ir.Constant(vector(64, 16), list(range(16))), splat(builder, count))


def pointer(context, builder, array_type: types.Array, array: ir.Value, at: ir.Value, pointee: ir.Type) -> ir.Value:
    """The address of ``array[at]``, as a pointer to ``pointee``; nothing is checked."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), pointee.as_pointer())


def is_flat(array: Any, register: Register) -> bool:
    """Whether a numba type is a contiguous 1-D array of a register's elements."""
    if not isinstance(array, types.Array) or array.ndim != 1 or array.layout != "C":
        return False
    return isinstance(array.dtype, types.Number) and as_dtype(array.dtype) == register.dtype
