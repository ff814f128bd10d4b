"""What the u8 x s8 products of an engine are on a CPU: which of our oracles its integers must equal.

"exact"            sum of a w in s32: VNNI (AVX-512 or AVX), AMX
"pair_saturating"  sum over pairs (k, k + 1) of clip(a0 w0 + a1 w1) to s16: vpmaddubsw, where there is no VNNI
"unknown"          no source that we know says it

    engine        CPU, as its process sees it    products         source
    OpenVINO      limited to avx512 or avx2      pair_saturating  oneDNN, brgemm: has_int8_vnni ? vpdpbusd : vpmaddubsw
    OpenVINO      VNNI, AVX-VNNI or AMX          exact            oneDNN, doc/advanced/int8_computations.md
    OpenVINO      AVX2 or AVX-512 without those  pair_saturating  the same
    ONNX Runtime  VNNI, AVX-VNNI or AMX          exact            MLAS, lib/platform.cpp
    ONNX Runtime  AVX2 or AVX-512 without those  pair_saturating  docs/performance/model-optimizations/quantization.md
    others        any                            unknown

tests/test_7_engines.py and test_7_records.py measure the limits, an emulated Haswell and, where they run, a CPU with
VNNI or one with AVX2 alone. The other rows (real CPUs with AMX, with AVX-VNNI alone, or with AVX-512 and no VNNI) rest
on their sources.

Only of u8 x s8: ONNX Runtime's u8 x u8 and s8 x s8 products on x86 are exact everywhere. s8 x s8 in oneDNN without VNNI
saturates too, one side shifted by 128. Without AVX2, and on other processors, nothing is claimed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.integer.gemm import gemm_u8s8s32, gemm_u8s8s32_pair_saturating
from refimpl.models.engines import NAMES
from refimpl.models.engines.isa import CAPS

EXACT, PAIR_SATURATING, UNKNOWN = "exact", "pair_saturating", "unknown"
ORACLES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    EXACT: gemm_u8s8s32,
    PAIR_SATURATING: gemm_u8s8s32_pair_saturating,
}
DOT_PRODUCTS = {"avx512vnni", "avxvnni", "amx-int8"}
"""Features, in LLVM's names, with an instruction that adds four products of bytes without saturating."""


def semantics_of(info: dict[str, Any]) -> str:
    """For the ``info`` of a run or a record."""
    features = set(info["cpu"]["features"])
    if info["engine"] not in NAMES or "avx2" not in features:
        return UNKNOWN
    if info["isa"] in CAPS:
        return PAIR_SATURATING if info["engine"] == "openvino" else UNKNOWN
    return EXACT if features & DOT_PRODUCTS else PAIR_SATURATING
