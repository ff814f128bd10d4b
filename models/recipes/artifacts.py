"""The files of a compressed model, in one folder, and how many bytes they and the encoder take.

    huggingface/                f32, a Hugging Face directory
    packed.safetensors          INT8, what our engine loads
    model.onnx                  INT8 in QDQ form; f32 if the model is not quantized
    openvino/openvino_model.*   the same as OpenVINO's IR, .xml and .bin, by OpenVINO's converter

Contract. The encoder's bytes are those of its linear layers, weights, biases and scales; embeddings, norms and the head
do not count. Before: f32, all layers of the model that the compression began with, with all heads and neurons of its
configuration. After: as stored. A layer in INT8 is stored dense, a byte a weight, or in 4x1 blocks, whichever is
smaller; removed layers, heads and neurons are gone. The ratio of the two is what papers on JPQD and block pruning quote
as the compression of the encoder.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refimpl.models import engines, packed_file
from refimpl.models.bert import Model, linears
from refimpl.models.compress import Dense, Quantized, pack, pack_linear
from refimpl.models.config import Config
from refimpl.models.directory import save_directory
from refimpl.models.export import export_onnx
from refimpl.models.information import count_bytes
from refimpl.nn import Linear
from refimpl.quant import QuantizedLinear

HUGGING_FACE, PACKED, ONNX, OPENVINO = "huggingface", "packed.safetensors", "model.onnx", "openvino"
IR = f"{OPENVINO}/openvino_model.xml"
F32 = 4
"""Bytes."""


class EncoderBytes(NamedTuple):
    """before: f32; dense: after, a byte a weight; blocks: after, in 4x1 blocks; after: the smaller of the two, layer by
    layer."""

    before: int
    dense: int
    blocks: int
    after: int


def write_artifacts(folder: Path, before: Config, trained: Dense, quantized: Quantized | None) -> dict[str, Any]:
    """Write all files into a folder, which must be there, and say how large they are.

    Parameters
    ----------
    before : of the model that the compression began with
    trained : f32, its linear layers ``Linear``
    quantized : the same model in INT8; None to write f32 only, and no packed file

    Returns
    -------
    dict of JSON
        {"files": {name: bytes}, "missing": {name: why it was not written},
        "encoder": {"before", "dense", "blocks", "after": bytes, "ratio": before / after}};
        the names are HUGGING_FACE, PACKED, ONNX and OPENVINO, a folder's bytes those of all its files

    Raises
    ------
    FileNotFoundError, ValueError, TypeError, OSError
        for a folder that is not there, one that holds another model, or a model that cannot be written; or the disk is
        full
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; need one to write into")
    for name, layer in linears(trained.model).items():
        if type(layer) is not Linear:
            raise TypeError(f"{name} of the trained model is {type(layer).__name__}; need Linear")
    model = (quantized or trained).model
    packed = None if quantized is None else pack(quantized)
    save_directory(trained, folder / HUGGING_FACE, {})
    if packed is not None:
        packed_file.save(packed, folder / PACKED)
    export_onnx(model, folder / ONNX)
    missing = _write_ir(folder)
    names = [HUGGING_FACE, *[PACKED] * (packed is not None), ONNX, *[OPENVINO] * (not missing)]
    encoder = encoder_bytes(before, model)
    return {
        "files": {name: _size(folder / name) for name in names},
        "missing": missing,
        "encoder": encoder._asdict() | {"ratio": encoder.before / encoder.after},
    }


def _write_ir(folder: Path) -> dict[str, str]:
    """Why it was not written, if it was not."""
    (folder / OPENVINO).mkdir(exist_ok=True)
    try:
        engines.write_ir(folder / ONNX, folder / IR)
    except RuntimeError as error:
        (folder / OPENVINO).rmdir()
        return {OPENVINO: " ".join(str(error).split())}
    return {}


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))


def encoder_bytes(before: Config, model: Model) -> EncoderBytes:
    """before: of the model that there was; model: f32 or INT8, as it is now."""
    whole = replace(before, layer_heads=(), layer_feed_forward=())
    shapes = [shape for layer in range(whole.layers) for shape in whole.linear_shapes(layer).values()]
    layers = [_stored(layer) for layer in linears(model).values()]
    return EncoderBytes(
        before=sum(F32 * (m * k + m) for m, k in shapes),
        dense=sum(dense for dense, _ in layers),
        blocks=sum(blocks for _, blocks in layers),
        after=sum(map(min, layers)),
    )


def _stored(layer: Any) -> tuple[int, int]:
    """Bytes of one layer dense, and in blocks; a layer in floats has one form only."""
    dense = count_bytes(layer)
    if not isinstance(layer, QuantizedLinear):
        return dense, dense
    packed = pack_linear(layer)
    indices, stored = packed.weight.indices, np.dtype(packed_file.index_type(packed.weight.shape[1]))
    narrower = indices.size * (indices.itemsize - stored.itemsize)
    return dense, count_bytes(packed) - packed.compensation.nbytes - narrower  # compensation is not stored
