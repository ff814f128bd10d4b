"""Rung 8: compression, stage by stage, on tiny models of every head. Oracles: identities, and taps of lower rungs."""

from dataclasses import replace

import numpy as np
import pytest
import tiny

from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.kernels.layout import bsr4x1
from refimpl.kernels.simd.threefold import NATIVE, PORTABLE
from refimpl.models import compress
from refimpl.models.bert import cast, linears, map_linears
from refimpl.models.compiled import compiled_ops
from refimpl.models.compress import Dense, PackedLinear
from refimpl.prune import live_blocks
from refimpl.quant import QUANTIZED, dequantize_weight, quantize_weight, scale_of
from refimpl.quant.observers import percentiles

U = 2.0**-24
MOST = 10**6
TARGETS = [
    PORTABLE,
    pytest.param(
        NATIVE,
        marks=pytest.mark.skipif(not BSGEMM_4X1.source.runs_natively(), reason="this CPU lacks AVX-512 VNNI"),
    ),
]


def observed(name: str, density: float) -> dict[str, np.ndarray]:
    """What each linear layer of the pruned model is given over all rows: name -> f32 (n,), from the taps."""
    model = tiny.masked(name, density).model
    runs = [tiny.record(model, row) for row in tiny.rows(name)]
    return {layer: np.concatenate([run[tiny.input_tap(layer)].ravel() for run in runs]) for layer in linears(model)}


# --- prune -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.MODELS)
@pytest.mark.parametrize("prune", [compress.prune, compress.prune_globally])
def test_full_density_changes_nothing(name, prune):
    dense = tiny.dense(name)
    masked = prune(dense, 1.0)
    tiny.same_model(masked.model, dense.model)
    assert set(masked.masks) == set(linears(dense.model))
    assert all(mask.all() for mask in masked.masks.values())


def live_share(layer: object) -> float:
    return float(live_blocks(layer.weight).mean())


def test_each_layer_keeps_its_share_of_blocks():
    masked = compress.prune(tiny.dense("bert_classification"), 0.25)
    assert [live_share(layer) for layer in linears(masked.model).values()] == [0.25] * 12


def test_one_ranking_over_all_layers_prunes_small_layers_more():
    """Layer 0's q is made 8 times smaller: on its own it keeps its share, in one ranking it loses nearly everything."""
    dense = tiny.dense("bert_classification")

    def shrink(name, layer):
        return layer._replace(weight=layer.weight / 8) if name == "layer.0.q" else layer

    dense = replace(dense, model=map_linears(dense.model, shrink))
    alone, together = compress.prune(dense, 0.5), compress.prune_globally(dense, 0.5)
    assert live_share(linears(alone.model)["layer.0.q"]) == 0.5
    assert live_share(linears(together.model)["layer.0.q"]) < 0.01
    for masked in (alone, together):
        blocks = {name: live_blocks(layer.weight) for name, layer in linears(masked.model).items()}
        assert sum(live.sum() for live in blocks.values()) * 2 == sum(live.size for live in blocks.values())


def test_pruned_weights_are_zero_and_the_others_untouched():
    dense, masked = tiny.dense("distilbert_bare"), tiny.masked("distilbert_bare")
    for name, layer in linears(masked.model).items():
        before, mask = linears(dense.model)[name].weight, masked.masks[name]
        np.testing.assert_array_equal(layer.weight[mask], before[mask])
        assert not layer.weight[~mask].any()
        assert mask.any()
        assert not mask.all()


def test_rows_that_four_does_not_divide_are_refused():
    dense = tiny.dense("bert_masked_lm")

    def cut(name, layer):
        return layer._replace(weight=layer.weight[:38]) if name.endswith("intermediate") else layer

    with pytest.raises(ValueError, match=r"shape \(38, 48\); need multiples of the block 4x1"):
        compress.prune(Dense(map_linears(dense.model, cut), dense.tokenizer), 0.5)


@pytest.mark.parametrize("density", [-0.1, 1.5, float("nan")])
def test_density_outside_its_range_is_refused(density):
    for prune in (compress.prune, compress.prune_globally):
        with pytest.raises(ValueError, match=r"density is .*; need 0 to 1"):
            prune(tiny.dense("distilbert_bare"), density)


# --- calibrate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.ONE_OF_EACH_HEAD)
def test_range_is_the_largest_input(name):
    ranges = tiny.calibrated(name).ranges
    want = observed(name, tiny.DENSITY)
    assert list(ranges) == list(want)
    for layer, values in want.items():
        assert ranges[layer] == np.abs(values).max()
        assert ranges[layer].dtype == np.float32
        assert ranges[layer].shape == ()


def test_percentile_sees_every_value_once():
    name = "bert_classification"
    got = compress.calibrate(tiny.masked(name), tiny.rows(name), percentiles(90, MOST)).ranges
    for layer, values in observed(name, tiny.DENSITY).items():
        assert got[layer] == np.float32(np.percentile(np.abs(values).astype(np.float64), 90))


