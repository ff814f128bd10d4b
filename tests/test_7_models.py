"""Rung 7: whole models against Hugging Face transformers (tests/golden) and a real BERT-Tiny, and the tokenizer.

The bound. To first order a forward error is the unit roundoff times a factor that depends on the numbers alone (the
sum over all roundings of their counts and condition numbers). So the model's own f32 run, with the same weights,
measures the factor: |f32 - f64| = factor * 2^-24, and two f64 runs differ by at most about 2 * factor * 2^-53, which is
2 |f32 - f64| 2^-29. Summation order, fused multiply-add, exp, erf and tanh differ between the two programs and the two
precisions, by which one draw of roundings may be up to 8 times luckier than another: K = 16. A mistake of size e in
the wiring moves the f32 run by e too, and breaks the bound as e > 16 e 2^-29.
"""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from refimpl.models.bert import Batch, Model, cast, forward
from refimpl.models.checkpoint import load_model
from refimpl.models.config import Config, from_json, read_config, to_json
from refimpl.models.tokenizer import Tokenizer
from refimpl.nn import REFERENCE, EncoderLayer, Linear, Norm, Recorder, encoder_layer, pooler

GOLDEN = Path(__file__).parent / "golden"
MODELS = sorted(path.parent.name for path in GOLDEN.glob("*/expected.safetensors"))
TINY = Path(__file__).parents[2] / "shared" / "data" / "bert_tiny_sst2"
K = 16
F32_TO_F64 = 2.0**-53 / 2.0**-24


def taps(model: Model, batch: Batch) -> dict[str, np.ndarray]:
    recorder = Recorder()
    forward(model, batch, tap=recorder)
    return recorder.values


