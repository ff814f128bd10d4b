"""GELU from code to code by a table of 256: a contract of its own, not an approximation of ``gelu``.

    table[c] = quantize(gelu_f64(f64(dequantize(c, x_scale))) as f32, y_scale)        c = 0 ... 255, zero points 128

Contract. The table is built once: ``dequantize_activation`` in f32, GELU in f64 (``refimpl.nn.gelu``), one rounding to
f32, ``quantize_activation``. The kernel looks every code up; nothing rounds. Against a chain that evaluates GELU in f32
a code may differ by one where a result falls on a tie.

64 codes a step: ``vpermi2b`` looks the low seven bits up in each half of the table, the top bit of the code chooses.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from refimpl import check
from refimpl.kernels.layout import aligned
from refimpl.kernels.rowwise.record import RowKernel
from refimpl.kernels.simd.instructions.lookup import vpblendmb, vpermi2b
from refimpl.kernels.simd.instructions.memory import vmovdqu8_load, vmovdqu8_store
from refimpl.kernels.simd.threefold import kernel
from refimpl.nn.gelu import gelu
from refimpl.quant.symmetric import dequantize_activation, quantize_activation

WIDTH = 64


def table(x_scale: np.ndarray, y_scale: np.ndarray) -> np.ndarray:
    """u8 (256,): the code of GELU for each code. x_scale, y_scale: f32 (), > 0."""
    for name, scale in (("x_scale", x_scale), ("y_scale", y_scale)):
        check.dtype(name, scale, np.float32)
        check.shape(name, scale, ())
        check.positive(name, scale)
    x = dequantize_activation(np.arange(256, dtype=np.uint8), x_scale)
    return quantize_activation(gelu(x.astype(np.float64)).astype(np.float32), y_scale)


@kernel
def look_up(codes, table, out):
    """codes, out: u8 (64 S,); table: u8 (256,)."""
    for step in numba.prange(codes.size // 64):
        index = vmovdqu8_load(codes, 64 * step)
        low = vpermi2b(index, vmovdqu8_load(table, 0), vmovdqu8_load(table, 64))
        high = vpermi2b(index, vmovdqu8_load(table, 128), vmovdqu8_load(table, 192))
        vmovdqu8_store(out, 64 * step, vpblendmb(index, low, high))


def oracle(codes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The table, indexed."""
    return table[codes]


def validate(codes: np.ndarray, table: np.ndarray) -> None:
    """codes: u8 (N, D); table: u8 (256,)."""
    check.dtype("codes", codes, np.uint8)
    check.shape("codes", codes, ("N", "D"))
    check.dtype("table", table, np.uint8)
    check.shape("table", table, (256,))


def call(execution: Callable[..., Any], codes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """u8 (N, D) -> u8 (N, D), in whole registers."""
    padded, out = (aligned.empty((-(-codes.size // WIDTH) * WIDTH,), np.uint8) for _ in range(2))
    padded[: codes.size], padded[codes.size :] = codes.reshape(-1), 0
    execution(padded, np.ascontiguousarray(table), out)
    return out[: codes.size].reshape(codes.shape)


GELU_U8_TABLE = RowKernel("gelu_u8_table", oracle, lambda codes, table: np.zeros(codes.shape), validate, look_up, call)
