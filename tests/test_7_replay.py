"""Records judged by what their CPU computes: each explained by its product and not by the other, damage found."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_7_records import FOLDER, MODEL, RECORDS, each_record
from test_cli import one_line, refimpl  # noqa: F401

from refimpl.integer.products import exact, neon_wrap, s8s8_shifted
from refimpl.models.engines.isolated import EngineRun
from refimpl.models.oracle.load import load, parse
from refimpl.models.records.file import load_record, save_record
from refimpl.models.records.replay import Replay, replay
from refimpl.models.sealed import digest

GRAPH = load(MODEL)
GROUPS = {"exact": {"exact", "neon_wrap"}, "pair_saturating": {"pair_saturating", "s8s8_shifted"}}
"""On u8 x s8, products that are one."""
AVX2, VNNI = ["avx2", "fma"], ["avx2", "avx512vnni", "fma"]


def from_cpu(record, engine, features):
    """The record, as if it were of another engine and CPU."""
    info = record.info | {"engine": engine, "isa": "native", "cpu": record.info["cpu"] | {"features": features}}
    return record._replace(info=info)


def explaining(found: Replay):
    return {trial.product for trial in (*found.may, *found.others) if trial.explains}


def check_replay(judge):
    """Each record under the right product, the wrong one, and none that is known."""
    for path in RECORDS:
        record = load_record(path)
        product = "exact" if record.info["isa"] == "native" else "pair_saturating"
        found = judge(record, GRAPH)
        assert (found.said, found.best.product, found.inside) == (product, product, True), path
        assert found.best.values == sum(value.size for value in record.values.values())
        assert {product, *(trial.product for trial in found.others)} == {"exact", "pair_saturating"}
        other = found.others[0]
        assert found.told_apart(other) == other.outside > 200
        assert other.first.startswith("product0 ")
        wrong = judge(from_cpu(record, record.info["engine"], AVX2 if product == "exact" else VNNI), GRAPH)
        assert not wrong.inside
        assert wrong.best.product not in GROUPS[product]
        assert explaining(wrong) == GROUPS[product]
        unknown = judge(from_cpu(record, "function m:f", VNNI), GRAPH)
        assert unknown.inside
        assert unknown.others == []
        assert explaining(unknown) == GROUPS[product]


def test_golden_records():
    check_replay(replay)


@pytest.mark.parametrize("name", sorted(load_record(RECORDS[-1]).values))
def test_one_wrong_value_is_found_at_its_tensor(name):
    for path in RECORDS:
        record = load_record(path)
        if name not in record.values:
            continue
        value = record.values[name].copy()
        value.flat[7] = value.flat[7] + 2 if value.flat[7] < 100 else value.flat[7] - 2
        found = replay(record._replace(values=record.values | {name: value}), GRAPH)
        assert not found.inside
        at = list(map(int, np.unravel_index(7, value.shape)))
        assert found.best.first.startswith(f"{name} {at} of "), path


# --- s8 x s8, of which nothing is claimed ----------------------------------------------------------------------------


def s8_model(w):
    """y = x w in integers."""
    ports = [helper.make_tensor_value_info(n, kind, (1, 16)) for n, kind in (("x", TensorProto.INT8), ("y", 6))]
    nodes = [helper.make_node("MatMulInteger", ["x", "w"], ["y"])]
    made = helper.make_graph(nodes, "g", ports[:1], ports[1:], [numpy_helper.from_array(w.T.copy(), "w")])
    return parse(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)]))


@pytest.mark.parametrize(
    ("engine", "features", "product", "explained"),
    [
        ("openvino", AVX2, s8s8_shifted, {"s8s8_shifted"}),
        ("onnxruntime", AVX2, exact, {"exact", "pair_saturating"}),
        ("command p", [], neon_wrap, {"neon_wrap"}),
    ],
)
def test_products_of_s8(engine, features, product, explained):
    x, w = np.full((1, 16), -128, np.int8), np.full((16, 16), -128, np.int8)
    w[1:] = 127
    x[0, :4] = 127
    values = {"y": product(x, w)}
    record = from_cpu(load_record(RECORDS[0])._replace(inputs={"x": x}, values=values), engine, features)
    found = replay(record, s8_model(w))
    assert found.inside
    assert found.best.product in explained
    assert explaining(found) == explained


# --- the command -----------------------------------------------------------------------------------------------------


@each_record
def test_the_command(refimpl, path):  # noqa: F811
    status, text, err = refimpl("replay", path)
    assert (status, err) == (0, "")
    product = "exact" if "native" in path.stem else "pair_saturating"
    other = "pair_saturating" if product == "exact" else "exact"
    assert f"of them can only be {product}, not {other}" in " ".join(text.split())
    status, text, _ = refimpl("replay", path, "--model", MODEL, "--json")
    told = json.loads(text)
    assert (status, told["inside"], told["said"], told["best"]) == (0, True, product, product)
    assert told["products"][other]["told_apart"] > 200
    assert told["products"][product]["tensors"]["codes0"]["outside"] == 0


def written(path, values=None, **info):
    """The first record with other values or facts, sealed again."""
    record = load_record(RECORDS[0])
    info = record.info | {"inputs_sha256": digest([], record.inputs)} | info
    save_record(EngineRun(record.values if values is None else values, {}, info), record.inputs, path)
    return path


def test_the_command_finds_a_wrong_code(refimpl, tmp_path):  # noqa: F811
    values = dict(load_record(RECORDS[0]).values)
    values["codes1"] = values["codes1"].copy()
    values["codes1"][0, 1, 2] ^= 1 << 6
    status, text, err = refimpl("replay", written(tmp_path / "r", values), "--model", MODEL)
    assert (status, err) == (1, "")
    text = " ".join(text.split())
    assert "not what exact products make; the first: codes1 [0, 1, 2] of QuantizeLinear" in text
    status, text, _ = refimpl("replay", written(tmp_path / "r", {}), "--model", MODEL)
    assert status == 1
    assert "nothing in this record can be judged" in text


def test_the_commands_mistakes(one_line, tmp_path):  # noqa: F811
    data = RECORDS[0].read_bytes()
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    (tmp_path / "flipped").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    other = onnx.load(MODEL)
    other.producer_name = "another"
    onnx.save(other, tmp_path / "other.onnx")
    good = written(tmp_path / "good")
    for arguments, message in [
        ((tmp_path / "cut",), "cut is not a safetensors file"),
        ((tmp_path / "flipped",), "flipped is damaged: its contents do not match its checksum"),
        ((tmp_path / "none",), "none does not exist"),
        ((good,), "no .onnx file beside"),
        ((good, "--model", tmp_path / "other.onnx"), "other.onnx is not the file that"),
        ((good, "--model", RECORDS[0]), "is not an ONNX file"),
        ((good, "--model", tmp_path), "is no file; need an ONNX file"),
        ((written(tmp_path / "e", external_sha256={"data": "0" * 64}), "--model", MODEL), "the data files beside"),
        ((written(tmp_path / "v", {"z": np.ones(1)}), "--model", MODEL), "has a value of 'z', which no node"),
        ((written(tmp_path / "s", {"codes0": np.ones(1, np.uint8)}), "--model", MODEL), "codes0 has shape (1,); need"),
    ]:
        assert message in one_line("replay", *arguments)


def test_the_model_is_found_by_its_digest(refimpl, tmp_path):  # noqa: F811
    (tmp_path / "a.onnx").write_bytes(b"another")
    (tmp_path / "z.onnx").write_bytes((FOLDER / "tiny.onnx").read_bytes())
    assert refimpl("replay", written(tmp_path / "r"))[0] == 0
