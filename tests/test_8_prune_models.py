"""Rung 8: whole models that lose heads and neurons. Oracles: the model before, within its derived bounds (the judge of
other engines), equal integers, and Hugging Face's own reading of a model with pruned heads.

The layer-wise rules are tested in test_8_structured.py.
"""

import io
import json
from dataclasses import replace

import nncf_formulas as nncf
import numpy as np
import pytest
import tiny
from rich.console import Console
from safetensors.numpy import load_file, save_file
from test_1_arithmetic import equal, rng

from refimpl import bounds
from refimpl.models import compress, config, packed_file
from refimpl.models.bert import Batch, forward, linears, map_linears
from refimpl.models.checkpoint import load_model
from refimpl.models.compiled import compiled_ops
from refimpl.models.compress import Dense
from refimpl.models.engines import NAMES, installed, open_session
from refimpl.models.export import export_onnx
from refimpl.models.information import gather, shape_line, show
from refimpl.models.judge import judge
from refimpl.models.layer_sizes import parse
from refimpl.models.pruning import gradual, hybrid, movement
from refimpl.models.pruning.names import names_in
from refimpl.models.pruning.removal import remove_dead, with_layers
from refimpl.models.pruning.statistics import statistics
from refimpl.models.runtime.record import record
from refimpl.models.runtime.session import Session
from refimpl.nn import LINEARS, REFERENCE, Recorder
from refimpl.prune import block_scores, masked_weight_backward, topk_mask
from refimpl.prune.blocks import block_total
from refimpl.prune.movement import movement_weight, regularization_backward
from refimpl.prune.schedules import inc_exp
from refimpl.quant import QUANTIZED

SAME_SHAPE = ("attention_output", "attention_norm", "output", "output_norm")
"""Taps that the smaller model has in the shape that they had."""


def dead(model, heads, neurons):
    """The model with dead heads and neurons, by layer: zero in their rows, or in the columns of the consumer."""

    def change(name, p):
        layer, part = int(name.split(".")[1]), name.rpartition(".")[2]
        weight, bias, e = p.weight.copy(), p.bias.copy(), model.config.head_size
        for h in heads.get(layer, []):
            if (part == "v" and h % 2) or (part in ("q", "k") and h == 3):
                weight[h * e : (h + 1) * e], bias[h * e : (h + 1) * e] = 0, 0
            if part == "attention_output" and h % 2 == 0:
                weight[:, h * e : (h + 1) * e] = 0
        for f in neurons.get(layer, []):
            if part == "intermediate" and f % 3:
                weight[f], bias[f] = 0, 0
            if part == "output" and f % 3 == 0:
                weight[:, f] = 0
        return p._replace(weight=weight, bias=bias)

    return map_linears(model, change)


HEADS, NEURONS = {0: [1, 2], 1: [0]}, {0: [0, 1, 2, 3, 4, 9], 1: [60, 61, 62, 63]}


@pytest.fixture(params=tiny.ONE_OF_EACH_HEAD)
def both(request):
    before = dead(tiny.dense(request.param).model, HEADS, NEURONS)
    return request.param, before, remove_dead(before)


def shared(taps):
    return {name: value for name, value in taps.items() if name.rpartition(".")[2] in SAME_SHAPE or "." not in name}


def taps_of(model, batch, ops=REFERENCE):
    recorder = Recorder()
    forward(model, batch, ops, recorder)
    return recorder.values


def check_sizes(function):
    before = dead(tiny.dense("bert_classification").model, HEADS, NEURONS)
    sizes_are_right(before, function(before))


def test_sizes(both):
    _, before, after = both
    check_sizes(remove_dead)
    sizes_are_right(before, after)


