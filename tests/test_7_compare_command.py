"""Rung 7: engines compared on one file. What a verdict says of planted faults, a real engine that saturates, engines
that cannot run, and what the page and the exit status make of it.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from test_6_explain import CHROMIUM, Reader, needs_browser, seen
from test_7_compare import subject as subject_of
from test_7_isolated import limits
from test_cli import one_line, refimpl  # noqa: F401

from refimpl.integer.products import pair_saturating
from refimpl.models.compare import page
from refimpl.models.compare.ends import run_ours
from refimpl.models.compare.groups import groups
from refimpl.models.compare.judged import verdict_on
from refimpl.models.compare.reading import read
from refimpl.models.compare.report import JUDGED, NOT_EXPOSED, Ends, Report, Run, TensorRow, Why
from refimpl.models.engines.isolated import EngineRun
from refimpl.models.export import export_onnx
from refimpl.models.oracle.execute import execute
from refimpl.models.oracle.graph import Node
from refimpl.models.oracle.load import load
from refimpl.models.oracle.semantics import ONNX_RUNTIME, Semantics
from refimpl.models.records.file import load_record
from refimpl.nn import Recorder

RECORDS = tiny.GOLDEN / "records"
MODEL, INPUTS = RECORDS / "tiny.onnx", RECORDS / "openvino.native.safetensors"
FLOATS = ONNX_RUNTIME._replace(fuse=False)


def engine_run(name, semantics=ONNX_RUNTIME, layers=None, **faults):
    """What an engine shows that computes as we do, but for the tensors that are made anew of all values."""
    graph, inputs = subject_of(name)
    values = {}
    for made in (FLOATS, semantics):  # the second has no products that go on to codes
        recorder = Recorder()
        execute(graph, inputs, made, recorder)
        values |= recorder.values
    names = {tensor for node in graph.nodes for tensor in node.outputs}
    values = {tensor: array for tensor, array in values.items() if tensor in names}
    values |= {tensor: fault(values) for tensor, fault in faults.items()}
    return EngineRun({k: x for k, x in values.items() if x is not None}, {}, {"layers": layers or {}})


# --- verdicts --------------------------------------------------------------------------------------------------------


def check_reading(reading):
    """Integers unless nothing but floats explains the products; what an engine counts decides first."""
    graph, inputs = subject_of("int8")
    integers = {"MatMulIntegerToFloat": 12}
    for engine, semantics, layers, fused, outside in [
        ("m:f", ONNX_RUNTIME, {}, True, False),
        ("m:f", FLOATS, {}, False, False),
        ("m:f", Semantics(pair_saturating), {}, True, True),
        ("onnxruntime", Semantics(pair_saturating), integers, True, True),
        ("onnxruntime", FLOATS, integers, True, True),
        ("onnxruntime", ONNX_RUNTIME, {}, False, False),
    ]:
        run = engine_run("int8", semantics, layers)
        findings, meant = reading(graph, inputs, run, engine, ONNX_RUNTIME)
        assert meant.fuse == fused, (engine, layers)
        assert any(f.finding.outside for f in findings if f.finding) == outside, (engine, layers)


def test_reading():
    check_reading(read)


def check_verdict(verdict):
    """A fault is outside where it is; a value that skips the rounding of what it was made from is not."""
    graph, inputs = subject_of("layer")
    shapes = run_ours(graph, inputs, FLOATS).shapes

    def outside(engine="m:f", semantics=ONNX_RUNTIME, **faults):
        run = engine_run("layer", semantics, **faults)
        found = verdict(graph, inputs, run, engine, ONNX_RUNTIME, shapes)
        assert [row.tensor for row in found.rows] == [tensor for node in graph.nodes for tensor in node.outputs]
        return [row.tensor for row in found.rows if row.outside], {row.tensor: row for row in found.rows}

    def fused(values):  # the bias is added to the sum before that is rounded: (acc, scale) in f64
        exact = (values["codes"].astype(np.int64) - 119) @ graph.initializers["w"].astype(np.int64)
        scale = np.float64(np.float32(0.02)) * graph.initializers["w_scale"]
        return (exact * scale + graph.initializers["bias"]).astype(np.float32)

    def one_wrong(values):
        wrong = values["gelu"].copy()
        wrong[3, 5] += 1e-2
        return wrong

    assert outside()[0] == []
    assert (fused(engine_run("layer").values) != engine_run("layer").values["sum"]).any()
    assert outside(sum=fused)[0] == []
    assert outside("onnxruntime", FLOATS)[0] == []
    small = outside("onnxruntime", FLOATS, sum=lambda v: v["sum"] * np.float32(1 + 1e-6))[0]
    assert small[:1] == ["sum"]  # though it is within the bound of the sum of floats that it comes after
    assert outside(gelu=one_wrong)[0] == ["gelu"]
    assert outside(gelu=one_wrong)[1]["gelu"].at == (3, 5)
    assert outside(gelu=lambda v: v["gelu"][:2])[0] == ["gelu"]
    assert outside(gelu=lambda v: v["gelu"].astype(np.int32))[0] == ["gelu"]
    rows = outside(codes=lambda v: None, gelu=one_wrong, y=lambda v: None)[1]
    assert {name for name, row in rows.items() if row.state == NOT_EXPOSED} == {"codes", "y"}
    assert rows["codes"].followed
    assert not rows["y"].followed


def test_verdict():
    check_verdict(verdict_on)


@pytest.mark.parametrize(
    ("names", "want"),
    [
        ("Gather_1 embeddings MatMul_2 layer.0.q layer.11.output logits", "e e 0 0 11 h"),
        ("/bert/embeddings/Add_output_0 /bert/encoder/layer.3/output/Add x", "e 3 h"),
        ("player.2.x a LayerNorm_0 b LayerNorm_1 c LayerNorm_2 d", "e e e 0 0 0 0 h"),
    ],
)
def test_groups(names, want):
    words = {"e": "embeddings", "h": "head"}
    nodes = [
        Node(n, "LayerNormalization" if n.startswith("LayerNorm") else "Add", "", (), (n,), {}) for n in names.split()
    ]
    assert groups(tuple(nodes)) == [words.get(word, f"layer {word}") for word in want.split()]


# --- real engines ----------------------------------------------------------------------------------------------------


def test_openvino_without_vnni_saturates_and_the_pair_is_named(refimpl, tmp_path):  # noqa: F811
    limits("openvino", "avx2")
    arguments = ("compare", MODEL, "--inputs", INPUTS, "--engine", "openvino", "--isa", "avx2")
    status, out, _ = refimpl(*arguments, "--json", "--html", tmp_path / "page.html")
    (run,) = json.loads(out)["runs"]
    assert (status, run["passed"], run["product"], run["fused"]) == (1, False, "exact", True)
    assert [row["tensor"] for row in run["rows"] if row["outside"]] == ["product0", "product1"]
    assert run["info"]["environment"]["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    (why,) = run["causes"]
    assert (why["tensor"], why["more"], why["explains"]) == ("product0", 1, why["of"])
    found = re.search(
        r"pair k=\((\d+),(\d+)\) (\d+)\*(-?\d+) \+ (\d+)\*(-?\d+) = (-?\d+) clipped to (-?\d+)", why["sentence"]
    )
    one, two, *products = map(int, found.groups())
    *batch, column = why["element"]
    codes = load_record(RECORDS / "openvino.avx2.safetensors").values["codes0"][tuple(batch)]
    weights = load(MODEL).initializers["w0"][:, column]
    assert products[:4] == [codes[one], weights[one], codes[two], weights[two]]
    total = products[0] * products[1] + products[2] * products[3]
    assert products[4:] == [total, min(max(total, -32768), 32767)]
    assert total != products[5]
    shown = json.loads(Reader((tmp_path / "page.html").read_text("utf-8")).texts["data"])["cards"][0]["lines"]
    assert shown == [why["sentence"] + "; 1 more of its kind are outside"]
    status, out, _ = refimpl(*arguments, "--against", "pair_saturating")
    assert (status, "nothing differs" in out, "INSIDE" in out) == (0, True, True)


ENGINES = """
import os, time
import numpy as np
from refimpl.models.oracle.execute import execute
from refimpl.models.oracle.load import load
from refimpl.nn import Recorder
def right(path, inputs, tensors):
    recorder = Recorder()
    return execute(load(path), inputs, tap=recorder) | recorder.values
