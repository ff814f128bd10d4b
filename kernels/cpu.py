"""What this CPU can do, in LLVM's names for features ("avx512vnni")."""

from functools import cache

import llvmlite.binding as llvm

INTEREST = ("sse4.1", "avx2", "fma", "avxvnni", "avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512vbmi2",
            "avx512vnni", "avx512bf16", "amx-int8")  # fmt: skip
"""The features that decide how a compressed BERT runs on x86."""


@cache
def features() -> frozenset[str]:
    """The features of the CPU that runs this process."""
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


def name() -> str:
    """LLVM's name of the CPU, such as "sapphirerapids"."""
    return llvm.get_host_cpu_name()
