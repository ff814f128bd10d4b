"""A product in a shared library, called through ctypes: an engine for the MatMulInteger nodes of a file.

    void symbol(const uint8_t *a, const int8_t *w, int32_t *acc, int64_t n, int64_t m, int64_t k);

        a    u8  (N, K), row by row
        w    s8  (M, K), row by row: one row an output channel
        acc  s32 (N, M), row by row, to be written: acc[n, m] = sum over k of a[n, k] w[m, k]

It must not raise, keep or free a pointer; the memory is aligned as NumPy aligns it. Oracle: ``refimpl.integer.gemm``.
The caller is a process of its own (``isolated``), so that a crash is an error message.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from refimpl import check

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
    """The MatMulInteger nodes among ``tensors`` that multiply an input, u8 (..., K), by a constant, s8 (K, M).

    A zero point of the input is subtracted afterwards: zero_point * sum_k w[k, m]. What has other operands, or a zero
    point of the weights that is not 0, is left out.
    """
    graph = onnx.load(onnx_path).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    values = {}
    for node in graph.node:
        if node.op_type != "MatMulInteger" or node.output[0] not in tensors:
            continue
        a, w = inputs.get(node.input[0]), constants.get(node.input[1])
        a_zero, w_zero = (
            constants.get(name, np.int32(0) if not name else None) for name in (*node.input[2:], "", "")[:2]
        )
        if a is None or a.dtype != np.uint8 or w is None or w.dtype != np.int8 or w.ndim != 2:
            continue
        if a_zero is None or w_zero is None or a_zero.size != 1 or w_zero.any():
            continue
        acc = product(a.reshape(-1, a.shape[-1]), w.T) - a_zero.astype(np.int32) * w.sum(0, dtype=np.int32)
        values[node.output[0]] = acc.reshape(*a.shape[:-1], w.shape[1])
    return values
