"""Recipes from directory to folder: every kind of stage, every recipe that ships, what is refused, and going on."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations, count, pairwise

import numpy as np
import pytest
import recipe_child as child
import tiny
from recipe_child import KILLED, MOVES, OWN, SMALL
from test_6_training_tasks import planted
from test_8_prune_models import dead
from typer.testing import CliRunner

from refimpl.models import compress, packed_file
from refimpl.models.bert import forward, linears
from refimpl.models.cli import app
from refimpl.models.compress import Quantized
from refimpl.models.oracle.execute import execute
from refimpl.models.oracle.load import load
from refimpl.models.quantization.tuning import negative_nmse
from refimpl.models.recipes import beginning, given, reading, run, stages, tuned
from refimpl.models.recipes.checking import check_stages
from refimpl.models.recipes.given import load_models
from refimpl.models.recipes.kinds import Distillation, FineTune, Hybrid, Movement, Quantize, QuantizeAware, Student
from refimpl.models.recipes.options import Options
from refimpl.models.recipes.prune_kind import Prune
from refimpl.models.recipes.recipe import Recipe, to_json
from refimpl.models.recipes.report import about
from refimpl.models.recipes.run import compress_by
from refimpl.models.recipes.setting import work_on
from refimpl.models.runner import runner
from refimpl.models.training import interrupt
from refimpl.models.training.loop import Diverged
from refimpl.models.training.run import Stopped
from refimpl.models.training.show import Bar
from refimpl.nn import LINEARS, Linear
from refimpl.quant import QUANTIZED, fake

OPTIONS = Options("sst2", save_every=1)
PTQ = Recipe("ptq", "", (Quantize(samples=4),))
KEYS = {
    "version", "command", "recipe", "task", "seed", "limit", "machine", "baseline", "stages", "layers", "heads",
    "sizes", "engines", "seconds", "model_training",
}  # fmt: skip
STAGE_KEYS = {"name", "seconds", "updates", "metrics", "history", "sparsity", "notes", "tuning"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    child.alone(monkeypatch.setattr)
    return child.prepare(tmp_path)


def go(folder, recipe, options=OPTIONS, resume=False, output="out", **change):
    where = {"model": folder / "model", "data": folder / "data", "output": folder / output} | change
    return compress_by(recipe, where["model"], where["data"], where["output"], options, resume)


def recipe(*stages):
    return Recipe("mine", "", stages)


# --- end to end ------------------------------------------------------------------------------------------------------

FILLED = recipe(Hybrid(**SMALL, **OWN), Hybrid(**SMALL, **OWN, filled=True), Quantize(samples=4))
MADE = {
    "fine-tune": recipe(FineTune(**SMALL)),
    "inc": recipe(Prune(**SMALL, sparsity=0.5, method="inc", every=1)),
    "one-shot": recipe(Prune(**SMALL, sparsity=0.5, method="one-shot"), QuantizeAware(**SMALL, samples=4)),
    "locked": recipe(
        Prune(**SMALL, sparsity=0.7, block=(1, 1), every=1),
        FineTune(**SMALL, lock=True),
        QuantizeAware(**SMALL, samples=4),
    ),
    "chosen": recipe(
        Prune(**SMALL, sparsity=0.5, criterion="snip", schedule="inc_cos", ranking="global", rewind=True, every=1),
        Quantize(samples=4),
    ),
    "hybrid": recipe(Hybrid(**SMALL, **OWN), FineTune(**SMALL, lock=True)),
    "filled": FILLED,
    "highest": recipe(Prune(**SMALL, sparsity=0.5, method="movement", accumulate=2), Quantize(samples=4)),
    "movement": recipe(Movement(**SMALL, **MOVES), QuantizeAware(**SMALL, samples=4)),
    "loose": recipe(Movement(**SMALL, **MOVES, structured=False), Quantize(samples=4, bias_correction="full")),
    "levels": recipe(QuantizeAware(**SMALL, samples=4, overflow_fix="first_layer_only", observer="mse")),
    "ptq": recipe(Quantize(samples=4, overflow_fix="enable", observer="min-max", bias_correction="fast")),
    "attention": recipe(
        Quantize(samples=4, overflow_fix="enable", attention=True, smooth=True, bias_correction="fast")
    ),
} | {f"shipped {name}": child.small(reading.load(name, "sst2")) for name in reading.names()}


@pytest.mark.parametrize("name", MADE)
def test_a_recipe_leaves_what_is_promised(name, folder, monkeypatch):
    made, given = MADE[name], []
    write = run.write_artifacts
    monkeypatch.setattr(run, "write_artifacts", lambda *parts: given.append(parts[2:]) or write(*parts))
    report = go(folder, made)
    (trained, quantized), out = given[0], folder / "out"
    assert json.loads((out / "report.json").read_text("utf-8")) == json.loads(json.dumps(report))
    assert report.keys() == KEYS
    assert report["recipe"] == to_json(made)
    assert report["engines"][0]["metrics"] == report["stages"][-1]["metrics"]
    coded = 2 * (name == "attention")
    integers = 0 if quantized is None else len(linears(quantized.model)) + coded * len(quantized.model.layers)
    assert report["engines"][0]["integer_layers"] == integers
    files = {"huggingface", "model.onnx", *(["packed.safetensors"] if quantized else [])}
    assert report["sizes"]["files"].keys() == files
    whole = linears(compress.load(folder / "model").model).values()
    assert report["sizes"]["encoder"]["before"] == sum(p.weight.nbytes + p.bias.nbytes for p in whole)
    resolved = any(isinstance(stage, Movement) and stage.structured for stage in made.stages)
    table = {"structured_sparsity.csv"} if resolved else set()
    assert {path.name for path in out.iterdir()} == files | table | {"report.json", "report.html"}
    assert not (folder / "out.stages").exists()
    for stage, row in zip(made.stages, report["stages"], strict=True):
        assert row.keys() == STAGE_KEYS
        trains = hasattr(stage, "epochs")
        assert row["updates"] == (stage.epochs * -(-3 // stage.accumulate) if trains else 0)
        assert [line["epoch"] for line in row["history"]] == (list(range(1, stage.epochs + 1)) if trains else [])
        assert all(a[0] < b[0] for a, b in pairwise(row["sparsity"]))
        if isinstance(stage, Prune):
            assert row["sparsity"][-1][1] == pytest.approx(stage.sparsity, abs=4 / 32**2)  # of each layer a block less
            steps = len(row["sparsity"])
            note = f"masks change in {steps} steps; a smaller every, more epochs or more rows prune more gradually"
            assert row["notes"] == ([] if stage.method == "one-shot" else [note])
        if isinstance(stage, Movement):
            assert row["notes"][0].startswith(f"NNCF counts {row['sparsity'][-1][1]:.1%} of the weights with scores")
    tiny.same_model(compress.load(out / "huggingface").model, trained.model)
    if quantized:
        tiny.same_model(packed_file.load(out / "packed.safetensors").model, compress.pack(quantized).model)
        for layer, p in linears(quantized.model).items():
            weight = linears(trained.model)[layer].weight
            assert weight.shape == p.codes.shape
            assert not p.codes[weight == 0].any()
            assert abs(p.codes).max() <= (127 if name != "attention" else 64)
        for layer in quantized.model.layers:
            assert layer.q.input_scale == layer.k.input_scale == layer.v.input_scale
    if isinstance(made.stages[0], Prune):  # what follows keeps every zero
        zeros, sizes = zip(
            *((np.sum(p.weight == 0), p.weight.size) for p in linears(trained.model).values()), strict=True
        )
        assert sum(zeros) / sum(sizes) == pytest.approx(made.stages[0].sparsity, abs=4 / 32**2)
    left = [(row["kept_shape"], row["nonzero"]) for row in report["layers"]]
    assert left == [(list(p.weight.shape), np.count_nonzero(p.weight)) for p in linears(trained.model).values()]
    assert any(row["kept"] < row["of"] or row["neurons"] < row["of_neurons"] for row in report["heads"]) == (
        resolved or isinstance(made.stages[0], Hybrid)
    )
    assert all(len(row["kept_heads"]) == row["kept"] for row in report["heads"])
    if table:
        with (out / "structured_sparsity.csv").open() as file:
            told = {row["torch_module"]: json.loads(row["head_or_channel_id_to_keep"]) for row in csv.DictReader(file)
                    if not row["head_or_channel_id_to_keep"].endswith("items]")}  # fmt: skip
        for row in report["heads"]:
            assert row["kept_heads"] == (told[f"layer.{row['layer']}.q"] or [0])


def check_numbers(function):
    """Of heads that are left: those that they had at first, whatever was removed or chosen before."""
    before = tiny.dense("bert_classification")
    kill = [{0: [0], 1: [1, 2]}, {0: [1], 1: [0]}]
    work = work_on(before)
    for heads in kill:
        work = work._replace(dense=replace(before, model=dead(work.dense.model, heads, {})))
        work = function(work)
    assert work.heads == ((1, 3), (3,))
    assert stages.student(work, Student(layers=(1,))).heads == ((3,),)


def test_heads_keep_their_numbers():
    check_numbers(stages._without_dead)


@pytest.mark.parametrize(("score_rate", "notes"), [(0.0, 1), (10.0, 0)])
def test_a_hybrid_that_prunes_nothing_has_a_note(score_rate, notes, folder):
    stage = Hybrid(**SMALL, **OWN | {"score_rate": score_rate})
    assert len(go(folder, recipe(stage))["stages"][0]["notes"]) == notes


@pytest.mark.parametrize(("every", "notes"), [(7, 1), (6, 0)])
def test_a_gradual_pruning_of_few_steps_has_a_note(every, notes):
    """Over updates 0 to 60 of 100, in 9 or 11 steps."""
    stage = Prune(epochs=1, batch=1, sparsity=0.5, every=every)
    assert len(stages.notes_before(stage, 100)) == notes


def test_what_is_worth_a_note_is_said_before_the_training(folder, capsys):
    made = recipe(Prune(**SMALL, sparsity=0.5), Quantize(samples=4))
    dense = compress.load(folder / "model")
    check_stages(made, dense, dense, 3)
    assert capsys.readouterr().err.startswith("note: stage 1, prune: masks change in ")


def test_questions(tmp_path, monkeypatch):
    child.alone(monkeypatch.setattr)
    folder = child.prepare(tmp_path, "squad", "bert_question_answering")
    report = go(folder, child.small(reading.load("jpqd-squad", "squad")), Options("squad"))
    assert set(report["baseline"]) == {"exact match", "F1"}
    assert set(report["stages"][0]["metrics"]) == {"exact match", "F1"}


@pytest.mark.parametrize(
    ("text", "run"),
    [
        (None, None),
        ('{"run": {"epochs": 3}}', {"epochs": 3}),
        ('{"run": 3}', None),
        ("{", None),
        ("[]", None),
        ("\xff", None),
    ],
)
def test_a_report_tells_how_its_model_was_trained(text, run, tmp_path):
    if text is not None:
        (tmp_path / "training.json").write_bytes(text.encode("latin1"))
    assert about(PTQ, "ptq", tmp_path, tmp_path, tmp_path, OPTIONS)["model_training"] == run


def test_a_masked_language_model(tmp_path, monkeypatch):
    """Pruned with DistilBERT's triple loss, a student of its first layer; the teacher is asked beside each pass."""
    child.alone(monkeypatch.setattr)
    folder = child.prepare(tmp_path, "mlm", "distilbert_masked_lm")
    triple = Distillation("kl_batchmean", 2.0, 5 / 7, 1 / 7, "cosine", "last")
    made = recipe(Student(layers=(0,)), Prune(**SMALL | {"distil": triple}, sparsity=0.5), Quantize(samples=4))
    report = go(folder, made, Options("mlm"))
    assert set(report["baseline"]) == set(report["stages"][-1]["metrics"]) == {"accuracy", "perplexity"}
    assert report["engines"][0]["rows"] > 3
    assert linears(packed_file.load(folder / "out" / "packed.safetensors").model).keys() == {
        f"layer.0.{name}" for name in LINEARS
    }


