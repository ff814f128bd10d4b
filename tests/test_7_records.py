"""Records: judged to the bit by what their CPU is said to compute, equal to a fresh run, and read with distrust."""

import json

import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
import tiny
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from test_7_engines import needs
from test_7_isolated import limits
from test_cli import one_line, refimpl  # noqa: F401

from refimpl.integer.gemm import gemm_u8s8s32, gemm_u8s8s32_pair_saturating
from refimpl.models import sealed
from refimpl.models.engines import feeds, onnx_file, version
from refimpl.models.engines.isolated import Conditions, run_isolated
from refimpl.models.export import export_onnx
from refimpl.models.records.file import load_record, save_record
from refimpl.models.records.inputs import encode_texts, load_tokenizer, read_arrays
from refimpl.models.records.semantics import ORACLES, semantics_of
from refimpl.quant.linear import compensation

FOLDER = tiny.GOLDEN / "records"
MODEL = FOLDER / "tiny.onnx"
RECORDS = sorted(FOLDER.glob("*.safetensors"))
each_record = pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)


# --- what they say ---------------------------------------------------------------------------------------------------


def expected(gemm, x):
    """Every value of the tiny model; its scales are powers of two, so that none is rounded but to codes."""
    p = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(MODEL).graph.initializer}
    values = {}
    for i in (0, 1):
        codes = np.clip(np.rint(x / p[f"scale{i}"]) + 128, 0, 255).astype(np.uint8)
        w = np.ascontiguousarray(p[f"w{i}"].T)
        acc = gemm(codes.reshape(-1, codes.shape[-1]), w) - compensation(w)
        product = acc.reshape(*x.shape[:-1], -1) * (p[f"scale{i}"] * p[f"w_scale{i}"])
        values |= {f"codes{i}": codes, f"product{i}": product, f"sum{i}": product + p[f"bias{i}"]}
        x = values[f"relu{i}"] = np.maximum(values[f"sum{i}"], 0)
    return values


def test_the_products_differ_where_pairs_saturate():
    x = load_record(RECORDS[0]).inputs["x"]
    exact, saturating = (expected(gemm, x) for gemm in (gemm_u8s8s32, gemm_u8s8s32_pair_saturating))
    assert (exact["product0"] != saturating["product0"]).mean() > 0.9
    assert (exact["codes1"] != saturating["codes1"]).mean() > 0.3


@each_record
def test_a_record_is_what_its_cpu_is_said_to_compute(path):
    """To the bit, at every tensor: the table of semantics, against engines."""
    record = load_record(path)
    values = expected(ORACLES[semantics_of(record.info)], record.inputs["x"])
    compared = record.values.keys() & values.keys()
    assert {"codes0", "product0", "codes1", "product1", "sum1"} <= compared
    for name in compared:
        np.testing.assert_array_equal(record.values[name], values[name], err_msg=name)
    other = {gemm for gemm in ORACLES.values() if gemm is not ORACLES[semantics_of(record.info)]}.pop()
    assert (record.values["codes1"] != expected(other, record.inputs["x"])["codes1"]).any()
    assert path.stat().st_size < 100_000
    assert path.stem == f"{record.info['engine']}.{record.info['isa']}"


@each_record
def test_a_fresh_run_equals_the_record(path):
    record = load_record(path)
    engine, isa = record.info["engine"], record.info["isa"]
    needs(engine)
    limits(engine, isa)
    if version(engine) != record.info["version"]:
        pytest.skip(f"{engine} is {version(engine)}; the record is of {record.info['version']}")
    run = run_isolated(engine, MODEL, record.inputs, None, Conditions(isa))
    if semantics_of(run.info) != semantics_of(record.info):
        pytest.skip(f"products here are {semantics_of(run.info)}, in the record {semantics_of(record.info)}")
    assert run.info["model_sha256"] == record.info["model_sha256"]
    for name in ("codes0", "codes1"):
        np.testing.assert_array_equal(run.values[name], record.values[name])
    assert run.values.keys() == record.values.keys()


