"""What an ONNX file says of itself: its inputs, the tensors that its nodes make, and which bytes it is.

A file is anybody's: one that onnx cannot read is a ValueError.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper, helper

from refimpl.models.engines import node_outputs

SAME_ELEMENTS = ("Cast", "DequantizeLinear", "Identity")
"""Operators whose result has the shape of what they read, and stands for the same numbers."""


class Signature(NamedTuple):
    """inputs: name -> dtype and shape, None where a length is free; outputs: of the graph; tensors: the nodes' outputs,
    in order. Tensors inside the branches and loops of a node are not among them."""

    inputs: dict[str, tuple[np.dtype, tuple[int | None, ...] | None]]
    outputs: list[str]
    tensors: list[str]


def load(path: Path) -> onnx.ModelProto:
    """The model without its external data. Raises FileNotFoundError, ValueError."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is no file; need an ONNX file")
    try:
        made = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, RecursionError):
        raise ValueError(f"{path} is not an ONNX file, or a damaged one") from None
    if not made.graph.node:
        raise ValueError(f"{path} has no nodes; need an ONNX file")
    return made


def signature(made: onnx.ModelProto) -> Signature:
    """Raises ValueError for an input that is no tensor of a type that NumPy has."""
    constants = {tensor.name for tensor in made.graph.initializer}
    inputs = {}
    for entry in made.graph.input:
        if entry.name in constants:
            continue
        if not entry.type.HasField("tensor_type"):
            raise ValueError(f"the input {entry.name} is no tensor; need tensors only")
        tensor = entry.type.tensor_type
        try:
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        except (KeyError, ValueError):
            raise ValueError(f"the input {entry.name} has the unknown element type {tensor.elem_type}") from None
        dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
        inputs[entry.name] = (dtype, dims if tensor.HasField("shape") else None)
    return Signature(inputs, [output.name for output in made.graph.output], node_outputs(made))


def check_inputs(made: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> None:
    """Raise TypeError or ValueError unless ``inputs`` are those of the graph: names, dtypes, shapes, and rows that the
    tables have where an input chooses rows of one. Not every engine looks at those: some read what lies beyond.
    """
    expected = signature(made)
    if inputs.keys() != expected.inputs.keys():
        raise ValueError(f"the inputs are {_words(inputs)}; need {_words(expected.inputs)}")
    for name, (dtype, dims) in expected.inputs.items():
        array = inputs[name]
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            raise TypeError(f"the input {name} is {getattr(array, 'dtype', type(array).__name__)}; need {dtype}")
        if dims is not None and (
            array.ndim != len(dims) or any(d is not None and d != n for d, n in zip(dims, array.shape, strict=True))
        ):
            need = ", ".join("any" if d is None else str(d) for d in dims)
            raise ValueError(f"the input {name} has shape {array.shape}; need ({need})")
    for name, (table, rows) in _rows_chosen_by(made, inputs.keys()).items():
        outside = inputs[name][(inputs[name] < -rows) | (inputs[name] >= rows)]
        if outside.size:
            raise ValueError(f"the input {name} has the element {outside[0]}; need {-rows} to {rows - 1}: {table}")


def _rows_chosen_by(made: onnx.ModelProto, names: Iterable[str]) -> dict[str, tuple[str, int]]:
    """Input -> the smallest constant that it chooses from, and how long that is."""
    lengths = {tensor.name: tuple(tensor.dims) for tensor in made.graph.initializer}
    origin = {name: name for name in names}
    found: dict[str, tuple[str, int]] = {}
    for node in made.graph.node:
        (read, places), result = (*node.input, "", "")[:2], next(iter(node.output), "")
        if node.op_type in SAME_ELEMENTS and read in lengths:
            lengths[result] = lengths[read]
        elif node.op_type in SAME_ELEMENTS and read in origin:
            origin[result] = origin[read]
        elif node.op_type == "Gather" and read in lengths and places in origin:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            if -len(lengths[read]) <= axis < len(lengths[read]):
                table, name = (read, lengths[read][axis]), origin[places]
                found[name] = min(found.get(name, table), table, key=lambda each: each[1])
    return found


def check_tensors(made: onnx.ModelProto, tensors: Sequence[str]) -> None:
    """Raise ValueError unless each name is an output of a node or of the graph."""
    expected = signature(made)
    unknown = set(tensors) - {*expected.tensors, *expected.outputs}
    if unknown:
        raise ValueError(f"no node of the file makes the tensor {min(unknown)!r}; need outputs of nodes")


def _words(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(str, names))) or "none"


def external_digests(path: Path, made: onnx.ModelProto) -> dict[str, str]:
    """Location -> SHA-256 of the files beside ``path`` that hold its constants. ValueError if one is elsewhere."""
    folder, found = Path(path).resolve().parent, {}
    for tensor in made.graph.initializer:
        if external_data_helper.uses_external_data(tensor):
            location = external_data_helper.ExternalDataInfo(tensor).location
            if not (folder / location).resolve().is_relative_to(folder):
                raise ValueError(f"{path} keeps data at {location}; need a file beside it")
            if location not in found:
                found[location] = sha256(folder / location)
    return found


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