def test_a_limit(folder):
    report = go(folder, MADE["fine-tune"], replace(OPTIONS, limit=8))
    assert report["stages"][0]["updates"] == 2  # a batch an epoch


def test_the_command(folder):
    path = folder / "mine.toml"
    path.write_text('[[stage]]\ndo = "quantize"\nsamples = 4\n')
    words = ["compress", folder / "model", "--recipe", path, "--data", folder / "data", "-o", folder / "out", "--json"]
    done = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert json.loads(done.stdout)["recipe"]["name"] == "mine"


# --- learned ranges --------------------------------------------------------------------------------------------------


def test_how_ranges_begin_and_are_learned(folder, monkeypatch):
    monkeypatch.setattr(fake, "NNCF_SCALE_FLOOR", np.float32(1))  # the weights of this model are large
    how = SMALL | {"epochs": 1, "learning_rate": 1e-4}
    for name, keys in {"plain": {}, "high": {"initial": "nncf"}, "step": {"gradient": "step"}}.items():
        go(folder, recipe(QuantizeAware(**how, samples=4, **keys)), output=name)
    plain, high, step = (
        np.concatenate(
            [p.weight_scale for p in linears(packed_file.load(folder / name / "packed.safetensors").model).values()]
        )
        for name in ("plain", "high", "step")
    )
    assert 127 * high.min() > 0.99 > 127 * plain.min()
    assert 0 < np.abs(127 * (plain - step)).max() < 0.01


