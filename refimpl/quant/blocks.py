"""Activations that engines quantize again, each block of channels by itself, where a product has a weight in codes.

    m = max |x| of the block,  d = m / 127
    code = rint(x * i),  i = 1 / d          by_step      OpenVINO, if the weight is u8 with a zero point
                         i = 127 / m        by_level     ONNX Runtime, MatMulNBits at accuracy level 4
    y[m, n] = sum_g d[m, g] s[n] acc[m, g, n],  acc = sum_k code[m, g, k] (b[n, g, k] - z[n])

The file says x, an f32 number or an activation that has codes already; what it loses here is the engine's own doing.

Contract. x f32, finite; m is exact, each further operation rounds once, rint's ties go to even; codes are s8 from -127
to 127, 0 in a block of zeros. Zeros fill the last block up. acc is exact. In ``product`` y grows by
fma(f32(acc) * d, s, y), g in order.

Sources: OpenVINO, src/plugins/intel_cpu/src/nodes/executors/dnnl/dnnl_fullyconnected_primitive.cpp (where it is done),
and its oneDNN, src/cpu/x64/jit_brgemm_src_quantization_kernel.cpp (how); its default of 32 channels is the property
DYNAMIC_QUANTIZATION_GROUP_SIZE, and 0 turns it off. The order of the sum: results of version 2026.4, up to 1024
channels. ONNX Runtime, core/mlas/lib/sqnbitgemm_kernel_avx512.cpp.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refimpl import check
from refimpl.isa.f32 import vfmadd

F32 = np.float32
LEVELS = F32(127)


class Blocks(NamedTuple):
    """codes: s8 (..., G, block); step: f32 (..., G, 1)."""

    codes: np.ndarray
    step: np.ndarray


def by_step(x: np.ndarray, block: int) -> Blocks:
    """x: f32 (..., K).

    >>> by_step(np.array([127, -1.5, 0.5, 0], np.float32), 2).codes
    array([[127,  -2],
           [127,   0]], dtype=int8)
    """
    return _coded(x, block, lambda largest: F32(1) / (largest / LEVELS))


def by_level(x: np.ndarray, block: int) -> Blocks:
    """Likewise; another code where the two inverses differ, at ties above all."""
    return _coded(x, block, lambda largest: LEVELS / largest)


def numbers(x: Blocks, length: int) -> np.ndarray:
    """What the codes of the first ``length`` channels stand for, exactly: f64 (..., length)."""
    return (x.codes * x.step.astype(np.float64)).reshape(*x.codes.shape[:-2], -1)[..., :length]


def product(x: Blocks, weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """y, f32 (..., N). weight: codes less their zero point, s16 or wider (K, N); scale: f32 () or (N,).

    >>> x = by_step(np.array([[127, -1.5, 0.5, 0]], np.float32), 2)
    >>> product(x, np.array([[1], [1], [2], [3]]), np.float32(1)[...])  # 127 - 2 + 2 * 0.5
    array([[126.]], dtype=float32)
    """
    check.dtype("scale", scale, F32)
    groups, block = x.codes.shape[-2:]
    if weight.ndim != 2 or -(-weight.shape[0] // block) != groups:
        raise ValueError(f"weight has shape {weight.shape}; need as many channels as {groups} blocks of {block} have")
    filled = np.pad(weight, [(0, -weight.shape[0] % block), (0, 0)])
    acc = np.einsum("...gk,gkn->g...n", x.codes.astype(np.float64), filled.reshape(groups, block, -1))
    y = np.zeros(acc.shape[1:], F32)
    for g in range(groups):
        y = vfmadd(*np.broadcast_arrays(acc[g].astype(F32) * x.step[..., g, :], scale, y))
    return y


def _coded(x: np.ndarray, block: int, inverse: Callable[[np.ndarray], np.ndarray]) -> Blocks:
    check.dtype("x", x, F32)
    if x.ndim < 1 or block < 1:
        raise ValueError(f"x has shape {x.shape} and blocks of {block}; need (..., K) and 1 or more")
    parts = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % block)])
    parts = parts.reshape(*x.shape[:-1], parts.shape[-1] // block, block)
    largest = np.abs(parts).max(-1, keepdims=True, initial=0)
    with np.errstate(all="ignore"):
        codes = np.rint(np.where(largest > 0, parts * inverse(largest), 0))
    return Blocks(np.clip(np.nan_to_num(codes), -127, 127).astype(np.int8), largest / LEVELS)
