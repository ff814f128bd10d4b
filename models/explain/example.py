"""A product small enough to watch: its operands, its trace, and what each element of the kernel's arrays stands for.

Elements are named without knowing any layout: operands that hold numbers instead of values go through the same packing,
and where a number arrives, there is the element that it stands for. Results are named the same way backwards.
"""

from typing import Any, NamedTuple

import numpy as np

from refimpl.isa.bf16 import vcvtneps2bf16
from refimpl.kernels.catalog import EmulatedKernel, Kernel
from refimpl.kernels.simd.provenance import Provenance, provenance
from refimpl.kernels.simd.trace import Step, instructions, named, trace

AnyKernel = Kernel | EmulatedKernel

SHAPE = (4, 2, 7)
LIMIT, ELEMENTS = 64, 4096


class Element(NamedTuple):
    """``matrix[row, column]``: a[n, k], w[m, k] or acc[n, m]."""

    matrix: str
    row: int
    column: int

    def __str__(self) -> str:
        """As in the contract."""
        return f"{self.matrix}[{self.row},{self.column}]"


Names = dict[tuple[str, int], Element]


class Example(NamedTuple):
    """One run. arguments: the kernel's, by name, as before it ran. product: s32 or f32 (N, M)."""

    kernel: AnyKernel
    a: np.ndarray
    w: np.ndarray
    arguments: dict[str, Any]
    steps: list[Step]
    provenance: Provenance
    names: Names
    product: np.ndarray


def parse_shape(text: str) -> tuple[int, int, int]:
    """ "M,N,K" -> (M, N, K). Raises ValueError unless they are three small positive integers."""
    parts = text.split(",")
    m, n, k = (int(part) if part.strip().isdecimal() else 0 for part in (parts if len(parts) == 3 else ("", "", "")))
    if not all(1 <= size <= LIMIT for size in (m, n, k)) or m * n * k > ELEMENTS:
        raise ValueError(f"shape is {text}; need M,N,K from 1 to {LIMIT} with a product of at most {ELEMENTS}")
    return m, n, k


def saturates(kernel: AnyKernel) -> bool:
    """Whether pairs are added in 16 bits."""
    return "vpmaddubsw" in instructions(kernel.source)


def operands(kernel: AnyKernel, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """a: u8 (N, K), w: s8 (M, K), or both bf16; readable: the tens count the token or channel, the units are k.

    Weights of odd channels are negative. A sparse product has a third of its 4x1 blocks pruned. Where pairs saturate,
    the first of two tokens is 255 and the weights of four channels are 127, -128, 64 (which just fits) and mixed.
    Of bf16, every other weight of the last of four channels is 2**22, next to which f32 rounds the other products.
    """
    m, n, k = np.arange(shape[0])[:, None], np.arange(shape[1])[:, None], np.arange(shape[2])
    if saturates(kernel):
        a = np.where(n % 2 == 0, 255, 100) + 0 * k
        mixed = np.where(k % 2 == 0, 127, -128)
        w = np.choose(m % 4, [127, -128, 64, mixed])
    else:
        a = 1 + (10 * (n + 1) + k - 1) % 255
        w = (1 + (10 * (m + 1) + k - 1) % 127) * np.where(m % 2 == 0, 1, -1)
    if not kernel.name.startswith("gemm"):
        w = np.where((m // 4 + k) % 3 == 1, 0, w)
    if "vdpbf16ps" in instructions(kernel.source):
        w = np.where((m % 4 == 3) & (k % 2 == 0), 2**22, w)
        return vcvtneps2bf16(a.astype(np.float32)), vcvtneps2bf16(w.astype(np.float32))
    return a.astype(np.uint8), w.astype(np.int8)


def run(kernel: AnyKernel, shape: tuple[int, int, int] = SHAPE) -> Example:
    """Trace a kernel on the operands of a shape (M, N, K)."""
    a, w = operands(kernel, shape)
    arguments: dict[str, Any] = {}
    steps: list[Step] = []

    def execution(*given):
        arguments.update({name: _copy(value) for name, value in named(kernel.source, given).items()})
        steps.extend(trace(kernel.source, *given))

    product = kernel.call(execution, a, kernel.pack(w))
    return Example(kernel, a, w, arguments, steps, provenance(steps), _names(kernel, a, w, steps), product)


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def _names(kernel: AnyKernel, a: np.ndarray, w: np.ndarray, steps: list[Step]) -> Names:
    """What the elements of activations, weights and results stand for; padding has no name."""
    written = {step.written.array for step in steps if step.written}
    found: Names = {}
    idle = _arguments(kernel, 0 * a, 0 * w)
    for matrix, values in (("a", a), ("w", w)):
        base = int(np.iinfo(values.dtype).max)
        low, high = (1 + digit for digit in reversed(np.divmod(np.arange(values.size).reshape(values.shape), base)))
        numbered = []
        for digit in (low, high):
            digits = np.where(values != 0, digit, 0).astype(values.dtype)
            numbered.append(_arguments(kernel, *((digits, 0 * w) if matrix == "a" else (0 * a, digits))))
        for name, first in numbered[0].items():
            if name in written or not isinstance(first, np.ndarray) or first.dtype != values.dtype:
                continue
            if not np.array_equal(first, idle[name]):  # a table of indices is the same for all operands
                for at in np.flatnonzero(first):
                    number = int(first[at]) - 1 + base * (int(numbered[1][name][at]) - 1)
                    found[name, int(at)] = Element(matrix, *divmod(number, values.shape[1]))
    return found | _result_names(kernel, a, w, written)


def _arguments(kernel: AnyKernel, a: np.ndarray, w: np.ndarray) -> dict[str, Any]:
    """What the kernel would be given."""
    found: dict[str, Any] = {}
    kernel.call(lambda *given: found.update(named(kernel.source, given)), a, kernel.pack(w))
    return found


def _result_names(kernel: AnyKernel, a: np.ndarray, w: np.ndarray, written: set[str]) -> Names:
    """Number the elements of the 32-bit arrays that are written, in place of computing them; see what comes back."""
    results: list[str] = []

    def execution(*given):
        for name, array in named(kernel.source, given).items():
            if name in written and array.itemsize == 4:
                results.append(name)
                array[...] = np.arange(array.size)

    numbers = kernel.call(execution, a, kernel.pack(w))
    return {(results[0], int(number)): Element("acc", n, m) for (n, m), number in np.ndenumerate(numbers)}