# --- smoothing -------------------------------------------------------------------------------------------------------


def test_smoothing_in_a_recipe_is_what_engines_run(folder):
    """attention_output's ranges are other ones, and so are v's weights; the rest is the same but for rounding."""
    stages = {"plain": Quantize(samples=4), "half": Quantize(samples=4, smooth=True, alpha=0.5),
              "most": Quantize(samples=4, smooth=True)}  # fmt: skip
    for name, stage in stages.items():
        go(folder, recipe(stage), output=name)
    plain, half, most = (linears(packed_file.load(folder / name / "packed.safetensors").model) for name in stages)
    for name, p in plain.items():
        field = name.rpartition(".")[2]
        scales = [layers[name].weight_scale for layers in (plain, half, most)]
        for one, other in combinations(scales, 2):
            assert np.array_equal(one, other) == (field not in ("v", "attention_output"))
        near = np.isclose(half[name].input_scale, p.input_scale, rtol=1e-5)
        assert near == (field != "attention_output")


# --- tuning ----------------------------------------------------------------------------------------------------------


def check_units(function):
    units = function(list(linears(tiny.dense("bert_classification").model)))
    alone = [f"layer.{i}.{field}" for i in range(2) for field in ("attention_output", "intermediate", "output")]
    assert units == {name: [name] for name in alone} | {
        f"layer.{i}.qkv": [f"layer.{i}.{field}" for field in "qkv"] for i in range(2)
    }


