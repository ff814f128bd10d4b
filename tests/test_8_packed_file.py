"""Rung 8: the packed file. A round trip keeps every bit; anything damaged, hostile or half written is refused."""

import json
import random
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from refimpl.kernels.simd.threefold import PORTABLE
from refimpl.models import compress, packed_file, precision, sealed
from refimpl.models.bert import Model, map_linears
from refimpl.models.compiled import compiled_ops
from refimpl.models.compress import Packed

NAME = "bert_classification"
ERRORS = (ValueError, TypeError, OSError)
FLIPS = 1500
CUTS = 150


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A packed file that no test may change."""
    path = tmp_path_factory.mktemp("packed") / "model.safetensors"
    packed_file.save(compress.pack(tiny.quantized(NAME)), path)
    return path


@pytest.fixture(scope="module")
def saved_with_attention(tmp_path_factory) -> Path:
    """The same with INT8 attention."""
    path = tmp_path_factory.mktemp("packed") / "attention.safetensors"
    packed_file.save(compress.pack(tiny.quantized_with_attention(NAME)), path)
    return path


def contents(path: Path) -> tuple[dict, str, dict[str, np.ndarray]]:
    """Header, tokenizer and tensors of a packed file."""
    with safe_open(path, "numpy") as handle:
        metadata = handle.metadata()
    return json.loads(metadata["refimpl.packed"]), metadata["tokenizer"], load_file(path)


def rewrite(source: Path, target: Path, header=None, tokenizer=None, **tensors) -> Path:
    """A copy with some things replaced (a tensor by None: removed) and a checksum that is valid again."""
    old_header, old_tokenizer, arrays = contents(source)
    arrays = {name: array for name, array in (arrays | tensors).items() if array is not None}
    tokenizer = old_tokenizer if tokenizer is None else tokenizer
    header = old_header | {"sha256": packed_file._digest(old_header["config"], tokenizer, arrays)} | (header or {})
    save_file(arrays, target, {"refimpl.packed": json.dumps(header), "tokenizer": tokenizer})
    return target


def same_packed(first: Packed, second: Packed) -> None:
    tiny.same_model(first.model, second.model)
    assert first.tokenizer.to_bytes() == second.tokenizer.to_bytes()


# --- round trip ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.MODELS)
@pytest.mark.parametrize("density", [0.0, tiny.DENSITY, 1.0])
def test_round_trip(tmp_path, name, density):
    packed = compress.pack(tiny.quantized(name, density))
    packed_file.save(packed, tmp_path / "packed")
    loaded = packed_file.load(tmp_path / "packed")
    same_packed(loaded, packed)
    ops = compiled_ops(PORTABLE)
    want, got = (tiny.record(stage.model, tiny.batch(name), ops) for stage in (packed, loaded))
    assert list(got) == list(want)
    for tap, value in want.items():
        np.testing.assert_array_equal(got[tap], value, err_msg=tap)
    for batch, again in zip(*(stage.tokenizer.encode(tiny.TEXTS) for stage in (packed, loaded)), strict=True):
        np.testing.assert_array_equal(batch, again)


def test_round_trip_with_layers_in_floats(tmp_path):
    made = precision.keep(tiny.quantized(NAME), tiny.calibrated(NAME), ["layer.0.q", "layer.1.q", "layer.1.output"])
    made = precision.in_bf16(made, ["layer.1.q"])
    packed = compress.pack(made)
    packed_file.save(packed, tmp_path / "packed")
    same_packed(packed_file.load(tmp_path / "packed"), packed)
    tiny.same_model(compress.unpack(packed).model, made.model)
    infinite = np.full((32, 32), 0x7F80, np.uint16)
    for name, wrong, message in [
        ("layer.0.q.weight", np.zeros((3, 3), np.float32), r"layer.0.q.weight has shape \(3, 3\); need"),
        ("layer.0.q.weight", np.zeros((32, 32), np.int64), "layer.0.q.weight has dtype int64; need float32"),
        ("layer.1.q.weight", infinite[1:], r"layer.1.q.weight has shape \(31, 32\); need"),
        ("layer.1.q.weight", infinite, "layer.1.q.weight is inf at"),
        ("layer.1.q.bias", None, "lacks the tensor layer.1.q.bias"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            packed_file.load(rewrite(tmp_path / "packed", tmp_path / "wrong", **{name: wrong}))


@pytest.mark.parametrize("name", tiny.ONE_OF_EACH_HEAD)
def test_round_trip_with_integer_attention(tmp_path, name):
    packed = compress.pack(tiny.quantized_with_attention(name))
    packed_file.save(packed, tmp_path / "packed")
    loaded = packed_file.load(tmp_path / "packed")
    same_packed(loaded, packed)
    assert all(scale.shape == () for layer in loaded.model.layers for scale in layer.attention_scales)


def test_files_with_and_without_integer_attention_differ_by_its_scales(saved, saved_with_attention):
    (header, tokenizer, arrays), (with_header, with_tokenizer, with_arrays) = map(
        contents, (saved, saved_with_attention)
    )
    scales = {f"layer.{i}.attention_scales.{part}" for i in range(2) for part in "qkv"}
    assert set(with_arrays) - set(arrays) == scales
    assert {with_arrays[name].shape for name in scales} == {()}
    assert (header["version"], header["config"], tokenizer) == (2, with_header["config"], with_tokenizer)
    assert all(layer.attention_scales is None for layer in packed_file.load(saved).model.layers)


def test_what_is_saved_again_has_the_same_contents(tmp_path, saved):
    packed_file.save(packed_file.load(saved), tmp_path / "again")
    (header, tokenizer, arrays), again = contents(saved), contents(tmp_path / "again")
    assert (header, tokenizer) == again[:2]
    assert set(arrays) == set(again[2])


def test_arrays_that_are_views_are_saved_by_value(tmp_path):
    """safetensors writes an array's memory as it lies: a transposed view must not come back transposed."""
    packed = compress.pack(tiny.quantized(NAME))

    def strided(array):
        return np.repeat(array, 2, axis=-1)[..., ::2]

    def views(name, layer):
        weight = layer.weight._replace(values=strided(layer.weight.values))
        return layer._replace(weight=weight, bias=strided(layer.bias))

    embeddings = packed.model.embeddings
    embeddings = embeddings._replace(position=np.asfortranarray(embeddings.position))
    model = map_linears(Model(packed.model.config, embeddings, packed.model.layers, packed.model.head), views)
    packed_file.save(Packed(model, packed.tokenizer), tmp_path / "packed")
    same_packed(packed_file.load(tmp_path / "packed"), packed)