def sizes_are_right(before, after):
    heads, wide = before.config.heads, before.config.feed_forward
    left = [heads - len(HEADS.get(i, [])) for i in range(before.config.layers)]
    neurons = [wide - len(NEURONS.get(i, [])) // 4 * 4 for i in range(before.config.layers)]
    assert after.config == replace(before.config, layer_heads=tuple(left), layer_feed_forward=tuple(neurons))
    for i, layer in enumerate(after.layers):
        assert {name: getattr(layer, name).weight.shape for name in LINEARS} == after.config.linear_shapes(i)


def test_every_common_value_is_within_the_bounds_of_the_model_before(both):
    name, before, after = both
    batch = tiny.batch(name)
    findings = judge(before, batch, shared(taps_of(after, batch)))
    assert len(findings) == len(SAME_SHAPE) * before.config.layers + len(
        [tap for tap in taps_of(before, batch) if "." not in tap]
    )
    assert not any(finding.outside for finding in findings.values())


def test_a_head_that_was_not_dead_is_missed(both):
    """The judge sees it: the oracle can fail."""
    name, before, after = both
    layer = after.layers[0]
    wrong = layer._replace(
        attention_output=layer.attention_output._replace(weight=layer.attention_output.weight * 1.01)
    )
    wrong = with_layers(after, (wrong, *after.layers[1:]))
    assert any(f.outside for f in judge(before, tiny.batch(name), shared(taps_of(wrong, tiny.batch(name)))).values())


def quantized(name, model):
    dense = Dense(model, tiny.dense(name).tokenizer)
    masked = compress.prune(dense, 1.0)
    return compress.quantize_with_attention(compress.calibrate(masked, tiny.rows(name)))


def test_integers_stay_equal_and_a_packed_file_holds_it(both, tmp_path):
    """Quantized first, then smaller: equal integers, where inputs are equal; written, read and run on the kernel."""
    name, before, _ = both
    stage = quantized(name, before)
    small = replace(stage, model=remove_dead(stage.model))
    old, new = (taps_of(m.model, tiny.batch(name), QUANTIZED) for m in (stage, small))
    for tap in ("layer.0.attention_output.acc", "layer.0.intermediate.codes"):
        equal(new[tap], old[tap])
    packed = compress.pack(small)
    packed_file.save(packed, tmp_path / "small")
    loaded = packed_file.load(tmp_path / "small")
    assert loaded.model.config == small.model.config
    for batch in tiny.rows(name):
        want = taps_of(small.model, batch, QUANTIZED)["output"]
        equal(forward(loaded.model, batch, compiled_ops("portable")), want)


@pytest.mark.parametrize("stage", ["f32", "quantize", "quantize_with_attention"])
def test_the_engine_runs_layers_of_different_sizes(stage):
    """Every value that the engine stores, judged by the smaller model."""
    name = "bert_classification"
    dense = Dense(remove_dead(dead(tiny.dense(name).model, HEADS, NEURONS)), tiny.dense(name).tokenizer)
    made, session = dense, None
    if stage != "f32":
        made = getattr(compress, stage)(compress.calibrate(compress.prune(dense, 1.0), tiny.rows(name)))
        session = Session(compress.pack(made))
    shortest = min(row.ids.shape[1] for row in tiny.rows(name))
    together = Batch(*(part[:, :shortest] for part in tiny.batch(name)))
    for batch in [*tiny.rows(name), together]:
        taps = record(session or Session(dense), *batch)
        findings = judge(made.model, batch, taps)
        assert {"layer.0.attention_norm", "layer.1.attention_norm", "output"} <= set(findings)
        assert not any(finding.outside for finding in findings.values())


@pytest.mark.parametrize("engine", NAMES)
def test_other_engines_run_layers_of_different_sizes(engine, tmp_path):
    if engine not in installed():
        pytest.skip(f"{engine} is not installed")
    name = "bert_classification"
    small, batch = remove_dead(dead(tiny.dense(name).model, HEADS, NEURONS)), tiny.batch(name)
    export_onnx(small, tmp_path / "small.onnx")
    taps = list(taps_of(small, batch))
    findings = judge(small, batch, open_session(engine, tmp_path / "small.onnx", taps).run(batch))
    assert list(findings) == taps
    assert not any(finding.outside for finding in findings.values())


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_hugging_face_directory_with_pruned_heads(tmp_path):
    """q, k and v with fewer rows, attention_output with fewer columns, as transformers 4 writes
    them after ``prune_heads``."""
    folder = tiny.copy("bert_classification", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    whole = load_model(folder)
    gone, e = {"1": [0, 2]}, whole.config.head_size
    rows = np.array([h not in gone["1"] for h in range(whole.config.heads)]).repeat(e)
    stem = "bert.encoder.layer.1.attention."
    for part in ("query", "key", "value"):
        for end in ("weight", "bias"):
            tensors[f"{stem}self.{part}.{end}"] = tensors[f"{stem}self.{part}.{end}"][rows]
    tensors[f"{stem}output.dense.weight"] = np.ascontiguousarray(tensors[f"{stem}output.dense.weight"][:, rows])
    values = json.loads((folder / "config.json").read_text()) | {"pruned_heads": gone}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(values))
    model = load_model(folder)
    assert model.config.layer_heads == (whole.config.heads, whole.config.heads - 2)
    batch = tiny.batch("bert_classification")
    silent = dead(whole, {1: gone["1"]}, {})  # even heads: without their columns, so that they add nothing
    findings = judge(silent, batch, shared(taps_of(model, batch)))
    assert not any(finding.outside for finding in findings.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_heads": [4]}, "layer_heads has 1 numbers; need 2, one a layer"),
        ({"layer_heads": [4, 5]}, "layer_heads has 5; need integers from 1 to 4"),
        ({"layer_heads": [4, 0]}, "layer_heads has 0; need integers from 1 to 4"),
        ({"layer_heads": 4}, "layer_heads is 4; need a list"),
        ({"layer_feed_forward": [64, 2.0]}, "layer_feed_forward has 2.0; need integers from 1 to 64"),
        ({"layer_feed_forward": [64, True]}, "layer_feed_forward has True; need integers from 1 to 64"),
    ],
)
def test_damaged_sizes_in_a_packed_file(change, message):
    values = config.to_json(tiny.dense("bert_classification").model.config)
    with pytest.raises(ValueError, match=f"file: {message}"):
        config.from_json(values | change, "file")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pruned_heads": [1]}, "pruned_heads is .*; need an object of lists by layer"),
        ({"pruned_heads": {"2": [0]}}, "pruned_heads of layer '2' is"),
        ({"pruned_heads": {"-1": [0]}}, "pruned_heads of layer '-1' is"),
        ({"pruned_heads": {"0": [4]}}, "need the numbers of heads"),
        ({"pruned_heads": {"0": [True]}}, "need the numbers of heads"),
        ({"pruned_heads": {"0": 1}}, "need the numbers of heads"),
        ({"layer_feed_forward": {"0": 1}}, "layer_feed_forward is .*; need a list"),
    ],
)
def test_damaged_sizes_in_config_json(values, message):
    with pytest.raises(ValueError, match=message):
        parse(values, 2, 4, "config.json")