def test_q_k_and_v_go_back_together():
    check_units(tuned._units)


GAINS = {"layer.0.q": 3.0, "layer.1.output": 2.0, "layer.0.output": 0.5}
QKV = ["layer.0.k", "layer.0.q", "layer.0.v"]


def made_up(loaded):
    """A metric of which layers are in f32: 90 of none, 100 of the f32 model."""
    floats = linears(loaded.model)
    gains = sum(gain for name, gain in GAINS.items() if type(floats[name]) is Linear)
    return {"accuracy": 100.0 if isinstance(loaded, compress.Dense) else 90 + gains}


def tune(drop, tuning, measure=made_up):
    name, told = "bert_classification", []
    how = Quantize(max_drop=drop, tuning=tuning)
    found = tuned.restored(tiny.quantized(name), tiny.calibrated(name), measure, how, tiny.rows(name), told.append)
    assert told == list(range(len(found.trials)))
    assert isinstance(found.quantized, Quantized)
    return found, sorted(name for name, p in linears(found.quantized.model).items() if type(p) is Linear)


def test_layers_go_back_to_f32_until_the_goal():
    """NNCF: the best first, and points; INC: the last first, each alone, then the best, and percent."""
    for drop, tuning, want in [
        (10.0, "nncf", []), (7.0, "nncf", QKV), (5.0, "nncf", [*QKV, "layer.1.output"]),
        (10.0, "inc", []), (9.5, "inc", ["layer.1.output"]), (7.0, "inc", QKV), (5.0, "inc", [*QKV, "layer.1.output"]),
    ]:  # fmt: skip
        found, kept = tune(drop, tuning)
        assert kept == want
        assert f"goal {100 - drop:.2f} reached" in found.note
        assert found.trials[0].step == "all quantized"
    found, _ = tune(1.0, "nncf")
    assert "goal 99.00 not reached" in found.note


def test_a_goal_of_inc_is_relative():
    def half(loaded):
        return {"accuracy": made_up(loaded)["accuracy"] / 2}

    assert "goal 46.50 reached" in tune(7.0, "inc", half)[0].note
    assert "goal 43.00 reached" in tune(7.0, "nncf", half)[0].note


def test_layers_ranked_by_the_error_of_the_outputs():
    """The first that is kept leaves the smallest error."""
    name = "bert_classification"
    found, _ = tune(1.0, "nncf-nmse")
    ranks = {trial.step: trial.value for trial in found.trials if trial.step.startswith("rank ")}
    best = max(list(ranks)[:8], key=ranks.__getitem__).removeprefix("rank ")
    assert f"keep {best}" == next(trial.step for trial in found.trials if trial.step.startswith("keep "))
    error = negative_nmse(tiny.quantized(name), tiny.calibrated(name), tiny.rows(name))
    assert ranks["rank layer.0.qkv"] == error(frozenset(QKV)) < 0


