"""Table 5: sizes, and times of one pass over a few texts, measured in turns within one run, one thread each."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from threadpoolctl import threadpool_limits

from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.models import packed_file
from refimpl.models.bert import Batch, forward
from refimpl.models.compiled import compiled_ops
from refimpl.models.compress import Dense, Packed, Quantized
from refimpl.models.engines import NAMES, installed, open_session
from refimpl.models.information import model_bytes
from refimpl.models.runtime.session import Session
from refimpl.quant import QUANTIZED

ROUNDS = 3


def sizes(dense: Dense, quantized: Quantized, packed: Packed, folder: Path) -> dict[str, int]:
    """Bytes of the parameters in f32, as dense INT8, and of the packed file."""
    path = folder / "packed.safetensors"
    packed_file.save(packed, path)
    return {
        "f32 parameters": model_bytes(dense.model),
        "INT8 parameters, dense": model_bytes(quantized.model),
        "INT8 parameters, packed": model_bytes(packed.model),
        "packed file, tokenizer included": path.stat().st_size,
    }


def ours(
    dense: Dense, quantized: Quantized, packed: Packed, session: Session | None, batch: Batch
) -> dict[str, Callable[[], object]]:
    """What of ours is timed, by name."""
    target = BSGEMM_4X1.fastest()
    runs: dict[str, Callable[[], object]] = {
        "f32, NumPy": lambda: forward(dense.model, batch),
        "INT8, NumPy reference": lambda: forward(quantized.model, batch, QUANTIZED),
        f"INT8, {target} 4x1 kernel": lambda: forward(packed.model, batch, compiled_ops(target)),
    }
    if session is not None:
        runs["INT8, engine"] = lambda: session(*batch)
    return runs


def engines(batch: Batch, files: dict[str, Path]) -> dict[str, Callable[[], object]]:
    """The other engines, by name. files: {"f32": path, "INT8": path}."""
    return {
        f"{precision}, {NAMES[engine]}": partial(open_session(engine, path, []).run, batch)
        for engine in installed()
        for precision, path in files.items()
    }


def race(runs: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each, taken in turns, after one run to warm up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    with threadpool_limits(1):
        for run in runs.values():
            run()
        for _ in range(rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}
