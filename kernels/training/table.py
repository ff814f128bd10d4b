"""The op table of training: products, rows and elements by kernels, f32, on so many threads.

    forwards, backwards = training(threads)
    tape = Tape(forwards, backwards)

The bits depend on no number of threads: every sum has one order. On a CPU without AVX-512 the products of linear layers
are NumPy's, whose order its BLAS chooses.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.kernels import cpu, execution
from refimpl.kernels.attention import lowest_where_masked
from refimpl.kernels.layout import aligned
from refimpl.kernels.rowwise.gelu import gelu_rows
from refimpl.kernels.rowwise.layernorm import layernorm_rows
from refimpl.kernels.rowwise.softmax import softmax_rows
from refimpl.kernels.simd.threefold import KernelSource
from refimpl.kernels.training import blas, linear
from refimpl.kernels.training.elementwise import add, drop
from refimpl.kernels.training.gelu_backward import gelu_backward_rows
from refimpl.kernels.training.layernorm_backward import CHUNKS, layernorm_backward_rows
from refimpl.kernels.training.linear import flat, multiply, rows_of_heads
from refimpl.kernels.training.scatter import scatter_add
from refimpl.kernels.training.softmax_backward import softmax_backward_rows
from refimpl.nn import NO_TAP, REFERENCE, Linear, Norm, Ops, Tap
from refimpl.nn import elementwise as reference
from refimpl.nn.dropout import STEPS, threshold
from refimpl.nn.embedding import check_ids
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

    def add(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if x.shape != y.shape:
            return reference.add(x, y)
        return self._new(x, lambda first, d, out: self.run(add, first, flat(y), out))

    def dropout(self, x: np.ndarray, keep: np.ndarray, p: float) -> np.ndarray:
        scale = np.float32(STEPS / (STEPS - threshold(p)))
        kept = flat(keep).view(np.uint8)
        return self._new(x, lambda first, d, out: self.run(drop, first, kept, scale, out))

    def softmax(self, x: np.ndarray) -> np.ndarray:
        return self._new(x, lambda first, d, out: self.run(softmax_rows, first, d, out))

    def softmax_backward(self, dy: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self._new(dy, lambda first, d, out: self.run(softmax_backward_rows, first, flat(y), d, out))

    def gelu(self, x: np.ndarray) -> np.ndarray:
        return self._new(x, lambda first, d, out: self.run(gelu_rows, first, d, out))

    def gelu_backward(self, dy: np.ndarray, x: np.ndarray) -> np.ndarray:
        return self._new(dy, lambda first, d, out: self.run(gelu_backward_rows, first, flat(x), d, out))

    def layernorm(self, x: np.ndarray, p: Norm) -> np.ndarray:
        def run(first: np.ndarray, d: int, out: np.ndarray) -> None:
            self.run(layernorm_rows, first, d, np.float32(d), flat(p.weight), flat(p.bias), np.float32(p.eps), out)

        return self._new(x, run)

    def layernorm_backward(self, dy: np.ndarray, x: np.ndarray, p: Norm) -> tuple[np.ndarray, Norm]:
        d = x.shape[-1]
        sums = np.zeros((CHUNKS, 2, d), np.float32)

        def run(first: np.ndarray, d: int, out: np.ndarray) -> None:
            given = first, flat(x), d, np.float32(d), flat(p.weight), np.float32(p.eps)
            self.run(layernorm_backward_rows, *given, out, sums.reshape(-1))

        dx = self._new(dy, run)
        dweight, dbias = sums.sum(0)
        return dx, Norm(dweight, dbias, p.eps)

    def embedding_backward(self, dy: np.ndarray, ids: np.ndarray, rows: int) -> np.ndarray:
        check_ids(ids, rows)
        table = np.zeros((rows, dy.shape[-1]), np.float32)
        self.run(scatter_add, flat(dy), flat(ids).astype(np.int64), dy.shape[-1], table.reshape(-1))
        return table

    def _new(self, x: np.ndarray, run: Callable[[np.ndarray, int, np.ndarray], None]) -> np.ndarray:
        """A result of x's shape."""
        out = aligned.empty(x.shape, np.float32)
        run(flat(x), x.shape[-1], out.reshape(-1))
        return out


class Products(Rows):
    """Those of matrices, of linear layers and in attention."""

    def linear(self, x: np.ndarray, p: Linear, tap: Tap = NO_TAP) -> np.ndarray:
        return linear.linear(self.run, x, p)

    def linear_backward(self, dy: np.ndarray, x: np.ndarray, p: Linear) -> tuple[np.ndarray, Linear]:
        return linear.linear_backward(self.run, dy, x, p)

    def attention_scores(self, q: np.ndarray, k: np.ndarray, mask: np.ndarray) -> np.ndarray:
        b, h, t, e = q.shape
        out, lowest = aligned.empty((b, h, t, t), np.float32), lowest_where_masked(mask)
        return multiply(self.run, q, k.swapaxes(2, 3), out, 1 / e**0.5, lowest)

    def attention_scores_backward(
        self, dscores: np.ndarray, q: np.ndarray, k: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        dq, dk, scale = rows_of_heads(q.shape), rows_of_heads(k.shape), 1 / q.shape[-1] ** 0.5
        multiply(self.run, dscores.swapaxes(2, 3), q, dk, scale)
        return multiply(self.run, dscores, k, dq, scale), dk

    def attention_context(self, probs: np.ndarray, v: np.ndarray, tap: Tap = NO_TAP) -> np.ndarray:
        return multiply(self.run, probs, v, rows_of_heads(v.shape))

    def attention_context_backward(
        self, dcontext: np.ndarray, probs: np.ndarray, v: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        dprobs, dv = aligned.empty(probs.shape, np.float32), rows_of_heads(v.shape)
        multiply(self.run, dcontext, v.swapaxes(2, 3), dprobs)
        return dprobs, multiply(self.run, probs.swapaxes(2, 3), dcontext, dv)


def training(threads: int) -> tuple[Ops, Backwards]:
    """Forwards and backwards for a ``Tape``, f32."""
    do = Products(threads)
    wide = "avx512f" in cpu.features()
    forwards = REFERENCE._replace(
        linear=do.linear if wide else blas.linear,
        add=do.add,
        softmax=do.softmax,
        gelu=do.gelu,
        layernorm=do.layernorm,
        attention_scores=do.attention_scores,
        attention_context=do.attention_context,
    )
    backwards = Backwards(
        softmax=do.softmax_backward,
        gelu=do.gelu_backward,
        layernorm=do.layernorm_backward,
        embedding=do.embedding_backward,
        dropout=do.dropout,
        attention_scores=do.attention_scores_backward,
        attention_context=do.attention_context_backward,
    )
    return forwards, backwards._replace(linear=do.linear_backward) if wide else backwards
