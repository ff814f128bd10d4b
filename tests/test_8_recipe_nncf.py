"""NNCF's JSON as a recipe: as its documentation and Optimum's examples have it, and all that is not followed."""

import json
import warnings
from copy import deepcopy

import pytest

from refimpl.models.recipes import nncf, reading
from refimpl.models.recipes.kinds import Distillation, Movement, QuantizeAware

EMBEDDING, POOLER, HEAD, NORM = ("{re}.*NNCFEmbedding", "{re}.*pooler.*", "{re}.*classifier.*", "{re}.*LayerNorm.*")
JPQD = [
    {
        "algorithm": "movement_sparsity",
        "params": {
            "warmup_start_epoch": 1,
            "warmup_end_epoch": 4,
            "importance_regularization_factor": 0.01,
            "enable_structured_masking": True,
        },
        "sparse_structure_by_scopes": [
            {"mode": "block", "sparse_factors": [32, 32], "target_scopes": "{re}.*BertAttention.*"},
            {"mode": "per_dim", "axis": 0, "target_scopes": "{re}.*BertIntermediate.*"},
            {"mode": "per_dim", "axis": 1, "target_scopes": "{re}.*BertOutput.*"},
        ],
        "ignored_scopes": [EMBEDDING, POOLER, HEAD, NORM],
    },
    {"algorithm": "quantization", "weights": {"mode": "symmetric"}, "activations": {"mode": "symmetric"}},
]
WANT = Movement(
    epochs=5, learning_rate=2e-5, batch=32, distil=Distillation(weight=0.9), warmup_start_epoch=1.0,
    warmup_end_epoch=4.0, factor=0.01, structured=True, block=(32, 32), quantize=True,
)  # fmt: skip
SQUAD = """
[
    {
        "algorithm": "movement_sparsity",  // as Optimum's example for questions has it
        "params": {
            "warmup_start_epoch": 1,
            "warmup_end_epoch": 4,
            "importance_regularization_factor": 0.02,
            "enable_structured_masking": true
        },
        "sparse_structure_by_scopes": [
            {"mode": "block", "sparse_factors": [32, 32], "target_scopes": "{re}.*BertAttention*"},
            {"mode": "per_dim", "axis": 0, "target_scopes": "{re}.*BertIntermediate.*"},
            {"mode": "per_dim", "axis": 1, "target_scopes": "{re}.*BertOutput.*"},
        ],
        "ignored_scopes": ["{re}.*NNCFEmbedding.*", "{re}.*qa_outputs*", "{re}.*LayerNorm.*"]
    },
    {
        "algorithm": "quantization",
        "preset": "mixed",
        "overflow_fix": "enable",
        "initializer": {
            "range": {
                "num_init_samples": 32,
                "type": "percentile",
                "params": {"min_percentile": 0.01, "max_percentile": 99.99}
            },
            "batchnorm_adaptation": {"num_bn_adaptation_samples": 200}
        },
        "scope_overrides": {"activations": {"{re}.*matmul_0": {"mode": "symmetric"}}},
        "ignored_scopes": [
            "{re}.*__add___[0-1]",
            "{re}.*layer_norm_0",
        ]
    }
]
"""


def of(values, task="sst2"):
    (stage,) = reading.parse(nncf.translate(values, task), "jpqd").stages
    return stage


# --- what is read ----------------------------------------------------------------------------------------------------


def test_a_file(tmp_path):
    path = tmp_path / "jpqd.json"
    path.write_text(json.dumps(JPQD))
    recipe = reading.load(str(path), "sst2")
    assert recipe.name == "jpqd"
    assert recipe.stages == (WANT,)


def test_as_optimum_has_it(tmp_path):
    path = tmp_path / "jpqd.json"
    path.write_text(SQUAD)
    with pytest.warns(
        UserWarning, match="preset, initializer, scope_overrides, ignored_scopes of quantization: no eff"
    ):
        (stage,) = reading.load(str(path), "squad").stages
    want = Movement(
        epochs=8, learning_rate=3e-5, batch=16, distil=Distillation(weight=0.9), warmup_start_epoch=1.0,
        warmup_end_epoch=4.0, factor=0.02, structured=True, block=(32, 32), quantize=True, overflow_fix="enable",
    )  # fmt: skip
    assert stage == want


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": "http://x",}', {"a": "http://x"}),
        ('[",]", ",}" , "\\",]//", ]', [",]", ",}", '",]//']),
        ('[1, // 2, ]\n 3, // "\n]', [1, 3]),
        ('{"a": [1, 2,\n  ], // ,\n}', {"a": [1, 2]}),
        ('["\\\\", "//",]', ["\\", "//"]),
    ],
)
def test_comments_and_last_commas(text, value):
    plain = reading.plain_json(text)
    assert json.loads(plain) == value
    assert len(plain) == len(text)


