"""Machines: registers, instructions, layouts, tiles, threads.

Every kernel is one Python source with three executions: emulated in NumPy, instruction by instruction; jitted in a
portable form; jitted with the real instructions. All give the same bits as an oracle in ``refimpl``.
"""
