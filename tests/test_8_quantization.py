"""Rung 8: quantization of whole models. Oracles: taps of lower rungs, identities, and what the observed data say."""

import tracemalloc
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import tiny

from refimpl import bounds
from refimpl.bounds import gamma
from refimpl.models import compress
from refimpl.models.bert import linears, map_linears
from refimpl.models.quantization import biases, smoothing, tuning
from refimpl.models.quantization.learned import prepare
from refimpl.models.quantization.observing import observe
from refimpl.models.recipes import kinds, quantizing
from refimpl.nn import Linear
from refimpl.quant import QUANTIZED, QuantizedLinear, absmax, observers, percentile
from refimpl.quant.bias_correction import CHANNEL_MEAN, corrected_bias_nncf
from refimpl.quant.fake import HALF_WEIGHT, initial_high_nncf
from refimpl.quant.fake_linear import FakeQuantizedLinear, overflow_fix_enable
from refimpl.quant.smooth import SmoothedLinear
from refimpl.quant.tuning import restore_accuracy

NAME = "bert_classification"
MODELS = pytest.mark.parametrize("name", tiny.ONE_OF_EACH_HEAD)


def inputs(model, rows):
    """Name of a layer -> its input in each pass, from the taps."""
    runs = [tiny.record(model, row, QUANTIZED) for row in rows]
    return {name: [run[tiny.input_tap(name)] for run in runs] for name in linears(model)}


# --- observers -------------------------------------------------------------------------------------------------------


@MODELS
def test_min_max_is_absmax(name):
    got = compress.calibrate(tiny.masked(name), tiny.rows(name), observers.MIN_MAX)
    assert got.ranges == tiny.calibrated(name).ranges
    assert got.outputs == tiny.calibrated(name).outputs


def test_mean_min_max_is_of_texts():
    got = compress.calibrate(tiny.masked(NAME), tiny.rows(NAME), observers.MEAN_MIN_MAX)
    for name, values in inputs(tiny.masked(NAME).model, tiny.rows(NAME)).items():
        ends = [np.mean([float(end(x)) for x in values]) for end in (np.min, np.max)]
        assert got.ranges[name] == np.float32(max(np.abs(np.float32(ends))))


def test_mse_optimal_ranges_lose_no_more():
    got = compress.calibrate(tiny.masked(NAME), tiny.rows(NAME), observers.MSE_OPTIMAL)
    for name, values in inputs(tiny.masked(NAME).model, tiny.rows(NAME)).items():
        assert got.ranges[name] == observers.mse_optimal(np.concatenate([x.ravel() for x in values]))


def kept_all(function):
    """The plain way: every value of every layer."""
    return observers.Observer((), lambda state, x: (*state, x.ravel()), lambda state: function(np.concatenate(state)))


def calibrated_as(observer):
    return lambda count: compress.calibrate(tiny.masked(NAME), tiny.rows(NAME) * count, observer)


def calibrated_by(observer):
    stage = kinds.Quantize(observer=observer)
    return lambda count: quantizing._calibrated(stage, quantizing._masked(tiny.dense(NAME)), tiny.rows(NAME) * count)