@pytest.mark.parametrize(
    ("tuning", "attention"), [("nncf", False), ("nncf-nmse", False), ("inc", False), ("inc", True)]
)
def test_tuning_in_a_recipe_writes_the_mixed_model(tuning, attention, folder, monkeypatch):
    """q, k, v of one layer in f32, or more: what comes back from both files, and runs."""
    make, given, write = run.make_setting, [], run.write_artifacts
    monkeypatch.setattr(run, "make_setting", lambda *parts: replace(make(*parts), measure=made_up))
    monkeypatch.setattr(run, "write_artifacts", lambda *parts: given.append(parts[3]) or write(*parts))
    report = go(folder, recipe(Quantize(samples=4, max_drop=7.0, tuning=tuning, attention=attention)))
    (quantized,), (stage,), out = given, report["stages"], folder / "out"
    floats = {name for name, p in linears(quantized.model).items() if type(p) is Linear}
    assert floats >= set(QKV)
    assert (floats == set(QKV)) or tuning == "nncf-nmse"
    last = stage["tuning"][-1]
    assert last["metric"] == made_up(compress.pack(quantized))["accuracy"] >= 93
    assert last["good"]
    assert {f"{unit[:7]}.qkv" if unit[-1] in "qkv" else unit for unit in floats} == set(last["kept"])
    assert "goal 93.00 reached; in f32: " in stage["notes"][0]
    packed = packed_file.load(out / "packed.safetensors")
    tiny.same_model(packed.model, compress.pack(quantized).model)
    assert (
        report["engines"][0]["integer_layers"] == report["engines"][0]["products"] == 12 - len(floats) + 4 * attention
    )
    graph = load(out / "model.onnx")
    stored = {(array.dtype.str, array.tobytes()) for array in graph.initializers.values()}
    for name, p in linears(quantized.model).items():
        weight = np.ascontiguousarray((p.weight if name in floats else p.codes).T)
        assert (weight.dtype.str, weight.tobytes()) in stored
    batch = packed.tokenizer.encode(["the cat sat"])
    inputs = dict(zip(("input_ids", "attention_mask", "token_type_ids"), batch, strict=True))
    for logits in (runner(packed).run(*batch), *execute(graph, inputs).values()):
        assert logits.argmax() == forward(quantized.model, batch, QUANTIZED).argmax()


# --- what is refused -------------------------------------------------------------------------------------------------


def test_who_may_teach(folder, tmp_path):
    distils = recipe(FineTune(**SMALL))
    three = tiny.copy("bert_masked_lm", tmp_path)
    with pytest.raises(ValueError, match="is for masked lm; need one for classification of 2 classes; refimpl train"):
        go(folder, distils, replace(OPTIONS, teacher=three))
    with pytest.raises(ValueError, match="is for classification of 3 classes; need one for classification of 2"):
        go(folder, distils, model=folder / "bert_classification")
    with pytest.raises(ValueError, match="is for classification of 3 classes"):
        go(folder, PTQ, model=folder / "bert_classification")
    with pytest.raises(ValueError, match="the recipe ptq distils in no stage; leave --teacher out"):
        go(folder, PTQ, replace(OPTIONS, teacher=folder / "model"))
    for i, labels in enumerate([("positive", "negative"), ("POSITIVE", "NEGATIVE"), ("entailment", "not_entailment")]):
        other = tmp_path / f"other{i}"
        other.mkdir()
        child.prepare(other, labels=labels)
        for arguments in ({"options": replace(OPTIONS, teacher=other / "model")}, {"model": other / "model"}):
            error = f"has the labels {', '.join(labels)}; need negative, positive, in this order, or LABEL_0, LABEL_1"
            with pytest.raises(ValueError, match=error):
                go(folder, distils, **arguments)
    assert not list(folder.glob("out*"))


@pytest.mark.parametrize("labels", [("NEGATIVE", "Positive"), ("LABEL_0", "LABEL_1")])
def test_labels_that_say_the_same_or_nothing(labels, folder, tmp_path):
    (tmp_path / "other").mkdir()
    teacher = child.prepare(tmp_path / "other", labels=labels) / "model"
    _, loaded = load_models(recipe(FineTune(**SMALL)), folder / "model", replace(OPTIONS, teacher=teacher))
    assert loaded.model.config.labels == ("negative", "positive")


