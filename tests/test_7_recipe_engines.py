"""A recipe's files in their engines: answers row by row, an engine in a process of its own, and what cannot run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from test_6_training_tasks import data  # noqa: F401
from test_7_engines import ENGINES, needs
from tiny import with_positions
from vnni import SATURATES

from refimpl.models import compress, engines
from refimpl.models.bert import Batch, forward
from refimpl.models.engines import serving as serving_module
from refimpl.models.engines.isolated import Conditions
from refimpl.models.engines.serving import serving
from refimpl.models.export import export_onnx
from refimpl.models.recipes.agreement import compare_engines
from refimpl.models.recipes.artifacts import write_artifacts
from refimpl.models.runner import on_ops, runner
from refimpl.models.terminal import read_texts
from refimpl.models.training import evaluation
from refimpl.models.training.batches import Purpose, stream
from refimpl.models.training.evaluation import MEASURES, QUESTIONS, Answer, leading
from refimpl.nn import REFERENCE
from refimpl.nn.losses import cross_entropy

NAME = "bert_classification"


def two_classes():
    """The golden model with the first two of its classes."""
    dense = tiny.dense(NAME)
    model, p = dense.model, dense.model.head.classifier
    head = model.head._replace(classifier=p._replace(weight=p.weight[:2].copy(), bias=p.bias[:2].copy()))
    return replace(dense, model=replace(model, head=head, config=replace(model.config, labels=model.config.labels[:2])))


# --- answers ---------------------------------------------------------------------------------------------------------


def check_leading(leading):
    """Spans of several windows, in their order."""
    assert leading([]) == Answer("", None)
    assert leading([(3.0, "a cat")]) == Answer("a cat", None)
    assert leading([(1.0, "a"), (3.0, "b"), (2.5, "b"), (0.5, "c")]) == Answer("b", 2.0)
    assert leading([(3.0, "a"), (3.0, "b")]) == Answer("a", 0.0)


def test_by_how_much_an_answer_leads():
    check_leading(leading)


def silent(done, of):
    pass


def test_answers_are_scored_as_the_measure_does(data):  # noqa: F811
    dense = two_classes()
    ready = on_ops(dense, REFERENCE, "f32")
    questions = QUESTIONS["sst2"](data, dense.tokenizer)
    answers = questions.ask(ready, silent)
    assert (questions.texts, questions.wanted) == (["the cat", "the hat"], ["positive", "negative"])
    for text, answer in zip(questions.texts, answers, strict=True):
        logits = forward(dense.model, dense.tokenizer.encode([text]))[0]
        assert answer.said == evaluation.sst2.LABELS[int(logits.argmax())]
        assert answer.margin == pytest.approx(float(abs(logits[1] - logits[0])), rel=1e-4)
    assert questions.score(answers) == MEASURES["sst2"](data, dense.tokenizer)(ready, silent)
    for said, wanted in [(["positive", "negative"], 100), (["positive"] * 2, 50), (["negative", "positive"], 0)]:
        assert questions.score([Answer(one, 1.0) for one in said]) == {"accuracy": wanted}


def around(tokenizer, ids, at):
    words = [tokenizer.token(int(i)) for i in ids]
    words[at] = "?"
    return " ".join(words[max(0, at - 4) : at + 5])


def test_hidden_tokens_are_asked_for(data):  # noqa: F811
    """Perplexity by the cross entropy of each row; a row of the answers is a hidden token."""
    dense = tiny.dense("distilbert_masked_lm")
    questions = QUESTIONS["mlm"](data, dense.tokenizer)
    answers = questions.ask(on_ops(dense, REFERENCE, "f32"), silent)
    texts, hide = read_texts(data / "dev.txt"), evaluation.hider(dense.tokenizer)
    nats, said, told = [], [], []
    for i, row in enumerate(dense.tokenizer.rows(texts)):
        batch, _ = dense.tokenizer.batch([row])
        hidden = hide(batch, [row], stream(0, Purpose.EVALUATION, i))
        places = hidden.labels[0] >= 0
        if places.any():
            y = forward(dense.model, batch._replace(ids=hidden.ids))
            nats += [cross_entropy(y[:, place], hidden.labels[:, place]).value for place in np.flatnonzero(places)]
            said += [dense.tokenizer.token(int(best)) for best in y[0, places].argmax(-1)]
            told += [(around(dense.tokenizer, hidden.ids[0], at), dense.tokenizer.token(int(hidden.labels[0, at])))
                     for at in np.flatnonzero(places)]  # fmt: skip
    assert len(told) > 3
    assert list(zip(questions.texts, questions.wanted, strict=True)) == told
    assert [answer.said for answer in answers] == said
    assert all(answer.margin >= 0 for answer in answers)
    score = questions.score(answers)
    assert score["perplexity"] == pytest.approx(np.exp(np.mean(nats)), rel=1e-6)
    assert score["accuracy"] == 100 * np.mean([one == wanted for one, (_, wanted) in zip(said, told, strict=True)])
    right = [Answer(wanted, 1.0, 0.0) for _, wanted in told]
    assert questions.score(right) == {"accuracy": 100, "perplexity": 1}
    (data / "dev.txt").write_text("the\n")
    with pytest.raises(ValueError, match=r"no token of .*dev\.txt is hidden; need longer texts, or more of them"):
        QUESTIONS["mlm"](data, dense.tokenizer)


# --- an engine in a process of its own -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.onnx"
    export_onnx(tiny.quantized(NAME).model, path)
    return path


@pytest.mark.parametrize("engine", ENGINES)
def test_a_served_model_is_the_same_in_batch_after_batch(model, engine):
    session = engines.open_session(engine, model, [])
    with serving(engine, model) as served:
        assert engines.count_integer_layers(engine, served.layers) == session.integer_layers == 12
        assert served.version == engines.version(engine)
        for rows, tokens in [(3, 11), (1, 1), (2, 5), (3, 11)]:
            batch = Batch(*(array[:rows, :tokens] for array in tiny.batch(NAME)))
            np.testing.assert_array_equal(served.run(batch), session.run(batch)["output"])


def test_a_model_that_an_engine_cannot_load_or_run(model, tmp_path):
    needs("onnxruntime")
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(RuntimeError, match="onnxruntime: DecodeError: "), serving("onnxruntime", tmp_path / "bad.onnx"):
        pass
    wrong = tiny.batch(NAME)._replace(ids=tiny.batch(NAME).ids + 10**6)
    with (
        serving("onnxruntime", model) as served,
        pytest.raises(RuntimeError, match=r"onnxruntime: .*out of data bounds"),
    ):
        served.run(wrong)


def test_an_engine_that_dies_or_does_not_answer(model, monkeypatch):
    """The process is another program here, which prints a line and crashes, or sleeps."""
    needs("onnxruntime")
    crash = "import os, sys; print('an assertion', file=sys.stderr, flush=True); os.kill(os.getpid(), 11)"
    for script, kind, said in [
        (crash, RuntimeError, "onnxruntime died: SIGSEGV; the last that it printed: an assertion"),
        ("import time; time.sleep(60)", TimeoutError, "onnxruntime gave no answer in 1 s and was stopped"),
    ]:
        module = Path(model).with_name("child.py")
        module.write_text(script)
        monkeypatch.setattr(serving_module, "PROGRAM", [str(module)])
        with pytest.raises(kind, match=said), serving("onnxruntime", model, Conditions(timeout=1)):
            pass


@pytest.mark.parametrize(
    ("engine", "file", "conditions", "kind", "said"),
    [
        ("onnxruntime", "no.onnx", {}, FileNotFoundError, "no.onnx is no file; need a model that onnxruntime reads"),
        ("numpy:dot", "model.onnx", {}, ValueError, "the engine is 'numpy:dot'; need onnxruntime or openvino"),
        ("nothing", "model.onnx", {}, ValueError, "the engine is 'nothing'; need"),
        ("onnxruntime", "model.onnx", {"threads": 0}, ValueError, "threads is 0; need at least 1"),
    ],
)
def test_what_cannot_be_served(model, engine, file, conditions, kind, said):
    needs("onnxruntime")
    with pytest.raises(kind, match=said), serving(engine, model.with_name(file), Conditions(**conditions)):
        pass


# --- the comparison --------------------------------------------------------------------------------------------------


def written(folder, dense, quantizer=None):
    folder.mkdir()
    coded = quantizer and quantizer(
        compress.calibrate(compress.prune(dense, 1.0), compress.encode_each(dense.tokenizer, tiny.TEXTS))
    )
    write_artifacts(folder, dense.model.config, dense, coded)
    return folder


@pytest.fixture
def engines_here():
    needs("onnxruntime")
    needs("openvino")


def test_all_engines_are_asked_the_same(tmp_path, data, engines_here):  # noqa: F811
    dense, told = two_classes(), []
    folder = written(tmp_path / "out", dense, compress.quantize_with_attention)
    rows = compare_engines(folder, "sst2", data, tell=lambda *seen: told.append(seen))
    assert [row["name"] for row in rows] == ["refimpl", "ONNX Runtime", "OpenVINO"]
    assert [row["file"] for row in rows] == ["packed.safetensors", "model.onnx", "openvino/openvino_model.xml"]
    assert [row["integer_layers"] for row in rows[:2]] == [16, 16]
    assert rows[2]["integer_layers"] >= 12  # OpenVINO may fuse an attention
    for row in rows:
        assert (row["ran"], row["why"], row["rows"], row["products"], row["in_floats"]) == (True, "", 2, 16, 0)
        assert row["metrics"].keys() == {"accuracy"}
        assert row["different"] == len(row["differences"])
    assert rows[0]["different"] == 0
    assert {name for *_, name in told} == {"refimpl", "ONNX Runtime", "OpenVINO"}
    assert [row["saturates"] for row in rows] == [False, SATURATES, SATURATES]
    precision = "INT8, saturating" if SATURATES else "INT8"
    assert [row["execution"] for row in rows[1:]] == [f"{precision}, one thread"] * 2


@pytest.mark.parametrize("quantizer", [compress.quantize, compress.quantize_with_attention])
def test_layers_that_run_in_floats_are_counted(quantizer, tmp_path, data, monkeypatch, engines_here):  # noqa: F811
    """Of the linear layers; an attention may be fused."""
    folder = written(tmp_path / "out", two_classes(), quantizer)
    monkeypatch.setattr(
        engines, "count_integer_layers", lambda engine, layers: {"onnxruntime": 0, "openvino": 11}[engine]
    )
    rows = compare_engines(folder, "sst2", data, limit=1)
    assert [row["in_floats"] for row in rows] == [0, 12, 1]
    assert (rows[1]["execution"], rows[1]["saturates"]) == ("f32, one thread", False)


def test_rows_that_are_answered_otherwise(tmp_path, data, engines_here):  # noqa: F811
    """Other weights in the files of the others: what they answer is theirs, and their margins too."""
    dense = two_classes()
    folder = written(tmp_path / "out", dense)
    head = dense.model.head
    turned = head._replace(
        classifier=head.classifier._replace(weight=-head.classifier.weight, bias=-head.classifier.bias)
    )
    export_onnx(replace(dense.model, head=turned), folder / "model.onnx")
    ours, theirs, openvino = compare_engines(folder, "sst2", data)
    assert (openvino["different"], theirs["different"]) == (0, 2)
    assert theirs["metrics"]["accuracy"] == 100 - ours["metrics"]["accuracy"]
    assert [(row["row"], row["text"], row["wanted"]) for row in theirs["differences"]] == [
        (0, "the cat", "positive"),
        (1, "the hat", "negative"),
    ]
    answers = QUESTIONS["sst2"](data, dense.tokenizer).ask(runner(dense), silent)
    for row, answer in zip(theirs["differences"], answers, strict=True):
        assert (row["ours"], row["our_margin"]) == (answer.said, answer.margin)
        assert row["theirs"] != row["ours"]
        assert row["their_margin"] == pytest.approx(row["our_margin"], rel=1e-3)


def test_squad_in_f32(tmp_path, data, engines_here):  # noqa: F811
    dense = compress.load(with_positions(tiny.copy("bert_question_answering", tmp_path), 384))
    rows = compare_engines(written(tmp_path / "out", dense), "squad", data, limit=2)
    assert [row["file"] for row in rows] == ["huggingface", "model.onnx", "openvino/openvino_model.xml"]
    assert [(row["integer_layers"], row["products"], row["rows"]) for row in rows] == [(0, 0, 2)] * 3
    assert all(row["metrics"].keys() == {"exact match", "F1"} for row in rows)


def test_an_engine_that_cannot_run_says_why(tmp_path, data, monkeypatch, engines_here):  # noqa: F811
    folder = written(tmp_path / "out", two_classes())
    (folder / "openvino" / "openvino_model.xml").unlink()
    (tmp_path / "child.py").write_text("import os; os.abort()")
    monkeypatch.setattr(serving_module, "PROGRAM", [str(tmp_path / "child.py")])
    ours, onnxruntime, openvino = compare_engines(folder, "sst2", data)
    assert ours["ran"]
    assert not onnxruntime["ran"]
    assert onnxruntime["why"] == "onnxruntime died: SIGABRT; the last that it printed: nothing"
    assert not openvino["ran"]
    assert openvino["why"].endswith("openvino_model.xml is no file; need a model that openvino reads")


def test_what_cannot_be_compared(tmp_path, data):  # noqa: F811
    with pytest.raises(ValueError, match="the task is 'x'; need sst2, squad, mlm"):
        compare_engines(tmp_path, "x", data)
    with pytest.raises(FileNotFoundError, match=r"has no model.onnx; need the folder of a compressed model"):
        compare_engines(tmp_path, "sst2", data)
    needs("openvino")
    folder = written(tmp_path / "out", tiny.dense("bert_question_answering"))
    with pytest.raises(ValueError, match="the model is for question answering; need classification of 2 classes"):
        compare_engines(folder, "sst2", data)
    folder = written(tmp_path / "right", two_classes())
    with pytest.raises(FileNotFoundError, match="nowhere is no folder; need one with the task's data"):
        compare_engines(folder, "sst2", tmp_path / "nowhere")
