"""A step of a plan as a line: what it is called, which kernel runs, what that fuses, what it reads and writes.

layer.0.qkv  linear_4x1.to_f32(embeddings.codes) -> f32 (2, 1152, 64): product + scale + bias
"""

from typing import NamedTuple

import numpy as np

from refimpl.kernels.simd.threefold import KernelSource
from refimpl.models.runtime.steps import Shape, Step, Tensor

HIDDEN = "hidden"
"""What the head reads, or what it gives: rows, of all places of a batch or of each text's first token."""
OUTPUTS = "outputs"
"""The product of a head that is one product of all tokens."""
FIRST = ".first"
"""After the name of a tensor: what is picked of it."""
OF_ROWS = frozenset(("embedding_rows", HIDDEN))
"""Tensors of rows of tokens; of the others that steps write, each is of panels."""


class Made(NamedTuple):
    """A tensor that a step writes. dtype: in our letters; over: the tensor in whose place it is, or ""."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    over: str

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


class Line(NamedTuple):
    """A step in words."""

    name: str
    kernel: str
    fused: str
    reads: tuple[str, ...]
    writes: tuple[Made, ...]

    def __str__(self) -> str:
        written = ", ".join(map(str, self.writes))
        return f"{self.name}  {self.kernel}({', '.join(self.reads)}) -> {written}: {self.fused}"


def line(step: Step) -> Line:
    """Of a step of a plan."""
    writes = tuple(_made(name, tensor, step.shape) for name, tensor in step.writes.items())
    return Line(step.name, kernel_name(step.kernel), step.fused, step.reads, writes)


def kernel_name(source: KernelSource) -> str:
    """With the name of its module: "linear_4x1.to_sum_half"; where the two are the same, once."""
    module = source.emulated.__module__.rpartition(".")[2]
    return source.__name__ if source.__name__.startswith(module) else f"{module}.{source.__name__}"


def rows_of(shape: Shape) -> int:
    """Of ``HIDDEN``."""
    return shape.texts if shape.picked else shape.rows


def dtype_name(dtype: type | np.dtype) -> str:
    """In our letters: s8, u8, s32, f32."""
    found = np.dtype(dtype)
    return f"{found.kind.replace('i', 's')}{8 * found.itemsize}"


def _made(name: str, tensor: Tensor, shape: Shape) -> Made:
    if name in OF_ROWS:
        rows = rows_of(shape) if name == HIDDEN else shape.panels * shape.width
        sizes: tuple[int, ...] = (rows, tensor.size // rows)
    else:
        sizes = (shape.panels, tensor.size // (shape.panels * shape.width), shape.width)
    return Made(name, dtype_name(tensor.dtype), sizes, tensor.nbytes, tensor.over)
