"""Register types for jitted code: a numba type whose machine form is an LLVM vector.

In emulated code a register is a NumPy array of the same dtype and length. LLVM's integers carry no sign; the numba
types do, so that u8 and s8 cannot be swapped in a ``vpdpbusd``.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import models, register_model


class Register(types.Type):
    """``lanes`` elements of a NumPy dtype in one 512-bit register."""

    def __init__(self, dtype: type, lanes: int):
        self.dtype = np.dtype(dtype)
        self.lanes = lanes
        super().__init__(name=f"{self.dtype.kind}{8 * self.dtype.itemsize}x{lanes}")

    @property
    def llvm(self) -> ir.VectorType:
        """The LLVM vector type."""
        if self.dtype.kind == "f":
            return ir.VectorType(ir.FloatType(), self.lanes)
        return vector(8 * self.dtype.itemsize, self.lanes)


def vector(bits: int, lanes: int) -> ir.VectorType:
    """<lanes x i_bits>."""
    return ir.VectorType(ir.IntType(bits), lanes)


@register_model(Register)
class _RegisterModel(models.PrimitiveModel):
    def __init__(self, manager, register):
        super().__init__(manager, register, register.llvm)


u8x64 = Register(np.uint8, 64)
s8x64 = Register(np.int8, 64)
s16x32 = Register(np.int16, 32)
s32x16 = Register(np.int32, 16)
f32x16 = Register(np.float32, 16)
u16x32 = Register(np.uint16, 32)  # bf16
u16x16 = Register(np.uint16, 16)  # bf16, in 256 bits