# --- writing is all or nothing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("older", [None, b"an older file"])
def test_a_save_that_fails_midway_leaves_no_trace(tmp_path, monkeypatch, error, older):
    def partly(tensors, path, metadata):
        Path(path).write_bytes(b"half of a file")
        raise error

    path = tmp_path / "packed"
    if older is not None:
        path.write_bytes(older)
    monkeypatch.setattr(sealed, "save_file", partly)
    with pytest.raises(type(error)):
        packed_file.save(compress.pack(tiny.quantized(NAME)), path)
    assert [file.name for file in tmp_path.iterdir()] == ([] if older is None else ["packed"])
    assert older is None or path.read_bytes() == older


def test_a_save_replaces_an_older_file_and_leaves_nothing_else(tmp_path, saved):
    path = tmp_path / "packed"
    path.write_bytes(b"older")
    packed_file.save(packed_file.load(saved), path)
    same_packed(packed_file.load(path), packed_file.load(saved))
    assert list(tmp_path.iterdir()) == [path]


def test_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder; create it first"):
        packed_file.save(compress.pack(tiny.quantized(NAME)), tmp_path / "nowhere" / "packed")


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "packed").mkdir()
    with pytest.raises(OSError, match="packed"):
        packed_file.save(compress.pack(tiny.quantized(NAME)), tmp_path / "packed")
    assert [file.name for file in tmp_path.iterdir()] == ["packed"]


def test_a_model_with_integer_attention_in_some_layers_is_not_saved(tmp_path):
    packed = compress.pack(tiny.quantized_with_attention(NAME))
    first, second = packed.model.layers
    mixed = replace(packed.model, layers=(first, second._replace(attention_scales=None)))
    with pytest.raises(ValueError, match="some layers of the model have attention scales; need them in all or in none"):
        packed_file.save(Packed(mixed, packed.tokenizer), tmp_path / "packed")
    assert list(tmp_path.iterdir()) == []


# --- damage ----------------------------------------------------------------------------------------------------------


def refused_or_equal(path: Path, want: Packed) -> bool:
    """Whether loading raises one of the errors that the command line reports; if it succeeds, it must be equal."""
    try:
        loaded = packed_file.load(path)
    except ERRORS as error:
        return str(path) in str(error)
    same_packed(loaded, want)
    return False


