"""Taking instructions away from an engine: an environment variable that it reads as it starts, or an emulated CPU.

    engine           isa avx512, avx2                    isa qemu-haswell
    OpenVINO         ONEDNN_MAX_CPU_ISA                  qemu-x86_64 -cpu Haswell
    PyTorch          ONEDNN_MAX_CPU_ISA for oneDNN,      the same
                     FBGEMM_ENABLE_INSTRUCTIONS for FBGEMM
    ONNX Runtime     no switch: MLAS asks the CPU        the same

"avx512" is AVX-512 without VNNI. The variables cap the integer products, not every node: OpenVINO's other nodes may go
on using all that the CPU has.
Sources: oneDNN, dev_guide_cpu_dispatcher_control; FBGEMM, src/Utils.cc; that OpenVINO and ONNX Runtime then saturate
is measured by tests/test_7_engines.py.
"""

import platform
import shutil
import subprocess
from typing import NamedTuple

from refimpl.kernels import cpu

CAPS = {
    "avx512": ("avx512f", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "FBGEMM_ENABLE_INSTRUCTIONS": "AVX512"}),
    "avx2": ("avx2", {"ONEDNN_MAX_CPU_ISA": "AVX2", "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2"}),
}
"""isa -> the feature that the CPU needs for it, and the variables."""
NATIVE, HASWELL = "native", "qemu-haswell"
ISAS = (NATIVE, *CAPS, HASWELL)
SWITCHES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "FBGEMM_ENABLE_INSTRUCTIONS", "OV_CPU_MAX_ISA",
            "ATEN_CPU_CAPABILITY", "ONEDNN_CPU_ISA_HINTS", "ONEDNN_DEFAULT_FPMATH_MODE")  # fmt: skip
"""Variables that a child does not inherit: it gets what ``isa`` says and nothing else."""
QEMU = "qemu-x86_64"


class Launch(NamedTuple):
    """command: before Python's; environment: variables to set; emulator: what emulates which CPU, or ""."""

    command: list[str]
    environment: dict[str, str]
    emulator: str


def launch(engine: str, isa: str) -> Launch:
    """How to start an engine's process. Raises ValueError for an ISA that there is not, RuntimeError for one that this
    machine or engine cannot be limited to."""
    if isa not in ISAS:
        raise ValueError(f"the isa is {isa!r}; need one of {', '.join(ISAS)}")
    if isa == NATIVE:
        return Launch([], {}, "")
    if platform.machine() not in ("x86_64", "AMD64"):
        raise RuntimeError(f"the isa {isa} needs an x86-64 Python; this one is for {platform.machine()}")
    if isa == HASWELL:
        return _haswell()
    if engine == "onnxruntime":
        raise RuntimeError(f"ONNX Runtime has no switch for the isa {isa}; need {NATIVE} or {HASWELL}")
    feature, environment = CAPS[isa]
    if feature not in cpu.features():
        raise RuntimeError(f"this CPU lacks {feature}, so nothing can be limited to {isa}")
    return Launch([], dict(environment), "")


def _haswell() -> Launch:
    found = shutil.which(QEMU)
    if found is None:
        raise RuntimeError(
            f"{QEMU} is not installed; need QEMU's user mode (Linux only; Debian: apt install qemu-user)"
        )
    told = subprocess.run([found, "-version"], capture_output=True, text=True, check=False, timeout=60).stdout
    return Launch([found, "-cpu", "Haswell"], {}, f"{(told.splitlines() or [QEMU])[0]}, -cpu Haswell")