def test_sizes_in_config_json():
    assert parse({}, 2, 4, "") == {"layer_heads": (), "layer_feed_forward": ()}
    got = parse({"pruned_heads": {"1": [0, 3, 3]}, "layer_feed_forward": [8, 4]}, 2, 4, "")
    assert got == {"layer_heads": (4, 2), "layer_feed_forward": (8, 4)}


def test_a_config_of_whole_layers_is_written_as_before():
    whole = tiny.dense("bert_classification").model.config
    assert not {"layer_heads", "layer_feed_forward"} & set(config.to_json(whole))
    small = replace(whole, layer_heads=(4, 2), layer_feed_forward=(64, 8))
    assert config.from_json(json.loads(json.dumps(config.to_json(small))), "file") == small


# --- what is all dead, and multiples ---------------------------------------------------------------------------------


def test_a_layer_that_is_all_dead_keeps_one_head_and_a_multiple_of_neurons():
    model = tiny.dense("bert_classification").model
    before = dead(model, {0: range(4)}, {0: range(64)})
    assert remove_dead(before).config.linear_shapes(0)["q"] == (8, 32)
    assert remove_dead(before).config.linear_shapes(0)["output"] == (32, 4)
    assert remove_dead(before, 1).config.linear_shapes(0)["output"] == (32, 1)
    assert remove_dead(model).config == model.config
    with pytest.raises(ValueError, match="multiple is 0; need at least 1"):
        remove_dead(model, 0)


# --- movement sparsity on a model ------------------------------------------------------------------------------------


