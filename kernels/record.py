"""What a kernel is to its callers: a name, an oracle, a packing, and three executions with equal bits.

A name follows the grammar PRODUCT[_FORM]_INPUTS[_ARITHMETIC]: ``gemm_u8s8s32``, ``bsgemm_4x1_u8s8s32``,
``spgemm_bitmask_u8s8s32``, ``gemm_u8s8s32_pair_saturating``. PRODUCT is gemm, bsgemm (block-sparse) or spgemm
(unstructured), FORM the blocks, rows x columns, or the layout of sparse weights, INPUTS names the types of activation,
weight and accumulator, and ARITHMETIC what is not exact.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl import check
from refimpl.kernels import execution
from refimpl.kernels.simd.threefold import NATIVE, PORTABLE, KernelSource


class Kernel(NamedTuple):
    """One rung of a family.

    oracle: (a, w) -> s32 (N, M), in ``refimpl``. pack: w, s8 (M, K) -> packed; unpack: its inverse. validate: raises
    unless a packed weight from outside is safe to run. call: (execution, a, packed) -> s32 (N, M), the kernel with
    its activations packed and its result unpacked. activation: the dtype of a; a bf16 kernel has u16 for a and w, f32
    for the product.
    """

    name: str
    oracle: Callable[[np.ndarray, np.ndarray], np.ndarray]
    pack: Callable[[np.ndarray], Any]
    unpack: Callable[[Any], np.ndarray]
    validate: Callable[[Any], None]
    source: KernelSource
    call: Callable[[Callable[..., Any], np.ndarray, Any], np.ndarray]
    activation: type = np.uint8

    def emulated(self, a: np.ndarray, packed: Any) -> np.ndarray:
        """Instruction by instruction on NumPy registers: slow, anywhere. a: u8 (N, K) -> s32 (N, M)."""
        return self._run(self.source.emulated, a, packed)

    def portable(self, a: np.ndarray, packed: Any, threads: int = 1) -> np.ndarray:
        """Jitted without special instructions. a: u8 (N, K) -> s32 (N, M)."""
        return self.run(PORTABLE, a, packed, threads)

    def native(self, a: np.ndarray, packed: Any, threads: int = 1) -> np.ndarray:
        """Jitted with the real instructions. Raises RuntimeError where this CPU lacks one."""
        return self.run(NATIVE, a, packed, threads)

    def fastest(self) -> str:
        """ "native" where this CPU has the instructions, otherwise "portable": the name says which will run."""
        return execution.fastest(self.source)

    def run(self, target: str, a: np.ndarray, packed: Any, threads: int = 1) -> np.ndarray:
        """``portable`` or ``native``, by name. Threads beyond the first share out the tiles; the bits are the same."""
        with execution.compiled(self.source, target, threads) as compiled:
            return self._run(compiled, a, packed)

    def _run(self, version: Callable[..., Any], a: np.ndarray, packed: Any) -> np.ndarray:
        check.dtype("a", a, self.activation)
        check.shape("a", a, ("N", packed.shape[1]))
        return self.call(version, a, packed)