@pytest.mark.parametrize("text", ['[\n  1, // one\n  2,]\n x', '[1,,]', '["a // ]', "// nothing"])  # fmt: skip
def test_other_errors_say_where(text, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is no JSON: .*: line \d column \d") as caught:
        reading.load(str(path), "sst2")
    if " x" in text:
        assert "line 4 column 2" in str(caught.value)


def test_with_one_of_both():
    movement = of(JPQD[:1])
    assert isinstance(movement, Movement)
    assert not movement.quantize
    quantized = of(JPQD[1] | {"overflow_fix": "enable"})
    assert isinstance(quantized, QuantizeAware)
    assert quantized.overflow_fix == "enable"


def test_what_it_leaves_to_the_command_may_be_said_beside():
    long = changed("params", warmup_end_epoch=6)
    stage = of({"compression": long, "input_info": [], "epochs": 7, "batch": 8, "distil": None, "dropout": 0})
    assert (stage.epochs, stage.warmup_end_epoch, stage.batch, stage.distil, stage.dropout) == (7, 6, 8, None, 0)
    assert stage.learning_rate == 2e-5
    assert of({"compression": JPQD, "distil": {"weight": 0.5}}).distil == Distillation(weight=0.5)


def test_the_schedule_may_be_said():
    more = {"power": 2, "final_importance_threshold": 0.1, "enable_structured_masking": False}
    for key in ("init_importance_threshold", "initial_importance_threshold"):
        stage = of(changed("params", **more, **{key: -0.5}))
        assert (stage.power, stage.initial_threshold, stage.final_threshold) == (2, -0.5, 0.1)
        assert not stage.structured


@pytest.mark.parametrize(
    "scopes",
    [
        "{re}attention",
        "{re}BertLayer\\[\\d+\\]/BertAttention",
        ["{re}.*BertSelfAttention.*", "{re}.*BertSelfOutput.*"],
        [
            f"BertForSequenceClassification/BertModel[bert]/BertEncoder[encoder]/ModuleList[layer]/BertLayer[{i}]/"
            f"BertAttention[attention]/{module}/linear_0"
            for i in range(24)
            for module in (
                "BertSelfAttention[self]/NNCFLinear[query]", "BertSelfAttention[self]/NNCFLinear[key]",
                "BertSelfAttention[self]/NNCFLinear[value]", "BertSelfOutput[output]/NNCFLinear[dense]",
            )
        ],
    ],
)  # fmt: skip
def test_scopes_that_say_the_same(scopes):
    assert of(structured(0, target_scopes=scopes)) == WANT


def test_what_has_no_effect_is_said():
    with pytest.warns(UserWarning, match="preset, ignored_scopes of quantization: no effect"):
        of([JPQD[1] | {"preset": "mixed", "ignored_scopes": []}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of(JPQD)
    with pytest.warns(UserWarning, match=r"^BertFor\w+/NNCFLinear\[classifier\]/linear_0: not in ignored_scopes"):
        assert of(ignoring(EMBEDDING, POOLER, NORM)) == WANT
    with pytest.warns(UserWarning, match=r"BertPooler.*, .*classifier.*: not in ignored_scopes"):
        of(without("ignored_scopes"))
    with pytest.warns(UserWarning, match=r"^BertForQuestionAnswering/NNCFLinear\[qa_outputs\]/linear_0: not in"):
        of(JPQD, "squad")


# --- what is refused -------------------------------------------------------------------------------------------------

SCOPES = "sparse_structure_by_scopes"


def changed(part=None, index=0, **values):
    """One of the algorithms, or a part of it, with other values."""
    made = deepcopy(JPQD)
    (made[index] if part is None else made[index].setdefault(part, {})).update(values)
    return made


def structured(index, **values):
    made = deepcopy(JPQD)
    made[0][SCOPES][index] |= values
    return made


def ignoring(*scopes):
    return changed(ignored_scopes=list(scopes))


def without(key):
    return [{name: value for name, value in JPQD[0].items() if name != key}, JPQD[1]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "need a list of algorithms"),
        ([], r"the algorithms are \[\]; need movement_sparsity and"),
        ([{"algorithm": []}], r"the algorithms are \[\[\]\]; need movement_sparsity and"),
        (changed(algorithm="magnitude_sparsity"), "the algorithms are .*magnitude_sparsity.*; need movement_sparsity"),
        ([JPQD[1], JPQD[1]], "need movement_sparsity and quantization, or one of them"),
        ({"compression": JPQD, "epoch": 9}, "the key 'epoch' is unknown; need 'epochs'"),
        ({"compression": JPQD, "factor": 1}, "the key 'factor' is unknown; need "),
        ({"compression": JPQD, "epochs": "9"}, "epochs is '9'; need an integer"),
        (changed(params=3), "params is 3; need an object"),
        (changed(params={}), "params lacks warmup_start_epoch, warmup_end_epoch, importance_regularization_factor"),
        (changed("params", warmup_epoch=1), "'warmup_epoch' is unknown; need"),
        (changed("params", schedule="exponential"), "'schedule' is unknown"),
        (changed("params", steps_per_epoch=9), "steps_per_epoch is given; leave it out: it follows from the data"),
        (changed("params", warmup_end_epoch="4"), "warmup_end_epoch is '4'; need a number"),
        (changed("params", enable_structured_masking=1), "structured is 1; need true or false"),
        (changed("params", warmup_end_epoch=9), "warmup_end_epoch <= epochs, 5"),
        (changed("params", init_importance_threshold=-1, initial_importance_threshold=-1), "are given; need one"),
        (changed(target_scopes=[]), "'target_scopes' is unknown"),
        (ignoring("{re}.*BertLayer\\[0\\].*"), r"ignored_scopes has .*BertLayer\[0\].*; need none in the"),
        (ignoring("{re}.*Linear.*"), "need none in the encoder"),
        (ignoring("{re}.*.*.*.*x"), "has '{re}.*.*.*.*x'; need at most 3 of "),
        (ignoring("{re}(L|LL)*x"), "none after "),
        (ignoring("{re}("), "ignored_scopes has '{re}\\(', no regular expression: .*position 0"),
        (changed(ignored_scopes=[3]), r"ignored_scopes is \[3\]; need a text or a list of them"),
        (changed(**{SCOPES: 3}), "sparse_structure_by_scopes is 3; need a list of objects"),
        (changed(**{SCOPES: [3]}), r"sparse_structure_by_scopes is \[3\]; need a list of objects"),
        (changed(**{SCOPES: []}), "lacks BertAttention, BertIntermediate, BertOutput, where NNCF prunes single"),
        (changed(**{SCOPES: JPQD[0][SCOPES][:2]}), "sparse_structure_by_scopes lacks BertOutput, where"),
        (without(SCOPES), "sparse_structure_by_scopes lacks BertAttention, "),
        (changed(**{SCOPES: JPQD[0][SCOPES] * 2}), "target_scopes is .*BertAttention.*; need once each, and whole, "),
        (structured(0, target_scopes="{re}.*BertLayer\\[3\\].*BertAttention.*query"), ", 1 of the linear layers; need"),
        (structured(0, target_scopes="{re}.*BertLayer\\[[0-9]\\].*BertAttention.*"), ", 40 of the linear layers"),
        (structured(0, target_scopes="BertAttention"), "is 'BertAttention', 0 of the linear layers; need"),
        (structured(1, target_scopes="{re}.*(BertIntermediate|BertOutput).*"), ", 48 of the linear layers; need"),
        (structured(1, target_scopes=None), "target_scopes is None; need a text or a list of them"),
        (structured(0, mode="fine"), "the structure of BertAttention is .*fine.*; need .*block"),
        (structured(2, axis=0), 'the structure of BertOutput is {.*"axis": 0}; need {"mode": "per_dim", "axis": 1}'),
        (structured(2, sparse_factors=[1, 1]), "the structure of BertOutput is .*sparse_factors"),
        (structured(0, sparse_factors=None), "block is None; need a list of integers"),
        (structured(0, sparse_factors=[32, 0]), r"block is \[32, 0\]; need rows and columns"),
        (changed("weights", 1, mode="asymmetric"), 'mode of weights is "asymmetric"; need "symmetric"'),
        (changed("weights", 1, per_channel=False), "per_channel of weights is false; need true"),
        (changed("activations", 1, per_channel=True), "per_channel of activations is true; need false"),
        (changed("weights", 1, bits=4), "bits of weights is 4; need 8"),
        (changed("weights", 1, logarithm_scale=True), "'logarithm_scale' is unknown"),
        (changed(index=1, activations=3), "activations is 3; need an object"),
        (changed(index=1, overflow_fix=3), "overflow_fix is 3; need a text"),
        (changed(index=1, overflow_fix="on"), "overflow_fix is 'on'"),
        (changed(index=1, bits=4), "'bits' is unknown"),
    ],
)  # fmt: skip
def test_what_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        of(values)


def test_it_is_for_the_tasks_of_the_examples():
    with pytest.raises(ValueError, match="the task is mlm; need sst2 or squad"):
        of(JPQD, "mlm")