def test_from_scores_to_a_smaller_model():
    """Scores that keep head 1 by q alone, and neuron 5 by output alone: both are whole afterwards, the rest is gone."""
    name = "bert_classification"
    model = tiny.dense(name).model
    factors = movement.factors_of(model, movement.jpqd((4, 8)))
    scores = movement.initial_scores(model, factors)
    assert scores["layer.0.q.weight"].shape == (8, 4)
    assert scores["layer.0.q.bias"].shape == (8,)
    assert scores["layer.1.intermediate.weight"].shape == (64, 1)
    assert scores["layer.1.output.weight"].shape == (1, 64)
    assert movement.automatic_threshold(scores, factors) == 0
    scores = {key: array - 1 for key, array in scores.items()}
    for i in range(2):
        scores[f"layer.{i}.q.weight"][3, 0] = 1  # rows 12 to 15: head 1
        scores[f"layer.{i}.output.weight"][0, 5] = 1
    masks = movement.masks_of(scores, factors, 0.0)
    assert masks["layer.0.q.weight"].sum() == 32
    assert not masks["layer.0.v.weight"].any()
    whole = movement.resolved(model, masks)
    assert {key: int(mask.sum()) for key, mask in whole.items() if key.startswith("layer.1.")} == {
        "layer.1.q.weight": 256, "layer.1.q.bias": 8, "layer.1.k.weight": 256, "layer.1.k.bias": 8,
        "layer.1.v.weight": 256, "layer.1.v.bias": 8, "layer.1.attention_output.weight": 256,
        "layer.1.attention_output.bias": 32, "layer.1.intermediate.weight": 32, "layer.1.intermediate.bias": 1,
        "layer.1.output.weight": 32, "layer.1.output.bias": 32,
    }  # fmt: skip
    masked = movement.apply_masks(model, whole)
    equal(masked.layers[0].v.weight[8:16], model.layers[0].v.weight[8:16])  # filled with what was there
    small = remove_dead(masked, 1)
    assert small.config.layer_heads == (1, 1)
    assert small.config.layer_feed_forward == (1, 1)
    findings = judge(masked, tiny.batch(name), shared(taps_of(small, tiny.batch(name))))
    assert not any(finding.outside for finding in findings.values())
    with pytest.raises(ValueError, match=r"layer.0.q has the shape \(32, 32\); need multiples of the block 5x8"):
        movement.factors_of(model, movement.jpqd((5, 8)))


# --- gradual pruning -------------------------------------------------------------------------------------------------


def train(plan, steps):
    """Weights that move at random, in training under the plan; what it yields: step, weights, masks."""
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=(32, 24)).astype(np.float32) for name in "abc"}
    weights["a"] /= 100
    state = gradual.start(plan, weights)
    for step in range(steps):
        state = gradual.advance(plan, state, weights, step)
        masks = gradual.masks_of(plan, state)
        yield step, weights, masks
        upstream = {name: random.normal(size=w.shape).astype(np.float32) for name, w in weights.items()}
        state = gradual.observe(plan, state, weights, upstream)
        moves = {name: masked_weight_backward(g, masks[name]) for name, g in upstream.items()}
        weights = {name: w - np.float32(0.3) * moves[name] for name, w in weights.items()}


def prune_ofa(events, sparsity):
    return gradual.plan_of(gradual.MAGNITUDE, gradual.each_layer, gradual.cubic(events, sparsity), events, (4, 1))


def inc(events, sparsity):
    schedule = gradual.by_progress(inc_exp, events, sparsity)
    return gradual.plan_of(gradual.SNIP_MOMENTUM, gradual.all_layers(sparsity), schedule, events, (4, 1))


def test_gradual_pruning_as_prune_ofa_does():
    counts = []
    for step, weights, masks in train(prune_ofa((2, 10, 4), 0.75), 14):
        counts.append([int((~mask).sum()) for mask in masks.values()])
        if step in (2, 6, 10):  # at an event, from the weights of this step
            kept = 192 - counts[-1][0] // 4
            last = {name: topk_mask(block_scores(w), kept / 192).repeat(4, 0) for name, w in weights.items()}
        equal(masks["b"], last["b"] if step >= 2 else np.ones((32, 24), bool))
    share = [0, 0, 0, 0, 0, 0] + [0.75 * (1 - 0.125)] * 4 + [0.75] * 4
    assert counts == [[4 * int(s * 192)] * 3 for s in share]


def test_a_pruned_block_comes_back_where_others_shrink():
    plan = prune_ofa((0, 10, 1), 0.5)._replace(sparsity=lambda _: 0.5)
    weights = {"a": np.float32([[2, 1]] * 4)}
    state = gradual.advance(plan, gradual.start(plan, weights), weights, 0)
    equal(state.ranked.masks["a"], np.array([[True, False]]))
    state = gradual.advance(plan, state, {"a": np.float32([[0.5, 1]] * 4)}, 1)
    equal(state.ranked.masks["a"], np.array([[False, True]]))


