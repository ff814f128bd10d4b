"""Files that are no good: each is one clear line, in bounded time and memory. And a fuzz of whole files."""

import contextlib
import random
import signal
import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_7_oracle import FILES, FOLDER, batch

from refimpl.models.oracle.execute import execute
from refimpl.models.oracle.judge_nodes import judge_nodes
from refimpl.models.oracle.load import load, parse

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
OTHER = helper.make_opsetid("a", 1)


@contextlib.contextmanager
def at_most(seconds):
    def late(*_):
        raise AssertionError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def bounded(seconds, size):
    """At most so many seconds, and bytes of Python's and NumPy's at once."""
    tracemalloc.start()
    try:
        with at_most(seconds):
            yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= size, f"took {peak} bytes"


def value(name, kind=FLOAT, shape=(2,)):
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, initializers=(), inputs=(("x", FLOAT, (2,)),), outputs=("y",)):
    ports = [value(*port) for port in inputs], [value(name, shape=None) for name in outputs]
    graph = helper.make_graph(nodes, "g", *ports, list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def node(op, x="x", y="y", **more):
    return helper.make_node(op, [x], [y], **more)


def relu(x="x", y="y"):
    return node("Relu", x, y)


def claims(dims, raw=b"", kind=FLOAT):
    tensor = TensorProto(name="w", data_type=kind, raw_data=raw)
    tensor.dims.extend(dims)
    return model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor])


def external(location, offset="0", length="8"):
    made = claims([2])
    (tensor,) = made.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=text)
    return made


def subgraph():
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "b", [], [value("z")])
    return model([helper.make_node("Relu", ["x"], ["y"], then_branch=branch)])


