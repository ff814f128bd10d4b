"""Other engines, driven to be compared with: each runs an ONNX file and returns the values at our taps.

An engine is a module with ``NAME``, ``version()`` and ``run(path, batch, taps, threads)``; it is imported only when
asked for, since it is an optional dependency.
"""

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from refimpl.models.bert import Batch
from refimpl.models.export import TAPS

PACKAGES = ("onnxruntime", "openvino")


class Session(NamedTuple):
    """A loaded model. run: batch -> tap name -> value; integer_layers: how many MatMuls run on integers."""

    name: str
    run: Callable[[Batch], dict[str, np.ndarray]]
    integer_layers: int


def installed() -> list[str]:
    """The engines that can be driven here."""
    return [package for package in PACKAGES if find_spec(package) is not None]


def open_session(engine: str, path: Path, taps: list[str], threads: int = 1) -> Session:
    """Load an exported file in an engine, with the given taps (and always "output") as outputs."""
    if engine == "onnxruntime":
        from refimpl.models.engines import onnxruntime as module
    else:
        from refimpl.models.engines import openvino as module  # type: ignore[no-redef]
    return module.open_session(path, taps, threads)


def tap_tensors(path: Path) -> dict[str, str]:
    """Tap name -> tensor name of a file that this package exported."""
    made = onnx.load(path, load_external_data=False)
    for property in made.metadata_props:
        if property.key == TAPS:
            return json.loads(property.value)
    raise ValueError(f"{path} has no taps; need an ONNX file that refimpl exported")


def feeds(batch: Batch, names: list[str]) -> dict[str, np.ndarray]:
    """The inputs of an exported file by name."""
    values: Mapping[str, np.ndarray] = dict(
        zip(("input_ids", "attention_mask", "token_type_ids"), batch, strict=True)
    )
    return {name: values[name] for name in names}
