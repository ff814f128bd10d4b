"""The process that holds an engine for many batches: ``python -m refimpl.models.engines.server ENGINE MODEL THREADS``,
started by ``serving``.

Frames go both ways: 8 bytes, the length of what follows, little endian. The first answer is JSON, {"layers", "inputs",
"version"}; then a frame in, the inputs as safetensors, and two out, {} as JSON and the output as safetensors. In place
of either JSON there may be {"error"}, and the process ends. It ends with its input, too. What the engine prints goes to
stderr.
"""

import json
import os
import sys
from pathlib import Path
from typing import IO, Any

from safetensors.numpy import load, save

from refimpl.models.engines import open_graph, version
from refimpl.models.sealed import contiguous

LENGTH = 8
OUTPUT = "output"


def receive(stream: IO[bytes]) -> bytes | None:
    """A frame; None if the stream ends before it does."""
    head = stream.read(LENGTH)
    if len(head) < LENGTH:
        return None
    size = int.from_bytes(head, "little")
    body = stream.read(size)
    return body if len(body) == size else None


def send(stream: IO[bytes], body: bytes) -> None:
    """A frame."""
    stream.write(len(body).to_bytes(LENGTH, "little") + body)
    stream.flush()


def serve(engine: str, path: Path, threads: int, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Load the model, and run it until there are no more requests."""
    graph = open_graph(engine, path, [], threads)
    _tell(answers, {"layers": graph.layers, "inputs": graph.inputs, "version": version(engine)})
    while (body := receive(requests)) is not None:
        output = graph.run(load(body))[OUTPUT]
        _tell(answers, {})
        send(answers, save({OUTPUT: contiguous(output)}))


def _tell(answers: IO[bytes], value: dict[str, Any]) -> None:
    send(answers, json.dumps(value).encode())


def main(engine: str, path: str, threads: str) -> int:
    """``serve`` on stdin and stdout; an error is the last answer."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        try:
            serve(engine, Path(path), int(threads), sys.stdin.buffer, answers)
        except Exception as error:  # whatever an engine raises
            kind = "" if isinstance(error, ValueError | TypeError | RuntimeError) else f"{type(error).__name__}: "
            _tell(answers, {"error": " ".join(f"{kind}{error}".split()) or kind})
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
