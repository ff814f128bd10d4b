"""Thousands of files that are nearly right, through every loader: each is read or refused in one line, in good time.

Bytes of whole files are damaged in test_7_bad_files.py, test_7_oracle_files.py, test_7_records.py and
test_8_packed_file.py; checksums find most of it. Here what is damaged is what a file says: its JSON and its tensors,
with a checksum that is right again. A few hundred each; thousands with --runslow.
"""

import json
import random
import shutil

import numpy as np
import pytest
import tiny
from test_7_bad_files import BERT, ERRORS, WORDPIECE, sized
from test_7_oracle_files import at_most, damage_bytes, damage_graph
from test_7_records import MODEL, RECORDS, parts, write
from test_8_packed_file import contents, rewrite

from refimpl.models import compress, packed_file, sealed
from refimpl.models.checkpoint import load_model
from refimpl.models.engines import onnx_file
from refimpl.models.oracle.load import load
from refimpl.models.records.file import load_record
from refimpl.models.records.inputs import read_arrays
from refimpl.models.records.replay import replay
from refimpl.models.tokenizer import Tokenizer

COUNT, SEEDS = 300, range(1, 8)
GRAPH = load(MODEL)
STRANGE = [None, True, 0, -1, 1, 2, 7, 2**31, 2**63, 10**30, 1e308, -0.0, float("nan"), float("inf"), "", "a", "\ud800",
           "\0", "../x", [], [[]], {}, {"": 0}, [None] * 3]  # fmt: skip
DTYPES = [np.uint8, np.int8, np.int64, np.float16, np.float32, np.float64, np.bool_]


def damage_json(value, chance):
    """The same JSON with one thing in it replaced, removed, added or moved."""
    value = json.loads(json.dumps(value))
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return value
        key = chance.choice(keys)
        if not isinstance(place[key], dict | list) or not place[key] or chance.random() < 0.2:
            break
        place = place[key]
    kind = chance.randrange(4)
    if kind == 0:
        del place[key]
    elif kind == 1:
        place[key] = place[chance.choice(keys)]
    elif kind == 2 and isinstance(place, dict):
        place[chance.choice(["", "x", key + " ", key.upper()])] = chance.choice(STRANGE)
    else:
        place[key] = chance.choice(STRANGE)
    return value


def damage_tensors(tensors, chance):
    """The same tensors with one replaced, removed, renamed, or of another dtype or shape."""
    tensors = dict(tensors)
    name = chance.choice(sorted(tensors))
    array = tensors[name]
    kind = chance.randrange(6)
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        tensors[chance.choice(["", "x", "value/x", "input/x", name + "."])] = tensors.pop(name)
    elif kind == 2:
        with np.errstate(all="ignore"):
            tensors[name] = array.astype(chance.choice(DTYPES))
    elif kind == 3:
        tensors[name] = array.reshape(chance.choice([array.shape[::-1], (-1,), (1, *array.shape), (-1, 1)]))
    elif kind == 4:
        tensors[name] = array[..., :-1] if array.ndim and chance.random() < 0.7 else array.reshape(-1)[:0]
    else:
        tensors[name] = array = array.copy()
        odd = [0, 1] if array.dtype.kind in "biu" else [0, -1, np.nan, np.inf, 1e-45, 3e38]
        array.reshape(-1)[chance.randrange(array.size)] = chance.choice(odd)
    return {key: np.ascontiguousarray(each) for key, each in tensors.items()}


def record_case(folder, chance):
    header, tensors = parts(chance.choice(RECORDS))
    if chance.random() < 0.5:
        header = damage_json(header, chance)
    if chance.random() < 0.7:
        tensors = damage_tensors(tensors, chance)
    inputs = {key.removeprefix("input/"): x for key, x in tensors.items() if key.startswith("input/")}
    if isinstance(header.get("info"), dict) and "inputs_sha256" in header["info"]:
        header["info"]["inputs_sha256"] = sealed.digest([], inputs)
    path = write(folder / "record", header, tensors)
    return lambda: replay(load_record(path), GRAPH)


def packed_case(folder, chance):
    source = folder / "source"
    if not source.exists():
        packed_file.save(compress.pack(tiny.quantized("bert_classification")), source)
    header, tokenizer, tensors = contents(source)
    config = damage_json(header["config"], chance) if chance.random() < 0.5 else header["config"]
    changed = damage_tensors(tensors, chance) if chance.random() < 0.7 else tensors
    changes = dict.fromkeys(tensors.keys() - changed.keys()) | changed
    header = {"config": config, "sha256": packed_file._digest(config, tokenizer, changed)}
    path = rewrite(source, folder / "packed", header, **changes)
    return lambda: packed_file.load(path)


def directory_case(folder, chance):
    name, value = "config.json", json.loads((BERT / "config.json").read_text())
    shutil.copy(BERT / "model.safetensors", folder)
    if chance.random() < 0.3:
        shutil.copy(BERT / "config.json", folder)
        data = (folder / "model.safetensors").read_bytes()
        header, rest = data[:6000], data[6000:]
        (folder / "model.safetensors").write_bytes(damage_bytes(header, chance) + rest)
        return lambda: load_model(folder)
    if chance.random() < 0.3:
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        shutil.copy(BERT / "config.json", folder)
        name, value = "model.safetensors.index.json", {"weight_map": {"a": "part.safetensors"}, "metadata": {}}
    (folder / name).write_text(json.dumps(damage_json(value, chance)))
    return lambda: load_model(folder)


def tokenizer_case(folder, chance):
    value = damage_json(json.loads((WORDPIECE / "tokenizer.json").read_text()), chance)
    data = json.dumps(value).encode()
    return lambda: Tokenizer.from_bytes(data, sized(16, 100)).encode(["the cats sat?", ("a", "mats!")])


def graph_case(folder, chance):
    """The reader that ``record`` has for files that only an engine runs."""
    data = chance.choice([damage_bytes, damage_graph])(MODEL.read_bytes(), chance)
    path = folder / "m.onnx"
    path.write_bytes(data)

    def read():
        made = onnx_file.load(path)
        onnx_file.external_digests(path, made)
        onnx_file.check_inputs(made, {"x": np.ones((2, 3, 64), np.float32)})

    return read


def arrays_case(folder, chance):
    path = folder / chance.choice(["a.npz", "a.safetensors"])
    if path.suffix == ".npz":
        np.savez(path, x=np.arange(100), y=np.zeros((), np.float32))
    else:
        path.write_bytes(RECORDS[0].read_bytes())
    path.write_bytes(damage_bytes(path.read_bytes(), chance))
    return lambda: read_arrays(path)


CASES = {made.__name__.removesuffix("_case"): made for made in (
    record_case, packed_case, directory_case, tokenizer_case, graph_case, arrays_case)}  # fmt: skip


def fuzz(make, count, seed, folder):
    """How many of the files were read."""
    chance, refused = random.Random(seed), []
    for _ in range(count):
        attempt = make(folder, chance)
        try:
            with at_most(20), np.errstate(all="ignore"):
                attempt()
        except ERRORS as error:
            refused.append(str(error))
    assert all(0 < len(message) < 2000 for message in refused)
    return count - len(refused)


@pytest.mark.parametrize("name", CASES)
def test_files_that_are_nearly_right(name, tmp_path):
    assert 0 < fuzz(CASES[name], COUNT, name, tmp_path) < COUNT


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CASES)
def test_many_files_that_are_nearly_right(name, seed, tmp_path):
    assert 0 < fuzz(CASES[name], 1000, seed, tmp_path) < 1000
