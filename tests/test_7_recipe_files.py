"""What a recipe leaves: files that come back as the model that was written, and their bytes."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from test_7_engines import needs

from refimpl.kernels.layout import bsr4x1
from refimpl.models import compress, engines, packed_file
from refimpl.models.bert import linears, map_linears
from refimpl.models.config import parse_config
from refimpl.models.directory import to_hugging_face
from refimpl.models.pruning.removal import remove_dead
from refimpl.models.recipes import artifacts
from refimpl.models.recipes.artifacts import encoder_bytes, write_artifacts

NAME = "bert_classification"


def smaller(name=NAME):
    """A model that has lost a head and 28 neurons of its first layer, none of the last."""
    dense = tiny.dense(name)
    first, *rest = dense.model.layers
    e = dense.model.config.head_size

    def without(linear, rows):
        return linear._replace(weight=linear.weight * rows[:, None], bias=linear.bias * rows)

    heads = np.arange(dense.model.config.hidden) >= e
    neurons = np.arange(dense.model.config.feed_forward) >= 28
    output = first.attention_output._replace(weight=first.attention_output.weight * heads)
    first = first._replace(v=without(first.v, heads), attention_output=output)
    first = first._replace(
        intermediate=without(first.intermediate, neurons),
        output=first.output._replace(weight=first.output.weight * neurons),
    )
    return replace(dense, model=remove_dead(replace(dense.model, layers=(first, *rest))))


def quantized(dense):
    return compress.quantize(compress.calibrate(compress.prune(dense, 1.0), tiny.rows(NAME)))


@pytest.mark.parametrize("name", ["bert_classification", "distilbert_classification"])
def test_a_configuration_with_fewer_heads_and_neurons_comes_back(name):
    whole = tiny.dense(name).model.config
    assert not {"pruned_heads", "layer_feed_forward"} & to_hugging_face(whole).keys()
    for heads, neurons in [((2, 4), (64, 8)), ((1, 1), ()), ((), (4, 4))]:
        small = replace(whole, layer_heads=heads, layer_feed_forward=neurons)
        assert parse_config(to_hugging_face(small), "here") == small


def test_the_files_are_the_model(tmp_path):
    needs("openvino")
    dense = smaller()
    assert dense.model.config.layer_heads == (3, 4)
    assert dense.model.config.layer_feed_forward == (36, 64)
    coded = quantized(dense)
    sizes = write_artifacts(tmp_path, dense.model.config, dense, coded)
    tiny.same_model(compress.load(tmp_path / artifacts.HUGGING_FACE).model, dense.model)
    tiny.same_model(packed_file.load(tmp_path / artifacts.PACKED).model, compress.pack(coded).model)
    on_disk = {path: path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()}
    assert sum(sizes["files"].values()) == sum(on_disk.values())
    assert list(sizes["files"]) == ["huggingface", "packed.safetensors", "model.onnx", "openvino"]
    assert sizes["missing"] == {}
    assert (tmp_path / artifacts.IR).with_suffix(".bin").stat().st_size > 0


def test_a_model_in_f32_has_no_packed_file(tmp_path):
    needs("openvino")
    dense = tiny.dense("distilbert_question_answering")
    sizes = write_artifacts(tmp_path, dense.model.config, dense, None)
    assert list(sizes["files"]) == ["huggingface", "model.onnx", "openvino"]
    assert sizes["encoder"]["ratio"] == 1


def check_encoder_bytes(encoder_bytes):
    """Counted by hand: D 32, F 64, two layers, of which the first has lost 8 of 32 columns and 28 of 64 neurons."""
    dense = smaller()
    config = dense.model.config
    assert (config.hidden, config.feed_forward, config.layers, config.head_size) == (32, 64, 2, 8)
    weights, rows = 4 * 32 * 32 + 2 * 32 * 64, 5 * 32 + 64
    before = 2 * 4 * (weights + rows)
    assert encoder_bytes(config, tiny.dense(NAME).model) == (before,) * 4
    left = 4 * 24 * 32 + 2 * 32 * 36 + weights
    rows_left = (3 * 24 + 32 + 36 + 32) + rows
    assert encoder_bytes(config, dense.model) == (before, *(4 * (left + rows_left),) * 3)
    found = encoder_bytes(config, quantized(dense).model)
    assert (found.before, found.dense) == (before, left + 8 * rows_left + 4 * 12)
    assert found.blocks > found.dense == found.after  # 24 bytes a group of 16 weights, where none is zero
    sparse = tiny.quantized(NAME, 0.1).model
    found = encoder_bytes(config, sparse)
    blocks = [bsr4x1.pack(p.codes) for p in linears(sparse).values()]
    stored = sum(each.indptr.nbytes + 2 * each.indices.size + each.values.nbytes for each in blocks)
    assert found.blocks == found.after == stored + 2 * 8 * rows + 4 * 12
    assert found.after < found.dense == weights * 2 + 2 * 8 * rows + 4 * 12
    mixed = map_linears(tiny.quantized(NAME, 1.0).model, lambda name, p: linears(sparse)[name] if ".0." in name else p)
    found = encoder_bytes(config, mixed)
    assert found.after < min(found.dense, found.blocks)


def test_bytes_of_the_encoder():
    check_encoder_bytes(encoder_bytes)


def test_what_cannot_be_written(tmp_path, monkeypatch):
    dense = tiny.dense(NAME)
    with pytest.raises(FileNotFoundError, match="nowhere is no folder; need one to write into"):
        write_artifacts(tmp_path / "nowhere", dense.model.config, dense, None)
    with pytest.raises(TypeError, match=r"layer.0.q of the trained model is QuantizedLinear; need Linear"):
        write_artifacts(tmp_path, dense.model.config, tiny.quantized(NAME), None)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(engines, "installed", list)
    sizes = write_artifacts(tmp_path, dense.model.config, dense, None)
    assert sizes["missing"] == {"openvino": "openvino is not installed; need: python -m pip install openvino"}
    assert list(sizes["files"]) == ["huggingface", "model.onnx"] == sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match="huggingface holds other files; name another folder"):
        write_artifacts(tmp_path, dense.model.config, dense, None)


def test_what_a_killed_process_left_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "installed", list)
    for name in ("huggingface.part-ab12cd34", "huggingface.training"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    dense = tiny.dense(NAME)
    write_artifacts(tmp_path, dense.model.config, dense, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["huggingface", "huggingface.training", "model.onnx"]


def test_a_file_that_openvino_cannot_convert_is_missing_with_its_reason(tmp_path):
    needs("openvino")
    (tmp_path / "bad.onnx").write_bytes(b"no file of ONNX")
    with pytest.raises(RuntimeError, match=r"OpenVINO cannot convert .*bad.onnx: "):
        engines.write_ir(tmp_path / "bad.onnx", tmp_path / "bad.xml")