def flips(data: bytes) -> list[tuple[int, int]]:
    """Positions and new bytes: every byte of the length, then half in the header and half in the data."""
    rng = random.Random("flips")
    start = 8 + struct.unpack("<Q", data[:8])[0]
    ranges = [(8, start), (start, len(data))]
    positions = [*range(8), *(rng.randrange(*ranges[i % 2]) for i in range(FLIPS))]
    return [(at, data[at] ^ rng.choice([1 << rng.randrange(8), rng.randrange(1, 256)])) for at in positions]


def test_every_flipped_byte_is_found(tmp_path, saved):
    """In the data every one is; in the header a few change nothing, such as the case of a digit in \\u00e9."""
    data, want = saved.read_bytes(), packed_file.load(saved)
    start = 8 + struct.unpack("<Q", data[:8])[0]
    path, accepted = tmp_path / "flipped", 0
    for at, byte in flips(data):
        path.write_bytes(data[:at] + bytes([byte]) + data[at + 1 :])
        found = refused_or_equal(path, want)
        assert found or at < start, f"byte {at} of the data"
        accepted += not found
    assert accepted < FLIPS / 100


def test_every_cut_is_found(tmp_path, saved):
    data, want = saved.read_bytes(), packed_file.load(saved)
    rng = random.Random("cuts")
    path = tmp_path / "cut"
    for length in [0, 1, 7, 8, 9, len(data) - 1, *(rng.randrange(len(data)) for _ in range(CUTS))]:
        path.write_bytes(data[:length])
        assert refused_or_equal(path, want), length
    path.write_bytes(data + b"\0")
    assert refused_or_equal(path, want)


def test_other_damage_is_called_by_its_name(tmp_path, saved):
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    (tmp_path / "damaged").write_bytes(data)
    with pytest.raises(ValueError, match="damaged: its contents do not match its checksum"):
        packed_file.load(tmp_path / "damaged")


# --- hostile files: the checksum is valid ----------------------------------------------------------------------------


def layer_array(saved: Path, name: str) -> np.ndarray:
    return contents(saved)[2][name].copy()


@pytest.mark.parametrize(("column", "index"), [(32, 5), (2**16 - 1, 40)])
def test_index_out_of_range(tmp_path, saved, column, index):
    indices = layer_array(saved, "layer.1.k.indices")
    indices[index] = column
    path = rewrite(saved, tmp_path / "bad", **{"layer.1.k.indices": indices})
    with pytest.raises(ValueError, match=rf"layer\.1\.k: indices has the column {column}; need 0 to 31"):
        packed_file.load(path)


def first_changed(array: np.ndarray, value: float) -> np.ndarray:
    array.reshape(-1)[0] = value
    return array


BAD_STRUCTURE = [
    ("layer.0.q.indptr", lambda x: first_changed(x, 1), "layer.0.q: indptr does not ascend from 0"),
    ("layer.0.q.indptr", lambda x: x[::-1].copy(), "layer.0.q: indptr does not ascend from 0"),
    ("layer.0.q.indptr", lambda x: x[:-1].copy(), r"layer.0.q: indptr has shape \(8,\); need \(9,\)"),
    ("layer.0.q.indptr", lambda x: x + (x == x.max()), r"layer.0.q: indices has shape \(.*,\); need"),
    ("layer.0.q.indptr", lambda x: x.astype(np.int64), r"layer.0.q.indptr has dtype int64; need int32"),
    ("layer.0.q.values", lambda x: x[:-16].copy(), r"layer.0.q: values has shape \(.*,\); need"),
    ("layer.0.q.values", lambda x: x.view(np.uint8), r"layer.0.q.values has dtype uint8; need int8"),
    ("layer.0.q.indices", lambda x: x.astype(np.int32), r"layer.0.q.indices has dtype int32; need uint16"),
    ("layer.0.q.indices", lambda x: 0 * x, r"layer.0.q: values of one row and column add up to"),
    ("layer.0.q.indices", lambda x: x[None].copy(), r"layer.0.q.indices has shape \(1, .*\); need \(n,\)"),
    ("embeddings.word.codes", lambda x: x[1:].copy(), r"embeddings.word.codes has shape \(52, 32\); need \(53, 32\)"),
    ("layer.0.q.bias", lambda x: x.astype(np.float64), r"layer.0.q.bias has dtype float64; need float32"),
    ("layer.0.q.bias", lambda x: x.astype(np.float16), r"layer.0.q.bias has dtype float16; need float32"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD_STRUCTURE)
def test_bad_structure(tmp_path, saved, name, change, message):
    path = rewrite(saved, tmp_path / "bad", **{name: change(layer_array(saved, name))})
    with pytest.raises((ValueError, TypeError), match=message):
        packed_file.load(path)


SCALES = ["layer.0.q.weight_scale", "layer.1.output.input_scale", "embeddings.word.scale"]


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "is nan at .*; need finite numbers"),
        (np.inf, "is inf at .*; need finite numbers"),
        (0, "has the element 0.0; need at least 1.17"),
        (-0.5, "has the element -0.5; need at least 1.17"),
    ],
)
def test_bad_scale(tmp_path, saved, name, value, message):
    path = rewrite(saved, tmp_path / "bad", **{name: first_changed(layer_array(saved, name), value)})
    with pytest.raises(ValueError, match=name + " " + message):
        packed_file.load(path)


