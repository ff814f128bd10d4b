"""Read an ONNX file into a checked ``Graph``. The file is untrusted: what it claims is checked before it is believed.

Contract. Time and memory are bounded by the sizes of the files, not by what they claim: the file's size is checked
before it is parsed, a tensor's dimensions against the bytes that are there before anything is allocated, and external
data must lie in the file's own folder, behind no link that leads out. Refused, each in one line: subgraphs, local
functions, sparse, sequence and string tensors, unknown operators (all named, with their counts). Lengths may stay
symbolic; the inputs of ``execute`` bind them.

Source: onnx.proto, "Graphs" and "Tensors" of the ONNX IR specification.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, numpy_helper

from refimpl.models.oracle.expand import EXPANSIONS
from refimpl.models.oracle.graph import OURS, STANDARD, Graph, Node, Port, sort
from refimpl.models.oracle.ops import OPERATORS

MAX_BYTES = 2**31 - 1  # protobuf's own limit
MAX_RANK = 32
DTYPES: dict[int, type] = {
    TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64, TensorProto.FLOAT16: np.float16,
    TensorProto.UINT8: np.uint8, TensorProto.INT8: np.int8, TensorProto.UINT16: np.uint16,
    TensorProto.INT16: np.int16, TensorProto.UINT32: np.uint32, TensorProto.INT32: np.int32,
    TensorProto.UINT64: np.uint64, TensorProto.INT64: np.int64, TensorProto.BOOL: np.bool_,
}  # fmt: skip
FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data", TensorProto.DOUBLE: "double_data", TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data", TensorProto.UINT64: "uint64_data",
}  # fmt: skip
ATTRIBUTES = {
    AttributeProto.INT: lambda a: a.i, AttributeProto.INTS: lambda a: list(a.ints),
    AttributeProto.FLOAT: lambda a: a.f, AttributeProto.FLOATS: lambda a: list(a.floats),
    AttributeProto.STRING: lambda a: a.s.decode(), AttributeProto.STRINGS: lambda a: [s.decode() for s in a.strings],
}  # fmt: skip


def load(path: Path) -> Graph:
    """Read and check a file.

    Raises
    ------
    FileNotFoundError, ValueError
        with the file and what is wrong with it
    """
    path = Path(path)
    size = path.stat().st_size if path.is_file() else None
    if size is None:
        raise FileNotFoundError(f"{path} is not a file")
    if size > MAX_BYTES:
        raise ValueError(f"{path} has {size} bytes; need at most {MAX_BYTES}, protobuf's limit")
    try:
        return parse(onnx.ModelProto.FromString(path.read_bytes()), path.parent)
    except DecodeError:
        raise ValueError(f"{path} is not an ONNX file, or is cut off") from None
    except (ValueError, TypeError) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"{path}: {error}") from None


def parse(model: onnx.ModelProto, folder: Path = Path()) -> Graph:
    """The same of a model in memory; ``folder`` holds its external data."""
    graph = model.graph
    if not graph.node and not graph.output:
        raise ValueError("the file holds no graph")
    if model.functions or graph.sparse_initializer:
        raise ValueError("local functions and sparse initializers are not supported")
    initializers = {tensor.name: array_of(tensor, folder) for tensor in graph.initializer}
    inputs = {info.name: _port(info) for info in graph.input if info.name not in initializers}
    for names, what in ((graph.initializer, "initializer"), (graph.input, "input"), (graph.output, "output")):
        for name, count in Counter(each.name for each in names).items():
            if count > 1 or not name:
                raise ValueError(f"the {what} {name!r} occurs {count} times" if name else f"an {what} has no name")
    made = sort(_nodes(graph.node, folder), {*initializers, *inputs})
    outputs = {info.name: _port(info) for info in graph.output}
    known = {*initializers, *inputs}.union(*(node.outputs for node in made))
    for name in outputs.keys() - known:
        raise ValueError(f"nothing makes the output {name}")
    opsets = {_domain(opset.domain): opset.version for opset in model.opset_import}
    if any(node.domain == STANDARD for node in made) and not 7 <= opsets.get(STANDARD, 0) <= 100:
        raise ValueError(f"the opset is {opsets.get(STANDARD, 'not given')}; need 7 or later")
    return Graph(made, initializers, inputs, outputs, opsets)


def _domain(name: str) -> str:
    return STANDARD if name == "ai.onnx" else name


def _nodes(protos: Any, folder: Path) -> list[Node]:
    taken: Counter[str] = Counter(proto.name for proto in protos)
    nodes = []
    for i, proto in enumerate(protos):
        made = next(filter(None, proto.output), None)
        if made is None:
            raise ValueError(f"node {i}, {proto.op_type}, has no output")
        name = proto.name if proto.name and taken[proto.name] == 1 else made
        attributes = {a.name: _attribute(a, f"{proto.op_type} {name}", folder) for a in proto.attribute}
        ports = (tuple(proto.input), tuple(proto.output))
        nodes.append(Node(name, proto.op_type, _domain(proto.domain), *ports, attributes))
    strange = Counter(
        f"{node.domain or 'ai.onnx'}.{node.op}"
        for node in nodes
        if (node.domain, node.op) not in OPERATORS.keys() | EXPANSIONS.keys() or node.domain == OURS
    )
    if strange:
        raise ValueError("unknown operators: " + ", ".join(f"{op} ({n})" for op, n in sorted(strange.items())))
    return nodes


def _attribute(attribute: AttributeProto, where: str, folder: Path) -> Any:
    if attribute.type == AttributeProto.TENSOR:
        return array_of(attribute.t, folder)
    if attribute.type not in ATTRIBUTES:
        kind = AttributeProto.AttributeType.Name(attribute.type) if attribute.type <= 14 else attribute.type
        raise ValueError(f"{where} has the attribute {attribute.name} of type {kind}, which is not supported")
    return ATTRIBUTES[attribute.type](attribute)


def _dtype(kind: int, name: str) -> np.dtype:
    if kind not in DTYPES:
        known = kind in TensorProto.DataType.values()
        raise ValueError(f"{name} has the type {TensorProto.DataType.Name(kind) if known else kind}, not supported")
    return np.dtype(DTYPES[kind])


def _port(info: onnx.ValueInfoProto) -> Port:
    if not info.type.HasField("tensor_type"):
        raise ValueError(f"{info.name} is not a tensor")
    tensor = info.type.tensor_type
    dtype = _dtype(tensor.elem_type, info.name)
    if not tensor.HasField("shape"):
        return Port(dtype, None)
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim]
    return Port(dtype, tuple(dims))


def array_of(tensor: TensorProto, folder: Path) -> np.ndarray:
    """A tensor's array. Raises ValueError unless its bytes are there, as many as its dimensions claim."""
    name = tensor.name or "a tensor"
    dtype, dims = _dtype(tensor.data_type, name), tuple(tensor.dims)
    if len(dims) > MAX_RANK or any(not 0 <= n < 2**40 for n in dims):
        raise ValueError(f"{name} has the shape {list(dims)[: MAX_RANK + 1]}; need lengths of 0 or more")
    count = math.prod(dims)
    if tensor.data_location == TensorProto.EXTERNAL:
        return _external(tensor, folder, dtype, count).reshape(dims)
    field = FIELDS.get(tensor.data_type, "int32_data")
    raw = tensor.HasField("raw_data")
    have, need = (len(tensor.raw_data), count * dtype.itemsize) if raw else (len(getattr(tensor, field)), count)
    if have != need or tensor.HasField("segment"):
        raise ValueError(f"{name} has {have} {'bytes' if raw else 'values'}; its shape {list(dims)} needs {need}")
    return np.ascontiguousarray(numpy_helper.to_array(tensor)).reshape(dims)


def _external(tensor: TensorProto, folder: Path, dtype: np.dtype, count: int) -> np.ndarray:
    """External data, inside ``folder`` only."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    place, home = (folder / entries.get("location", "")).resolve(), folder.resolve()
    if not place.is_relative_to(home) or not place.is_file():
        raise ValueError(f"{tensor.name} is kept in {entries.get('location')!r}; need a file in the model's folder")
    numbers = [entries.get(key, default) for key, default in (("offset", "0"), ("length", str(count * dtype.itemsize)))]
    if not all(number.isascii() and number.isdigit() and len(number) < 19 for number in numbers):
        raise ValueError(f"{tensor.name} has the offset and length {numbers}; need numbers")
    offset, length = map(int, numbers)
    if length != count * dtype.itemsize or offset + length > place.stat().st_size:
        raise ValueError(
            f"{tensor.name} claims {length} bytes at {offset} of {place.name}, which has {place.stat().st_size}; "
            f"its shape needs {count * dtype.itemsize}"
        )
    return np.fromfile(place, dtype.newbyteorder("<"), count, offset=offset)
