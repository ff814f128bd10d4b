"""An engine in a process of its own: a CPU's instructions can be taken away from it, and a crash is an error message.

Arrays travel as safetensors files in a temporary folder, all else as JSON: nothing is unpickled. What the process
prints is read and forgotten but for its end, which is shown if it dies.
"""

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import onnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from refimpl import __version__
from refimpl.models.bert import Batch
from refimpl.models.engines import count_integer_layers, feeds, onnx_file, others, tap_tensors, unsigned, worker
from refimpl.models.engines import isa as isas
from refimpl.models.sealed import contiguous, digest

KEPT = 4096
"""Bytes of what a process prints that are kept."""


class Conditions(NamedTuple):
    """isa: one of ``isa.ISAS``; optimize: see ``engines.open_graph``; timeout: seconds."""

    isa: str = isas.NATIVE
    threads: int = 1
    optimize: bool = True
    timeout: float = 300.0


class EngineRun(NamedTuple):
    """What an engine computed.

    values : tensor name -> value
    not_exposed : tensor name -> why there is no value, of those that were wanted
    info : plain JSON: engine, version, isa, threads, optimize, tensors ("all" or "chosen"), layers (kind -> how many
        ran), emulator, environment (what was set), cpu (model, and name and features as the engine's process saw them),
        model_sha256, external_sha256, inputs_sha256, versions
    """

    values: dict[str, np.ndarray]
    not_exposed: dict[str, str]
    info: dict[str, Any]


def run_isolated(
    engine: str,
    onnx_path: Path,
    inputs: dict[str, np.ndarray],
    tensors: list[str] | None = None,
    conditions: Conditions = Conditions(),  # noqa: B008  # immutable
) -> EngineRun:
    """Run an ONNX file, anybody's, in any engine (``others`` says how they are named) and return inner tensors.

    tensors: outputs of nodes; None is all that can be exposed. The graph's outputs always come too.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        for a file, input, tensor, engine or ISA that cannot be meant
    RuntimeError
        for an engine that is not installed, cannot be so limited, reports an error or dies
    TimeoutError
        for one that does not end in time
    """
    path, meant = Path(onnx_path), others.parse(engine)
    made = onnx_file.load(path)
    onnx_file.check_inputs(made, inputs)
    onnx_file.check_tensors(made, tensors or [])
    check_conditions(conditions)
    start = isas.launch(engine, conditions.isa)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        request: dict[str, Any] = {"engine": engine, "model": str(path.resolve()), "tensors": tensors}
        request |= {"threads": conditions.threads, "optimize": conditions.optimize}
        (folder / worker.REQUEST).write_text(json.dumps(request), "utf-8")
        save_file({key: contiguous(array) for key, array in inputs.items()}, folder / worker.INPUTS)
        _run(engine, start, folder, conditions.timeout)
        answer, values = _answer(engine, folder)
    info = {
        "engine": engine if meant.kind == "package" else f"{meant.kind} {meant.name}",
        **{field: getattr(conditions, field) for field in ("isa", "threads", "optimize")},
        "tensors": "all" if tensors is None else "chosen",
        **{field: answer[field] for field in ("version", "layers")},
        "emulator": start.emulator,
        "environment": start.environment,
        "cpu": {"model": cpu_model()} | answer["cpu"],
        "model_sha256": onnx_file.sha256(path),
        "external_sha256": onnx_file.external_digests(path, made),
        "inputs_sha256": digest([], inputs),
        "versions": versions(),
    }
    return EngineRun(values, answer["not_exposed"], info)


def run_taps(
    engine: str,
    path: Path,
    batch: Batch,
    taps: list[str],
    conditions: Conditions = Conditions(),  # noqa: B008  # immutable
) -> tuple[int, dict[str, np.ndarray]]:
    """An exported file in one of our engines: how many layers ran in integers, and the values at the taps, codes u8.

    Raises what ``run_isolated`` raises.
    """
    tensors = tap_tensors(path, taps)
    inputs = feeds(batch, list(onnx_file.signature(onnx_file.load(path)).inputs))
    run = run_isolated(engine, path, inputs, list(dict.fromkeys(tensors.values())), conditions)
    values = {tap: unsigned(run.values[tensor]) for tap, tensor in tensors.items()}
    return count_integer_layers(engine, run.info["layers"]), values


def check_conditions(conditions: Conditions) -> None:
    """Raise ValueError for threads or a timeout that cannot be."""
    if conditions.threads < 1:
        raise ValueError(f"threads is {conditions.threads}; need at least 1")
    if not conditions.timeout > 0:
        raise ValueError(f"timeout is {conditions.timeout}; need more than 0 seconds")


def _run(engine: str, start: isas.Launch, folder: Path, timeout: float) -> None:
    """Run the worker to its end; in a session of its own, so that what it started ends with it."""
    environment = environment_of(start)
    command = [*start.command, sys.executable, "-P", "-m", worker.__name__, str(folder)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as child:  # fmt: skip
        printed = bytearray()
        reader = threading.Thread(target=keep_the_end, args=(child.stdout, printed), daemon=True)
        reader.start()
        try:
            status = child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{engine} ran for more than {timeout:g} s and was stopped") from None
        finally:
            stop(child)
            reader.join(10)
    if status == 0:
        return
    last = last_line(printed)
    error = folder / worker.ERROR
    if status != 1 or not error.exists():
        raise RuntimeError(f"{engine} died: {fate(status)}; the last that it printed: {last}")
    said = f"{engine}: {error.read_text('utf-8')}"
    raise RuntimeError(
        said if others.parse(engine).kind != others.COMMAND else f"{said}; the last that it printed: {last}"
    )


def environment_of(start: isas.Launch) -> dict[str, str]:
    """This process's variables, without those that change an engine, and what the start sets."""
    return {key: value for key, value in os.environ.items() if key not in isas.SWITCHES} | start.environment


def last_line(printed: bytearray) -> str:
    """Of what a process printed."""
    return (printed.decode("utf-8", "replace").strip().splitlines() or ["nothing"])[-1][: worker.LONGEST]


def keep_the_end(stream: IO[bytes], printed: bytearray) -> None:
    """Read all that a process prints, so that it never waits, into the last ``KEPT`` bytes of it."""
    while block := stream.read1(KEPT):  # type: ignore[attr-defined]
        printed += block
        del printed[:-KEPT]


def stop(child: subprocess.Popen) -> None:
    """Kill the child's whole session, whatever of it is left."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.wait()


def fate(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _answer(engine: str, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        return json.loads((folder / worker.ANSWER).read_text("utf-8")), load_file(folder / worker.VALUES)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RuntimeError(f"{engine} left no answer: {error}") from None


def cpu_model() -> str:
    """What this machine's CPU calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of what stands between the engine and a record of it."""
    return {
        "refimpl": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnx": onnx.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
    }
