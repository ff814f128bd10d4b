"""Interleaving of bytes and words inside 128-bit lanes, and combining by an or."""

from refimpl import isa
from refimpl.kernels.simd.lowering import Instruction, on_registers, shuffle
from refimpl.kernels.simd.registers import s8x64, u8x64


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


def _bitwise(operation: str):
    """Typing of the LLVM operation of that name."""

    def typing(a, b):
        build = lambda builder, x, y: getattr(builder, operation)(x, y)  # noqa: E731
        return on_registers(a, (a, a), build)(a, b) if a in (u8x64, s8x64) else None

    return typing


vpord = Instruction(isa.vpord, arity=2, portable=_bitwise("or_"))
vpxord = Instruction(isa.vpxord, arity=2, portable=_bitwise("xor"))
