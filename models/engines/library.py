"""A product in a shared library, called through ctypes: an engine whose products of codes are its own.

    void symbol(const uint8_t *a, const int8_t *w, int32_t *acc, int64_t n, int64_t m, int64_t k);

        a    u8  (N, K), row by row
        w    s8  (M, K), row by row: one row an output channel
        acc  s32 (N, M), row by row, to be written: acc[n, m] = sum over k of a[n, k] w[m, k]

It must not raise, keep or free a pointer; the memory is aligned as NumPy aligns it. Oracle: ``refimpl.integer.gemm``.
All else in the file is run by our own operators, zero points and products of other types among it, so that the kernel
is seen on the operands of a whole model. The caller is a process of its own (``isolated``), so that a crash is an error
message.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np

from refimpl import check
from refimpl.integer.products import exact
from refimpl.models.oracle.execute import execute
from refimpl.models.oracle.load import load
from refimpl.models.oracle.semantics import Semantics
from refimpl.nn import Recorder

Product = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""u8 (N, K), s8 (M, K) -> s32 (N, M)."""


def load_product(path: str, symbol: str) -> Product:
    """The function of a library. ValueError if the library cannot be loaded or lacks the symbol."""
    try:
        function = getattr(ctypes.CDLL(str(Path(path).resolve())), symbol)
    except (OSError, AttributeError) as error:
        raise ValueError(f"{path}: cannot load {symbol}: {error}") from None
    function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 3
    function.restype = None

    def product(a: np.ndarray, w: np.ndarray) -> np.ndarray:
        check.dtype("a", a, np.uint8)
        check.dtype("w", w, np.int8)
        check.shape("a", a, ("N", "K"))
        check.shape("w", w, ("M", a.shape[1]))
        a, w = np.ascontiguousarray(a), np.ascontiguousarray(w)
        acc = np.zeros((len(a), len(w)), np.int32)
        function(a.ctypes.data, w.ctypes.data, acc.ctypes.data, len(a), *w.shape)
        return acc

    return product


def run_products(
    product: Product, onnx_path: str, inputs: dict[str, np.ndarray], tensors: list[str]
) -> dict[str, np.ndarray]:
    """The tensors of a file that ``models.oracle`` can load, its products of u8 and s8 codes by ``product``."""

    def multiply(a: np.ndarray, w: np.ndarray) -> np.ndarray:
        return product(a, w) if (a.dtype, w.dtype) == (np.uint8, np.int8) else exact(a, w)

    recorder = Recorder()
    outputs = execute(load(Path(onnx_path)), inputs, Semantics(multiply), recorder)
    values = {**recorder.values, **outputs}
    return {name: values[name] for name in tensors if name in values}