HOST = {"avx2", "fma", "sse4.1"}
SEMANTICS = [  # engine, isa, features beside AVX2's, semantics
    ("openvino", "native", {"avx512f", "avx512vnni"}, "exact"),
    ("openvino", "native", {"avxvnni"}, "exact"),
    ("openvino", "native", {"amx-int8", "avx512vnni"}, "exact"),
    ("openvino", "native", {"avx512f", "avx512bw"}, "pair_saturating"),
    ("openvino", "avx512", {"avx512f", "avx512vnni"}, "pair_saturating"),
    ("openvino", "avx2", {"avx512f", "avx512vnni"}, "pair_saturating"),
    ("openvino", "qemu-haswell", set(), "pair_saturating"),
    ("onnxruntime", "native", {"avx512f", "avx512vnni"}, "exact"),
    ("onnxruntime", "native", {"avxvnni"}, "exact"),
    ("onnxruntime", "native", {"avx512f", "avx512bf16"}, "pair_saturating"),
    ("onnxruntime", "native", set(), "pair_saturating"),
    ("onnxruntime", "qemu-haswell", set(), "pair_saturating"),
    ("onnxruntime", "native", None, "unknown"),
    ("openvino", "native", None, "unknown"),
    ("function m:f", "native", {"avx512vnni"}, "unknown"),
    ("library ./l.so:f", "avx2", set(), "unknown"),
]


def check_semantics(semantics):
    for engine, isa, features, expected_name in SEMANTICS:
        have = set() if features is None else HOST | features
        info = {"engine": engine, "isa": isa, "cpu": {"model": "", "name": "", "features": sorted(have)}}
        assert semantics(info) == expected_name, (engine, isa, features)


def test_semantics():
    check_semantics(semantics_of)
    assert {name for *_, name in SEMANTICS} == {*ORACLES, "unknown"}


# --- files -----------------------------------------------------------------------------------------------------------


def parts(path=RECORDS[0]):
    header, _, tensors = sealed.read(path, record_kind())
    header.pop("sha256")
    return header, tensors


def record_kind():
    from refimpl.models.records.file import KIND

    return KIND


def write(path, header, tensors, sha256=None):
    text = json.dumps(header | {"sha256": sha256 or sealed.digest(header, tensors)})
    save_file(tensors, path, {"refimpl.record": text})
    return path


@each_record
def test_a_record_comes_back(tmp_path, path):
    from refimpl.models.engines.isolated import EngineRun

    record = load_record(path)
    save_record(EngineRun(record.values, record.not_exposed, record.info), record.inputs, tmp_path / "again")
    again = load_record(tmp_path / "again")
    assert again.info == record.info
    assert again.not_exposed == record.not_exposed
    for mine, theirs in ((again.inputs, record.inputs), (again.values, record.values)):
        assert mine.keys() == theirs.keys()
        for name, array in theirs.items():
            tiny.same(mine[name], array)


WRONG = {"engine": 1, "version": None, "isa": "sse", "threads": 0, "optimize": 1, "tensors": "some", "emulator": [],
         "layers": {"MatMul": -1}, "environment": {"A": 1}, "cpu": {"model": "x"}, "model_sha256": "ab",
         "external_sha256": {"a": "b"}, "inputs_sha256": "0" * 64, "versions": []}  # fmt: skip


@pytest.mark.parametrize("field", WRONG)
def test_info_of_wrong_types(tmp_path, field):
    header, tensors = parts()
    header["info"][field] = WRONG[field]
    with pytest.raises(ValueError, match=field):
        load_record(write(tmp_path / "bad", header, tensors))
    del header["info"][field]
    with pytest.raises(ValueError, match="info has "):
        load_record(write(tmp_path / "bad", header, tensors))


def test_wrong_types_are_of_every_field():
    from refimpl.models.records.file import INFO

    assert WRONG.keys() == INFO.keys()


def test_records_that_are_none(tmp_path):
    header, tensors = parts()
    bad = tmp_path / "bad"
    one = np.ones(1, np.uint8)
    for changed_header, changed_tensors, message in [
        (header | {"version": 2}, tensors, "has the format version 2; this program reads version 1"),
        (header | {"version": True}, tensors, "has the format version True"),
        (header | {"more": 1}, tensors, "has the fields info, more, not_exposed, version"),
        (header | {"not_exposed": []}, tensors, "not_exposed is no JSON object of texts"),
        (header | {"not_exposed": {"codes0": "?"}}, tensors, "'codes0' has a value and is not exposed"),
        (header | {"info": []}, tensors, "info has list"),
        (header, tensors | {"other": one}, "has the tensor 'other'; need names that start with input/ or value/"),
        (header, tensors | {"value/c": one.astype(np.complex64)}, "dtype complex64|is not a safetensors file"),
        (header, {n: t for n, t in tensors.items() if n != "input/x"}, "its inputs are not those"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_record(write(bad, changed_header, changed_tensors))
    for sha256 in ("0" * 64, "x"):
        with pytest.raises(ValueError, match="is damaged: its contents do not match its checksum"):
            load_record(write(bad, header, tensors, sha256))
    with pytest.raises(ValueError, match="but no record; name a file that refimpl record wrote instead"):
        load_record(tiny.GOLDEN / "distilbert_bare" / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="nothing does not exist"):
        load_record(tmp_path / "nothing")


DATA = RECORDS[0].read_bytes()


@settings(max_examples=150)
@given(cut=st.integers(0, len(DATA)), flips=st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.integers(1, 255))))
def test_damaged_bytes(tmp_path_factory, cut, flips):
    """Any damage is a ValueError that names the file, and is found."""
    data = bytearray(DATA)
    for at, by in flips:
        data[at] ^= by
    damaged = bytes(data[: len(DATA) - cut])
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    if damaged == DATA:
        load_record(path)
        return
    with pytest.raises(ValueError, match="damaged"):
        load_record(path)


