"""Other engines, driven to be compared with: each runs an ONNX file and returns the values at our taps.

An engine is a module here with ``open_graph(path, tensors, threads, optimize)``, the names ``INTEGER_LAYERS`` of
layers that multiply integers, and ``signed_product(codes, w)``; and with ``settings()`` and
``open_fast(path, shape, threads, setting)`` to be timed. It is imported when it is asked for, since the engine is an
optional dependency. ``isolated`` runs one in a process of its own, where a CPU's instructions can be taken away.

Both engines report their use over the network from threads of their own, started as they are imported. OpenVINO's
forks the process, which can hang for ever if NumPy multiplies matrices meanwhile; and any of them would disturb a
measurement. So neither reports anything here.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from refimpl.models.bert import Batch
from refimpl.models.export import INPUTS, TAPS
from refimpl.quant import ZERO_POINT

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # to its importer: not installed

NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
"""Package -> what people call it."""


class Graph(NamedTuple):
    """An ONNX file, anybody's, loaded in an engine with inner tensors exposed.

    run : the graph's inputs by name -> value of every exposed tensor, and of the graph's outputs
    inputs : names of the graph's inputs
    not_exposed : tensor -> why the engine has no value for it
    layers : kind of layer -> how many there are in what the engine made of the file
    """

    run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
    inputs: list[str]
    not_exposed: dict[str, str]
    layers: dict[str, int]


class Session(NamedTuple):
    """A loaded export of ours. run: batch -> tap name -> value; integer_layers: how many MatMuls run on integers."""

    run: Callable[[Batch], dict[str, np.ndarray]]
    integer_layers: int


def installed() -> list[str]:
    """The packages of the engines that can be driven here."""
    return [package for package in NAMES if find_spec(package) is not None]


def version(engine: str) -> str:
    """Of the installed package."""
    return metadata.version(engine)


def open_graph(
    engine: str, path: Path, tensors: Sequence[str] | None, threads: int = 1, optimize: bool = True
) -> Graph:
    """Load an ONNX file with the given tensors, each the output of a node, made outputs of the graph.

    Nothing is fused across an output, so what is exposed can change what runs; ``layers`` says what does. tensors None
    exposes all that can be: in ONNX Runtime, if it optimizes, what its own optimization leaves, which changes nothing
    else; otherwise the output of every node. optimize False: every node as it is written, as far as the engine allows.
    """
    return _module(engine).open_graph(path, tensors, threads, optimize)


def open_session(engine: str, path: Path, taps: list[str], threads: int = 1) -> Session:
    """Load an exported file in an engine, with the given taps (and always "output") as outputs.

    Codes are u8: those that are s8 in the file come with 128 added.
    """
    tensors = tap_tensors(path, taps)
    graph = open_graph(engine, path, list(dict.fromkeys(tensors.values())), threads)

    def run(batch: Batch) -> dict[str, np.ndarray]:
        values = graph.run(feeds(batch, graph.inputs))
        return {tap: unsigned(values[tensor]) for tap, tensor in tensors.items()}

    return Session(run, count_integer_layers(engine, graph.layers))


def count_integer_layers(engine: str, layers: dict[str, int]) -> int:
    """How many of a graph's layers multiply integers."""
    return sum(layers.get(name, 0) for name in _module(engine).INTEGER_LAYERS)


def unsigned(value: np.ndarray) -> np.ndarray:
    """Codes as u8: 128 is added to those that are s8."""
    return (value.astype(np.int16) + ZERO_POINT).astype(np.uint8) if value.dtype == np.int8 else value


Run = Callable[[Batch], np.ndarray]
"""A loaded model that is only timed: its output, overwritten by the next run."""


def settings(engine: str) -> tuple[str, ...]:
    """The names of the settings that may be an engine's fastest on this CPU."""
    return _module(engine).settings()


def open_fast(engine: str, path: Path, shape: tuple[int, int], threads: int, setting: str) -> Run:
    """Load an exported file for batches of one shape (B, T), as fast as the engine can run it with that setting."""
    return _module(engine).open_fast(path, shape, threads, setting)


def signed_product(engine: str, codes: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The engine's bare integer product sum_k (codes[n, k] - 128) w[m, k]. u8 (N, K), s8 (M, K) -> integers (N, M)."""
    return _module(engine).signed_product(codes, w)


def write_ir(onnx_path: Path, path: Path) -> None:
    """An ONNX file as OpenVINO's IR, ``path`` (.xml) and a .bin beside it. RuntimeError if OpenVINO is not installed or
    cannot convert the file."""
    if "openvino" not in installed():
        raise RuntimeError("openvino is not installed; need: python -m pip install openvino")
    _module("openvino").write_ir(onnx_path, path)


def _module(engine: str) -> Any:
    return import_module(f"{__name__}.{engine}")


def tap_tensors(path: Path, taps: list[str]) -> dict[str, str]:
    """Tap name -> tensor name, for the given taps and "output", of a file that this package exported."""
    made = onnx.load(path, load_external_data=False)
    for entry in made.metadata_props:
        if entry.key == TAPS:
            tensors = json.loads(entry.value)
            return {tap: tensors[tap] for tap in [*taps, "output"]}
    raise ValueError(f"{path} has no taps; need an ONNX file that refimpl exported")


def node_outputs(made: onnx.ModelProto) -> list[str]:
    """The tensors that a graph's nodes make, in order."""
    return [name for node in made.graph.node for name in node.output if name]


def feeds(batch: Batch, names: list[str]) -> dict[str, np.ndarray]:
    """The inputs of an exported file by name."""
    values = dict(zip(INPUTS, batch, strict=True))
    return {name: values[name] for name in names}