BAD_ATTENTION = [
    ({"layer.1.attention_scales.k": None}, ValueError, r"lacks the tensor layer\.1\.attention_scales\.k"),
    (
        {f"layer.0.attention_scales.{part}": None for part in "qkv"},
        ValueError,
        r"lacks the tensor layer\.0\.attention_scales\.q",
    ),
    ({"layer.2.attention_scales.q": np.ones((), np.float32)}, ValueError, r"has the tensor layer\.2\.attention_scales"),
    ({"layer.0.attention_scales.o": np.ones((), np.float32)}, ValueError, r"has the tensor layer\.0\.attention_scales"),
    ({"layer.0.attention_scales.v": np.ones(())}, TypeError, "scales.v has dtype float64; need float32"),
    ({"layer.0.attention_scales.v": np.ones(1, np.float32)}, ValueError, r"scales.v has shape \(1,\); need \(\)"),
    (
        {"layer.0.attention_scales.v": np.array(0, np.float32)},
        ValueError,
        "scales.v has the element 0.0; need at least",
    ),
    ({"layer.1.attention_scales.q": np.array(-1, np.float32)}, ValueError, "scales.q has the element -1.0; need at"),
    ({"layer.1.attention_scales.q": np.array(np.nan, np.float32)}, ValueError, "scales.q is nan at .*; need finite"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_ATTENTION)
def test_bad_attention_scales(tmp_path, saved_with_attention, change, error, message):
    with pytest.raises(error, match=message):
        packed_file.load(rewrite(saved_with_attention, tmp_path / "bad", **change))


def test_attention_scales_in_one_layer_only(tmp_path, saved, saved_with_attention):
    arrays = contents(saved_with_attention)[2]
    change = {name: array for name, array in arrays.items() if name.startswith("layer.0.attention_scales.")}
    with pytest.raises(ValueError, match=r"lacks the tensor layer\.1\.attention_scales\.q"):
        packed_file.load(rewrite(saved, tmp_path / "bad", **change))


@pytest.mark.parametrize("name", ["layer.0.q.bias", "embeddings.norm.weight", "head.pooler.weight"])
def test_parameters_that_are_not_finite(tmp_path, saved, name):
    path = rewrite(saved, tmp_path / "bad", **{name: first_changed(layer_array(saved, name), np.nan)})
    with pytest.raises(ValueError, match=name + " is nan at .*; need finite numbers"):
        packed_file.load(path)


@pytest.mark.parametrize("name", ["layer.0.q.indptr", "embeddings.position", "head.classifier.bias", *SCALES])
def test_missing_tensor(tmp_path, saved, name):
    with pytest.raises(ValueError, match=f"lacks the tensor {name}"):
        packed_file.load(rewrite(saved, tmp_path / "bad", **{name: None}))


@pytest.mark.parametrize("name", ["layer.2.q.bias", "layer.0.q.compensation", "extra"])
def test_extra_tensor(tmp_path, saved, name):
    with pytest.raises(ValueError, match=f"has the tensor {name}, which its configuration does not name"):
        packed_file.load(rewrite(saved, tmp_path / "bad", **{name: np.zeros(32, np.float32)}))


@pytest.mark.parametrize("version", [0, 1, 3, "2", None, [2], 1e308])
def test_other_version(tmp_path, saved, version):
    path = rewrite(saved, tmp_path / "bad", {"version": version})
    with pytest.raises(ValueError, match=r"has the format version .*; this program reads version 2"):
        packed_file.load(path)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("header", ["", "{", "[]", "3", "null", '"text"', DEEP, '{"a":' * 50_000, "\\ud800", "NaN"])
def test_hostile_header(tmp_path, saved, header):
    _, tokenizer, arrays = contents(saved)
    save_file(arrays, tmp_path / "bad", {"refimpl.packed": header, "tokenizer": tokenizer})
    with pytest.raises(ValueError, match=r"has a damaged header|has the format version None"):
        packed_file.load(tmp_path / "bad")


@pytest.mark.parametrize(
    "change",
    [
        {"config": None},
        {"config": []},
        {"config": "{}"},
        {"config": {}},
        {"sha256": None},
        {"sha256": ["x"]},
        {"sha256": 7},
        {"sha256": ""},
    ],
)
def test_header_of_wrong_types(tmp_path, saved, change):
    with pytest.raises(ValueError, match=r"the configuration has|damaged: its contents do not match its checksum"):
        packed_file.load(rewrite(saved, tmp_path / "bad", change))


@pytest.mark.parametrize(
    ("key", "value"),
    [("layers", 10**9), ("layers", 3), ("hidden", 64), ("heads", 5), ("eps", 0.5), ("labels", ["a"]), ("head", "x"),
     ("vocabulary", 2**22), ("token_types", 0), ("positions", True), ("model_type", "distilbert")],
)  # fmt: skip
def test_configuration_that_does_not_fit(tmp_path, saved, key, value):
    """With a checksum made for it, and without."""
    header, tokenizer, arrays = contents(saved)
    config = header["config"] | {key: value}
    valid = {"config": config, "sha256": packed_file._digest(config, tokenizer, arrays)}
    errors = []
    for change in (valid, {"config": config}):
        path = rewrite(saved, tmp_path / "bad", change)
        try:
            packed_file.load(path)
        except ERRORS as error:
            errors.append(str(error))
    assert len(errors) == (1 if key == "eps" else 2), errors  # another eps is another model, and a checksum says which
    assert all(str(path) in error for error in errors)


def test_hostile_tokenizer(tmp_path, saved):
    for tokenizer in ("", "{}", DEEP, "null"):
        with pytest.raises(ValueError, match=r"bad is not a tokenizer\.json"):
            packed_file.load(rewrite(saved, tmp_path / "bad", tokenizer=tokenizer))


def test_safetensors_file_of_another_kind():
    for file in ("model.safetensors", "expected.safetensors"):
        with pytest.raises(ValueError, match="but no packed model; name the directory of a model instead"):
            packed_file.load(tiny.GOLDEN / NAME / file)


def test_header_without_a_tokenizer(tmp_path, saved):
    header, _, arrays = contents(saved)
    save_file(arrays, tmp_path / "bad", {"refimpl.packed": json.dumps(header)})
    with pytest.raises(ValueError, match="no packed model"):
        packed_file.load(tmp_path / "bad")


def test_dtype_that_numpy_lacks(tmp_path, saved):
    """A BF16 tensor is valid safetensors, but NumPy has no such type."""
    data = saved.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    for dtype in ("BF16", "F8_E4M3", "F8_E5M2"):
        size = 2 if dtype == "BF16" else 1
        header["extra"] = {"dtype": dtype, "shape": [4], "data_offsets": [end, end + 4 * size]}
        text = json.dumps(header).encode()
        path = tmp_path / "bad"
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :] + bytes(4 * size))
        with pytest.raises(ERRORS, match="bad"):
            packed_file.load(path)


def test_a_path_that_is_not_there_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing does not exist"):
        packed_file.load(tmp_path / "nothing")
    with pytest.raises(ERRORS, match=tmp_path.name):
        packed_file.load(tmp_path)


def test_equal_models_are_equal_bytes(tmp_path, saved):
    """safetensors alone orders the keys of the metadata anew in each call."""
    again = {packed_file.save(packed_file.load(saved), tmp_path / str(i)) or (tmp_path / str(i)).read_bytes()
             for i in range(8)}  # fmt: skip
    assert again == {saved.read_bytes()}


def test_the_type_of_indices():
    """65,536 columns have indices up to 65,535."""
    assert [packed_file.index_type(columns) for columns in (384, 1 << 16, (1 << 16) + 1)] == [
        np.uint16, np.uint16, np.int32,
    ]  # fmt: skip