def test_gradual_pruning_as_inc_does():
    counts = [sum(int((~mask).sum()) for mask in masks.values()) for _, _, masks in train(inc((2, 10, 4), 0.75), 14)]
    assert counts == [0] * 6 + [4 * 288] * 4 + [4 * 432] * 4  # half, then three quarters of 576 blocks
    *_, last = train(inc((2, 10, 4), 0.75), 14)
    assert [int((~mask).sum()) > 700 for mask in last[2].values()] == [True, False, False]  # a is full: 752 of 768
    one_shot = [masks["b"].mean() for _, _, masks in train(inc((3, 3, 1), 0.5), 6)]
    assert one_shot[:3] == [1, 1, 1]
    assert one_shot[3] == one_shot[5] < 1


def parameters_of(model):
    """Weights and biases of the encoder's linear layers by name."""
    return {f"{name}.{part}": getattr(p, part) for name, p in linears(model).items() for part in p._fields}


def test_movement_in_training():
    """Gradients reach weights that live, and all scores; what has none is handed on; a loss is a mean over layers."""
    model = tiny.dense("bert_classification").model
    factors = movement.factors_of(model, movement.jpqd((4, 8)))
    scores = {
        name: rng(i).normal(size=array.shape).astype(np.float32)
        for i, (name, array) in enumerate(movement.initial_scores(model, factors).items())
    }
    layers, weights = linears(model), parameters_of(model)
    weights["pooler.weight"] = np.ones((2, 2), np.float32)
    seen, masks = movement.effective(weights, scores, factors, 0.0)
    upstream = {name: np.ones_like(w) for name, w in weights.items()}
    gradients, of_scores = movement.effective_backward(upstream, weights, masks, factors)
    assert seen["pooler.weight"] is weights["pooler.weight"]
    assert gradients["pooler.weight"] is upstream["pooler.weight"]
    for name, block in factors.items():
        equal(seen[name], movement_weight(weights[name], scores[name], block, 0.0)[0])
        equal(gradients[name], masks[name].astype(np.float32))
        equal(of_scores[name], block_total(weights[name], block))
    applied = linears(movement.apply_masks(model, masks))
    equal(applied["layer.1.output"].weight, seen["layer.1.output.weight"])
    loss, slopes = movement.regularization_loss(scores, factors, 0.1)
    want = [
        nncf.loss(scores[f"{name}.weight"].tolist(), scores[f"{name}.bias"].tolist(), *factors[f"{name}.weight"], 0.1)
        for name in layers
    ]
    assert abs(loss - np.mean(want)) <= bounds.gamma(len(want) + 2000, bounds.F64) * np.mean(want)
    single = regularization_backward(scores["layer.0.q.weight"], factors["layer.0.q.weight"], 0.1 / len(layers))
    equal(slopes["layer.0.q.weight"], single)


def test_information_names_the_sizes_of_each_layer():
    small = remove_dead(dead(tiny.dense("bert_classification").model, HEADS, NEURONS))
    console = Console(file=io.StringIO(), width=100)
    facts = gather(Dense(small, tiny.dense("bert_classification").tokenizer), "small")
    show(facts, console)
    printed = " ".join(console.file.getvalue().split())
    assert "layer heads 2, 3" in printed
    assert "layer feed forward 60, 60" in printed
    assert facts["config"]["layer_heads"] == [2, 3]
    assert shape_line(small.config) == "2 layers, hidden 32, 2-3 heads, classification"


# --- nn_pruning's hybrid ---------------------------------------------------------------------------------------------


