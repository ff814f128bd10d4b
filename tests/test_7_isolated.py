"""Engines in processes of their own: the same values as in this one, on CPUs that this one is not, and clean ends."""

import shutil
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper
from test_7_engines import ENGINES, needs, saturating_operands
from vnni import NEEDS_VNNI

from refimpl.integer.gemm import gemm_u8s8s32, gemm_u8s8s32_pair_saturating
from refimpl.models.engines import feeds, isa, isolated, onnx_file, open_graph, others, tap_tensors
from refimpl.models.engines.isolated import Conditions, run_isolated
from refimpl.models.export import INPUTS, export_onnx
from refimpl.models.judge import judge
from refimpl.quant import QUANTIZED

NAME = "bert_classification"
TAPPED = [tap for tap in tiny.record(tiny.quantized_with_attention(NAME).model, tiny.batch(NAME), QUANTIZED)
          if not tap.endswith(".acc")]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """INT8, attention too: s8 codes are what ONNX Runtime likes to change."""
    path = tmp_path_factory.mktemp("models") / "model.onnx"
    export_onnx(tiny.quantized_with_attention(NAME).model, path)
    return path


@pytest.fixture(scope="module")
def inputs():
    return feeds(tiny.batch(NAME), list(INPUTS))


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """One MatMulInteger with the zero point 3, beside an Add that no library knows."""
    a, w = saturating_operands()
    made = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMulInteger", ["a", "w", "z"], ["acc"]), helper.make_node("Neg", ["acc"], ["minus"])],
            "product",
            [helper.make_tensor_value_info("a", TensorProto.UINT8, ["n", a.shape[1]])],
            [helper.make_tensor_value_info("minus", TensorProto.INT32, ["n", len(w)])],
            [numpy_helper.from_array(w.T.copy(), "w"), numpy_helper.from_array(np.array(3, np.uint8), "z")],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )
    path = tmp_path_factory.mktemp("models") / "product.onnx"
    onnx.save(made, path)
    return path


def acc_of(gemm):
    a, w = saturating_operands()
    return gemm(a, w) - 3 * w.sum(1, dtype=np.int32)


# --- what is exposed -------------------------------------------------------------------------------------------------


def plain(model, inputs):
    """The output, by a session that knows nothing of us."""
    script = (
        "import sys, numpy, onnxruntime as ort\n"
        "options = ort.SessionOptions()\noptions.intra_op_num_threads = 1\n"
        "session = ort.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider'])\n"
        "numpy.save(sys.argv[2], session.run(['output'], dict(numpy.load(sys.argv[3])))[0])\n"
    )
    np.savez(model.parent / "inputs.npz", **inputs)
    paths = [str(model), str(model.parent / "output.npy"), str(model.parent / "inputs.npz")]
    subprocess.run([sys.executable, "-c", script, *paths], check=True)
    return np.load(paths[1])


def test_what_onnxruntime_leaves_is_exposed_without_changing_what_runs(model, inputs):
    needs("onnxruntime")
    graph = open_graph("onnxruntime", model, None)
    values = graph.run(inputs)
    np.testing.assert_array_equal(values["output"], plain(model, inputs))
    assert (graph.layers["MatMulIntegerToFloat"], graph.layers["QLinearMatMul"]) == (14, 2)
    written = onnx_file.signature(onnx_file.load(model)).tensors
    assert set(written) == values.keys() | graph.not_exposed.keys()
    assert not values.keys() & graph.not_exposed.keys()
    assert graph.not_exposed["layer.0.q_codes"] == "ONNX Runtime fuses it away"
    literal = open_graph("onnxruntime", model, None, optimize=False)
    as_written = literal.run(inputs)
    assert literal.not_exposed == {}
    types = {node.op_type for node in onnx.load(model).graph.node}
    assert literal.layers.keys() == types
    for tensor, value in values.items():  # a name that came to mean something else would show
        assert (value.dtype, value.shape) == (as_written[tensor].dtype, as_written[tensor].shape), tensor
    taps = {tap: values[t] for tap, t in tap_tensors(model, TAPPED).items() if t in values}
    assert len(taps) > 20


