"""What a row-wise kernel is to its callers: a name, an oracle, a bound, and three executions with equal bits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.kernels import execution
from refimpl.kernels.simd.threefold import KernelSource


class RowKernel(NamedTuple):
    """One kernel.

    oracle: its inputs -> the exact result, f64 (or the codes themselves where the result is codes). bound: its inputs
    -> how far the kernel may be from that, elementwise; 0 where it gives the very bits. validate: raises unless the
    inputs are in the kernel's domain. call: (execution, *inputs) -> result, a new array of the first input's shape.
    """

    name: str
    oracle: Callable[..., np.ndarray]
    bound: Callable[..., np.ndarray]
    validate: Callable[..., None]
    source: KernelSource
    call: Callable[..., np.ndarray]

    def emulated(self, *inputs: Any) -> np.ndarray:
        """Instruction by instruction on NumPy registers: slow, anywhere."""
        self.validate(*inputs)
        return self.call(self.source.emulated, *inputs)

    def run(self, target: str, *inputs: Any, threads: int = 1) -> np.ndarray:
        """``portable`` or ``native``, by name. Threads beyond the first share out the rows; the bits are the same."""
        self.validate(*inputs)
        with execution.compiled(self.source, target, threads) as compiled:
            return self.call(compiled, *inputs)

    def fastest(self) -> str:
        """ "native" where this CPU has the instructions, otherwise "portable": the name says which will run."""
        return execution.fastest(self.source)