def dies(path, inputs, tensors): os.kill(os.getpid(), 11)
def hangs(path, inputs, tensors): time.sleep(1000)
def raises(path, inputs, tensors): raise ValueError("no [red]luck[/]")
def shapeless(path, inputs, tensors): return {name: np.zeros(3, np.float32) for name in tensors}
def silent(path, inputs, tensors): return {}
def picky(path, inputs, tensors):
    if len(tensors) > 3: raise ValueError("too many")
    return right(path, inputs, tensors)
def shy(path, inputs, tensors):
    values = right(path, inputs, tensors)
    return {name: x + np.float32(len(tensors) > 3) if x.dtype.kind == "f" else x for name, x in values.items()}
"""


@pytest.fixture
def engines(tmp_path, monkeypatch):
    (tmp_path / "compared.py").write_text(ENGINES)
    monkeypatch.chdir(tmp_path)
    return [f"compared:{name}" for name in re.findall(r"^def (\w+)", ENGINES, re.M)]


def words_of(out):
    return " ".join(out.split())


def test_engines_that_fail_are_rows_and_the_others_go_on(refimpl, engines):  # noqa: F811
    arguments = [word for engine in engines if "hangs" not in engine for word in ("--engine", engine)]
    status, out, err = refimpl("compare", MODEL, "--inputs", INPUTS, *arguments)
    assert (status, err) == (1, "")
    assert max(map(len, out.splitlines())) <= 100
    said = {line.split()[0]: line for line in out.splitlines() if "native: " in line}
    for name, words in {
        "right": "nothing differs", "dies": "not run: compared:dies died: SIGSEGV",
        "raises": "not run: compared:raises: no [red]luck[/]", "shapeless": "first outside codes0",
        "silent": "nothing was judged", "picky": "nothing differs",
        "shy": "nothing differs",
    }.items():  # fmt: skip
        assert words in said[f"compared:{name}"]
    assert "with codes and norms shown alone nothing is, and its outputs change by 0: so that is judged" in words_of(
        out
    )
    assert "note: it fails if it is to show the tensors that are wanted: compared:picky: too many" in " ".join(
        out.split()
    )
    assert "OUTSIDE: compared:shapeless native" in out
    assert "NOTHING JUDGED: compared:silent native" in out
    status, out, _ = refimpl("compare", MODEL, "--inputs", INPUTS, "--engine", "compared:right")
    assert (status, "INSIDE" in out) == (0, True)
    status, out, _ = refimpl("compare", MODEL, "--inputs", INPUTS, "--engine", "compared:hangs", "--timeout", 1)
    assert (status, "compared:hangs ran for more than 1 s and was stopped" in out) == (1, True)


def test_a_packed_file_and_a_directory(refimpl, engines, tmp_path):  # noqa: F811
    folder = tiny.copy("bert_classification", tmp_path)
    text = tmp_path / "texts.txt"
    text.write_text("\n".join(tiny.TEXTS * 2), "utf-8")
    status, out, _ = refimpl("compare", folder, "--text", text, "--engine", "compared:right", "--json")
    report = json.loads(out)
    assert (status, report["passed"]) == (0, True)
    assert report["fed"].startswith("8 of 12 texts of ")


README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


@pytest.mark.parametrize("break_it", [False, True])
def test_the_adapters_of_the_readme(refimpl, tmp_path, monkeypatch, break_it):  # noqa: F811
    """As printed they are inside; with a sum of 16 bits, and with views in the place of arrays, they are found out."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    monkeypatch.chdir(tmp_path)
    export_onnx(tiny.quantized("bert_classification").model, tmp_path / "model.onnx")
    _, inputs = subject_of("int8")
    np.savez(tmp_path / "inputs.npz", **inputs)
    for name, language, word in [("theirs", "python", "Evaluator"), ("program", "py", "argv"), ("kernel", "c", "acc")]:
        (block,) = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if word in text]
        if break_it:
            block = block.replace("int32_t sum", "int16_t sum").replace("np.ascontiguousarray(value)", "value")
        (tmp_path / f"{name}.{'c' if language == 'c' else 'py'}").write_text(block, "utf-8")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", "kernel.so", "kernel.c"], check=True)
    command = f"command {sys.executable} program.py {{model}} {{inputs}} {{outputs}} {{tensors}}"
    arguments = [word for engine in ("theirs:run", command, "./kernel.so:product") for word in ("--engine", engine)]
    status, out, _ = refimpl("compare", "model.onnx", "--inputs", "inputs.npz", *arguments, "--json")
    runs = json.loads(out)["runs"]
    assert [run["passed"] for run in runs] == [True, not break_it, not break_it], out[:2000]
    assert status == break_it
    if break_it:
        assert runs[1]["causes"][0]["hypothesis"] == "heads not transposed"
        assert "16" in runs[2]["causes"][0]["hypothesis"]