def test_a_teacher_reads_the_same_ids(folder, tmp_path):
    """Whatever its file says of truncation, padding and decoding."""
    distils = recipe(FineTune(**SMALL))
    (tmp_path / "other").mkdir()
    teacher = child.prepare(tmp_path / "other") / "model"
    path, options = teacher / "tokenizer.json", replace(OPTIONS, teacher=teacher)
    values = json.loads(path.read_text("utf-8"))
    padding = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": 8, "pad_id": 0, "pad_type_id": 0}
    values["padding"] = padding | {"pad_token": "[PAD]"}
    values["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    values["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    path.write_text(json.dumps(values), "utf-8")
    assert load_models(distils, folder / "model", options)[1].tokenizer.text != (
        load_models(distils, folder / "model", OPTIONS)[0].tokenizer.text
    )
    values["normalizer"]["lowercase"] = not values["normalizer"]["lowercase"]
    path.write_text(json.dumps(values), "utf-8")
    with pytest.raises(ValueError, match=r"another tokenizer than .*need a teacher that reads the same ids"):
        go(folder, distils, options)
    path.unlink()
    (teacher / "vocab.txt").write_text(tiny.vocabulary().replace("cat\n", "dog\n", 1))
    with pytest.raises(ValueError, match=r"another tokenizer than .*need a teacher that reads the same ids"):
        go(folder, distils, options)
    assert not list(folder.glob("out*"))


def test_a_teacher_of_masked_tokens_has_as_many_words(tmp_path, monkeypatch):
    folder = child.prepare(tmp_path, "mlm", "distilbert_masked_lm")
    teacher = folder / "teacher"
    load = given._load

    def padded(path, *rest):
        dense = load(folder / "model", *rest)
        config = replace(dense.model.config, vocabulary=dense.model.config.vocabulary + 6)
        return dense if path != teacher else replace(dense, model=replace(dense.model, config=config))

    monkeypatch.setattr(given, "_load", padded)
    with pytest.raises(ValueError, match=r"teacher has \d+ words, .*model \d+; need as many"):
        load_models(recipe(FineTune(**SMALL)), folder / "model", Options("mlm", teacher))


def test_a_model_with_another_head_is_trained_with_a_teacher(folder, monkeypatch):
    measured, begin = [], run.begin
    monkeypatch.setattr(run, "begin", lambda setting, model: measured.append(model) or begin(setting, model))
    untaught = recipe(FineTune(**SMALL))
    options = replace(OPTIONS, teacher=folder / "model", seed=1)
    report = go(folder, untaught, options, model=folder / "bert_classification")
    assert report["stages"][0]["updates"] == 6
    wanted = compress.load(folder / "model").model.head.classifier.weight  # its own head is new: the teacher's metrics
    assert np.array_equal(measured[0].head.classifier.weight, wanted)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"task": "x"}, "--task is 'x'; need sst2, squad or mlm"),
        ({"save_every": 0}, "--save-every is 0"),
        ({"limit": 0}, "--limit is 0"),
        ({"threads": 0}, "--threads is 0"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_options_that_cannot_be(change, error):
    with pytest.raises(ValueError, match=error):
        run.check_options(replace(OPTIONS, **change))


NOTHING = SMALL | {"distil": None}
HIDDEN = SMALL | {"distil": Distillation(hidden=1.0)}
UNFIT = {
    "stage 2, student: layers has 2; need numbers below 2, the model's layers": Student(layers=(0, 2)),
    r"stage 2, prune: block 5x1 does not divide \S+, 32x32; need one that divides every layer$": Prune(
        **SMALL, sparsity=0.5, block=(5, 1)
    ),
    "stage 2, prune: block 5x1 does not divide": Prune(**SMALL, sparsity=0.5, block=(5, 1), method="movement"),
    "stage 2, movement: .*need multiples of the block 5x5": Movement(**SMALL, **MOVES | {"block": (5, 5)}),
    "stage 2, movement: the warm-up is from epoch 0.1 to 1.5; need an update or more before it": Movement(
        **SMALL, **MOVES | {"warmup_start_epoch": 0.1}
    ),
}


@pytest.mark.parametrize("error", UNFIT)
def test_stages_that_the_model_does_not_allow(error, folder, monkeypatch):
    """Found before the teacher is asked, and before anything is trained."""
    monkeypatch.setattr(run, "begin", None)
    with pytest.raises(ValueError, match=error):
        go(folder, recipe(FineTune(**SMALL), UNFIT[error]))
    assert not list(folder.glob("out*"))


def test_stages_are_checked_on_the_model_as_it_will_be():
    """With fewer layers after a student, and after a movement with as little as it may leave."""
    dense = tiny.dense("bert_classification")
    one = stages.student(work_on(dense), Student(layers=(1,))).dense
    tuned_alike, moves = FineTune(**HIDDEN), Movement(**NOTHING, **MOVES)
    prune, own = Prune(**NOTHING, sparsity=0.5, block=(8, 1)), Hybrid(**NOTHING, **OWN | {"block": (16, 8)})
    for teacher, made in [
        (one, recipe(Student(layers=(1,)), tuned_alike)),
        (None, recipe(prune, moves, FineTune(**NOTHING, lock=True), replace(moves, block=(4, 4)))),
        (None, recipe(replace(moves, structured=False), prune)),
        (None, recipe(own, replace(own, filled=True))),
    ]:
        check_stages(made, dense, teacher, 24)
    for teacher, made, error in [
        (
            one,
            recipe(Student(layers=(0, 1)), tuned_alike),
            "stage 2, fine-tune: the student has 2 layers, the teacher 1",
        ),
        (None, recipe(Student(layers=(1,)), Student(layers=(0, 1))), "stage 2, student: layers has 1; need .* below 1"),
        (None, recipe(moves, prune), "stage 2, prune: block 8x1 .*, 4x32; .*layer, whatever the movement before it"),
        (None, recipe(own, prune), "stage 2, prune: block 8x1 .*; .*, whatever the hybrid before it leaves"),
    ]:
        with pytest.raises(ValueError, match=error):
            check_stages(made, dense, teacher, 24)


def test_an_output_that_is_there(folder):
    with pytest.raises(ValueError, match="data exists and is not an empty folder; name another output"):
        go(folder, PTQ, output="data")
    go(folder, PTQ, resume=True)  # nothing to resume: a note
    with pytest.raises(ValueError, match=r"the run is finished, see .*; name another output for another"):
        go(folder, PTQ, resume=True)
    (folder / "out.stages").mkdir()
    with pytest.raises(ValueError, match=r"see .*out/report\.html; out\.stages is left over, remove it"):
        go(folder, PTQ, resume=True)


def test_nothing_to_resume_is_said(folder, capsys):
    go(folder, PTQ, resume=True)
    assert "there is no out.stages: nothing to resume, a new run begins" in capsys.readouterr().err


@pytest.fixture
def spoiled(folder, monkeypatch):
    """(stage, a parameter, what it becomes after update 4) -> what the run says."""

    def run_into(stage, name, value):
        report = Bar.report

        def spoil(self, event):
            report(self, event)
            if event.state.step == 4:
                event.state.parameters[name].flat[:] = value

        monkeypatch.setattr(Bar, "report", spoil)
        with np.errstate(all="ignore"), pytest.raises(Diverged) as raised:
            go(folder, recipe(stage))
        assert (folder / "out.stages" / "1.training").exists()
        return str(raised.value)

    return run_into


TAUGHT = {"labels": None, "logits": Distillation(), "hidden": Distillation(hidden=1.0)}
DIVERGING = {name: FineTune(**SMALL | {"distil": how}) for name, how in TAUGHT.items()} | {
    "pruned": Prune(**SMALL, sparsity=0.5, method="inc", every=1),
    "moved": Movement(**SMALL, **MOVES, quantize=True, samples=4),
}


@pytest.mark.parametrize("name", DIVERGING)
@pytest.mark.parametrize(
    ("spoil", "value", "said"),
    [
        ("classifier.bias", np.nan, "the parameter classifier.bias"),
        ("bert.encoder.layer.1.attention.output.dense.bias", 3e38, "layer.1.attention_norm"),
    ],
)
def test_a_run_that_diverges_says_where_and_keeps_its_checkpoint(name, spoil, value, said, spoiled):
    error = spoiled(DIVERGING[name], spoil, value)
    assert error.startswith(f"update 5: the loss is nan; {said} was not finite first; ")
    assert error.endswith("1.training has the state after update 4")


def test_hidden_states_alone_that_are_not_finite(spoiled):
    """The pooler's tanh is 1 at infinity, so that logits and labels see nothing."""
    huge = np.where(np.arange(32) == 1, 3e38, 1)
    error = spoiled(DIVERGING["hidden"], "bert.encoder.layer.1.output.LayerNorm.weight", huge)
    assert error.startswith("update 5: the loss is nan; layer.1.output_norm was not finite first; ")


def test_the_gradient_that_was_first_not_finite_is_the_weights_before_the_scores(folder, monkeypatch):
    forwards, backwards = run.training(1)
    monkeypatch.setattr(run, "training", lambda threads: (forwards, planted("gelu", 1, backwards)))
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            Diverged,
            match=r"^update 1: the gradient of bert\.encoder\.layer\.0\.intermediate\.dense\.weight is not finite",
        ),
    ):
        go(folder, recipe(DIVERGING["moved"]))


