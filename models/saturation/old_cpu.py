"""OpenVINO as on a CPU without VNNI: another process, with oneDNN told to do without.

The variable must be set before the process starts. ONEDNN_MAX_CPU_ISA=AVX512_CORE is an early Xeon Scalable, AVX2 a
desktop CPU; both multiply by ``vpmaddubsw``.
"""

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.models.bert import Batch
from refimpl.models.engines import open_session, signed_product

ISAS = {"AVX512_CORE": "avx512bw", "AVX2": "avx2"}
"""What oneDNN may use at most -> the feature that this CPU needs for it."""
PROGRAM = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    function, arguments = pickle.load(file)
result = function(*arguments)
with open(sys.argv[2], "wb") as file:
    pickle.dump(result, file)
"""


def without_vnni(isa: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a module in a process in which oneDNN knows only ``isa``. RuntimeError with its last words."""
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder, "given"), Path(folder, "result")
        given.write_bytes(pickle.dumps((function, arguments)))
        environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
        command = [sys.executable, "-c", PROGRAM, str(given), str(result)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"OpenVINO with {isa} failed: {done.stderr.strip().splitlines()[-1:]}")
        return pickle.loads(result.read_bytes())


def signed_products(operands: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """OpenVINO's bare product sum_k (codes[n, k] - 128) w[m, k] of each pair of u8 (N, K) and s8 (M, K)."""
    return {name: signed_product("openvino", codes, w) for name, (codes, w) in operands.items()}


def tapped(path: Path, batches: Sequence[Batch], taps: list[str]) -> tuple[int, list[dict[str, np.ndarray]]]:
    """An exported file in OpenVINO: how many layers ran in integers, and for each batch the values at the taps."""
    session = open_session("openvino", path, taps)
    return session.integer_layers, [session.run(batch) for batch in batches]
