"""The op table of training: products by NumPy's BLAS, rows by kernels.

The bits of the kernels do not depend on the number of threads; those of BLAS may.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.kernels import execution
from refimpl.kernels.layout import aligned
from refimpl.kernels.rowwise.gelu import gelu_rows
from refimpl.kernels.rowwise.layernorm import layernorm_rows
from refimpl.kernels.rowwise.softmax import softmax_rows
from refimpl.kernels.simd.threefold import KernelSource
from refimpl.kernels.training.gelu_backward import gelu_backward_rows
from refimpl.kernels.training.layernorm_backward import CHUNKS, layernorm_backward_rows
from refimpl.kernels.training.softmax_backward import softmax_backward_rows
from refimpl.nn import REFERENCE, Linear, Norm, Ops
from refimpl.nn.tape import Backwards


class Rows:
    """The kernels on so many threads. What a method is given is f32 (..., D); NaN is no error."""

    def __init__(self, threads: int):
        execution.check_threads(threads)
        self.threads = threads

    def run(self, source: KernelSource, *arguments: Any) -> None:
        """Compiled, as fast as this CPU can."""
        with execution.compiled(source, execution.fastest(source), self.threads) as run:
            run(*arguments)

    def softmax(self, x: np.ndarray) -> np.ndarray:
        return self._new(x, lambda flat, d, out: self.run(softmax_rows, flat, d, out))

    def softmax_backward(self, dy: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self._new(dy, lambda flat, d, out: self.run(softmax_backward_rows, flat, _flat(y), d, out))

    def gelu(self, x: np.ndarray) -> np.ndarray:
        return self._new(x, lambda flat, d, out: self.run(gelu_rows, flat, d, out))

    def gelu_backward(self, dy: np.ndarray, x: np.ndarray) -> np.ndarray:
        return self._new(dy, lambda flat, d, out: self.run(gelu_backward_rows, flat, _flat(x), d, out))

    def layernorm(self, x: np.ndarray, p: Norm) -> np.ndarray:
        def run(flat: np.ndarray, d: int, out: np.ndarray) -> None:
            self.run(layernorm_rows, flat, d, np.float32(d), _flat(p.weight), _flat(p.bias), np.float32(p.eps), out)

        return self._new(x, run)

    def layernorm_backward(self, dy: np.ndarray, x: np.ndarray, p: Norm) -> tuple[np.ndarray, Norm]:
        d = x.shape[-1]
        sums = np.zeros((CHUNKS, 2, d), np.float32)

        def run(flat: np.ndarray, d: int, out: np.ndarray) -> None:
            given = flat, _flat(x), d, np.float32(d), _flat(p.weight), np.float32(p.eps)
            self.run(layernorm_backward_rows, *given, out, sums.reshape(-1))

        dx = self._new(dy, run)
        dweight, dbias = sums.sum(0)
        return dx, Norm(dweight, dbias, p.eps)

    def _new(self, x: np.ndarray, run: Callable[[np.ndarray, int, np.ndarray], None]) -> np.ndarray:
        """A result of x's shape."""
        out = aligned.empty(x.shape, np.float32)
        run(_flat(x), x.shape[-1], out.reshape(-1))
        return out


def linear(x: np.ndarray, p: Linear) -> np.ndarray:
    """One product of all tokens: NumPy would make one of each text."""
    y = x.reshape(-1, x.shape[-1]) @ p.weight.T
    y += p.bias
    return y.reshape(*x.shape[:-1], -1)


def _flat(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1)


def training(threads: int) -> tuple[Ops, Backwards]:
    """Forwards and backwards for a ``Tape``, f32."""
    rows = Rows(threads)
    forwards = REFERENCE._replace(linear=linear, softmax=rows.softmax, gelu=rows.gelu, layernorm=rows.layernorm)
    backwards = Backwards(softmax=rows.softmax_backward, gelu=rows.gelu_backward, layernorm=rows.layernorm_backward)
    return forwards, backwards