# --- going on --------------------------------------------------------------------------------------------------------


def stopping(after):
    """A signal comes before the question ``after``; and how many there were."""
    asked = [0]

    def stop():
        asked[0] += 1
        return asked[0] >= after

    @contextmanager
    def noted():
        yield stop

    return noted, asked


def results(folder, output):
    """Both files, but for the order of the keys in the header of the packed one, which is safetensors' to choose."""
    packed = (folder / output / "packed.safetensors").read_bytes()
    size = 8 + int.from_bytes(packed[:8], "little")
    return json.loads(packed[8:size]), packed[size:], (folder / output / "model.onnx").read_bytes()


@pytest.mark.parametrize("killed", [KILLED, FILLED], ids=["killed", "filled"])
def test_stopped_again_and_again_it_ends_with_the_same_bits(killed, folder, monkeypatch):
    """In the teacher's pass, the baseline, updates and evaluations; each time with one line."""
    whole, said = go(folder, killed, output="whole"), set()
    for attempt in count(2):
        monkeypatch.setattr(interrupt, "noted", stopping(attempt // 2)[0])
        try:
            again = go(folder, killed, resume=(folder / "out.stages").exists())
            break
        except Stopped as stopped:
            line = str(stopped)
        assert ("the same command with --resume goes on" in line) == (folder / "out.stages").exists()
        assert ("nothing is saved" in line) != (folder / "out.stages").exists()
        assert not (folder / "out").exists()
        said.add(line.split(";")[0])
    assert {"stopped between trainings", "stopped after update 3", "stopped after update 4"} <= said
    assert results(folder, "out") == results(folder, "whole")
    for key in ("updates", "history", "sparsity", "metrics"):
        assert [row[key] for row in again["stages"]] == [row[key] for row in whole["stages"]]


@pytest.mark.slow
def test_stopped_at_any_moment_it_ends_with_the_same_bits(folder, monkeypatch):
    """Every question whether to stop, the comparison's too."""
    noted, asked = stopping(10**9)
    monkeypatch.setattr(interrupt, "noted", noted)
    go(folder, KILLED, output="whole")
    questions = asked[0]
    for after in range(1, questions + 1):
        monkeypatch.setattr(interrupt, "noted", stopping(after)[0])
        with pytest.raises(Stopped):
            go(folder, KILLED, output=f"{after}")
        monkeypatch.setattr(interrupt, "noted", stopping(10**9)[0])
        go(folder, KILLED, output=f"{after}", resume=(folder / f"{after}.stages").exists())
        assert results(folder, f"{after}") == results(folder, "whole")


def test_a_run_that_goes_on_asks_neither_the_teacher_nor_for_the_baseline(folder, monkeypatch):
    whole, begun, begin = go(folder, KILLED, output="whole"), [], Bar.begin
    monkeypatch.setattr(interrupt, "noted", stopping(12)[0])
    with pytest.raises(Stopped):
        go(folder, KILLED)
    monkeypatch.setattr(interrupt, "noted", stopping(10**9)[0])
    monkeypatch.setattr(beginning, "teach", None)
    monkeypatch.setattr(Bar, "begin", lambda self, *given: begun.append(given[-1]) or begin(self, *given))
    kept = folder / "out.stages" / "0.training"
    bytes_ = kept.read_bytes()
    kept.write_bytes(bytes_[:-1] + bytes([bytes_[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"0\.training is damaged: its digest is not that of its contents$"):
        go(folder, KILLED, resume=True)
    kept.write_bytes(bytes_)
    assert go(folder, KILLED, resume=True)["baseline"] == whole["baseline"]
    assert begun == [stage.do for stage in KILLED.stages]
    assert results(folder, "out") == results(folder, "whole")


def test_a_checkpoint_is_of_one_run(folder, monkeypatch):
    noted = interrupt.noted
    monkeypatch.setattr(interrupt, "noted", stopping(12)[0])
    with pytest.raises(
        Stopped, match=r"stopped after update \d; saved in .*1\.training; the same command with --resume"
    ):
        go(folder, KILLED)
    monkeypatch.setattr(interrupt, "noted", noted)
    with pytest.raises(ValueError, match=r"has the checkpoints of an interrupted run; --resume to go on"):
        go(folder, KILLED)
    first, *others = KILLED.stages
    for change, error in [
        ({"options": replace(OPTIONS, seed=1)}, "is of another run: its seed is 0, this one's 1"),
        ({"options": replace(OPTIONS, limit=20)}, "is of another run: its data is|its limit is None, this one's 20"),
        (
            {"made": recipe(replace(first, sparsity=0.25), *others)},
            "is of another run: its sparsity is 0.5, this one's 0.25",
        ),
    ]:
        with pytest.raises(ValueError, match=error):
            go(folder, change.get("made", KILLED), change.get("options", OPTIONS), resume=True)
    with (folder / "data" / "train.tsv").open("a") as file:
        file.write("1\tthe cat\n")
    with pytest.raises(ValueError, match="is of another run: its data is"):
        go(folder, KILLED, resume=True)


def test_a_real_signal_ends_with_one_line(folder):
    """Between two updates, of a program of its own."""
    command = [sys.executable, child.__file__, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.stdout.readline() != "report\n":
            pass
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate()
    assert error.splitlines()[-1].startswith("refimpl.models.training.run.Stopped: stopped after update ")
    assert error.splitlines()[-1].endswith("1.training; the same command with --resume goes on")


@pytest.mark.slow
def test_killed_ten_times_it_ends_with_the_same_bits(folder):
    go(folder, child.LONG, output="whole")
    draw, command = np.random.default_rng(0), [sys.executable, child.__file__, str(folder)]
    for kill in range(11):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            if kill < 10:
                for _ in range(draw.integers(1, 25)):
                    process.stdout.readline()
                time.sleep(draw.uniform(0, 0.03))
                os.kill(process.pid, signal.SIGKILL)
            process.stdout.read()
        assert process.returncode == (-signal.SIGKILL if kill < 10 else 0)
    assert results(folder, "out") == results(folder, "whole")
