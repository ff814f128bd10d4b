"""A Hugging Face directory (``config.json`` and ``model.safetensors``) as a ``Model`` of f32 arrays.

The tables below pair our fields with the checkpoint's names. Names start with the model type ("bert.") or with
nothing; layer norms may carry TensorFlow's old ``gamma`` and ``beta``. Pickles are never read. A file is untrusted:
dtype, shape and finiteness of every tensor are checked against the configuration, one tensor in memory at a time.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from refimpl import check
from refimpl.models.bert import Model
from refimpl.models.config import Config, read_config, read_json
from refimpl.models.heads import (
    BertClassification,
    DistilBertClassification,
    Head,
    MaskedLanguageModel,
    QuestionAnswering,
    SentenceEmbedding,
)
from refimpl.nn import Embeddings, EncoderLayer, Linear, Norm

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


class LayerNames(NamedTuple):
    """The checkpoint's name of each part of an ``EncoderLayer``, after ``stem`` and the layer's number."""

    stem: str
    q: str
    k: str
    v: str
    attention_output: str
    attention_norm: str
    intermediate: str
    output: str
    output_norm: str


LAYER = {
    "bert": LayerNames(
        stem="encoder.layer.",
        q="attention.self.query",
        k="attention.self.key",
        v="attention.self.value",
        attention_output="attention.output.dense",
        attention_norm="attention.output.LayerNorm",
        intermediate="intermediate.dense",
        output="output.dense",
        output_norm="output.LayerNorm",
    ),
    "distilbert": LayerNames(
        stem="transformer.layer.",
        q="attention.q_lin",
        k="attention.k_lin",
        v="attention.v_lin",
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        intermediate="ffn.lin1",
        output="ffn.lin2",
        output_norm="output_layer_norm",
    ),
}
MASKED_LM = {
    "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder"),
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector"),
}
"""transform, norm, decoder."""
BERT_LM_BIAS = "cls.predictions.bias"
HEAD_STEMS = ("pooler.", "classifier.", "qa_outputs.", "cls.", "pre_classifier.", "vocab_")
"""Tensors that may stand in the file without being used: they belong to another head."""
OLD_NAMES = {".weight": ".gamma", ".bias": ".beta"}
AUTO_CLASS = {
    "classification": "AutoModelForSequenceClassification",
    "question_answering": "AutoModelForQuestionAnswering",
    "masked_lm": "AutoModelForMaskedLM",
    "sentence_embedding": "AutoModel",
}


def load_model(directory: Path) -> Model:
    """The model in a Hugging Face directory, every array f32.

    Raises
    ------
    FileNotFoundError
        config.json, or the weights, are not there
    TypeError
        a tensor is not F32
    ValueError
        config.json is out of range; the weights are a pickle, damaged, missing, of another shape or not finite
    """
    directory = Path(directory)
    config = read_config(directory)
    tensors = Tensors(find_files(directory, config), config)
    embeddings = load_embeddings(tensors, config)
    layers = tuple(load_layer(tensors, config, i) for i in range(config.layers))
    model = Model(config, embeddings, layers, load_head(tensors, config, embeddings.word))
    tensors.check_unused()
    return model


def load_pooler(directory: Path) -> Linear | None:
    """BERT's pooler in a Hugging Face directory, None if there is none. Raises as ``load_model``."""
    config = read_config(directory)
    tensors = Tensors(find_files(Path(directory), config), config)
    name = tensors.prefix + "pooler.dense"
    return tensors.linear(name, config.hidden, config.hidden) if name + ".weight" in tensors else None


def find_files(directory: Path, config: Config) -> list[Path]:
    """The safetensors files of a directory: one, or the shards that an index names."""
    if (directory / FILE).exists():
        return [directory / FILE]
    if (directory / INDEX).exists():
        shards = read_json(directory / INDEX).get("weight_map")
        names = list(shards.values()) if isinstance(shards, dict) else []
        if not names or not all(isinstance(name, str) and name and Path(name).name == name for name in names):
            raise ValueError(f"{directory / INDEX}: weight_map is damaged; need names of files in the same directory")
        return [directory / name for name in sorted(set(names))]
    for name in PICKLES:
        if (directory / name).exists():
            raise ValueError(
                f"{directory / name} is a pickle, which can run any code and is never loaded; need {FILE}. Convert it: "
                f'python -c "from transformers import {AUTO_CLASS[config.head]} as M; '
                f"M.from_pretrained('{directory}').save_pretrained('{directory}', safe_serialization=True)\""
            )
    raise FileNotFoundError(f"{directory} has no {FILE}")


