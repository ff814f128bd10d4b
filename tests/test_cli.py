"""The command line: what it prints, how it exits, and one line for each mistake that a user can make."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny

from refimpl.integer.gemm import gemm_u8s8s32
from refimpl.kernels.layout import bsr4x1
from refimpl.models import cli, compress, packed_file
from refimpl.models.embedded import embedded_model
from refimpl.models.engines import installed
from refimpl.models.export import count_quantized
from refimpl.models.verify import fp32, int8
from refimpl.quant import QUANTIZED, integer_linear

COMMANDS = ("verify", "run", "info", "compress", "export", "graph", "profile")


@pytest.fixture
def refimpl(monkeypatch, capsys):
    """refimpl("run", ...) -> exit status, standard output, standard error."""

    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["refimpl", *map(str, arguments)])
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            try:
                cli.main()
                status = 0
            except SystemExit as stop:
                status = stop.code or 0
        return status, *capsys.readouterr()

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
    assert lines[2] == "ran: f32, NumPy"


def run_json(refimpl, *arguments) -> dict:
    status, out, err = refimpl("run", *arguments, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


def test_run_question_answering(refimpl, tmp_path):
    model, context = tiny.copy("bert_question_answering", tmp_path), "the cat sat on"
    made = run_json(refimpl, model, "--text", "what sat", "--context", context)
    assert made["execution"] == "f32, NumPy"
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


def test_a_packed_model_runs_on_its_kernel(refimpl, packed):
    made = run_json(refimpl, packed, "--text", "the cat sat")
    assert made["execution"].startswith("INT8, ")
    assert made["execution"].endswith(" bsgemm_4x1_u8s8s32")
    assert made["results"][0]["label"] in ("bad", "fair", "good")


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


@pytest.mark.parametrize(
    ("name", "sparsity"), [*((name, 0.6) for name in tiny.ONE_OF_EACH_HEAD), ("bert_old_names", 0)]
)
def test_verify_passes_on_every_head(refimpl, tmp_path, texts, name, sparsity):
    status, report = verify_json(refimpl, tiny.copy(name, tmp_path), "--text", texts, "--sparsity", sparsity)
    assert status == 0
    assert report["passed"] is True
    assert all(check["passed"] for check in report["checks"])
    assert len(report["checks"]) == 2 + 4 * len(installed())
    assert report["sparsity"] == sparsity
    assert report["texts"] == report["calibration_texts"] == len(tiny.TEXTS)
    taps = {row["tap"] for row in report["fp32"]}
    assert {"embeddings", "scores", "output", "model output"} <= taps


def test_verify_of_a_model_with_all_blocks_pruned(refimpl, tmp_path, texts):
    """q, k and v then have equal weights and inputs, so that one MatMul serves all three: fewer are counted."""
    status, report = verify_json(refimpl, tiny.copy("distilbert_bare", tmp_path), "--text", texts, "--sparsity", 1)
    assert status in (0, 1)
    assert all("runs in integers" in name for name in failing(report))


def test_verify_shows_tables_within_100_columns(refimpl, tmp_path, texts):
    status, out, _ = refimpl("verify", tiny.copy("bert_question_answering", tmp_path), "--text", texts)
    assert status == 0
    assert "PASSED: the arithmetic agrees." in out
    assert max(map(len, out.splitlines())) <= 100


def failing(report: dict) -> list[str]:
    return [check["name"] for check in report["checks"] if not check["passed"]]


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


@pytest.mark.skipif("onnxruntime" not in installed(), reason="onnxruntime is not installed")
def test_verify_fails_if_an_integer_product_is_wrong_by_one(refimpl, monkeypatch, tmp_path, texts):
    from refimpl.models.engines import onnxruntime as engine

    right = engine.matmul_integer
    monkeypatch.setattr(engine, "matmul_integer", lambda a, w, zero_point=0: right(a, w, zero_point) + 1)
    status, report = verify_json(refimpl, tiny.copy("distilbert_bare", tmp_path), "--text", texts)
    assert status == 1
    assert failing(report) == ["ONNX Runtime: integer MatMul"]


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


def test_verify_the_embedded_model(refimpl, tmp_path):
    try:
        embedded_model()
    except ValueError as error:
        pytest.skip(str(error))
    path = tmp_path / "texts.txt"
    path.write_text("The cat sat on the mat.\nWhere is the station?\nIt rains in March.\n", "utf-8")
    status, report = verify_json(refimpl, "--text", path)
    assert status == 0
    assert report["passed"] is True
    assert report["model"] == "all-MiniLM-L6-v2"
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


def test_run_without_text(one_line, tmp_path):
    error = one_line("run", tiny.copy("bert_classification", tmp_path))
    assert "no text was given; need --text at least once" in error


def test_a_question_without_context(one_line, tmp_path):
    model = tiny.copy("bert_question_answering", tmp_path)
    assert "need --context" in one_line("run", model, "--text", "what sat")
    assert "is empty or white space" in one_line("run", model, "--text", "what sat", "--context", "")


def test_a_text_without_a_mask(one_line, tmp_path):
    model = tiny.copy("bert_masked_lm", tmp_path)
    assert "texts[0] has no [MASK]; need at least one to fill" in one_line("run", model, "--text", "the cat")


def test_a_packed_file_where_a_directory_is_needed(one_line, tmp_path, packed):
    for command in (["compress", "-o", tmp_path / "x"], ["verify"]):
        assert "is packed already; need a Hugging Face directory" in one_line(*command, packed)


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