def growth(calibrate):
    """Bytes at the peak, of ten times the texts more than of the texts."""
    calibrate(1)  # what is imported and cached is not counted
    peaks = []
    for count in (1, 10):
        tracemalloc.start()
        calibrate(count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return peaks[1] - peaks[0]


@pytest.mark.parametrize("observer", kinds.CHOICES["observer"])
def test_the_memory_of_calibration_is_not_of_all_texts(observer):
    kept = sum(x.nbytes for values in inputs(tiny.dense(NAME).model, tiny.rows(NAME)).values() for x in values)
    assert growth(calibrated_as(kept_all(absmax))) > 9 * kept
    assert growth(calibrated_by(observer)) < 9 * kept / 10


@pytest.mark.parametrize(
    ("observer", "function"), [("percentile", partial(percentile, q=99.99)), ("mse", observers.mse_optimal)]
)
def test_ranges_are_to_the_bit_those_of_every_value_kept(observer, function):
    want = compress.calibrate(quantizing._masked(tiny.dense(NAME)), tiny.rows(NAME) * 2, kept_all(function)).ranges
    assert calibrated_by(observer)(2).ranges == want


# --- during training -------------------------------------------------------------------------------------------------


@MODELS
def test_what_was_not_trained_is_quantized_as_ever(name):
    calibrated = tiny.calibrated(name)
    prepared = prepare(calibrated)
    assert all(isinstance(layer, FakeQuantizedLinear) for layer in linears(prepared.model).values())
    got = linears(compress.quantize(prepared).model)
    for layer_name, want in linears(tiny.quantized(name).model).items():
        layer = got[layer_name]
        np.testing.assert_array_equal(layer.codes, want.codes)
        alive = want.codes.any(1)  # a row of zeros has the scale 1 there, and a tiny one here
        np.testing.assert_array_equal(layer.weight_scale[alive], want.weight_scale[alive])
        assert layer.input_scale == want.input_scale


def test_learned_ranges_are_taken():
    prepared = prepare(tiny.calibrated(NAME), levels=overflow_fix_enable(linears(tiny.calibrated(NAME).model)))

    def train(name, layer):
        return layer._replace(
            weight_high=layer.weight_high * np.float32(0.5), input_high=np.asarray(layer.input_high * 3)
        )

    trained = replace(prepared, model=map_linears(prepared.model, train))
    for name, layer in linears(compress.quantize(trained).model).items():
        before = linears(prepared.model)[name]
        assert (layer.codes.min(), layer.codes.max()) == HALF_WEIGHT
        assert layer.input_scale == before.input_high * np.float32(3) / np.float32(127)
        np.testing.assert_array_equal(layer.weight_scale, before.weight_high * np.float32(0.5) / np.float32(63))
    compress.pack(compress.quantize(trained))


def test_prepared_layers_are_copies_with_the_ranges_asked_for():
    calibrated = tiny.calibrated(NAME)
    for name, layer in linears(prepare(calibrated, initial_high_nncf).model).items():
        before = linears(calibrated.model)[name]
        assert not np.shares_memory(layer.weight, before.weight)
        assert not np.shares_memory(layer.bias, before.bias)
        assert not np.shares_memory(layer.input_high, calibrated.ranges[name])
        np.testing.assert_array_equal(layer.weight_high, np.maximum(np.abs(before.weight).max(1), np.float32(0.1)))


def test_a_model_in_training_computes_the_products_of_its_integers():
    """Of equal codes, so in the first layer, behind a word table that is coded in both: floats against integers."""
    quantized = tiny.quantized(NAME).model
    prepared = replace(prepare(tiny.calibrated(NAME)).model, embeddings=quantized.embeddings)
    for row in tiny.rows(NAME):
        fake, coded = (tiny.record(model, row, QUANTIZED) for model in (prepared, quantized))
        for field in "qkv":
            p = getattr(quantized.layers[0], field)
            acc = coded[f"layer.0.{field}.acc"]
            x = (coded[f"layer.0.{field}.codes"].astype(np.int32) - 128) * p.input_scale
            w = p.codes * p.weight_scale[:, None]
            bound = bounds.linear(x, w, p.bias) + bounds.rescale(acc, p.input_scale, p.weight_scale, p.bias)
            bound += gamma(4) * (np.abs(x) @ np.abs(w).T)  # of the operands themselves
            difference = fake[f"layer.0.{field}"].astype(np.float64) - coded[f"layer.0.{field}"]
            assert (np.abs(difference) <= bound).all()
            assert coded[f"layer.0.{field}"].any()


def test_what_cannot_be_prepared():
    with pytest.raises(TypeError, match="q is FakeQuantizedLinear; need Linear"):
        prepare(prepare(tiny.calibrated(NAME)))
    with pytest.raises(ValueError, match="levels are of 1 layers; need exactly"):
        prepare(tiny.calibrated(NAME), levels={"layer.0.q": HALF_WEIGHT})


# --- smoothing -------------------------------------------------------------------------------------------------------


@pytest.fixture
def powers_of_two(monkeypatch):
    """Smoothing scales rounded to powers of two, by which numbers are multiplied without rounding."""
    true = smoothing.smoothing

    def rounded(*arguments):
        return np.exp2(np.rint(np.log2(true(*arguments)))).astype(np.float32)

    monkeypatch.setattr(smoothing, "smoothing", rounded)


@MODELS
@pytest.mark.parametrize("smooth", [smoothing.smooth, smoothing.smooth_foldable])
def test_smoothing_changes_no_bit_where_scales_are_powers_of_two(name, smooth, powers_of_two):
    masked = tiny.masked(name)
    smoothed = smooth(masked, tiny.rows(name))
    assert any((linears(smoothed.model)[n].weight != layer.weight).any() for n, layer in linears(masked.model).items()
               if n.endswith("attention_output"))  # fmt: skip
    for row in tiny.rows(name):
        before, after = (tiny.record(model, row, QUANTIZED) for model in (masked.model, smoothed.model))
        for tap, value in before.items():
            if not tap.endswith((".v", ".context")):
                np.testing.assert_array_equal(after[tap], value, err_msg=tap)


def test_smoothed_layers_are_calibrated_and_quantized_behind_their_multiplication():
    smoothed = smoothing.smooth(tiny.masked(NAME), tiny.rows(NAME))
    calibrated = compress.calibrate(smoothed, tiny.rows(NAME))
    quantized = compress.quantize(calibrated)
    seen = inputs(smoothed.model, tiny.rows(NAME))
    for name, layer in linears(smoothed.model).items():
        after = linears(quantized.model)[name]
        if name.endswith("attention_output"):
            assert isinstance(after, QuantizedLinear)
            continue
        assert isinstance(layer, SmoothedLinear)
        assert isinstance(after.linear, QuantizedLinear)
        assert calibrated.ranges[name] == max(np.abs(x * layer.inverse).max() for x in seen[name])
    with pytest.raises(TypeError, match="q is SmoothedLinear, which the engine lacks; need QuantizedLinear or Linear"):
        compress.pack(quantized)


def test_what_is_folded_runs_in_the_engine():
    smoothed = smoothing.smooth_foldable(tiny.masked(NAME), tiny.rows(NAME))
    quantized = compress.quantize(compress.calibrate(smoothed, tiny.rows(NAME)))
    tiny.same_model(compress.unpack(compress.pack(quantized)).model, quantized.model)


# --- bias correction -------------------------------------------------------------------------------------------------


@cache
def coarse():
    """Quantized with ranges of half of what was observed, so that clipping shifts the means."""
    calibrated = tiny.calibrated(NAME)
    halved = replace(calibrated, ranges={name: high / 2 for name, high in calibrated.ranges.items()})
    return compress.quantize(halved)


def mean_errors(model, means):
    got = observe(model, tiny.rows(NAME), CHANNEL_MEAN).outputs
    return {name: np.abs(got[name] - means[name]).max() for name in means}


def check_in_order(correct):
    """Every layer's mean output is that of the f32 model, but for f32 roundings of y, of the bias and of the shift."""
    calibrated = tiny.calibrated(NAME)
    seen = observe(calibrated.model, tiny.rows(NAME), CHANNEL_MEAN).outputs
    largest = observe(calibrated.model, tiny.rows(NAME), observers.MIN_MAX).outputs
    before = mean_errors(coarse().model, seen)
    after = mean_errors(correct(coarse(), calibrated, tiny.rows(NAME)).model, seen)
    for name, error in after.items():
        assert error <= 8 * gamma(4) * 4 * largest[name]
        assert error < before[name] / 100


def test_correction_in_order():
    check_in_order(biases.correct_biases_in_order)


def check_alone(correct):
    """On the f32 model's inputs each layer's mean output is exact, but for roundings."""
    calibrated = tiny.calibrated(NAME)
    seen = observe(calibrated.model, tiny.rows(NAME), CHANNEL_MEAN).outputs
    corrected = linears(correct(coarse(), calibrated, tiny.rows(NAME)).model)
    for name, values in inputs(calibrated.model, tiny.rows(NAME)).items():
        rows = [QUANTIZED.linear(x, corrected[name]).reshape(-1, len(seen[name])) for x in values]
        mean = np.concatenate(rows).mean(0, dtype=np.float64)
        assert np.abs(mean - seen[name]).max() <= 8 * gamma(4) * 4 * max(np.abs(row).max() for row in rows)


def test_fast_correction():
    check_alone(biases.correct_biases)


def test_correction_of_weights_is_another():
    first, second = (
        linears(correct(coarse(), tiny.calibrated(NAME), tiny.rows(NAME), lambda bias, shift, _: bias + shift).model)
        for correct in (biases.correct_biases, biases.correct_weight_biases)
    )
    for name, layer in linears(coarse().model).items():
        for corrected in (first, second):
            assert (corrected[name].bias != layer.bias).any()
            np.testing.assert_array_equal(corrected[name].codes, layer.codes)
        assert (first[name].bias != second[name].bias).any()


def test_a_zero_in_a_bias_stops_nncfs_correction_of_its_layer_and_no_other():
    def pruned(name, layer):
        return layer._replace(bias=np.where(np.arange(len(layer.bias)) == 0, np.float32(0), layer.bias))

    calibrated = tiny.calibrated(NAME)
    one = {"layer.0.q"}
    quantized = replace(
        coarse(), model=map_linears(coarse().model, lambda n, layer: pruned(n, layer) if n in one else layer)
    )
    for rule, stopped in ((corrected_bias_nncf, True), (biases.corrected_bias, False)):
        got = linears(biases.correct_biases(quantized, calibrated, tiny.rows(NAME), rule).model)["layer.0.q"]
        assert (got.bias == linears(quantized.model)["layer.0.q"].bias).all() == stopped


def test_layers_in_f32_keep_their_biases():
    calibrated = tiny.calibrated(NAME)
    kept = tuning.keep(coarse(), calibrated, ["layer.0.q"])
    for correct in (biases.correct_biases, biases.correct_weight_biases, biases.correct_biases_in_order):
        got = linears(correct(kept, calibrated, tiny.rows(NAME)).model)["layer.0.q"]
        assert isinstance(got, Linear)
        np.testing.assert_array_equal(got.bias, linears(calibrated.model)["layer.0.q"].bias)


def test_nothing_to_correct_with():
    for correct in (biases.correct_biases, biases.correct_weight_biases, biases.correct_biases_in_order):
        with pytest.raises(ValueError, match="batches is empty; need at least one text"):
            correct(coarse(), tiny.calibrated(NAME), [])


# --- tuning ----------------------------------------------------------------------------------------------------------


def test_a_search_on_a_model():
    """With all layers in f32 only the word table is coded; the search ends with fewer of them."""
    calibrated, names = tiny.calibrated(NAME), list(linears(coarse().model))
    evaluate = tuning.negative_nmse(coarse(), calibrated, tiny.rows(NAME))
    worst, best = evaluate(frozenset()), evaluate(frozenset(names))
    assert worst < best < 0
    tuned = restore_accuracy(names, evaluate, worst / 2)
    assert tuned.reached
    assert 0 < len(tuned.kept) < len(names)
    assert evaluate(tuned.kept) >= worst / 2
