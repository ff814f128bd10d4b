"""Fine-tuning from directory to directory: parameters by name, new heads, each task, and going on after a stop."""

import json
import signal
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import tiny
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from refimpl.models import compress, directory, packed_file
from refimpl.models.bert import forward, map_floats
from refimpl.models.checkpoint import load_model
from refimpl.models.cli import app
from refimpl.models.compress import Dense
from refimpl.models.data import sst2
from refimpl.models.directory import save_directory
from refimpl.models.runner import runner
from refimpl.models.tokenizer import Tokenizer
from refimpl.models.training import checkpoint, evaluation, fine_tuning, interrupt, loop, new_heads
from refimpl.models.training.fine_tuning import Plan, fine_tune
from refimpl.models.training.optimizer import Optimizer
from refimpl.models.training.parameters import named, with_parameters
from refimpl.models.training.run import Interrupted, Stopped
from refimpl.models.training.schedule import constant
from refimpl.models.training.show import Bar
from refimpl.models.training.task import How, job
from refimpl.models.training.tasks import TASKS, Source, find, sst2_task
from refimpl.nn.adamw import AdamW
from refimpl.nn.tape import Backwards, Tape

HEADS = {"sst2": "classification", "squad": "question_answering", "mlm": "masked_lm"}


@pytest.fixture
def data(tmp_path):
    return tiny.write_data(tmp_path / "data")


# --- parameters and directories --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.MODELS)
def test_parameters_have_the_checkpoints_names_and_come_back(name, tmp_path):
    model = tiny.dense(name).model
    parameters = named(model)
    stored = load_file(tiny.GOLDEN / name / "model.safetensors")
    for old, new in (("gamma", "weight"), ("beta", "bias")):
        stored = {key.replace("LayerNorm." + old, "LayerNorm." + new): x for key, x in stored.items()}
    assert parameters.keys() <= stored.keys()
    for key, array in parameters.items():
        np.testing.assert_array_equal(array, stored[key])
    other = with_parameters(model, {key: array + 1 for key, array in parameters.items()})
    assert all((array == parameters[key] + 1).all() for key, array in named(other).items())
    save_directory(Dense(other, tiny.dense(name).tokenizer), tmp_path / "out", {"note.txt": "x"})
    again = load_model(tmp_path / "out")
    assert again.config == model.config
    assert again.embeddings.word.shape == other.embeddings.word.shape
    for key, array in named(again).items():
        np.testing.assert_array_equal(array, named(other)[key])
    tiny.same(forward(again, tiny.batch(name)), forward(other, tiny.batch(name)))
    tokenizer = Tokenizer.load(tmp_path / "out", model.config)
    tiny.same(tokenizer.encode(tiny.TEXTS), tiny.dense(name).tokenizer.encode(tiny.TEXTS))
    assert (tmp_path / "out" / "vocab.txt").read_text("utf-8") == tiny.vocabulary()