# --- mistakes of users -----------------------------------------------------------------------------------------------


def test_mistakes(one_line, tmp_path):  # noqa: F811
    (tmp_path / "cut.onnx").write_bytes(MODEL.read_bytes()[:1000])
    x = load_record(INPUTS).inputs["x"]
    np.savez(tmp_path / "other.npz", y=x)
    np.savez(tmp_path / "f64.npz", x=x.astype(np.float64))
    given = ("--inputs", INPUTS)
    for arguments, message in [
        ((tmp_path / "no.onnx",), "does not exist; need an ONNX file, a Hugging Face directory or a packed file"),
        ((tmp_path / "cut.onnx", *given), "is not an ONNX file"),
        ((MODEL, "--inputs", tmp_path / "other.npz"), "the inputs are y; need x"),
        ((MODEL, "--inputs", tmp_path / "f64.npz"), "the input x is float64; need float32"),
        ((MODEL, *given, "--engine", "nobody"), "the engine is 'nobody'; need onnxruntime, openvino, module:function"),
        ((MODEL, *given, "--isa", "sse"), "the isa is 'sse'; need one of native, avx512, avx2, qemu-haswell"),
        ((MODEL, *given, "--against", "luck"), "--against is 'luck'; need one of exact, pair_saturating"),
        ((MODEL, *given, "--threads", 0), "threads is 0; need at least 1"),
        ((MODEL, *given, "--text", INPUTS), "--inputs and texts were given; need one of the two"),
        ((MODEL, *given, "--tensors", "q*"), "--tensors q* matches no tensor of the file"),
        ((MODEL, *given, "--html", tmp_path / "no" / "a.html"), "is not a folder; create it first"),
        ((MODEL, *given, "--html", tmp_path / "cut.onnx"), "exists; name another file, or --force"),
    ]:
        assert message in one_line("compare", *arguments)


