"""A record in one file: safetensors, with a JSON header in its metadata.

    metadata    refimpl.record    {"version": 1, "info": {...}, "not_exposed": {tensor: why}, "sha256": "..."}
    tensors     input/NAME        what the engine was given
                value/NAME        what it returned

``info`` is that of ``engines.isolated.EngineRun``. The digest covers the header, and every tensor's name, dtype, shape
and bytes. A file is anybody's: whatever of it is read is validated here. Values may be infinite or NaN: an engine
returned them.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refimpl.models import sealed
from refimpl.models.engines.isa import ISAS
from refimpl.models.engines.isolated import EngineRun

HEADER, VERSION = "refimpl.record", 1
KIND = sealed.Kind(
    HEADER, VERSION, "record", "a file that refimpl record wrote", "name a file that refimpl record wrote"
)
INPUT, VALUE = "input/", "value/"
NUMBERS = "biuf"
"""Kinds of dtype that a record may hold: bool, integers, f16 to f64."""


class Record(NamedTuple):
    """inputs and values by tensor name; not_exposed: tensor -> why; info: see ``EngineRun``."""

    inputs: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    not_exposed: dict[str, str]
    info: dict[str, Any]


def save_record(run: EngineRun, inputs: dict[str, np.ndarray], path: Path) -> None:
    """Write what an engine returned for these inputs, atomically."""
    tensors = {INPUT + name: array for name, array in inputs.items()}
    tensors |= {VALUE + name: array for name, array in run.values.items()}
    header = {"version": VERSION, "info": run.info, "not_exposed": run.not_exposed}
    sealed.save(tensors, path, {HEADER: json.dumps(header | {"sha256": sealed.digest(header, tensors)})})


def load_record(path: Path) -> Record:
    """Read and validate a record.

    Raises
    ------
    FileNotFoundError, ValueError
        with the file and what is wrong with it
    """
    path = Path(path)
    header, _, tensors = sealed.read(path, KIND)
    sha256 = header.pop("sha256", None)
    if sha256 != sealed.digest(header, tensors):
        raise ValueError(f"{path} is damaged: its contents do not match its checksum")
    if header.keys() != {"version", "info", "not_exposed"}:
        raise ValueError(f"{path} has the fields {', '.join(sorted(header))}; need info, not_exposed and version")
    _check_info(header["info"], path)
    if not _is_dict(str)(header["not_exposed"]):
        raise ValueError(f"{path}: not_exposed is no JSON object of texts")
    for name, array in tensors.items():
        if not name.startswith((INPUT, VALUE)):
            raise ValueError(f"{path} has the tensor {name!r}; need names that start with {INPUT} or {VALUE}")
        if array.dtype.kind not in NUMBERS:
            raise ValueError(f"{path}: {name} has dtype {array.dtype}; need bool, integers or floats")
    inputs, values = (
        {name.removeprefix(part): array for name, array in tensors.items() if name.startswith(part)}
        for part in (INPUT, VALUE)
    )
    if header["info"]["inputs_sha256"] != sealed.digest([], inputs):
        raise ValueError(f"{path}: its inputs are not those that inputs_sha256 names")
    if both := values.keys() & header["not_exposed"].keys():
        raise ValueError(f"{path}: {min(both)!r} has a value and is not exposed")
    return Record(inputs, values, header["not_exposed"], header["info"])


Test = Callable[[Any], bool]


def _is(*types: type) -> Test:
    return lambda value: type(value) in types


def _is_dict(*types: type) -> Test:
    return lambda value: isinstance(value, dict) and all(type(entry) in types for entry in value.values())


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_cpu(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"model", "name", "features"}
        and all(isinstance(value[key], str) for key in ("model", "name"))
        and isinstance(value["features"], list)
        and all(isinstance(feature, str) for feature in value["features"])
    )


INFO: dict[str, tuple[Test, str]] = {
    "engine": (_is(str), "a text"),
    "version": (_is(str), "a text"),
    "isa": (lambda value: isinstance(value, str) and value in ISAS, f"one of {', '.join(ISAS)}"),
    "threads": (lambda value: type(value) is int and value > 0, "an integer of at least 1"),
    "optimize": (_is(bool), "true or false"),
    "tensors": (lambda value: value in ("all", "chosen"), "all or chosen"),
    "layers": (
        lambda value: _is_dict(int)(value) and all(count >= 0 for count in value.values()),
        "an object of counts",
    ),
    "emulator": (_is(str), "a text"),
    "environment": (_is_dict(str), "an object of texts"),
    "cpu": (_is_cpu, "an object of model, name and features"),
    "model_sha256": (_is_sha256, "64 hexadecimal digits"),
    "external_sha256": (
        lambda value: isinstance(value, dict) and all(map(_is_sha256, value.values())),
        "an object of 64 hexadecimal digits each",
    ),
    "inputs_sha256": (_is_sha256, "64 hexadecimal digits"),
    "versions": (_is_dict(str), "an object of texts"),
}
"""Field -> test, and what is needed in words."""


def _check_info(info: Any, path: Path) -> None:
    if not isinstance(info, dict) or info.keys() != INFO.keys():
        have = ", ".join(sorted(info)) if isinstance(info, dict) else type(info).__name__
        raise ValueError(f"{path}: info has {have}; need {', '.join(sorted(INFO))}")
    for field, (test, need) in INFO.items():
        if not test(info[field]):
            raise ValueError(f"{path}: {field} is {str(info[field])[:80]!r}; need {need}")