def test_hybrid():
    """One block of q goes, one neuron, and head 2 in a run that fills what an earlier one kept."""
    model = tiny.dense("bert_classification").model
    block, weights = (4, 8), parameters_of(model)
    scores = hybrid.initial_scores(model, block)
    assert {name.partition(".")[2].partition(".")[2]: array.shape for name, array in scores.items()} == {
        "q.weight": (8, 4), "k.weight": (8, 4), "v.weight": (8, 4), "attention_output.weight": (8, 4), "neurons": (64,),
    }  # fmt: skip
    scores["layer.1.q.weight"][2] = scores["layer.1.neurons"][7] = -3  # sigmoid 0.047
    assert all(mask.all() for mask in hybrid.masks_of(scores, 0.04, block).values())
    masks = hybrid.masks_of(scores, 0.1, block)
    gone = {name: np.flatnonzero(~mask.ravel()).tolist() for name, mask in masks.items() if not mask.all()}
    assert gone == {
        "layer.1.q.weight": list(range(8 * 32, 12 * 32)), "layer.1.q.bias": [8, 9, 10, 11],
        "layer.1.intermediate.weight": [7], "layer.1.intermediate.bias": [7], "layer.1.output.weight": [7],
    }  # fmt: skip
    seen = hybrid.effective(weights, masks)
    assert not seen["layer.1.intermediate.weight"][7].any()
    assert not seen["layer.1.output.weight"][:, 7].any()
    equal(seen["layer.0.q.weight"], weights["layer.0.q.weight"])
    upstream = {name: rng(i).normal(size=w.shape).astype(np.float32) for i, (name, w) in enumerate(weights.items())}
    gradients, of_scores = hybrid.effective_backward(upstream, weights, masks, block)
    assert set(of_scores) == set(scores)
    both = [
        (upstream[f"layer.1.{name}.weight"] * weights[f"layer.1.{name}.weight"]) for name in ("intermediate", "output")
    ]
    error = bounds.gamma(70) * (np.abs(both[0]).sum(1) + np.abs(both[1]).sum(0))
    wide = [x.astype(np.float64) for x in both]
    assert (np.abs(of_scores["layer.1.neurons"] - (wide[0].sum(1) + wide[1].sum(0))) <= error).all()
    assert not gradients["layer.1.output.weight"][:, 7].any()
    equal(gradients["layer.1.output.bias"], upstream["layer.1.output.bias"])
    kept = {f"layer.{i}": np.array([False, False, True, False]) for i in range(2)}
    scores["layer.1.q.weight"][:] = scores["layer.1.attention_output.weight"][:] = -9
    scores["layer.1.q.weight"][0, 0] = scores["layer.1.attention_output.weight"][0, 0] = 0
    filled = hybrid.masks_of(scores, 0.1, block, kept)
    assert np.flatnonzero(filled["layer.1.q.weight"].all(1)).tolist() == list(range(16, 24))
    assert np.flatnonzero(filled["layer.1.attention_output.weight"].all(0)).tolist() == list(range(16, 24))
    assert filled["layer.1.q.weight"].sum() == 8 * 32 + 32


def test_the_regularization_of_hybrid_counts_both_groups_alike():
    scores = {
        "layer.0.q.weight": np.zeros((2, 2)),
        "layer.0.k.weight": np.full((1, 1), 100.0),
        "layer.0.neurons": np.zeros(3),
    }
    loss, slopes = hybrid.regularization_loss(scores, 8.0)
    assert loss == 4 * (0.5 + 1) / 2 + 4 * 0.5
    equal(slopes["layer.0.q.weight"], np.full((2, 2), 2 * 0.25 / 4))
    equal(slopes["layer.0.neurons"], np.full(3, 4 * (0.25 / 3)))


def test_statistics():
    masks = {
        "a.weight": np.array([[True, False], [False, False]]),
        "a.bias": np.array([True, False]),
        "b.weight": np.ones((4, 4), bool),
    }
    found = statistics(masks, 40, -0.5, 0.1)
    assert found.model_sparsity == 4 / 40
    assert found.layers_sparsity == 3 / 20
    assert found.layers == (("a", (2, 2), 0.75, 0.2), ("b", (4, 4), 0.0, 0.8))
    assert found[3:] == (-0.5, 0.1)
    with pytest.raises(ValueError, match="parameters is 21; need at least"):
        statistics(masks, 21, 0.0, 0.0)


def test_names_in_another_dictionary():
    model = tiny.dense("bert_classification").model
    others = {name.upper(): array for name, array in parameters_of(model).items()}
    assert names_in(others, model) == {name: name.upper() for name in parameters_of(model)}
    with pytest.raises(ValueError, match=r"parameters lacks the array layer.0.q.weight of the model"):
        names_in({name: array.copy() for name, array in others.items()}, model)