@settings(max_examples=150)
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1))
def test_damaged_archives(tmp_path_factory, flips):
    """Arrays, or a ValueError."""
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    np.savez_compressed(path, x=np.arange(100), y=np.zeros((), np.float32))
    data = bytearray(path.read_bytes())
    for at, by in flips:
        data[at % len(data)] ^= by
    path.write_bytes(bytes(data))
    try:
        assert all(isinstance(array, np.ndarray) for array in read_arrays(path).values())
    except ValueError as error:
        assert "damaged.npz is not a .npz file of arrays" in str(error)  # noqa: PT017


# --- inputs ----------------------------------------------------------------------------------------------------------


def test_arrays_from_files(tmp_path):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "a.npz", x=x)
    save_file({"x": x}, tmp_path / "a.safetensors")
    for name in ("a.npz", "a.safetensors"):
        (found,) = read_arrays(tmp_path / name).values()
        tiny.same(found, x)
    tiny.same(read_arrays(RECORDS[0])["x"], load_record(RECORDS[0]).inputs["x"])
    np.savez(tmp_path / "o.npz", x=np.array([{}], object))
    np.save(tmp_path / "one", x)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04" + b"\xff" * 50)
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 50)
    for name, message in [
        ("o.npz", "o.npz is not a .npz file of arrays: Object arrays cannot be loaded"),
        ("one.npz", "it is a single array"),
        ("bad.npz", "bad.npz is not a .npz file of arrays"),
        ("bad.safetensors", "bad.safetensors"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_arrays(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"need a \.npz file of arrays, or a record"):
        read_arrays(tmp_path / "none.npz")


def graph_of(*inputs):
    """A model that copies its inputs: (name, element type)."""
    infos = [helper.make_tensor_value_info(name, kind, ["b", "t"]) for name, kind in inputs]
    nodes = [helper.make_node("Identity", [name], [f"out{i}"]) for i, (name, _) in enumerate(inputs)]
    outs = [helper.make_tensor_value_info(f"out{i}", kind, ["b", "t"]) for i, (_, kind) in enumerate(inputs)]
    return helper.make_model(helper.make_graph(nodes, "g", infos, outs))


def test_texts_fit_the_graphs_inputs(tmp_path):
    tokenizer = load_tokenizer(tiny.copy("bert_classification", tmp_path))
    batch = tokenizer.encode(["the cat sat", "a"])
    made = graph_of(("attention_mask", TensorProto.INT32), ("input_ids", TensorProto.INT64))
    arrays = encode_texts(["the cat sat", "a"], tokenizer, made)
    assert list(arrays) == ["attention_mask", "input_ids"]
    np.testing.assert_array_equal(arrays["input_ids"], batch.ids)
    np.testing.assert_array_equal(arrays["attention_mask"], batch.mask)
    assert [array.dtype for array in arrays.values()] == [np.int32, np.int64]
    for inputs in (
        [("pixels", TensorProto.INT64), ("input_ids", TensorProto.INT64)],
        [("attention_mask", TensorProto.INT64)],
        [("input_ids", TensorProto.FLOAT)],
    ):
        with pytest.raises(ValueError, match=f"the file's inputs are {inputs[0][0]} .*: give --inputs"):
            encode_texts(["a"], tokenizer, graph_of(*inputs))


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command(refimpl, tmp_path):  # noqa: F811
    needs("onnxruntime")
    out = tmp_path / "r.safetensors"
    arguments = ("record", MODEL, "--engine", "onnxruntime", "--inputs", RECORDS[0], "-o", out)
    status, text, err = refimpl(*arguments)
    assert status == 0, err
    assert "u8 x s8 products" in text
    record = load_record(out)
    assert {"codes0", "product0", "sum1"} <= record.values.keys()
    status, text, _ = refimpl(*arguments, "--tensors", "co*1", "--force", "--no-optimize", "--json")
    assert status == 0
    facts = json.loads(text)
    assert (facts["info"]["optimize"], facts["info"]["tensors"], facts["tensors"]) == (False, "chosen", 2)
    assert load_record(out).values.keys() == {"codes1", "sum1"}


def test_the_command_reads_texts(refimpl, tmp_path):  # noqa: F811
    needs("onnxruntime")
    folder = tiny.copy("distilbert_bare", tmp_path)
    export_onnx(tiny.quantized("distilbert_bare").model, tmp_path / "m.onnx")
    (tmp_path / "texts").write_text("the cat\nsat on a mat\n")
    out = tmp_path / "r.safetensors"
    status, _, err = refimpl(
        "record", tmp_path / "m.onnx", "--engine", "onnxruntime", "--text", tmp_path / "texts", "--tokenizer", folder,
        "-o", out, "--tensors", "*.codes",
    )  # fmt: skip
    assert status == 0, err
    record = load_record(out)
    assert record.inputs["input_ids"].shape == (2, 6)
    assert record.info["layers"]["MatMulIntegerToFloat"] == 12


SAYS_WHY = "command sh -c 'echo no such key >&2; exit 3' {outputs}"


@pytest.mark.parametrize("stage", ["f32", "INT8"])
def test_ids_that_no_table_has_are_refused_before_an_engine_runs(tmp_path, stage):
    """OpenVINO reads what lies beyond the table, and says nothing."""
    dense = tiny.dense("bert_classification")
    model = dense.model if stage == "f32" else tiny.quantized("bert_classification").model
    export_onnx(model, tmp_path / "m.onnx")
    made = onnx_file.load(tmp_path / "m.onnx")
    inputs = feeds(dense.tokenizer.encode(["the cat"]), list(onnx_file.signature(made).inputs))
    onnx_file.check_inputs(made, inputs)
    for name, rows in (("input_ids", dense.model.config.vocabulary), ("token_type_ids", 2)):
        for wrong in (rows, -rows - 1):
            bad = {**inputs, name: np.full_like(inputs[name], wrong)}
            with pytest.raises(
                ValueError, match=f"the input {name} has the element {wrong}; need {-rows} to {rows - 1}"
            ):
                onnx_file.check_inputs(made, bad)


def test_the_commands_mistakes(one_line, tmp_path):  # noqa: F811
    model, given_, out = MODEL, ("--inputs", RECORDS[0]), ("-o", tmp_path / "r")
    toy = ("--engine", "m:f")
    (tmp_path / "texts").write_text("a\n")
    for arguments, message in [
        ((model, *toy, *out), "no inputs were given; need --inputs or --file"),
        ((model, *toy, *out, *given_, "--text", tmp_path / "texts"), "two inputs were given"),
        ((model, *toy, *out, *given_, "--tensors", "zzz"), "--tensors zzz matches no tensor of the file"),
        ((model, *toy, *given_, "-o", tmp_path), "is a folder; need the name of a file"),
        ((model, *toy, *given_, "-o", tmp_path / "texts"), "exists; name another file, or --force"),
        ((model, "--engine", "x", *out, *given_), "the engine is 'x'; need onnxruntime, openvino"),
        ((model, *toy, *out, *given_, "--isa", "sse"), "the isa is 'sse'; need one of"),
        ((model, "--engine", "command false {outputs}", *out, *given_), "false ended with exit status 1"),
        ((model, "--engine", SAYS_WHY, *out, *given_), "exit status 3; the last that it printed: no such key"),
        ((RECORDS[0], *toy, *out, *given_), "is not an ONNX file, or a damaged one\n"),
    ]:
        assert message in one_line("record", *arguments)
    assert not (tmp_path / "r").exists()


def test_texts_need_a_tokenizer(one_line, tmp_path):  # noqa: F811
    (tmp_path / "texts").write_text("a\n")
    message = one_line("record", MODEL, "--engine", "m:f", "-o", tmp_path / "r", "--text", tmp_path / "texts")
    assert "the file's inputs are x (float32): give --inputs" in message
