"""Rung 7: every damaged or hostile model directory ends in one clear error, never in a crash or a wrong model."""

import json
import random
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from refimpl.models.checkpoint import load_model
from refimpl.models.config import Config, from_json, parse_config, read_config, to_json
from refimpl.models.tokenizer import Tokenizer

GOLDEN = Path(__file__).parent / "golden"
BERT, DISTILBERT, WORDPIECE = GOLDEN / "bert_classification", GOLDEN / "distilbert_masked_lm", GOLDEN / "wordpiece"
CONFIG = json.loads((BERT / "config.json").read_text())
DISTIL_CONFIG = json.loads((DISTILBERT / "config.json").read_text())
OURS = to_json(read_config(BERT))
ERRORS = (ValueError, TypeError, OSError)
ABSENT = object()


@pytest.fixture
def copy(tmp_path):
    """A writable copy of the BERT classifier's directory."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(BERT / name, tmp_path)
    return tmp_path


def sized(positions: int, vocabulary: int) -> Config:
    return replace(read_config(BERT), positions=positions, vocabulary=vocabulary)


def edited(values: dict, key: str, value: object) -> dict:
    return {k: v for k, v in (values | {key: value}).items() if v is not ABSENT}


BAD_CONFIG = [
    ("model_type", "roberta", r"here: model_type is 'roberta'; need 'bert' or 'distilbert'"),
    ("model_type", ABSENT, "model_type is None; need"),
    ("model_type", ["bert"], r"model_type is \['bert'\]; need"),
    ("architectures", ["BertForTokenClassification"], "names 'BertForTokenClassification'; need BertModel"),
    ("architectures", [3], "architectures names 3; need"),
    ("architectures", {"a": 1}, "architectures names {'a': 1}; need"),
    ("hidden_act", "gelu_new", "hidden_act is 'gelu_new'; need 'gelu', the only one supported"),
    ("hidden_act", ABSENT, "here lacks hidden_act"),
    ("position_embedding_type", "relative_key", "position_embedding_type is 'relative_key'; need 'absolute'"),
    ("is_decoder", True, "is_decoder is True; need False"),
    ("hidden_size", ABSENT, "here lacks hidden_size"),
    ("layer_norm_eps", ABSENT, "here lacks layer_norm_eps"),
    ("vocab_size", "53", "vocab_size is '53'; need an integer from 1 to 4194304"),
    ("vocab_size", True, "vocab_size is True; need an integer"),
    ("vocab_size", 53.0, "vocab_size is 53.0; need an integer"),
    ("hidden_size", 0, "hidden_size is 0; need an integer from 1 to"),
    ("num_hidden_layers", -1, "num_hidden_layers is -1; need an integer from 1 to"),
    ("max_position_embeddings", 10**18, "max_position_embeddings is 10+; need an integer from 1 to 65536"),
    ("type_vocab_size", 0, "type_vocab_size is 0; need an integer from 1 to"),
    ("num_attention_heads", 5, "hidden_size is 32; need a multiple of num_attention_heads, 5"),
    ("layer_norm_eps", 0.0, "layer_norm_eps is 0.0; need a float from 1e-30 to 1.0"),
    ("layer_norm_eps", float("nan"), "layer_norm_eps is nan; need a float"),
    ("layer_norm_eps", float("inf"), "layer_norm_eps is inf; need a float"),
    ("layer_norm_eps", "1e-12", "layer_norm_eps is '1e-12'; need a float"),
    ("layer_norm_eps", True, "layer_norm_eps is True; need a float"),
    ("id2label", {"0": "a", "2": "b"}, "id2label is {'0': 'a', '2': 'b'}; need the ids 0 to C - 1"),
    ("id2label", {}, "id2label is {}; need the ids"),
    ("id2label", ["a"], r"id2label is \['a'\]; need the ids"),
    ("id2label", {"0": 7}, "a label is 7; need a string"),
]


@pytest.mark.parametrize(("key", "value", "message"), BAD_CONFIG)
def test_bad_config(key, value, message):
    with pytest.raises(ValueError, match=message):
        parse_config(edited(CONFIG, key, value), "here")


def test_bad_config_with_labels_by_number():
    plain = edited(CONFIG, "id2label", ABSENT)
    assert parse_config(plain | {"num_labels": 3}, "here").labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert parse_config(plain, "here").labels == ("LABEL_0", "LABEL_1")
    for count in (0, 10**9, True, "3"):
        with pytest.raises(ValueError, match=r"num_labels is .*; need an integer from 1 to 65536"):
            parse_config(plain | {"num_labels": count}, "here")


@pytest.mark.parametrize(
    ("architectures", "head"),
    [
        (["BertModel"], "sentence_embedding"),
        (ABSENT, "sentence_embedding"),
        (None, "sentence_embedding"),
        ([], "sentence_embedding"),
        (["BertForPreTraining"], "masked_lm"),
        (["BertForQuestionAnswering"], "question_answering"),
    ],
)
def test_head_of_architecture(architectures, head):
    assert parse_config(edited(CONFIG, "architectures", architectures), "here").head == head


def test_bad_distilbert_config():
    with pytest.raises(ValueError, match="here lacks n_heads"):
        parse_config(edited(DISTIL_CONFIG, "n_heads", ABSENT), "here")
    with pytest.raises(ValueError, match="activation is 'relu'; need 'gelu'"):
        parse_config(edited(DISTIL_CONFIG, "activation", "relu"), "here")
    with pytest.raises(ValueError, match="dim is 48; need a multiple of n_heads, 5"):
        parse_config(edited(DISTIL_CONFIG, "n_heads", 5), "here")


def test_config_that_claims_too_much_memory():
    huge = CONFIG | {"hidden_size": 2**14, "num_hidden_layers": 2**10}
    with pytest.raises(ValueError, match=r"the sizes make [0-9]+ parameters; need at most 4294967296"):
        parse_config(huge, "here")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("head", "regression", "head is 'regression'; need one of classification"),
        ("head", ["classification"], "head is .*; need one of"),
        ("model_type", "gpt", "model_type is 'gpt'; need 'bert'"),
        ("model_type", "distilbert", "token_types is 2; need an integer from 0 to 0"),
        ("labels", "abc", "labels is 'abc'; need a list"),
        ("labels", [], "classification has 0 labels; need 1 to"),
        ("head", "masked_lm", "masked_lm has 3 labels; need 0 to 0"),
        ("labels", [1], "a label is 1; need a string"),
        ("hidden", 33, "hidden is 33; need a multiple of heads, 4"),
        ("eps", 0, "eps is 0; need a float"),
        ("layers", None, "layers is None; need an integer"),
        ("eps", ABSENT, "the configuration has .*; need the keys model_type"),
        ("extra", 1, "the configuration has .*; need the keys model_type"),
    ],
)
def test_bad_packed_config(key, value, message):
    with pytest.raises(ValueError, match=message):
        from_json(edited(OURS, key, value), "packed")


def test_packed_config_must_be_an_object():
    with pytest.raises(ValueError, match=r"packed: the configuration has \[\]; need the keys"):
        from_json([], "packed")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "config.json is not JSON"),
        (b"\xff\xfe\x00", "config.json is not JSON"),
        (b"", "config.json is not JSON"),
        (b"[1]", "config.json holds a JSON list; need an object"),
        (b"[" * 200_000, "config.json is not JSON"),
        (b'{"vocab_size": ' + b"9" * 5000 + b"}", "config.json is not JSON"),
    ],
)
def test_config_that_is_no_json_object(copy, content, message):
    (copy / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_config(copy)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_model(tmp_path)
    shutil.copy(BERT / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has neither tokenizer\.json nor vocab\.txt"):
        Tokenizer.load(tmp_path, sized(64, 100))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_pickles_are_refused(tmp_path, name):
    shutil.copy(BERT / "config.json", tmp_path)
    (tmp_path / name).write_bytes(b"\x80\x02}q\x00.")
    message = (
        f"{name} is a pickle, which can run any code and is never loaded; need model.safetensors. Convert it: "
        "python -c .*AutoModelForSequenceClassification .*safe_serialization=True"
    )
    with pytest.raises(ValueError, match=message) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


QUERY = "bert.encoder.layer.1.attention.self.query.weight"


def nan_at(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[3, 5] = np.nan
    return x


BAD_TENSORS = [
    (QUERY, lambda x: None, ValueError, rf"model\.safetensors lacks the tensor {QUERY} of shape \(32, 32\)"),
    (QUERY, lambda x: x.astype(np.float16), TypeError, rf"{QUERY} has dtype F16; need F32"),
    (QUERY, lambda x: x.astype(np.float64), TypeError, rf"{QUERY} has dtype F64; need F32"),
    (QUERY, lambda x: x.astype(np.int32), TypeError, rf"{QUERY} has dtype I32; need F32"),
    (QUERY, lambda x: x[:, :31].copy(), ValueError, rf"{QUERY} has shape \(32, 31\); need \(32, 32\)"),
    (QUERY, lambda x: x.reshape(-1), ValueError, rf"{QUERY} has shape \(1024,\); need \(32, 32\)"),
    (QUERY, nan_at, ValueError, rf"{QUERY} is nan at \[3, 5\]; need finite numbers"),
    ("classifier.weight", lambda x: x[:2].copy(), ValueError, r"classifier.weight has shape \(2, 32\); need \(3, 32\)"),
    ("classifier.bias", lambda x: x - np.inf, ValueError, r"classifier.bias is -inf at \[0\]; need finite numbers"),
    ("bert.embeddings.LayerNorm.bias", lambda x: None, ValueError, "lacks the tensor bert.embeddings.LayerNorm.bias"),
    ("bert.encoder.surprise", lambda x: np.ones(3), ValueError, "the tensor 'bert.encoder.surprise'; need none beside"),
    (
        "bert.encoder.layer.2.output.dense.bias", lambda x: np.ones(32), ValueError,
        r"model\.safetensors has encoder layer 2; config\.json says 2 layers",
    ),
    (
        "bert.encoder.layer.0.output.extra.weight", lambda x: np.ones(32), ValueError,
        r"the tensor 'bert\.encoder\.layer\.0\.output\.extra\.weight'; need none",
    ),
    (
        "bert.embeddings.LayerNorm.gamma", lambda x: np.ones(32), ValueError,
        r"the tensor 'bert\.embeddings\.LayerNorm\.gamma'; need none",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "error", "message"), BAD_TENSORS)
def test_bad_tensor(copy, name, change, error, message):
    path = copy / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = change(tensors.get(name))
    save_file({key: x for key, x in tensors.items() if x is not None}, path)
    with pytest.raises(error, match=message):
        load_model(copy)


def test_bfloat16_is_named(copy):
    path = copy / "model.safetensors"
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["classifier.bias"] |= {"dtype": "BF16", "shape": [6]}  # as many bytes as 3 f32
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    with pytest.raises(TypeError, match=r"classifier\.bias has dtype BF16; need F32"):
        load_model(copy)


def test_more_layers_in_config_than_in_file(copy):
    (copy / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"lacks the tensor bert\.encoder\.layer\.2\.attention\.self\.query\.weight"):
        load_model(copy)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data + b"\0",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: b"PK\x03\x04" + data,
    ],
)
def test_damaged_safetensors(copy, damage):
    path = copy / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"model\.safetensors is not a safetensors file: .+"):
        load_model(copy)


@pytest.mark.parametrize("weight_map", [None, [], {"a": "../x.safetensors"}, {"a": 3}, {"a": ""}, {}])
def test_damaged_index(tmp_path, weight_map):
    shutil.copy(BERT / "config.json", tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=r"weight_map is damaged; need names of files in the same directory"):
        load_model(tmp_path)


def test_index_that_names_a_missing_file(tmp_path):
    shutil.copy(BERT / "config.json", tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "part.safetensors"}}')
    with pytest.raises(FileNotFoundError, match=r"part\.safetensors"):
        load_model(tmp_path)


TOKENIZER = (WORDPIECE / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "packed is not a tokenizer.json: EOF"),
        (b"{}", "packed is not a tokenizer.json: "),
        (TOKENIZER[:-5], "packed is not a tokenizer.json: "),
        (b"\xff" + TOKENIZER, "packed is not UTF-8: "),
        (TOKENIZER.replace(b"[PAD]", b"[NIL]"), r"packed has no padding token; need \[PAD\] in the vocabulary"),
    ],
)
def test_corrupt_tokenizer(data, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_bytes(data, sized(64, 100), "packed")


def test_tokenizer_larger_than_the_model():
    with pytest.raises(ValueError, match=r"tokenizer\.json has the token id 59; need 0 to 58"):
        Tokenizer.load(WORDPIECE, sized(64, 59))
    Tokenizer.load(WORDPIECE, sized(64, 60))


def write_vocabulary(path: Path, data: bytes) -> Path:
    (path / "vocab.txt").write_bytes(data)
    return path


def test_bad_vocabulary_file(tmp_path):
    with pytest.raises(
        ValueError, match=r"vocab\.txt lacks the token \[CLS\]; need \[PAD\], \[UNK\], \[CLS\], \[SEP\]"
    ):
        Tokenizer.load(write_vocabulary(tmp_path, b"[PAD]\n[UNK]\n[SEP]\na\n"), sized(64, 100))
    with pytest.raises(ValueError, match=r"vocab\.txt is not UTF-8: "):
        Tokenizer.load(write_vocabulary(tmp_path, b"[PAD]\n\xff\n"), sized(64, 100))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": "yes"}')
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: do_lower_case is 'yes'; need true or false"):
        Tokenizer.load(write_vocabulary(tmp_path, b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n"), sized(64, 100))


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("cats", TypeError, "texts is str; need a list of str or of pairs of str"),
        ([], ValueError, "texts is empty; need at least one text"),
        (["cats", ""], ValueError, r"texts\[1\] is empty or white space; need text"),
        (["cats", "cats", " \t\n\u00a0"], ValueError, r"texts\[2\] is empty or white space; need text"),
        ([("cats", " ")], ValueError, r"texts\[0\] is empty or white space; need text"),
        (["cats", "\u200b\x01"], ValueError, r"texts\[1\] has no tokens; need text that the tokenizer does not drop"),
        ([("cats", "\x01")], ValueError, r"texts\[0\] has no tokens"),
        (["cats", 3], TypeError, r"texts\[1\] is int; need str or a pair of str"),
        ([("a", "b", "c")], TypeError, r"texts\[0\] is tuple; need str or a pair of str"),
        ([("a", None)], TypeError, r"texts\[0\] is NoneType; need str or a pair of str"),
        (["\ud800"], ValueError, r"texts\[0\] has a lone surrogate; need text that UTF-8 can hold"),
    ],
)
def test_bad_texts(texts, error, message):
    with pytest.raises(error, match=message):
        Tokenizer.load(WORDPIECE, sized(64, 100)).encode(texts)


def test_positions_that_hold_no_token():
    with pytest.raises(ValueError, match="the model has 2 positions; need 3 for one token and the special ones"):
        Tokenizer.load(WORDPIECE, sized(2, 100)).encode(["cats"])
    with pytest.raises(ValueError, match="the model has 4 positions; need 5 for one token and the special ones"):
        Tokenizer.load(WORDPIECE, sized(4, 100)).encode([("cats", "cats")])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"[SEP]":{"id"', b'"[SEQ]":{"id"', r"packed (is not|cannot encode a text: )"),  # the library panics
        (b'"ids":[2]', b'"ids":[777]', r"packed has the token id 777; need 0 to 99"),
    ],
)
def test_tokenizer_that_fails_only_when_it_runs(old, new, message):
    assert old in TOKENIZER
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_bytes(TOKENIZER.replace(old, new), sized(64, 100), "packed")


def test_unknown_word_without_an_unknown_token():
    data = TOKENIZER.replace(b'"unk_token":"[UNK]"', b'"unk_token":"[NIL]"')
    with pytest.raises(ValueError, match=r"the tokenizer cannot encode the texts: .*Missing"):
        Tokenizer.from_bytes(data, sized(64, 100)).encode(["zzz"])


def test_interrupts_pass():
    def interrupt(*_):
        raise KeyboardInterrupt

    tokenizer = Tokenizer.load(WORDPIECE, sized(64, 100))
    tokenizer._whole = type("Stub", (), {"encode_batch": interrupt})()
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode(["a"])
    tokenizer._whole = type("Stub", (), {"encode_batch": lambda *_: 1 / 0})()
    with pytest.raises(ValueError, match="the tokenizer cannot encode the texts: division by zero"):
        tokenizer.encode(["a"])


def damaged(data: bytes, rng: random.Random, head: int) -> bytes:
    """Cut somewhere, or up to four bytes changed within the first ``head`` bytes."""
    if rng.random() < 0.3:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(min(head, len(data)))] = rng.choice(
            (rng.randrange(256), ord(rng.choice('{}[]",:0129-e')))
        )
    return bytes(changed)


def survives(action) -> bool:
    """Whether ``action`` ends, by returning or by one of the errors that the command line reports in one line."""
    try:
        action()
    except ERRORS as error:
        return bool(str(error))
    return True


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_fuzzed_model_directory(copy, name):
    rng, path = random.Random(name), copy / name
    data = path.read_bytes()
    for _ in range(300):
        path.write_bytes(damaged(data, rng, 6000))
        assert survives(lambda: load_model(copy))


def test_fuzzed_tokenizer():
    rng = random.Random("tokenizer.json")
    for _ in range(600):
        data = damaged(TOKENIZER, rng, len(TOKENIZER))
        assert survives(
            lambda data=data: Tokenizer.from_bytes(data, sized(16, 100)).encode(["the cats sat?", ("a", "mats!")])
        )