def test_a_disk_that_is_full_leaves_no_directory(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(directory, "save_file", full)
    with pytest.raises(OSError, match=r"out cannot be written: No space left"):
        save_directory(tiny.dense("bert_classification"), tmp_path / "out", {})
    assert not list(tmp_path.iterdir())


def test_with_parameters_refuses():
    model = tiny.dense("bert_classification").model
    parameters = named(model)
    with pytest.raises(ValueError, match=r"values lacks bert.embeddings.word_embeddings.weight"):
        with_parameters(model, {})
    with pytest.raises(TypeError, match=r"classifier.bias has dtype float64; need float32"):
        with_parameters(model, parameters | {"classifier.bias": parameters["classifier.bias"].astype(np.float64)})
    with pytest.raises(ValueError, match=r"classifier.bias has shape \(1,\); need \(3,\)"):
        with_parameters(model, parameters | {"classifier.bias": parameters["classifier.bias"][:1]})


@pytest.mark.parametrize("name", ["bert_masked_lm", "distilbert_masked_lm"])
def test_a_tied_decoder_is_one_parameter_and_stays_tied(name):
    model = tiny.dense(name).model
    tied = replace(model, head=model.head._replace(decoder=model.head.decoder._replace(weight=model.embeddings.word)))
    doubled = with_parameters(tied, {key: 2 * array for key, array in named(tied).items()})
    assert doubled.head.decoder.weight is doubled.embeddings.word
    apart = replace(model, head=tied.head._replace(decoder=tied.head.decoder._replace(weight=tied.embeddings.word + 1)))
    assert len(named(apart)) == len(named(tied)) + 1


@pytest.mark.parametrize("name", ["bert_classification", "distilbert_bare"])
def test_new_heads(name):
    """Drawn by the generator, N(0, 0.02²); the encoder, and BERT's pooler, are those of the file."""
    folder, draw = tiny.GOLDEN / name, np.random.default_rng
    old = load_model(folder)
    for head, labels in (("question_answering", ()), ("masked_lm", ()), ("classification", ("no", "yes"))):
        model = new_heads.load_for(folder, head, labels, draw(1))
        assert (model.config.head, model.config.labels) == (head, labels)
        tiny.same((model.embeddings, model.layers), (old.embeddings, old.layers))
        tiny.same(model.head, new_heads.load_for(folder, head, labels, draw(1)).head)
        linear = getattr(
            model.head, {"question_answering": "outputs", "masked_lm": "transform"}.get(head, "classifier")
        )
        assert 0.01 < linear.weight.std() < 0.03
        assert not linear.bias.any()
    if name == "bert_classification":
        tiny.same(model.head.pooler, old.head.pooler)
        kept = new_heads.load_for(folder, "classification", ("x", "y", "z"), draw(1))
        tiny.same(kept.head, old.head)
        assert kept.config.labels == ("x", "y", "z")


# --- tasks -----------------------------------------------------------------------------------------------------------

PLAN = Plan("sst2", epochs=2, batch=4, learning_rate=3e-3, accumulate=2, save_every=1)


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("name", ["distilbert_bare", "bert_question_answering"])
def test_each_task_learns(task, name, data, tmp_path):
    model = tiny.with_positions(tiny.copy(name, tmp_path), 512)
    plan = replace(PLAN, task=task, epochs=8, accumulate=1, dropout=0.0)
    report = fine_tune(model, data, tmp_path / "out", plan, False)
    assert report["history"][-1]["loss"] < report["history"][0]["loss"]
    assert load_model(tmp_path / "out").config.head == HEADS[task]
    assert json.loads((tmp_path / "out" / "training.json").read_text())["history"] == report["history"]
    assert {path.name for path in tmp_path.iterdir()} == {"data", name, "out"}


def stopping(after):
    """A signal comes in update ``after``."""
    count = [0]

    def stop():
        count[0] += 1
        return count[0] == after

    return lambda: _context(stop)


class _context:
    def __init__(self, value):
        self.value = value

    def __enter__(self):
        return self.value

    def __exit__(self, *error):
        pass


def test_a_stopped_run_resumes_to_the_same_file(data, tmp_path, monkeypatch):
    """With dropout, accumulation and a masked language model, whose masks are drawn anew for each batch."""
    model = tiny.copy("bert_masked_lm", tmp_path)
    plan = replace(PLAN, task="mlm")
    fine_tune(model, data, tmp_path / "whole", plan, False)
    for after in (2, 1):
        with monkeypatch.context() as patch:
            patch.setattr(interrupt, "noted", stopping(after))
            with pytest.raises(Stopped, match=r"stopped after update \d; saved in .*again\.training; .*--resume"):
                fine_tune(model, data, tmp_path / "again", plan, after == 1)
    with pytest.raises(ValueError, match="is the checkpoint of an interrupted run; --resume to go on, or remove it"):
        fine_tune(model, data, tmp_path / "again", plan, False)
    with pytest.raises(ValueError, match="its batch is 4, this one's 5"):
        fine_tune(model, data, tmp_path / "again", replace(plan, batch=5), True)
    parts = [tmp_path / f"again.training.{end}" for end in ("part-ab_12xyz", "backup", "old")]
    for part in parts:
        part.touch()
    fine_tune(model, data, tmp_path / "again", plan, True)
    assert [part.exists() for part in parts] == [False, True, True]
    for file in ("model.safetensors", "training.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.fixture
def interruptible():
    """As in a program that a person started, whatever runs the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_is_noted_and_the_second_acts(interruptible):
    with interrupt.noted() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupt.noted() as stop:
        signal.raise_signal(signal.SIGINT)
        assert not stop()


def work(data, model, limit=None):
    task = sst2_task(Source(data, Tokenizer.load(model, load_model(model).config), limit))
    loaded = new_heads.load_for(model, task.head, task.labels, np.random.default_rng(0))
    return job(task, loaded, How(4, 0, 0.1)), named(loaded)


def test_every_parameter_has_a_gradient(data, tmp_path):
    run, parameters = work(data, tiny.copy("bert_classification", tmp_path))
    loss, gradients = run.gradients(parameters, [0, 1, 2], np.random.default_rng(0))
    assert gradients.keys() == parameters.keys()
    assert loss == run.gradients(parameters, [0, 1, 2], np.random.default_rng(0))[0]
    assert loss != run.gradients(parameters, [0, 1, 2], np.random.default_rng(1))[0]


def test_where_a_value_is_first_not_finite(data, tmp_path):
    run, parameters = work(data, tiny.copy("bert_classification", tmp_path))
    name = "bert.encoder.layer.1.attention.self.query.weight"
    with np.errstate(over="ignore", invalid="ignore"):
        huge = parameters | {name: np.full_like(parameters[name], 3e38)}
        assert run.first_bad(huge, [0, 1], np.random.default_rng(0)) == "layer.1.q"
        assert run.first_bad(parameters | {name: parameters[name] * np.nan}, [0], None) == f"the parameter {name}"


def test_a_run_that_diverges_says_where(data, tmp_path):
    model = tiny.copy("bert_classification", tmp_path)
    tensors = load_file(model / "model.safetensors")
    (name,) = [name for name in tensors if name.endswith("layer.0.intermediate.dense.weight")]
    save_file(tensors | {name: np.full_like(tensors[name], 3e38)}, model / "model.safetensors")
    with (
        pytest.raises(
            loop.Diverged, match=r"update 1: the loss is nan; layer\.0\.intermediate was .*there is no check"
        ),
        np.errstate(all="ignore"),
    ):
        fine_tune(model, data, tmp_path / "out", PLAN, False)


def planted(kind, number, backwards=Backwards()):  # noqa: B008  # immutable
    """Backwards of which call ``number`` of a kind, from the model's end on, gives a NaN."""
    calls = count()

    def bad(*given):
        found = getattr(backwards, kind)(*given)
        if next(calls) == number:
            (found[0] if isinstance(found, tuple) else found).flat[0] = np.nan
        return found

    return backwards._replace(**{kind: bad})


@pytest.mark.parametrize(
    ("task", "kind", "number", "first"),
    [
        ("sst2", "linear", 0, "bert.pooler.dense.weight"),
        ("sst2", "gelu", 0, "bert.encoder.layer.2.intermediate.dense.weight"),
        ("sst2", "gelu", 1, "bert.encoder.layer.1.intermediate.dense.weight"),
        ("sst2", "softmax", 2, "bert.encoder.layer.0.attention.self.key.weight"),
        ("sst2", "layernorm", 6, "bert.embeddings.token_type_embeddings.weight"),
        ("sst2", "embedding", 1, "bert.embeddings.word_embeddings.weight"),
        ("mlm", "gelu", 0, "cls.predictions.transform.dense.weight"),
        ("mlm", "gelu", 1, "bert.encoder.layer.2.intermediate.dense.weight"),  # the decoder is the word table
    ],
)
def test_the_gradient_that_was_first_not_finite(task, kind, number, first, data):
    source = Source(data, tiny.dense("bert_classification").tokenizer)
    made = TASKS[task](source)
    model = new_heads.load_for(tiny.GOLDEN / "bert_classification", made.head, made.labels, np.random.default_rng(0))
    third = map_floats(model.layers[1], np.float32)
    model = replace(model, config=replace(model.config, layers=3), layers=(*model.layers, third))
    work = job(made, model, How(4, 0, 0.1, lambda: Tape(backwards=planted(kind, number))))
    state = checkpoint.begin(dict(sorted(named(model).items())))  # as a file of a checkpoint has them
    settings = loop.Settings(1, 0.1, constant(), Optimizer(AdamW()), accumulate=2)
    with np.errstate(all="ignore"), pytest.raises(loop.Diverged) as raised:
        list(loop.train(work, settings, state))
    assert str(raised.value).startswith(f"update 1: the gradient of {first} is not finite; the loss is ")


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command(data, tmp_path):
    model = tiny.copy("bert_classification", tmp_path)
    arguments = ["train", str(model), "--task", "sst2", "--data", str(data), "--batch", "8", "--epochs", "1"]
    done = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0
    assert "sst2: 3 updates" in done.stdout
    assert "accuracy" in done.stdout
    assert "update 3 of 3: loss" in done.stderr
    done = CliRunner().invoke(app, [*arguments, "--json", "--limit", "8", "-o", str(tmp_path / "two")])
    assert json.loads(done.stdout)["updates"] == 1
    done = CliRunner().invoke(app, ["run", str(tmp_path / "out"), "--text", "the cat"], catch_exceptions=False)
    assert done.stdout.startswith(("positive", "negative"))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"task": "x"}, "--task is 'x'; need sst2, squad, mlm"),
        ({"epochs": 0}, "--epochs is 0; need 1 or more"),
        ({"save_every": 0}, "--save-every is 0"),
        ({"limit": 0}, "--limit is 0"),
        ({"batch": 0}, "--batch is 0"),
        ({"seed": -1}, "--seed is -1"),
        ({"warmup": 1.5}, "--warmup is 1.5"),
        ({"dropout": 1.0}, "--dropout is 1"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan"),
        ({"weight_decay": -0.1}, "--weight-decay is -0.1"),
        ({"threads": 0}, "--threads is 0"),
    ],
)
def test_a_plan_that_cannot_be(change, error):
    with pytest.raises(ValueError, match=error):
        fine_tuning.check_plan(replace(PLAN, **change))