def test_ranges_of_q_k_and_v_are_of_their_outputs():
    name = "bert_question_answering"
    model = tiny.masked(name).model
    runs = [tiny.record(model, row) for row in tiny.rows(name)]
    outputs = tiny.calibrated(name).outputs
    half = compress.calibrate(tiny.masked(name), tiny.rows(name), percentiles(50, MOST)).outputs
    assert list(outputs) == [f"layer.{i}.{part}" for i in range(len(model.layers)) for part in "qkv"]
    for tap, largest in outputs.items():
        values = np.concatenate([np.abs(run[tap]).ravel() for run in runs])
        assert (largest.dtype, largest.shape) == (np.float32, ())
        assert largest == values.max()
        assert half[tap] == np.float32(np.percentile(values.astype(np.float64), 50))


def test_texts_are_encoded_one_by_one_without_padding():
    batches = compress.encode_each(tiny.dense("bert_classification").tokenizer, tiny.TEXTS)
    assert len(batches) == len(tiny.TEXTS)
    assert len({batch.ids.shape[1] for batch in batches}) > 1
    assert all(batch.mask.all() for batch in batches)


def test_nothing_to_calibrate_with():
    with pytest.raises(ValueError, match="batches is empty; need at least one text"):
        compress.calibrate(tiny.masked("distilbert_bare"), [])


def test_ranges_of_q_k_and_v_are_left_out_where_attention_is_f32():
    name = "bert_classification"
    calibrated = compress.calibrate(tiny.masked(name), tiny.rows(name), attention=False)
    assert (calibrated.ranges, calibrated.outputs) == (tiny.calibrated(name).ranges, {})
    with pytest.raises(ValueError, match="q, k and v were not observed; need calibrate with attention"):
        compress.quantize_with_attention(calibrated)


# --- quantize --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.ONE_OF_EACH_HEAD)
def test_codes_are_within_half_a_step(name):
    """|code - w / scale| <= 1/2, and the f32 division is off by at most 127 u."""
    before, after = linears(tiny.masked(name).model), linears(tiny.quantized(name).model)
    for layer, p in after.items():
        weight, scale = before[layer].weight.astype(np.float64), p.weight_scale.astype(np.float64)[:, None]
        assert (np.abs(p.codes * scale - weight) <= scale * (0.5 + 127 * U)).all()
        assert not p.codes[weight == 0].any()
        assert np.abs(p.codes.astype(int)).max() == 127
        np.testing.assert_array_equal(p.bias, before[layer].bias)
        np.testing.assert_array_equal(p.input_scale, scale_of(tiny.calibrated(name).ranges[layer]))
    table, word = tiny.quantized(name).model.embeddings.word, tiny.dense(name).model.embeddings.word
    np.testing.assert_array_equal(dequantize_weight(*table), dequantize_weight(*quantize_weight(word)))


@pytest.mark.parametrize("name", tiny.MODELS)
def test_q_k_and_v_share_their_input_scale(name):
    for layer in tiny.quantized(name).model.layers:
        assert layer.q.input_scale == layer.k.input_scale == layer.v.input_scale
        assert layer.q.input_scale != layer.output.input_scale


def test_norms_positions_and_head_stay():
    dense, quantized = tiny.dense("bert_masked_lm").model, tiny.quantized("bert_masked_lm").model
    tiny.same(quantized.head, dense.head)
    tiny.same(quantized.embeddings._replace(word=0), dense.embeddings._replace(word=0))
    tiny.same(quantized.layers[0].output_norm, dense.layers[0].output_norm)


@pytest.mark.parametrize("name", tiny.MODELS)
def test_integer_attention_adds_scales_and_nothing_else(name):
    plain, with_attention = tiny.quantized(name), tiny.quantized_with_attention(name)
    outputs = tiny.calibrated(name).outputs
    for i, layer in enumerate(with_attention.model.layers):
        assert len({float(scale) for scale in layer.attention_scales}) == 3
        for part, scale in layer.attention_scales._asdict().items():
            np.testing.assert_array_equal(scale, scale_of(outputs[f"layer.{i}.{part}"]))
    layers = tuple(layer._replace(attention_scales=None) for layer in with_attention.model.layers)
    tiny.same_model(replace(with_attention.model, layers=layers), plain.model)
    assert with_attention.tokenizer is plain.tokenizer


def test_attention_scales_are_numbers_of_the_model_but_no_linear_layers():
    model = tiny.quantized_with_attention("distilbert_bare").model
    assert list(linears(model)) == list(linears(tiny.quantized("distilbert_bare").model))
    tiny.same_model(map_linears(model, lambda name, layer: layer), model)
    wide = cast(model, np.float64)
    assert {scale.dtype for layer in wide.layers for scale in layer.attention_scales} == {np.dtype(np.float64)}
    tiny.same_model(cast(wide, np.float32), model)
    assert cast(tiny.dense("distilbert_bare").model, np.float64).layers[0].attention_scales is None


# --- pack and run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.MODELS)
@pytest.mark.parametrize("density", [0.0, tiny.DENSITY, 1.0])
def test_unpack_is_the_inverse_of_pack(name, density):
    quantized = tiny.quantized(name, density)
    packed = compress.pack(quantized)
    assert all(isinstance(layer, PackedLinear) for layer in linears(packed.model).values())
    tiny.same_model(compress.unpack(packed).model, quantized.model)
    tiny.same_model(compress.pack(compress.unpack(packed)).model, packed.model)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", tiny.MODELS)
