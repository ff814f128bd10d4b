"""What this CPU can do, in LLVM's names for features ("avx512vnni"), and what it keeps."""

import os
from functools import cache
from pathlib import Path

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


def cache_bytes() -> dict[int, int]:
    """Level -> bytes of the caches for data that Linux knows CPU 0 to have: a virtual machine may hide some, other
    systems do not say."""
    sizes = {}
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            sizes[int(level)] = 1024 * int(size.removesuffix("K"))
    return dict(sorted(sizes.items()))


def cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