@NEEDS_VNNI
def test_what_onnxruntime_leaves_is_right(model, inputs):
    needs("onnxruntime")
    values = open_graph("onnxruntime", model, None).run(inputs)
    taps = {tap: values[t] for tap, t in tap_tensors(model, TAPPED).items() if t in values}
    findings = judge(tiny.quantized_with_attention(NAME).model, tiny.batch(NAME), taps)
    outside = {tap for tap, found in findings.items() if found.outside}
    assert outside <= {"pooler"}  # its own input is fused away, whose rounding the judge then does not allow for


def test_openvino_exposes_every_node(model, inputs):
    needs("openvino")
    graph = open_graph("openvino", model, None)
    assert graph.not_exposed == {}
    assert graph.run(inputs).keys() == set(onnx_file.signature(onnx_file.load(model)).tensors)
    assert sum(n for kind, n in graph.layers.items() if kind.endswith((" u8", " i8")) and "Full" in kind) == 12
    literal = open_graph("openvino", model, None, optimize=False)
    assert not any(
        kind.startswith(("FullyConnected", "MatMul")) and not kind.endswith("f32") for kind in literal.layers
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_process_of_its_own_computes_the_same(model, inputs, engine):
    chosen = ["layer.0.q.codes", "layer.1.output_norm"]
    run = run_isolated(engine, model, inputs, chosen)
    here = open_graph(engine, model, chosen).run(inputs)
    assert run.values.keys() == here.keys() == {*chosen, "output"}
    for tensor, value in here.items():
        np.testing.assert_array_equal(run.values[tensor], value)
    info = run.info
    assert (info["engine"], info["isa"], info["tensors"], info["environment"]) == (engine, "native", "chosen", {})
    assert info["model_sha256"] == onnx_file.sha256(model)
    assert set(info["cpu"]) == {"model", "name", "features"}
    assert sum(info["layers"].values()) > 50


def test_constants_beside_the_file(tmp_path, model, inputs):
    needs("onnxruntime")
    onnx.save(onnx.load(model), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=256)
    for optimize in (True, False):
        run = run_isolated("onnxruntime", tmp_path / "m.onnx", inputs, None, Conditions(optimize=optimize))
        expected = run_isolated("onnxruntime", model, inputs, None, Conditions(optimize=optimize))
        np.testing.assert_array_equal(run.values["output"], expected.values["output"])
    assert run.info["external_sha256"] == {"m.bin": onnx_file.sha256(tmp_path / "m.bin")}
    made = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    made.graph.initializer[0].external_data[0].value = "../m.bin"
    with pytest.raises(ValueError, match=r"keeps data at \.\./m\.bin; need a file beside it"):
        onnx_file.external_digests(tmp_path / "m.onnx", made)


# --- instructions ----------------------------------------------------------------------------------------------------


def limits(engine, limit):
    if find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    try:
        isa.launch(engine, limit)
    except RuntimeError as error:
        pytest.skip(str(error))


def test_onnxruntime_on_an_emulated_haswell_saturates(product):
    limits("onnxruntime", "qemu-haswell")
    a, _ = saturating_operands()
    run = run_isolated("onnxruntime", product, {"a": a}, ["acc"], Conditions("qemu-haswell"))
    np.testing.assert_array_equal(run.values["acc"], acc_of(gemm_u8s8s32_pair_saturating))
    assert run.info["cpu"]["name"] == "haswell"
    assert "avx512vnni" not in run.info["cpu"]["features"]
    assert run.info["emulator"].endswith(", -cpu Haswell")


@pytest.mark.parametrize(("limit", "variable"), [("avx512", "AVX512_CORE"), ("avx2", "AVX2")])
def test_openvino_is_limited_by_its_variable(model, inputs, limit, variable, monkeypatch):
    limits("openvino", limit)
    capped = run_isolated("openvino", model, inputs, [], Conditions(limit))
    assert capped.info["environment"]["ONEDNN_MAX_CPU_ISA"] == variable
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", variable)  # is not inherited: native means native
    native = run_isolated("openvino", model, inputs, [])
    here = open_graph("openvino", model, []).run(inputs)
    np.testing.assert_array_equal(native.values["output"], here["output"])


TORCH = """
import numpy, torch
def linear(onnx_path, inputs, tensors):
    torch.backends.quantized.engine = "fbgemm"
    a = torch._make_per_tensor_quantized_tensor(torch.tensor(inputs["a"]), 1.0, 0)
    w = torch._make_per_tensor_quantized_tensor(torch.tensor(numpy.load("w.npy")), 1.0, 0)
    y = torch.ops.quantized.linear(a, torch.ops.quantized.linear_prepack(w, None), 64.0, 0)
    return {"minus": y.int_repr().numpy()}
"""


def test_fbgemm_is_limited_too(tmp_path, product, monkeypatch):
    limits("torch", "avx2")
    a, w = saturating_operands()
    np.save(tmp_path / "w.npy", w)
    (tmp_path / "torch_engine.py").write_text(TORCH)
    monkeypatch.chdir(tmp_path)
    for limit, gemm in [("avx2", gemm_u8s8s32_pair_saturating), ("native", gemm_u8s8s32)]:
        if limit == "native" and not isa.cpu.features() & {"avx512vnni"}:
            continue
        run = run_isolated("torch_engine:linear", product, {"a": a}, [], Conditions(limit))
        expected = np.clip(np.rint(gemm(a, w) / 64.0), 0, 255)
        np.testing.assert_array_equal(run.values["minus"], expected)


# --- engines of others -----------------------------------------------------------------------------------------------

TOY = """
import ctypes, os, sys, time
import numpy as np
def right(onnx_path, inputs, tensors):
    return {name: inputs["a"] + 1 for name in tensors if name != "acc"} | {"more": 1}
def wrong_type(*_): return [1]
def wrong_value(*_): return {"minus": 1}
def raises(*_): raise LookupError("two\\nlines")
def crashes(*_): ctypes.string_at(0)
def leaves(*_): print("x" * 10**6, "the end"); sys.stdout.flush(); os._exit(7)
def sleeps(*_): time.sleep(60)
constant = 3
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy_isolated.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    return lambda function, path, **conditions: run_isolated(
        f"toy_isolated:{function}", path, {"a": saturating_operands()[0]}, None, Conditions(**conditions)
    )


def test_a_function(toy, product):
    run = toy("right", product)
    np.testing.assert_array_equal(run.values.pop("minus"), saturating_operands()[0] + 1)
    assert run.values == {}
    assert run.not_exposed == {"acc": "the engine returned no value for it"}
    assert run.info["engine"] == "function toy_isolated:right"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("wrong_type", "returned list; need a dict of arrays by tensor name"),
        ("wrong_value", "returned int for minus; need an array"),
        ("raises", "LookupError: two lines"),
        ("crashes", "died: SIGSEGV; the last that it printed: "),
        ("leaves", "died: exit status 7; the last that it printed: x.*"),
        ("constant", "toy_isolated has no function constant"),
        ("nothing", "toy_isolated has no function nothing"),
    ],
)
def test_an_engine_that_fails(toy, product, function, message):
    with pytest.raises(RuntimeError, match=message) as caught:
        toy(function, product)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1200


def test_an_engine_that_does_not_end(toy, product):
    with pytest.raises(TimeoutError, match="ran for more than 2 s and was stopped"):
        toy("sleeps", product, timeout=2)


SOURCE = """
#include <stdint.h>
void product(const uint8_t *a, const int8_t *w, int32_t *acc, int64_t n, int64_t m, int64_t k) {
    for (int64_t i = 0; i < n; i++) for (int64_t j = 0; j < m; j++) {
        int32_t sum = 0;
        for (int64_t l = 0; l < k; l++) sum += a[i * k + l] * w[j * k + l];
        acc[i * m + j] = sum;
    }
}
void crash(void) { *(volatile int *)0 = 1; }
"""


def test_a_library(tmp_path, product):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "p.c").write_text(SOURCE)
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", tmp_path / "p.so", tmp_path / "p.c"], check=True)
    a, _ = saturating_operands()
    run = run_isolated(f"{tmp_path}/p.so:product", product, {"a": a})
    np.testing.assert_array_equal(run.values["acc"], acc_of(gemm_u8s8s32))
    np.testing.assert_array_equal(run.values["minus"], -run.values["acc"])
    with pytest.raises(RuntimeError, match="died: SIGSEGV"):
        run_isolated(f"{tmp_path}/p.so:crash", product, {"a": a})
    with pytest.raises(RuntimeError, match="cannot load nothing"):
        run_isolated(f"{tmp_path}/p.so:nothing", product, {"a": a})


COPY = """
import sys
from safetensors.numpy import load_file, save_file
model, inputs, outputs, tensors = sys.argv[1:]
save_file({name: load_file(inputs)["a"] for name in open(tensors).read().split()}, outputs)
"""


def test_a_command(tmp_path, product):
    (tmp_path / "copy.py").write_text(COPY)
    program = f"command {sys.executable} {tmp_path}/copy.py"
    a, _ = saturating_operands()
    run = run_isolated(program + " {model} {inputs} {outputs} {tensors}", product, {"a": a})
    assert run.values.keys() == {"acc", "minus"}
    np.testing.assert_array_equal(run.values["acc"], a)
    for bad, message in [
        ("command false {outputs}", "false ended with exit status 1"),
        ("command true {outputs}", "true wrote no safetensors file to {outputs}"),
        ("command true", r"need \{model\}, \{inputs\} and \{outputs\} in it"),
        ("command no_such_program {outputs}", "No such file or directory: 'no_such_program'"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            run_isolated(bad, product, {"a": a})


# --- what cannot be meant --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["", "x", ":f", "m:", "command", "command  "])
def test_engines_that_mean_nothing(engine):
    with pytest.raises(ValueError, match=r"the engine is '.*'; need onnxruntime, openvino, module:function, \./lib"):
        others.parse(engine)


@pytest.mark.parametrize(
    ("engine", "kind"),
    [("m.n:f", "function"), ("./m:f", "library"), ("lib.so:f", "library"), (r"C:\x.dll:f", "library")],
)
def test_engines_that_mean_something(engine, kind):
    assert others.parse(engine) == (kind, engine)


def test_machines_that_cannot(monkeypatch):
    with pytest.raises(ValueError, match="the isa is 'sse'; need one of native, avx512, avx2, qemu-haswell"):
        isa.launch("openvino", "sse")
    monkeypatch.setattr(isa.platform, "machine", lambda: "aarch64")
    with pytest.raises(RuntimeError, match="the isa avx2 needs an x86-64 Python; this one is for aarch64"):
        isa.launch("openvino", "avx2")
    monkeypatch.setattr(isa.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(isa.cpu, "features", frozenset)
    with pytest.raises(RuntimeError, match="this CPU lacks avx512f, so nothing can be limited to avx512"):
        isa.launch("openvino", "avx512")
    with pytest.raises(RuntimeError, match="ONNX Runtime has no switch for the isa avx2; need native or qemu-haswell"):
        isa.launch("onnxruntime", "avx2")
    monkeypatch.setattr(isa.shutil, "which", lambda _: None)
    with pytest.raises(RuntimeError, match=r"qemu-x86_64 is not installed; need .*apt install qemu-user"):
        isa.launch("onnxruntime", "qemu-haswell")
    monkeypatch.setattr(others, "find_spec", lambda _: None)
    with pytest.raises(RuntimeError, match="openvino is not installed; need: python -m pip install openvino"):
        others.parse("openvino")


def test_inputs_and_tensors_that_are_not_the_files(tmp_path, product):
    a, _ = saturating_operands()
    for inputs, error, message in [
        ({}, ValueError, "the inputs are none; need a"),
        ({"a": a, "b": a}, ValueError, "the inputs are a, b; need a"),
        ({"a": a.astype(np.int8)}, TypeError, "the input a is int8; need uint8"),
        ({"a": a.tolist()}, TypeError, "the input a is list; need uint8"),
        ({"a": a[:, :3]}, ValueError, r"the input a has shape \(8, 3\); need \(any, 256\)"),
        ({"a": a[0]}, ValueError, r"the input a has shape \(256,\); need \(any, 256\)"),
    ]:
        with pytest.raises(error, match=message):
            run_isolated("m:f", product, inputs)
    with pytest.raises(ValueError, match="no node of the file makes the tensor 'w'; need outputs of nodes"):
        run_isolated("m:f", product, {"a": a}, ["w"])
    for conditions, message in [(Conditions(threads=0), "threads is 0"), (Conditions(timeout=0), "timeout is 0")]:
        with pytest.raises(ValueError, match=message):
            run_isolated("m:f", product, {"a": a}, None, conditions)
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 100)
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name, message in [("bad", "is not an ONNX file"), ("empty", "has no nodes; need an ONNX file")]:
        with pytest.raises(ValueError, match=message):
            run_isolated("m:f", tmp_path / f"{name}.onnx", {})
    with pytest.raises(FileNotFoundError, match=r"none\.onnx is no file; need an ONNX file"):
        run_isolated("m:f", tmp_path / "none.onnx", {})


def test_the_cpu_has_a_name():
    assert isolated.cpu_model()
