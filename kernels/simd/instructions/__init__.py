"""The instruction set that kernels are written in: each instruction declared once.

The meaning is in ``refimpl.isa``; here stand the portable LLVM form and the native one with the CPU feature that it
needs. Interleaves, loads and stores need no native form: LLVM selects the real instruction for the portable one.
"""