@pytest.mark.parametrize("density", [0.0, tiny.DENSITY, 1.0])
def test_every_execution_has_the_bits_of_the_reference_at_every_tap(name, density, target):
    quantized = tiny.quantized(name, density)
    want = tiny.record(quantized.model, tiny.batch(name), QUANTIZED)
    got = tiny.record(compress.pack(quantized).model, tiny.batch(name), compiled_ops(target))
    assert list(got) == list(want)
    assert sum(tap.endswith(".acc") for tap in want) == 6 * len(quantized.model.layers)
    for tap, value in want.items():
        assert got[tap].dtype == value.dtype, tap
        np.testing.assert_array_equal(got[tap], value, err_msg=tap)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", tiny.ONE_OF_EACH_HEAD)
def test_integer_attention_around_every_execution(name, target):
    quantized = tiny.quantized_with_attention(name)
    packed = compress.pack(quantized)
    tiny.same_model(compress.unpack(packed).model, quantized.model)
    want = tiny.record(quantized.model, tiny.batch(name), QUANTIZED)
    got = tiny.record(packed.model, tiny.batch(name), compiled_ops(target))
    assert list(got) == list(want)
    assert sum(tap.endswith("_codes") for tap in want) == 4 * len(quantized.model.layers)
    for tap, value in want.items():
        np.testing.assert_array_equal(got[tap], value, err_msg=tap)
    other = tiny.record(tiny.quantized(name).model, tiny.batch(name), QUANTIZED)
    assert (other["layer.0.q"] == want["layer.0.q"]).all()
    assert (other["layer.0.scores"] != want["layer.0.scores"]).any()


@pytest.mark.parametrize("field", ["q", "intermediate", "output"])
def test_the_emulated_kernel_too(field):
    name = "bert_classification"
    quantized = tiny.quantized(name)
    taps = tiny.record(quantized.model, tiny.batch(name), QUANTIZED)
    p = compress.pack_linear(getattr(quantized.model.layers[1], field))
    codes, acc = (taps[f"layer.1.{field}.{kind}"] for kind in ("codes", "acc"))
    got = BSGEMM_4X1.emulated(codes.reshape(-1, codes.shape[-1]), p.weight) - p.compensation
    np.testing.assert_array_equal(got.reshape(acc.shape), acc)


@pytest.mark.parametrize("name", tiny.ONE_OF_EACH_HEAD)
def test_density_0_leaves_only_biases(name):
    quantized = tiny.quantized(name, 0.0)
    taps = tiny.record(compress.pack(quantized).model, tiny.batch(name), compiled_ops(PORTABLE))
    for layer, p in linears(quantized.model).items():
        assert not p.codes.any()
        assert (p.weight_scale == 1).all()
        assert not taps[layer + ".acc"].any()
        np.testing.assert_array_equal(taps[layer], np.broadcast_to(p.bias, taps[layer].shape))
    assert np.isfinite(taps["output"]).all()


@pytest.mark.parametrize("target", TARGETS)
def test_empty_block_rows(target):
    """The first, a middle and the last block row of every layer have no block at all."""
    name = "distilbert_bare"
    quantized = tiny.quantized(name)

    def empty(layer_name, layer):
        codes = layer.codes.copy()
        codes[:4], codes[12:16], codes[-4:] = 0, 0, 0
        return layer._replace(codes=codes)

    quantized = replace(quantized, model=map_linears(quantized.model, empty))
    packed = compress.pack(quantized)
    for layer in linears(packed.model).values():
        groups = np.diff(layer.weight.indptr)
        assert groups[0] == groups[3] == groups[-1] == 0
        assert groups.any()
        bsr4x1.validate(layer.weight)
    want = tiny.record(quantized.model, tiny.batch(name), QUANTIZED)
    got = tiny.record(packed.model, tiny.batch(name), compiled_ops(target))
    for tap, value in want.items():
        np.testing.assert_array_equal(got[tap], value, err_msg=tap)


@pytest.mark.parametrize("name", tiny.ONE_OF_EACH_HEAD)
def test_compress_is_its_stages(name):
    dense = tiny.dense(name)
    packed = compress.compress(dense, tiny.TEXTS, 0.3, percentiles(99, MOST))
    batches = compress.encode_each(dense.tokenizer, tiny.TEXTS)
    ranges = compress.calibrate(compress.prune(dense, 0.3), batches, percentiles(99, MOST))
    tiny.same_model(packed.model, compress.pack(compress.quantize(ranges)).model)
    assert packed.tokenizer is dense.tokenizer
    parts = (dense, tiny.TEXTS, 0.3, percentiles(99, MOST), compress.quantize_with_attention)
    want = compress.pack(compress.quantize_with_attention(ranges))
    tiny.same_model(compress.compress(*parts).model, want.model)
    output = tiny.record(packed.model, tiny.batch(name), compiled_ops(PORTABLE))["output"]
    assert output.dtype == np.float32
    assert np.isfinite(output).all()