BAD = {
    "a cycle": (model([relu("b", "a"), relu("a", "b"), relu("a")]), "is part of a cycle"),
    "a tensor that nothing makes": (model([relu("z")]), "Relu y reads z, which nothing makes"),
    "an output that nothing makes": (model([relu(y="z")]), "nothing makes the output y"),
    "a tensor made twice": (model([relu(), relu()]), "tensor y of Relu y is made twice"),
    "an input twice": (model([relu()], inputs=[("x", FLOAT, (2,))] * 2), "the input 'x' occurs 2 times"),
    "unknown operators": (
        model([node("Foo", "x", "z", domain="a.b"), node("LSTM", "z", "y"), node("LSTM", "z", "w")]),
        r"unknown operators: a\.b\.Foo \(1\), ai\.onnx\.LSTM \(2\)",
    ),
    "our inner operators": (model([node("RootScale", domain="refimpl")]), "unknown operators"),
    "a subgraph": (subgraph(), "attribute then_branch of type GRAPH, which is not supported"),
    "a node without outputs": (model([relu(), helper.make_node("Relu", ["x"], [])]), "node 1, Relu, has no output"),
    "gigabytes in a small file": (claims([2**20, 2**12]), "w has 0 bytes; its shape .* needs 17179869184"),
    "lengths that overflow s64": (claims([2**39] * 8), "w has 0 bytes; its shape"),
    "a negative length": (claims([-2], b"12345678"), "w has the shape"),
    "strings": (claims([1], b"1", TensorProto.STRING), "w has the type STRING, not supported"),
    "an unknown type": (claims([1], b"1", 99), "w has the type 99, not supported"),
    "no opset": (helper.make_model(model([relu()]).graph, opset_imports=[OTHER]), "opset is not given"),
    "external data above": (external("../data"), "need a file in the model's folder"),
    "external data elsewhere": (external("/etc/passwd"), "need a file in the model's folder"),
    "external data that is not there": (external("data"), "need a file in the model's folder"),
    "external data too short": (external("short"), "claims 8 bytes at 0 of short, which has 4"),
    "external data with a wrong length": (external("data.bin", length="80"), "w claims 80 bytes at 0"),
    "external data from a negative offset": (external("data.bin", "-8"), "has the offset and length"),
    "external data through a link": (external("link"), "need a file in the model's folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file(name, tmp_path):
    made, message = BAD[name]
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "short").write_bytes(b"1234")
    (inside / "data.bin").write_bytes(bytes(8))
    (tmp_path / "data").write_bytes(bytes(8))
    (inside / "link").symlink_to(tmp_path / "data")
    (inside / "m.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(ValueError, match=message) as caught, bounded(2, 2**20):
        load(inside / "m.onnx")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(inside / "m.onnx"))


def test_files_that_are_not_onnx(tmp_path):
    for content in (b"", b"\x08", b"hello", (FOLDER / "torch.onnx").read_bytes()[:20000]):
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises(ValueError, match=r"is not an ONNX file|holds no graph"):
            load(tmp_path / "m.onnx")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        load(tmp_path)


def test_a_file_too_large_is_not_read(tmp_path):
    with open(tmp_path / "m.onnx", "wb") as file:
        file.truncate(2**32)  # a hole, of no size on disk
    with pytest.raises(ValueError, match="has 4294967296 bytes; need at most 2147483647"):
        load(tmp_path / "m.onnx")


def test_external_data_inside_is_read(tmp_path):
    (tmp_path / "data.bin").write_bytes(np.arange(4, dtype="<f4").tobytes())
    (tmp_path / "m.onnx").write_bytes(external("data.bin", "8").SerializeToString())
    assert load(tmp_path / "m.onnx").initializers["w"].tolist() == [2, 3]


def test_nodes_in_any_order_are_sorted():
    graph = parse(model([relu("b"), relu("a", "b"), relu("x", "a")]))
    assert [node.outputs[0] for node in graph.nodes] == ["a", "b", "y"]


def grow(op, *constants):
    tensors = [numpy_helper.from_array(np.array(c), f"c{i}") for i, c in enumerate(constants)]
    return model([helper.make_node(op, ["x", *(t.name for t in tensors)][: 1 + len(tensors)], ["y"])], tensors)


def fill(*constants, op="ConstantOfShape"):
    tensors = [numpy_helper.from_array(np.array(c), f"c{i}") for i, c in enumerate(constants)]
    return model([helper.make_node(op, [t.name for t in tensors], ["y"])], tensors)


RUNS = {
    "Expand": (grow("Expand", [2**40, 2]), "the result would have the shape"),
    "Tile": (grow("Tile", [2**40]), "the result would have the shape"),
    "Pad": (grow("Pad", [0, 2**40]), "the result would have the shape"),
    "Reshape": (grow("Reshape", [2**62, 2**62]), "cannot reshape"),
    "Gather": (grow("Gather", [7]), "the index 7 is outside -2 to 1"),
    "ConstantOfShape": (fill([2**40, 2**40]), "the result would have the shape"),
    "Range": (fill(0, 2**60, 1, op="Range"), "the result would have the shape"),
    "dtypes": (grow("Add", np.array([1.0, 2.0])), "the inputs have the dtypes float32, float64; need one"),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_a_node_cannot_do(name):
    made, message = RUNS[name]
    with pytest.raises(ValueError, match=rf"^(Add|{name}) y: .*{message}"), bounded(2, 2**20):
        execute(parse(made), {"x": np.ones(2, np.float32)})


def test_lengths_that_grow():
    """Each result is bounded before it is made, so that a chain cannot grow without end."""
    nodes = [helper.make_node("Concat", ["x"] * 3, ["y"], axis=0)]
    x = np.broadcast_to(np.float32(1), (2**30,))
    message = r"^Concat y: the result would have the shape \[3221225472\]; need at most 8589934592 bytes"
    with pytest.raises(ValueError, match=message), bounded(2, 2**20):
        execute(parse(model(nodes, inputs=[("x", FLOAT, ("n",))])), {"x": x})


@pytest.mark.parametrize("shape", [None, (None, None), ("a", "b"), ("a", "a")])
def test_lengths_that_nothing_binds(shape):
    """A length without a name is any; what does not fit is found at the node that needs it, or at the input."""
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    w = numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    graph = parse(model(nodes, [w], [("x", FLOAT, shape)]))
    if shape == ("a", "a"):
        with pytest.raises(ValueError, match=r"x has shape \(2, 3\); need \(2, 2\)"):
            execute(graph, {"x": np.ones((2, 3), np.float32)})
    else:
        assert execute(graph, {"x": np.ones((2, 3), np.float32)})["y"].tolist() == [[2] * 3] * 2
    with pytest.raises(ValueError, match=r"^Add y: .*broadcast"):
        execute(graph, {"x": np.ones((5, 5), np.float32)})


def test_inputs_must_be_the_graphs():
    nodes = [helper.make_node("Add", ["x", "z"], ["y"])]
    graph = parse(model(nodes, inputs=[("x", FLOAT, ("n", 2)), ("z", FLOAT, ("n", 2))]))
    x = np.ones((3, 2), np.float32)
    for inputs, error, message in [
        ({"x": x}, ValueError, "inputs are x; need x, z"),
        ({"x": x, "z": x.astype(np.float64)}, TypeError, "z has dtype float64; need float32"),
        ({"x": x, "z": x.tolist()}, TypeError, "z has dtype list; need float32"),
        ({"x": x, "z": x[:2]}, ValueError, r"z has shape \(2, 2\); need \(3, 2\)"),
        ({"x": x[:, :1], "z": x}, ValueError, r"x has shape \(3, 1\); need \(3, 2\)"),
    ]:
        with pytest.raises(error, match=message):
            execute(graph, inputs)


# --- fuzz ------------------------------------------------------------------------------------------------------------


def damage_bytes(content, chance):
    content = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8])):
        at = chance.randrange(len(content))
        kind = chance.randrange(4)
        if kind == 0:
            content[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            content[at] = chance.choice([0, 1, 127, 128, 255])
        elif kind == 2:
            del content[at : at + chance.randrange(1, 40)]
        else:
            content[at:at] = content[chance.randrange(len(content)) :][: chance.randrange(40)]
    return bytes(content)


ODD = [-(2**63), -(2**31), -7, -2, -1, 0, 1, 2, 3, 13, 31, 2**31, 2**40, 2**62, 2**63 - 1]


def damage_graph(content, chance):
    """A file that parses, with one thing in its graph that makes no sense."""
    made = onnx.ModelProto.FromString(content)
    graph = made.graph
    node = chance.choice(graph.node)
    kind = chance.randrange(7)
    if kind == 0 and node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice(
            [*chance.choice(graph.node).output, "", "input_ids"]
        )
    elif kind == 1 and node.attribute:
        attribute = chance.choice(node.attribute)
        if attribute.ints:
            attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(ODD)
        attribute.i = chance.choice(ODD)
        attribute.type = chance.choice([attribute.type, attribute.type, *range(15)])
    elif kind == 2:
        node.op_type = chance.choice(graph.node).op_type
    elif kind == 3:
        tensor = chance.choice(graph.initializer)
        tensor.data_type = chance.choice([1, 2, 3, 6, 7, 9, 10, 11])
    elif kind == 4:
        tensor = chance.choice([t for t in graph.initializer if t.data_type == INT64] or graph.initializer)
        if tensor.data_type == INT64 and tensor.raw_data:
            values = np.frombuffer(tensor.raw_data, np.int64).copy()
            values[chance.randrange(len(values))] = chance.choice(ODD)
            tensor.raw_data = values.tobytes()
    elif kind == 5:
        tensor = chance.choice(graph.initializer)
        tensor.dims[:] = chance.choice([[], [1], [2, -1], list(tensor.dims)[::-1], [*tensor.dims, 1]])
    else:
        del node.input[chance.randrange(len(node.input) + 1) :]
    return made.SerializeToString()


def fuzz(count, seed, path):
    """How many damaged files still ran."""
    chance, ran = random.Random(seed), 0
    contents = [(FOLDER / f"{name}.onnx").read_bytes() for name in FILES]
    for _ in range(count):
        content = chance.choice([damage_bytes, damage_graph, damage_graph])(chance.choice(contents), chance)
        path.write_bytes(content)
        with at_most(20), contextlib.suppress(ValueError, TypeError, OSError):
            graph = load(path)
            made = execute(graph, batch())
            judge_nodes(graph, batch(), made)
            ran += 1
    return ran


def test_damaged_files_are_refused_or_run(tmp_path):
    assert 0 < fuzz(300, 0, tmp_path / "m.onnx") < 300


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_damaged_files(seed, tmp_path):
    assert 0 < fuzz(1000, seed, tmp_path / "m.onnx") < 1000