class Tensors:
    """The tensors of one or more safetensors files, each checked as it is read."""

    def __init__(self, paths: Iterable[Path], config: Config):
        self.eps = config.eps
        self.stem = LAYER[config.model_type].stem
        self.layers = config.layers
        self.where: dict[str, tuple[Path, Any]] = {}
        for path in paths:
            handle = _open(path)
            self.where |= dict.fromkeys(handle.keys(), (path, handle))
        self.prefix = config.model_type + "."
        if not any(name.startswith(self.prefix) for name in self.where):
            self.prefix = ""
        self.unused = set(self.where)

    def __contains__(self, name: str) -> bool:
        return name in self.where

    def read(self, name: str, *need: int) -> np.ndarray:
        """The tensor ``name``, f32 of the shape ``need``."""
        if name not in self.where:
            files = ", ".join(sorted({str(path) for path, _ in self.where.values()})) or "the file"
            raise ValueError(f"{files} lacks the tensor {name} of shape {need}")
        self.unused.discard(name)
        path, handle = self.where[name]
        head = handle.get_slice(name)
        label = f"{path}: {name}"
        if head.get_dtype() != "F32":
            raise TypeError(f"{label} has dtype {head.get_dtype()}; need F32")
        if tuple(head.get_shape()) != need:
            raise ValueError(f"{label} has shape {tuple(head.get_shape())}; need {need}")
        array = handle.get_tensor(name)
        check.finite(label, array)
        return array

    def linear(self, name: str, outputs: int, inputs: int) -> Linear:
        """``name.weight`` (M, K) and ``name.bias`` (M,)."""
        return Linear(self.read(name + ".weight", outputs, inputs), self.read(name + ".bias", outputs))

    def norm(self, name: str, size: int) -> Norm:
        """``name.weight`` and ``name.bias`` (D,), or ``name.gamma`` and ``name.beta``."""
        weight, bias = (
            name + (old if name + new not in self and name + old in self else new) for new, old in OLD_NAMES.items()
        )
        return Norm(self.read(weight, size), self.read(bias, size), self.eps)

    def check_unused(self) -> None:
        """Raise ValueError if a tensor is left that belongs neither to another head nor to a buffer."""
        for name in sorted(self.unused):
            bare = name.removeprefix(self.prefix)
            layer = re.match(re.escape(self.stem) + r"(\d{1,9})\.", bare)
            if layer and int(layer[1]) >= self.layers:
                raise ValueError(
                    f"{self.where[name][0]} has encoder layer {layer[1]}; config.json says {self.layers} layers"
                )
            if not bare.startswith(HEAD_STEMS) and not bare.endswith("position_ids"):
                raise ValueError(f"{self.where[name][0]} has the tensor {name!r}; need none beside the model's own")


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="np")
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None


def load_embeddings(tensors: Tensors, config: Config) -> Embeddings:
    """The tables (V, D), (P, D), (S, D) and their norm; DistilBERT has no token types."""
    stem = tensors.prefix + "embeddings."
    word = tensors.read(stem + "word_embeddings.weight", config.vocabulary, config.hidden)
    position = tensors.read(stem + "position_embeddings.weight", config.positions, config.hidden)
    token_type = None
    if config.token_types:
        token_type = tensors.read(stem + "token_type_embeddings.weight", config.token_types, config.hidden)
    return Embeddings(word, position, token_type, tensors.norm(stem + "LayerNorm", config.hidden))


def load_layer(tensors: Tensors, config: Config, index: int) -> EncoderLayer:
    """Encoder layer ``index``."""
    stem, *names = LAYER[config.model_type]
    shapes = config.linear_shapes(index)
    values: dict[str, Any] = {}
    for field, name in zip(LayerNames._fields[1:], names, strict=True):
        full = f"{tensors.prefix}{stem}{index}.{name}"
        if field.endswith("_norm"):
            values[field] = tensors.norm(full, config.hidden)
        else:
            values[field] = tensors.linear(full, *shapes[field])
    return EncoderLayer(**values)


def load_head(tensors: Tensors, config: Config, word: np.ndarray) -> Head:
    """The head that the configuration names."""
    hidden, classes = config.hidden, len(config.labels)
    if config.head == "sentence_embedding":
        return SentenceEmbedding()
    if config.head == "question_answering":
        return QuestionAnswering(tensors.linear("qa_outputs", 2, hidden))
    if config.head == "masked_lm":
        return load_masked_lm(tensors, config, word)
    if config.model_type == "bert":
        pooler = tensors.linear(tensors.prefix + "pooler.dense", hidden, hidden)
        return BertClassification(pooler, tensors.linear("classifier", classes, hidden))
    pre_classifier = tensors.linear("pre_classifier", hidden, hidden)
    return DistilBertClassification(pre_classifier, tensors.linear("classifier", classes, hidden))


def load_masked_lm(tensors: Tensors, config: Config, word: np.ndarray) -> MaskedLanguageModel:
    """The masked-language-model head; the decoder's weight is the word table where the file has none of its own."""
    transform, norm, decoder = MASKED_LM[config.model_type]
    weight = word
    if decoder + ".weight" in tensors:
        weight = tensors.read(decoder + ".weight", config.vocabulary, config.hidden)
        weight = word if np.array_equal(weight, word) else weight
    bias = BERT_LM_BIAS if BERT_LM_BIAS in tensors else decoder + ".bias"
    return MaskedLanguageModel(
        tensors.linear(transform, config.hidden, config.hidden),
        tensors.norm(norm, config.hidden),
        Linear(weight, tensors.read(bias, config.vocabulary)),
    )
