"""A model's parameters as a flat dictionary, by the names that they have in a Hugging Face checkpoint.

The arrays are the model's own, not copies. One that a model uses twice (a word table that is the decoder's weight, too;
a range that q, k and v share) stands once, under the name of its first use.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refimpl import check
from refimpl.models.bert import Model
from refimpl.models.checkpoint import BERT_LM_BIAS, LAYER, MASKED_LM, LayerNames
from refimpl.models.heads import Head, MaskedLanguageModel
from refimpl.nn import Embeddings, EncoderLayer, Linear

Parameters = dict[str, np.ndarray]
Visit = Callable[[str, np.ndarray], np.ndarray]


def named(model: Model) -> Parameters:
    """Every f32 or f64 array of the model by its name."""
    found: Parameters = {}

    def note(name: str, array: np.ndarray) -> np.ndarray:
        found[name] = array
        return array

    _visit(model, note)
    return found


def with_parameters(model: Model, values: Mapping[str, np.ndarray]) -> Model:
    """The model with other arrays in the places of its own.

    Raises
    ------
    TypeError, ValueError
        an array is missing, or has another dtype or shape than the model's; further ones are ignored
    """

    def put(name: str, array: np.ndarray) -> np.ndarray:
        if name not in values:
            raise ValueError(f"values lacks {name}; need every parameter of the model")
        check.same_dtype(name, values[name], array)
        check.shape(name, values[name], array.shape)
        return values[name]

    return _visit(model, put)


def is_decayed(name: str) -> bool:
    """Whether weight decay is for this parameter: for weights and tables, not for biases and norms.

    >>> [is_decayed(f"encoder.layer.0.output.{name}") for name in ("dense.weight", "dense.bias", "LayerNorm.weight")]
    [True, False, False]
    """
    return name.endswith(".weight") and "norm" not in name.lower()


def _visit(model: Model, visit: Visit) -> Model:
    """The model with each array replaced by what ``visit(name, array)`` gives."""
    visit = _once(visit)
    config = model.config
    prefix = "" if config.head == "sentence_embedding" else config.model_type + "."
    embeddings = _embeddings(model.embeddings, prefix + "embeddings.", visit)
    stem, *names = LAYER[config.model_type]
    fields = dict(zip(LayerNames._fields[1:], names, strict=True))
    layers = tuple(_layer(layer, f"{prefix}{stem}{i}.", fields, visit) for i, layer in enumerate(model.layers))
    head = _head(model, prefix, visit)
    return replace(model, embeddings=embeddings, layers=layers, head=head)


def _once(visit: Visit) -> Visit:
    """Of an array that comes again the first result."""
    known: dict[int, np.ndarray] = {}

    def again(name: str, array: np.ndarray) -> np.ndarray:
        if id(array) not in known:
            known[id(array)] = visit(name, array)
        return known[id(array)]

    return again


def _record(record: Any, name: str, visit: Visit) -> Any:
    """A linear layer or a norm of any kind: its float arrays are its parameters, ``name.field`` their names."""
    fields = record._asdict().items()
    arrays = {key: x for key, x in fields if isinstance(x, np.ndarray) and x.dtype in check.FLOATS}
    return record._replace(**{key: visit(f"{name}.{key}", x) for key, x in arrays.items()})


def _embeddings(p: Embeddings, stem: str, visit: Visit) -> Embeddings:
    tables = {
        field: visit(f"{stem}{field}_embeddings.weight", table)
        for field in ("word", "position", "token_type")
        if (table := getattr(p, field)) is not None
    }
    return p._replace(**tables, norm=_record(p.norm, stem + "LayerNorm", visit))


def _layer(layer: EncoderLayer, stem: str, fields: Mapping[str, str], visit: Visit) -> EncoderLayer:
    return layer._replace(
        **{field: _record(getattr(layer, field), stem + name, visit) for field, name in fields.items()}
    )


def _head(model: Model, prefix: str, visit: Visit) -> Head:
    head: Any = model.head
    if isinstance(head, MaskedLanguageModel):
        return _masked_lm(model, head, visit)
    names = {"pooler": prefix + "pooler.dense", "outputs": "qa_outputs"}
    return head._replace(
        **{field: _record(getattr(head, field), names.get(field, field), visit) for field in head._fields}
    )


def _masked_lm(model: Model, head: MaskedLanguageModel, visit: Visit) -> MaskedLanguageModel:
    kind = model.config.model_type
    transform, norm, decoder = MASKED_LM[kind]
    return MaskedLanguageModel(
        _record(head.transform, transform, visit),
        _record(head.norm, norm, visit),
        Linear(
            visit(decoder + ".weight", head.decoder.weight),
            visit(BERT_LM_BIAS if kind == "bert" else decoder + ".bias", head.decoder.bias),
        ),
    )