# --- the page --------------------------------------------------------------------------------------------------------

EVIL = "</script><img src=x onerror=alert(1)><!-- @DATA@ @SCRIPT@ &amp; \u2028"


def report_of(name):
    """Two runs of one tensor that is outside, one that differs, one that is not shown; and an engine that failed."""
    row = TensorRow(
        f"{name}0", name, name, "layer 0", JUDGED, codes=True, of=1000, different=3, outside=2, worst=np.inf
    )
    rows = (
        row,
        row._replace(tensor=f"{name}1", outside=0, worst=0.7),
        TensorRow(name, name, name, name, NOT_EXPOSED, name),
    )
    info = {
        "engine": name, "version": name, "emulator": name, "environment": {name: name}, "threads": 1, "optimize": True,
        "cpu": {"model": name, "name": name, "features": [name]}, "layers": {name: 1}, "inputs_sha256": name,
        "versions": {name: name},
    }  # fmt: skip
    ran = Run(
        name,
        name,
        "",
        info,
        "exact",
        True,
        rows,
        Ends(5, 4, 1, np.inf, 1.0, 0, 0),
        (Why(name, name, name, (), 1, 1, 0),),
    )
    return Report(name, name, name, name, 3, (ran, ran, Run(name, name, name)))


def test_the_page_escapes_everything_and_needs_nothing_else():
    text = page.page(report_of(EVIL))
    reader = Reader(text)
    assert json.loads(reader.texts["data"]) == json.loads(json.dumps(page.data(report_of(EVIL))))
    assert [tag for tag, *_ in reader.attributes if tag in ("img", "link", "iframe")] == []
    assert [tag for tag, key, _ in reader.attributes if tag == "script"] == ["script", "script"]
    outside = re.sub("<title>.*?</title>", "", text.replace(reader.texts["data"], ""))
    assert not re.search(r"https?:|@import|url\(|fetch|XMLHttp|@[A-Z]+@|innerHTML|eval|<!--", outside)
    assert "onerror" not in outside


@needs_browser
def test_the_page_in_a_browser(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page.page(report_of(EVIL)), "utf-8")
    assert CHROMIUM
    shown = seen(path, "", tmp_path)
    body = shown[shown.index("<body") : shown.index('<script type="application/json"')]
    assert "<img" not in body
    assert body.count('class="node"') == 2  # of the group with something outside
    assert body.count(">2 outside<") == 2
    assert body.count(">0.3 %<") == 2
    assert body.count('<article class="card bad">') == 3
    opened = seen(path, "", tmp_path, 'document.getElementById("open").click();')
    assert opened.count('class="node"') == 3
    assert opened.count('class="cell none"') == 2
    tip = 'document.querySelector("td.outside").dispatchEvent(new MouseEvent("mouseenter"));'
    assert "2 of 1,000 outside" in seen(path, "", tmp_path, tip)
