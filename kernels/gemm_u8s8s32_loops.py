"""Dense INT8 product as three loops: where the ladder starts.

    acc[n, m] = sum_k a[n, k] w[m, k]      a: u8 (N, K), w: s8 (M, K), acc: s32 (N, M)

Contract. Bits of ``refimpl.integer.gemm_u8s8s32`` for every M, N, K.

Not one instruction is named here, so portable and native are the same code, and what the compiler makes of the inner
loop is its own affair. Weights stay as they are, each output is finished before the next, and nothing is kept in
registers from one output to another.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from refimpl import check
from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.kernels.layout import aligned
from refimpl.kernels.layout.vnni4 import check_shape
from refimpl.kernels.record import Kernel
from refimpl.kernels.simd.threefold import kernel


@kernel
def gemm_loops(w, x, k, out, m):
    """w: s8 (m k,), x: u8 (N k,), out: s32 (N m,)."""
    for token in numba.prange(x.size // k):
        codes = x[token * k : (token + 1) * k]
        for channel in range(m):
            weights = w[channel * k : (channel + 1) * k]
            total = np.int32(0)
            for i in range(k):
                total += np.int32(codes[i]) * np.int32(weights[i])
            out[token * m + channel] = total


def pack(w: np.ndarray) -> np.ndarray:
    """A contiguous copy. w: s8 (M, K)."""
    validate(w)
    return _copy(w)


def unpack(packed: np.ndarray) -> np.ndarray:
    """Another copy: s8 (M, K). Raises what ``validate`` raises."""
    validate(packed)
    return packed.copy()


def validate(packed: np.ndarray) -> None:
    """Raise TypeError or ValueError unless a kernel can run on this: s8 (M, K), not empty, with K <= MAX_K."""
    check.dtype("w", packed, np.int8)
    check.shape("w", packed, ("M", "K"))
    check_shape(packed.shape)


def call(execution: Callable[..., Any], a: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """The product. a: u8 (N, K) -> s32 (N, M)."""
    (n, k), m = a.shape, packed.shape[0]
    out = aligned.empty((n, m), np.int32)
    execution(packed.reshape(-1), _copy(a).reshape(-1), k, out.reshape(-1), m)
    return out


def _copy(array: np.ndarray) -> np.ndarray:
    copy = aligned.empty(array.shape, array.dtype)
    copy[...] = array
    return copy


GEMM_LOOPS = Kernel("gemm_u8s8s32_loops", gemm_u8s8s32, pack, unpack, validate, gemm_loops, call)