def distance(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


def test_there_are_golden_models():
    assert len(MODELS) == 8


@pytest.mark.parametrize("name", MODELS)
def test_equals_transformers_at_every_tap(name):
    expected = load_file(GOLDEN / name / "expected.safetensors")
    batch = Batch(*(expected.pop(key) for key in Batch._fields))
    model = load_model(GOLDEN / name)
    single, double = taps(model, batch), taps(cast(model, np.float64), batch)
    assert {"embeddings", "output", "layer.0.probs", "layer.0.output_norm"} <= set(expected)
    for tap, want in expected.items():
        bound = K * F32_TO_F64 * distance(single[tap], want)
        assert distance(double[tap], want) <= min(bound, 1e-12), tap
        assert single[tap].dtype == np.float32


@pytest.mark.parametrize("name", MODELS)
def test_padding_does_not_change_a_row(name):
    """Row 2 of each batch has two tokens; alone, its valid positions come out the same."""
    expected = load_file(GOLDEN / name / "expected.safetensors")
    batch = Batch(*(expected[key][2:, :2] for key in Batch._fields))
    model = load_model(GOLDEN / name)
    alone = taps(cast(model, np.float64), batch)["layer.0.output_norm"]
    want = expected["layer.0.output_norm"][2:, :2]
    bound = K * F32_TO_F64 * distance(taps(model, batch)["layer.0.output_norm"], want)
    assert distance(alone, want) <= bound


@pytest.mark.parametrize("name", MODELS)
def test_config_round_trip(name):
    config = read_config(GOLDEN / name)
    assert from_json(json.loads(json.dumps(to_json(config))), "packed") == config


def test_labels_come_in_the_order_of_their_ids():
    assert read_config(GOLDEN / "bert_classification").labels == ("bad", "fair", "good")
    assert read_config(GOLDEN / "bert_masked_lm").labels == ()


def test_decoder_is_the_word_table_when_the_file_has_none():
    model = load_model(GOLDEN / "bert_masked_lm")
    assert model.head.decoder.weight is model.embeddings.word


def test_decoder_of_its_own_is_kept_and_an_equal_one_is_shared(tmp_path):
    shutil.copytree(GOLDEN / "bert_masked_lm", tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    word = tensors["bert.embeddings.word_embeddings.weight"]
    save_file(tensors | {"cls.predictions.decoder.weight": word.copy()}, tmp_path / "model.safetensors")
    model = load_model(tmp_path)
    assert model.head.decoder.weight is model.embeddings.word
    save_file(tensors | {"cls.predictions.decoder.weight": 2 * word}, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(load_model(tmp_path).head.decoder.weight, 2 * word)


def test_decoder_bias_may_have_the_decoders_name(tmp_path):
    shutil.copytree(GOLDEN / "bert_masked_lm", tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")
    save_file(tensors, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(
        load_model(tmp_path).head.decoder.bias, load_model(GOLDEN / "bert_masked_lm").head.decoder.bias
    )


def test_shards_make_the_same_model(tmp_path):
    source = GOLDEN / "bert_classification"
    shutil.copy(source / "config.json", tmp_path)
    tensors = load_file(source / "model.safetensors")
    weight_map = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for part in sorted(set(weight_map.values())):
        save_file({name: x for name, x in tensors.items() if weight_map[name] == part}, tmp_path / part)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    whole, sharded = load_model(source), load_model(tmp_path)
    np.testing.assert_array_equal(whole.layers[1].output.weight, sharded.layers[1].output.weight)
    np.testing.assert_array_equal(whole.head.classifier.weight, sharded.head.classifier.weight)


def test_other_heads_and_buffers_are_ignored(tmp_path):
    shutil.copytree(GOLDEN / "bert_question_answering", tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    extra = {"bert.pooler.dense.weight": np.ones((2, 2)), "cls.seq_relationship.bias": np.ones(2)}
    buffers = {"bert.embeddings.position_ids": np.arange(11)[None]}
    save_file(tensors | extra | buffers, tmp_path / "model.safetensors")
    assert load_model(tmp_path).head.outputs.weight.shape == (2, 48)


def tiny_layer(tensors: dict[str, np.ndarray], index: int) -> EncoderLayer:
    def pair(name: str) -> tuple[np.ndarray, np.ndarray]:
        stem = f"bert.encoder.layer.{index}.{name}"
        return tensors[stem + ".weight"], tensors[stem + ".bias"]

    return EncoderLayer(
        q=Linear(*pair("attention.self.query")),
        k=Linear(*pair("attention.self.key")),
        v=Linear(*pair("attention.self.value")),
        attention_output=Linear(*pair("attention.output.dense")),
        attention_norm=Norm(*pair("attention.output.LayerNorm"), 1e-12),
        intermediate=Linear(*pair("intermediate.dense")),
        output=Linear(*pair("output.dense")),
        output_norm=Norm(*pair("output.LayerNorm"), 1e-12),
    )


def tiny_logits(tensors: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Embeddings (T, D) through both layers, pooler and classifier, in the dtype of x."""
    tensors = {name: array.astype(x.dtype) for name, array in tensors.items()}
    x = x[None]
    for i in range(2):
        x = encoder_layer(x, np.ones(x.shape[:2], np.int64), tiny_layer(tensors, i), 2, REFERENCE)
    pooled = pooler(x, Linear(tensors["bert.pooler.dense.weight"], tensors["bert.pooler.dense.bias"]), REFERENCE)
    return REFERENCE.linear(pooled, Linear(tensors["classifier.weight"], tensors["classifier.bias"]))[0]


@pytest.mark.skipif(not TINY.exists(), reason=f"{TINY} is absent: data are not part of the repository")
def test_real_bert_tiny_meets_two_other_programs():
    tensors = load_file(TINY / "encoder_pooler_classifier_f32.safetensors")
    expected = json.loads((TINY / "expected_logits.json").read_text())["true_layernorm_logits_float64"]
    samples = np.load(TINY / "sample_embeddings.npz")
    assert set(samples.files) == set(expected)
    for name, logits in expected.items():
        want = np.array(logits)
        double = tiny_logits(tensors, samples[name].astype(np.float64))
        bound = K * F32_TO_F64 * distance(tiny_logits(tensors, samples[name].astype(np.float32)), want)
        assert distance(double, want) <= min(bound, 1e-7), name


WORDPIECE = GOLDEN / "wordpiece"
EXPECTED = json.loads((WORDPIECE / "expected.json").read_text("utf-8"))
TEXTS = [text if isinstance(text, str) else tuple(text) for text in EXPECTED["texts"]]


def sized(positions: int) -> Config:
    return replace(read_config(GOLDEN / "bert_classification"), positions=positions, vocabulary=100)


def tokenizer_of(tmp_path: Path, options: dict | None = None, positions: int = 64) -> Tokenizer:
    shutil.copy(WORDPIECE / "vocab.txt", tmp_path)
    if options is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    return Tokenizer.load(tmp_path, sized(positions))


@pytest.mark.parametrize(("options", "lower"), [(None, "true"), ({}, "true"), ({"do_lower_case": False}, "false")])
def test_vocabulary_file_gives_transformers_ids(tmp_path, options, lower):
    tokenizer = tokenizer_of(tmp_path, options)
    for text, want in zip(TEXTS, EXPECTED["do_lower_case"][lower], strict=True):
        batch = tokenizer.encode([text])
        assert batch.ids.tolist() == [want["ids"]], text
        assert batch.types.tolist() == [want["types"]], text
        assert batch.mask.all()


def test_tokenizer_json_gives_transformers_ids_in_one_padded_batch():
    batch = Tokenizer.load(WORDPIECE, sized(64)).encode(TEXTS)
    rows = EXPECTED["do_lower_case"]["true"]
    assert batch.ids.shape == (len(rows), max(len(row["ids"]) for row in rows))
    assert all(array.dtype == np.int64 for array in batch)
    for ids, mask, row in zip(batch.ids, batch.mask, rows, strict=True):
        n = len(row["ids"])
        assert ids.tolist() == row["ids"] + [0] * (len(ids) - n)
        assert mask.tolist() == [1] * n + [0] * (len(ids) - n)


def test_tokenizer_bytes_round_trip(tmp_path):
    for tokenizer in (Tokenizer.load(WORDPIECE, sized(64)), tokenizer_of(tmp_path)):
        again = Tokenizer.from_bytes(tokenizer.to_bytes(), sized(64))
        np.testing.assert_array_equal(again.encode(TEXTS).ids, tokenizer.encode(TEXTS).ids)


def test_padding_and_truncation_of_the_file_are_ignored(tmp_path):
    baked = json.loads((WORDPIECE / "tokenizer.json").read_text("utf-8"))
    strategy = {"Fixed": 40}
    baked["padding"] = {
        "strategy": strategy, "direction": "Left", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    baked["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(baked))
    plain, tokenizer = Tokenizer.load(WORDPIECE, sized(64)), Tokenizer.load(tmp_path, sized(64))
    np.testing.assert_array_equal(tokenizer.encode(TEXTS).ids, plain.encode(TEXTS).ids)


def test_origin_points_into_each_text():
    pair = TEXTS[5]
    batch, origin = Tokenizer.load(WORDPIECE, sized(64)).encode_with_origin([pair, ("cats", "mats")])
    assert origin.spans.dtype == np.int64
    assert origin.second.dtype == bool
    at = np.flatnonzero(origin.second[0])
    words = [pair[1][slice(*origin.spans[0, i])] for i in at]
    assert words[:4] == ["The", "cat", "'", "s"]
    assert at[0] == 5
    assert not origin.second[batch.mask == 0].any()
    assert (origin.spans[batch.mask == 0] == 0).all()


def test_long_texts_are_cut_with_a_warning():
    tokenizer = Tokenizer.load(WORDPIECE, sized(5))
    with pytest.warns(UserWarning, match="1 of 2 texts cut to 5 tokens, the model's positions; 5 tokens dropped"):
        batch = tokenizer.encode(["The cats sat on the mat.", "cats"])
    assert batch.ids.tolist() == [[2, 6, 8, 9, 3], [2, 8, 9, 3, 0]]
    with pytest.warns(UserWarning, match="dropped"):
        batch = tokenizer.encode([("cats", "mats mats mats")])
    assert batch.ids.shape == (1, 5)
    assert batch.ids[0, -1] == 3


def test_short_texts_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Tokenizer.load(WORDPIECE, sized(5)).encode(["cats", "the mat"])
