"""An engine in a process of its own that answers batch after batch: a crash is an error message, the model loads once.

    with serving("onnxruntime", path) as served:
        y = served.run(batch)

``isolated`` runs one batch and returns inner tensors; this returns the output "output" of an ONNX file, or of
OpenVINO's IR, that refimpl wrote.
"""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from safetensors.numpy import load, save

from refimpl.models.bert import Batch
from refimpl.models.engines import NAMES, feeds, isolated, others, server
from refimpl.models.engines import isa as isas
from refimpl.models.engines.isolated import Conditions
from refimpl.models.sealed import contiguous

PROGRAM = ["-P", "-m", server.__name__]
"""What Python runs in the process."""


class Served(NamedTuple):
    """run: batch -> output; layers: kind -> how many are in what the engine made of the file; version: the engine's."""

    run: Callable[[Batch], np.ndarray]
    layers: dict[str, int]
    version: str


@contextmanager
def serving(engine: str, path: Path, conditions: Conditions = Conditions()) -> Iterator[Served]:  # noqa: B008
    """Load a model in a package of ``engines.NAMES``. The timeout is for the loading, and for each batch, which raises
    what the loading does.

    Raises
    ------
    FileNotFoundError, ValueError
        for a file or conditions that cannot be meant
    RuntimeError
        for an engine that is not installed, reports an error or dies
    TimeoutError
        for one that does not answer in time
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; need a model that {engine} reads")
    isolated.check_conditions(conditions)
    if others.parse(engine).kind != "package":
        raise ValueError(f"the engine is {engine!r}; need {' or '.join(NAMES)}")
    start = isas.launch(engine, conditions.isa)
    command = [*start.command, sys.executable, *PROGRAM]
    with subprocess.Popen(
        [*command, engine, str(path.resolve()), str(conditions.threads)], env=isolated.environment_of(start),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    ) as child:  # fmt: skip
        printed = bytearray()
        reader = threading.Thread(target=isolated.keep_the_end, args=(child.stderr, printed), daemon=True)
        reader.start()
        ask = _Asking(engine, child, reader, printed, conditions.timeout)
        try:
            told = ask(None)
            yield Served(lambda batch: ask.run(batch, told["inputs"]), told["layers"], told["version"])
        finally:
            isolated.stop(child)
            reader.join(10)
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()  # type: ignore[union-attr]


class _Asking(NamedTuple):
    """One question at a time."""

    engine: str
    child: subprocess.Popen[bytes]
    reader: threading.Thread
    printed: bytearray
    timeout: float

    def run(self, batch: Batch, names: list[str]) -> np.ndarray:
        inputs = {name: contiguous(array) for name, array in feeds(batch, names).items()}
        self(save(inputs))
        return load(self._frame())[server.OUTPUT]

    def __call__(self, body: bytes | None) -> dict[str, Any]:
        """Send a frame, and take the JSON that answers it."""
        if body is not None:
            with contextlib.suppress(BrokenPipeError):  # no answer comes then
                server.send(_open(self.child.stdin), body)
        answer = json.loads(self._frame())
        if "error" in answer:
            raise RuntimeError(f"{self.engine}: {answer['error']}")
        return answer

    def _frame(self) -> bytes:
        late = threading.Event()

        def end() -> None:
            late.set()
            isolated.stop(self.child)

        timer = threading.Timer(self.timeout, end)
        timer.start()
        try:
            body = server.receive(_open(self.child.stdout))
        finally:
            timer.cancel()
        if body is not None:
            return body
        if late.is_set():
            raise TimeoutError(f"{self.engine} gave no answer in {self.timeout:g} s and was stopped")
        status = self.child.wait()
        self.reader.join(10)
        said = isolated.last_line(self.printed)
        raise RuntimeError(f"{self.engine} died: {isolated.fate(status)}; the last that it printed: {said}")


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
