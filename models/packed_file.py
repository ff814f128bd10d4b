"""A packed model in one file: safetensors, with a JSON header in its metadata.

    metadata    refimpl.packed   {"version": 2, "config": {...}, "sha256": "..."}
                tokenizer        the text of tokenizer.json
    tensors     embeddings.word.codes s8 (V, D), embeddings.word.scale f32 (V,), embeddings.position f32 (P, D), ...
                layer.0.q.indptr s32, .indices u16, .values s8 (the layout bsr4x1), .weight_scale, .input_scale, .bias,
                or, where a layer is in f32 or BF16, .weight f32 or u16 (M, K), .bias
                layer.0.attention_norm.weight, ..., head.*
                layer.0.attention_scales.q, .k, .v f32 (), in all layers if attention is INT8

Indices of a layer with more than 65,536 columns are s32. A file is the same whatever CPU it is made on or runs on: a
session brings each weight into the form, and takes the kernels, that suit its own CPU.

The digest covers the configuration, the tokenizer and every tensor's name, dtype, shape and bytes. A file is
untrusted all the same: whatever a kernel will rely on is validated here, and a damaged file is a ValueError.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refimpl import check
from refimpl.isa.bf16 import from_bf16
from refimpl.kernels.layout import bsr4x1
from refimpl.kernels.layout.aligned import flat
from refimpl.kernels.layout.bsr4x1 import Bsr4x1
from refimpl.models import config as configs
from refimpl.models import heads, sealed
from refimpl.models.bert import Model
from refimpl.models.compress import Packed, PackedLinear
from refimpl.models.config import Config
from refimpl.models.tokenizer import Tokenizer
from refimpl.nn import AttentionScales, Embeddings, EncoderLayer, Linear, Norm
from refimpl.nn.linear_bf16 import Bf16Linear
from refimpl.quant import QuantizedTable
from refimpl.quant.linear import compensation_of
from refimpl.quant.symmetric import SMALLEST_NORMAL

HEADER, TOKENIZER = "refimpl.packed", "tokenizer"
VERSION = 2
KIND = sealed.Kind(
    HEADER, VERSION, "packed model", "a Hugging Face directory or a packed file", "name the directory of a model"
)
DERIVED = ("compensation", "eps")
"""Fields that are not stored: they follow from others or from the configuration."""


def save(packed: Packed, path: Path) -> None:
    """Write the file, atomically. Raises ValueError if some layers have attention scales and others have none."""
    model = packed.model
    if len({layer.attention_scales is None for layer in model.layers}) > 1:
        raise ValueError("some layers of the model have attention scales; need them in all or in none")
    tensors: dict[str, np.ndarray] = {}
    _flatten("embeddings", model.embeddings, tensors)
    for i, layer in enumerate(model.layers):
        _flatten(f"layer.{i}", layer, tensors)
    _flatten("head", model.head, tensors)
    config, tokenizer = configs.to_json(model.config), packed.tokenizer.to_bytes().decode()
    header = {"version": VERSION, "config": config, "sha256": _digest(config, tokenizer, tensors)}
    sealed.save(tensors, path, {HEADER: json.dumps(header), TOKENIZER: tokenizer})


def _flatten(prefix: str, value: Any, tensors: dict[str, np.ndarray]) -> None:
    """Arrays of a tree of NamedTuples by their dotted names; the fields of ``weight`` in a packed linear move up."""
    if isinstance(value, np.ndarray):
        tensors[prefix] = value
    elif isinstance(value, Bsr4x1):
        indices = value.indices.astype(index_type(value.shape[1]))
        tensors |= {f"{prefix}.indptr": value.indptr, f"{prefix}.indices": indices, f"{prefix}.values": value.values}
    elif value is not None:
        for name in value._fields:
            if name not in DERIVED:
                inner = getattr(value, name)
                _flatten(prefix if isinstance(inner, Bsr4x1) else f"{prefix}.{name}", inner, tensors)


def index_type(columns: int) -> type[np.integer]:
    """Of the indices in a file."""
    return np.uint16 if columns <= 1 << 16 else np.int32


def _digest(config: dict[str, Any], tokenizer: str, tensors: dict[str, np.ndarray]) -> str:
    return sealed.digest([VERSION, config, tokenizer], tensors)


def load(path: Path) -> Packed:
    """Read and validate a packed file.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        with the file and what is wrong with it
    """
    header, metadata, tensors = sealed.read(Path(path), KIND, [TOKENIZER])
    tokenizer = metadata[TOKENIZER]
    config = configs.from_json(header.get("config"), str(path))
    if header.get("sha256") != _digest(configs.to_json(config), tokenizer, tensors):
        raise ValueError(f"{path} is damaged: its contents do not match its checksum")
    reader = _Reader(str(path), tensors)
    model = Model(
        config,
        _embeddings(reader, config),
        _layers(reader, config),
        _head(reader, config),
    )
    if reader.tensors:
        raise ValueError(f"{path} has the tensor {min(reader.tensors)}, which its configuration does not name")
    return Packed(model, Tokenizer.from_bytes(tokenizer.encode(), config, str(path)))


class _Reader(NamedTuple):
    """Takes tensors out by name, checking dtype, shape and values; on cache lines, where an engine reads them."""

    path: str
    tensors: dict[str, np.ndarray]

    def take(self, name: str, dtype: type, *need: int | str) -> np.ndarray:
        if name not in self.tensors:
            raise ValueError(f"{self.path} lacks the tensor {name}")
        array = self.tensors.pop(name)
        check.dtype(f"{self.path}: {name}", array, dtype)
        check.shape(f"{self.path}: {name}", array, need)
        if dtype is np.float32:
            check.finite(f"{self.path}: {name}", array)
        return flat(array).reshape(array.shape)

    def scale(self, name: str, *need: int) -> np.ndarray:
        array = self.take(name, np.float32, *need)
        if (array < SMALLEST_NORMAL).any():
            raise ValueError(f"{self.path}: {name} has the element {array.min()}; need at least {SMALLEST_NORMAL}")
        return array

    def linear(self, name: str, m: int, k: int) -> Linear:
        return Linear(self.take(f"{name}.weight", np.float32, m, k), self.take(f"{name}.bias", np.float32, m))

    def norm(self, name: str, config: Config) -> Norm:
        weight, bias = (self.take(f"{name}.{part}", np.float32, config.hidden) for part in ("weight", "bias"))
        return Norm(weight, bias, config.eps)

    def any_linear(self, name: str, m: int, k: int) -> PackedLinear | Linear | Bf16Linear:
        """A layer in floats has a weight."""
        weight = self.tensors.get(f"{name}.weight")
        if weight is None:
            return self.packed_linear(name, m, k)
        if weight.dtype != np.uint16:
            return self.linear(name, m, k)
        rounded = self.take(f"{name}.weight", np.uint16, m, k)
        check.finite(f"{self.path}: {name}.weight", from_bf16(rounded))
        return Bf16Linear(rounded, self.take(f"{name}.bias", np.float32, m))

    def packed_linear(self, name: str, m: int, k: int) -> PackedLinear:
        indptr, indices = self.take(f"{name}.indptr", np.int32, "n"), self.take(f"{name}.indices", index_type(k), "n")
        weight = Bsr4x1((m, k), indptr, flat(indices.astype(np.int32)), self.take(f"{name}.values", np.int8, "n"))
        try:
            bsr4x1.validate(weight)
        except ValueError as error:
            raise ValueError(f"{self.path}: {name}: {error}") from None
        return PackedLinear(
            weight,
            self.scale(f"{name}.weight_scale", m),
            self.scale(f"{name}.input_scale"),
            self.take(f"{name}.bias", np.float32, m),
            compensation_of(bsr4x1.row_sums(weight)),
        )


def _embeddings(reader: _Reader, config: Config) -> Embeddings:
    vocabulary, hidden = config.vocabulary, config.hidden
    codes = reader.take("embeddings.word.codes", np.int8, vocabulary, hidden)
    types = None
    if config.token_types:
        types = reader.take("embeddings.token_type", np.float32, config.token_types, hidden)
    return Embeddings(
        QuantizedTable(codes, reader.scale("embeddings.word.scale", vocabulary)),
        reader.take("embeddings.position", np.float32, config.positions, hidden),
        types,
        reader.norm("embeddings.norm", config),
    )


def _layers(reader: _Reader, config: Config) -> tuple[EncoderLayer, ...]:
    """If one layer has attention scales, all have."""
    integer = any(".attention_scales." in name for name in reader.tensors)
    layers = []
    for i in range(config.layers):
        layer, name = _layer(reader, config, i), f"layer.{i}.attention_scales"
        scales = AttentionScales(*(reader.scale(f"{name}.{part}") for part in "qkv")) if integer else None
        layers.append(layer._replace(attention_scales=scales))
    return tuple(layers)


def _layer(reader: _Reader, config: Config, index: int) -> EncoderLayer:
    prefix = f"layer.{index}"
    linears: dict[str, Any] = {
        name: reader.any_linear(f"{prefix}.{name}", *shape) for name, shape in config.linear_shapes(index).items()
    }
    return EncoderLayer(
        **linears,
        attention_norm=reader.norm(f"{prefix}.attention_norm", config),
        output_norm=reader.norm(f"{prefix}.output_norm", config),
    )


def _head(reader: _Reader, config: Config) -> heads.Head:
    hidden, classes = config.hidden, len(config.labels)
    if config.head == "classification":
        classifier = reader.linear("head.classifier", classes, hidden)
        if config.model_type == "bert":
            return heads.BertClassification(reader.linear("head.pooler", hidden, hidden), classifier)
        return heads.DistilBertClassification(reader.linear("head.pre_classifier", hidden, hidden), classifier)
    if config.head == "question_answering":
        return heads.QuestionAnswering(reader.linear("head.outputs", 2, hidden))
    if config.head == "masked_lm":
        transform, norm = reader.linear("head.transform", hidden, hidden), reader.norm("head.norm", config)
        return heads.MaskedLanguageModel(transform, norm, reader.linear("head.decoder", config.vocabulary, hidden))
    return heads.SentenceEmbedding()
