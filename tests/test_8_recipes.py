"""Recipes as files, in TOML, and everything that is refused before any work begins."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from refimpl.models.recipes import reading
from refimpl.models.recipes.kinds import Distillation, FineTune, Student
from refimpl.models.recipes.prune_kind import Prune
from refimpl.models.recipes.recipe import Recipe, to_json

PRUNE = 'do = "prune"\nepochs = 1\nsparsity = 0.8\n'
HYBRID = 'do = "hybrid"\nepochs = 2\nfactor = 20\n'
MOVE = 'do = "movement"\nepochs = 3\nwarmup_start_epoch = 1\nwarmup_end_epoch = 2\nfactor = 0.05\n'


def file(tmp_path, *stages):
    path = tmp_path / "mine.toml"
    path.write_text("".join(f"[[stage]]\n{stage}\n" for stage in stages))
    return str(path)


@pytest.mark.parametrize("name", reading.names())
def test_every_recipe_that_ships_is_one(name):
    recipe = reading.load(name, "sst2")
    assert recipe.name == name
    assert recipe.about
    assert json.loads(json.dumps(to_json(recipe)))["stages"][0]["do"] == recipe.stages[0].do


def test_the_recipes_that_are_promised_ship():
    promised = {"ptq", "qat", "prune-4x1-80", "prune-4x1-90", "jpqd-sst2", "jpqd-squad", "distil-mse"}
    assert promised <= set(reading.names())
    pruned = reading.load("prune-4x1-90", "sst2")
    assert [stage.do for stage in pruned.stages] == ["prune", "fine-tune", "quantize"]
    assert pruned.stages[0].sparsity == 0.9
    assert pruned.stages[1].lock


def test_the_readme_shows_a_recipe_that_ships():
    text = (reading.SHIPPED / "prune-4x1-80.toml").read_text("utf-8")
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    assert "```toml\n" + text.split("\n\n", 1)[1] + "```" in readme


def test_toml(tmp_path):
    recipe = reading.load(
        file(tmp_path, PRUNE + 'block = [8, 2]\ndistil = { loss = "mse_logits", weight = 1 }'), "sst2"
    )
    assert recipe == Recipe(
        "mine", "", (Prune(epochs=1, sparsity=0.8, block=(8, 2), distil=Distillation("mse_logits", weight=1.0)),)
    )
    assert recipe.distils
    assert not replace(recipe, stages=(Prune(epochs=1, sparsity=0.5),)).distils


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "a recipe has no stage"),
        (['do = "prine"'], "stage 1: do is 'prine'; need 'prune'"),
        (['do = "zzz"'], "do is 'zzz'; need fine-tune, hybrid, movement, prune, quantize, quantize-aware, student"),
        (["epochs = 1"], "do is None; need"),
        ([PRUNE + "sparsty = 1"], "stage 1: the key 'sparsty' is unknown; need 'sparsity'"),
        ([PRUNE + "distil = { temprature = 1 }"], "the key 'temprature' is unknown; need 'temperature'"),
        ([PRUNE + "distil = 3"], "distil is 3; need a table"),
        (['do = "prune"\nepochs = 1'], "sparsity is missing; need it"),
        (['do = "movement"'], "epochs, warmup_start_epoch, warmup_end_epoch, factor are missing; need them"),
        (['do = "fine-tune"\nepochs = "1"'], "epochs is '1'; need an integer"),
        (['do = "fine-tune"\nepochs = true'], "epochs is True; need an integer"),
        (['do = "fine-tune"\nepochs = 0'], "epochs is 0; need 1 to 1000"),
        ([PRUNE.replace("0.8", "1.5")], "sparsity is 1.5"),
        ([PRUNE + 'method = "l1"'], "method is 'l1'; need one-shot, prune-ofa, inc, movement"),
        ([PRUNE + 'criterion = "l1"'], "criterion is 'l1'; need magnitude, gradient, snip, snip_momentum"),
        (
            [PRUNE + 'schedule = "cubic"'],
            "schedule is 'cubic'; need zhu_gupta_cubic, inc_exp, inc_cos, inc_linear",
        ),
        ([PRUNE + 'ranking = "all"'], "ranking is 'all'; need layer, global"),
        (
            [PRUNE + 'method = "one-shot"\nschedule = "inc_exp"'],
            "the method one-shot has no schedule; need it left",
        ),
        ([PRUNE + 'method = "movement"\ncriterion = "snip"'], "the method movement has no criterion; need it left out"),
        ([PRUNE + 'method = "movement"\nranking = "global"'], "the method movement has no ranking; need it left out"),
        ([PRUNE + 'method = "one-shot"\nrewind = true'], "the method one-shot has no rewind; need it left out"),
        (
            [PRUNE + "rewind = true\nend = 0.9"],
            "warmup is 0.1; need less than 0.1, what begin and end leave",
        ),
        ([HYBRID + "final_threshold = 0"], "final_threshold is 0; need more than 0 and less than 1"),
        ([HYBRID + "warmup = 0.4"], r"warmup times initial_warmup \+ final_warmup is 1.2; need less than 1"),
        ([HYBRID + "filled = true"], "stage 1, hybrid, is filled; need it just after another hybrid"),
        ([HYBRID, PRUNE, HYBRID + "filled = true"], "stage 3, hybrid, is filled; need it just after another hybrid"),
        ([PRUNE + "begin = 0.5\nend = 0.5"], "begin and end are 0.5 and 0.5; need 0 <= begin < end <= 1"),
        ([PRUNE + "block = [4]"], r"block is \[4\]; need rows and columns"),
        ([PRUNE + "block = 4"], "block is 4; need a list of integers"),
        ([PRUNE + "every = 0"], "every is 0; need at least 1"),
        ([PRUNE + "learning_rate = 0"], "learning_rate is 0; need more than 0"),
        ([PRUNE + "learning_rate = nan"], "learning_rate is nan; need more than 0"),
        ([PRUNE + "dropout = 1"], "dropout is 1; need 0 to below 1"),
        ([PRUNE + 'distil = { loss = "kl" }'], "loss is 'kl'; need kl_batchmean"),
        ([PRUNE + 'distil = { hidden_loss = "l2" }'], "hidden_loss is 'l2'; need mse, l1, kl, cosine"),
        ([PRUNE + "distil = { temperature = 0 }"], "temperature is 0; need more than 0"),
        ([MOVE.replace("warmup_end_epoch = 2", "warmup_end_epoch = 4")], "need 0 < warmup_start_epoch < warmup_end"),
        ([MOVE + "power = 0"], "power is 0; need more than 0"),
        ([MOVE + "power = inf"], "power is inf; need more than 0"),
        ([MOVE + "initial_threshold = 0"], "initial_threshold and final_threshold are 0.0 and 0.0; need finite"),
        ([MOVE + "initial_threshold = -inf"], "are -inf and 0.0; need finite ones, the second greater"),
        ([MOVE + "final_threshold = nan"], "are None and nan; need finite ones, the second greater"),
        ([MOVE + f"power = 1{'0' * 400}"], "stage 1: int too large to convert to float"),
        ([MOVE + "factor2 = 1"], "unknown; need 'factor'"),
        ([MOVE + 'overflow_fix = "on"'], "overflow_fix is 'on'; need disable, enable, first_layer_only"),
        (['do = "student"\nlayers = [2, 1]'], r"layers is \[2, 1\]; need rising numbers"),
        (['do = "student"\nlayers = []'], "layers is .*; need a list of integers"),
        (['do = "quantize"\nobserver = "max"'], "observer is 'max'; need percentile, min-max"),
        (['do = "quantize-aware"\nepochs = 1\ninitial = "0.1"'], "initial is '0.1'; need absmax, nncf"),
        (['do = "quantize-aware"\nepochs = 1\ngradient = "lsq"'], "gradient is 'lsq'; need nncf, step"),
        (['do = "quantize"\nalpha = 1.5'], "alpha is 1.5; need 0 to 1"),
        (['do = "quantize"\ntuning = "inc"'], "tuning is 'inc' without max_drop; need both"),
        (['do = "quantize"\ntuning = "inc2"'], "tuning is 'inc2'; need nncf, nncf-nmse, inc"),
        (['do = "quantize"\nmax_drop = -1'], "max_drop is -1; need at least 0"),
        (['do = "quantize"', PRUNE], "stage 1, quantize, quantizes; need it as the last stage"),
        ([MOVE + "quantize = true", 'do = "quantize"'], "stage 1, movement, quantizes; need it as the last stage"),
    ],
)
def test_what_no_recipe_can_say(stages, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        reading.load(file(tmp_path, *stages), "sst2")
    assert str(caught.value).startswith(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", b"[[stage]", "is no TOML"),
        ("a.toml", b"stage = 3", "stage is no list of tables"),
        ("a.toml", b"stages = 3", "the key 'stages' is unknown; need 'stage'"),
        ("a.toml", b"about = 3", "about is 3; need a text"),
        ("a.toml", b'about = "\xff"', "is no TOML"),
        ("a.json", b"[" * 100000, "is no JSON"),
        ("a.toml", b"#" * (1 << 21), "need a recipe of at most"),
    ],
)
def test_files_that_are_no_recipe(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        reading.load(str(tmp_path / name), "sst2")


def test_no_file_at_all():
    with pytest.raises(FileNotFoundError, match=r"prune-4x1 is neither a file nor one that ships; .*prune-4x1-80"):
        reading.load("prune-4x1", "sst2")
    with pytest.raises(FileNotFoundError, match=r"mine\.toml does not exist; need a file, or one of"):
        reading.load("mine.toml", "sst2")


def test_the_other_movement_is_named():
    with pytest.raises(ValueError, match=r'movement has no sparsity, .* do = "prune", method = "movement"'):
        reading.parse({"stage": [{"do": "movement", "sparsity": 0.5}]}, "mine")


def test_layers_and_locks_have_defaults():
    assert not FineTune(epochs=1).lock
    assert Student(layers=(0, 3)).layers == (0, 3)