def test_output_and_data_are_checked_first(data, tmp_path):
    model = tiny.copy("bert_classification", tmp_path)
    with pytest.raises(ValueError, match="data exists and is not an empty folder; name another output"):
        fine_tune(model, data, data, PLAN, True)
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "training.json").touch()
    with pytest.raises(ValueError, match=r"done is there, and no done\.training: the run is finished"):
        fine_tune(model, data, tmp_path / "done", PLAN, True)
    with pytest.raises(FileNotFoundError, match="need one with the task's data"):
        fine_tune(model, tmp_path / "none", tmp_path / "out", PLAN, False)
    with pytest.raises(FileNotFoundError, match=r"has no file train\*\.tsv"):
        find(tmp_path, "train", [".tsv"])
    (data / "train.2.tsv").write_text("")
    with pytest.raises(ValueError, match=r"has train\.2\.tsv and train\.tsv; need one file train\*\.tsv"):
        find(data, "train", [".tsv"])


def test_a_bar_shows_no_loss_before_there_is_one():
    bar, state = Bar(), checkpoint.begin({})
    bar.report(loop.Evaluated(state, 2, {"accuracy": 54.816}))
    assert bar.words() == "accuracy 54.82"
    bar.report(loop.Updated(state, 2, 0.5, 1.0, 0.1, 300, 0.2, False))
    assert bar.words() == "loss 0.5000  accuracy 54.82  1,500 tokens/s"
    bar.stop = lambda: True
    with pytest.raises(Interrupted):
        bar.evaluated(1, 2)


def evaluated(*arguments):
    done = CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--json"], catch_exceptions=False)
    return json.loads(done.stdout)


def test_evaluate(data, tmp_path):
    """Of a directory the accuracy that its training ended with; a packed file of it runs, and is counted, too."""
    model = tiny.copy("bert_classification", tmp_path)
    report = fine_tune(model, data, tmp_path / "out", Plan("sst2", epochs=2, batch=8), False)
    where = "--task", "sst2", "--data", data
    found = evaluated(tmp_path / "out", *where)
    assert found["accuracy"] == report["history"][-1]["accuracy"]
    loaded = compress.load(tmp_path / "out")
    packed_file.save(compress.compress(loaded, ["the cat sat"], 1.0), tmp_path / "packed")
    packed = evaluated(tmp_path / "packed", *where)
    said, dev = runner(packed_file.load(tmp_path / "packed")), sst2.read(data / "dev.tsv")
    right = [said.run(*loaded.tokenizer.encode([row.text])).argmax() == row.label for row in dev]
    assert packed["accuracy"] == 100 * np.mean(right)
    with pytest.raises(ValueError, match="the model is for classification; need question answering"):
        evaluation.check_head(said.config, "squad")
