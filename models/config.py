"""The shape of a model, as read from a Hugging Face ``config.json``.

| here | letter | BERT's config | DistilBERT's config |
|---|---|---|---|
| vocabulary | V | vocab_size | vocab_size |
| hidden | D | hidden_size | dim |
| heads | H | num_attention_heads | n_heads |
| layers | L | num_hidden_layers | n_layers |
| feed_forward | F | intermediate_size | hidden_dim |
| positions | P | max_position_embeddings | max_position_embeddings |
| token_types | S | type_vocab_size | (0) |
| eps | | layer_norm_eps | (1e-12) |
| layer_heads | | pruned_heads: {layer: [head, ...]} | the same |
| layer_feed_forward | | layer_feed_forward: [F, ...], our own key | the same |

Layers of a pruned model may have fewer heads or neurons each; E = D / H is that of the whole model.

A file is untrusted: every value is checked, and sizes have upper limits, so that none can claim absurd memory.
"""

import json
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from refimpl.models import layer_sizes
from refimpl.models.layer_sizes import PER_LAYER

HEADS = ("classification", "question_answering", "masked_lm", "sentence_embedding")

LIMITS = {
    "vocabulary": 2**22,
    "hidden": 2**14,
    "heads": 2**10,
    "layers": 2**10,
    "feed_forward": 2**16,
    "positions": 2**16,
    "token_types": 2**10,
}
"""The largest value of each size; the smallest is 1 (but for DistilBERT's token types, which are 0)."""
MAX_PARAMETERS = 2**32
MAX_LABELS = 2**16
EPS_RANGE = (1e-30, 1.0)  # below, f32 would round the variance's guard against 0 to a subnormal or to 0

_SHARED_KEYS = {"vocabulary": "vocab_size", "positions": "max_position_embeddings"}
KEYS = {
    "bert": {
        **_SHARED_KEYS,
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "layers": "num_hidden_layers",
        "feed_forward": "intermediate_size",
        "token_types": "type_vocab_size",
        "eps": "layer_norm_eps",
    },
    "distilbert": {
        **_SHARED_KEYS,
        "hidden": "dim",
        "heads": "n_heads",
        "layers": "n_layers",
        "feed_forward": "hidden_dim",
    },
}
"""Our field -> the key of ``config.json``, per model type. What DistilBERT lacks is in ``FIXED``."""
FIXED: dict[str, dict[str, Any]] = {"bert": {}, "distilbert": {"token_types": 0, "eps": 1e-12}}
ACTIVATION_KEY = {"bert": "hidden_act", "distilbert": "activation"}
SUFFIXES = {
    "ForSequenceClassification": "classification",
    "ForQuestionAnswering": "question_answering",
    "ForMaskedLM": "masked_lm",
    "ForPreTraining": "masked_lm",
}
"""The end of an architecture's name -> our head."""
BARE = ("BertModel", "DistilBertModel")

_SHOW = reprlib.Repr()
_SHOW.maxstring = 80


@dataclass(frozen=True)
class Config:
    """Sizes, names of the classes (empty but for classification) and which of ``HEADS`` is on top.

    layer_heads, layer_feed_forward: what is left of ``heads`` and ``feed_forward`` in each layer of a model that
    pruning made smaller; empty where all layers have all.
    """

    model_type: str
    head: str
    vocabulary: int
    hidden: int
    heads: int
    layers: int
    feed_forward: int
    positions: int
    token_types: int
    eps: float
    labels: tuple[str, ...] = ()
    layer_heads: tuple[int, ...] = ()
    layer_feed_forward: tuple[int, ...] = ()

    @property
    def head_size(self) -> int:
        """E: the numbers of a head, the same in every layer."""
        return self.hidden // self.heads

    def heads_of(self, layer: int) -> int:
        """The heads of one layer."""
        return self.layer_heads[layer] if self.layer_heads else self.heads

    def feed_forward_of(self, layer: int) -> int:
        """The feed-forward neurons of one layer."""
        return self.layer_feed_forward[layer] if self.layer_feed_forward else self.feed_forward

    def linear_shapes(self, layer: int) -> dict[str, tuple[int, int]]:
        """The shape (M, K) of each linear layer of one encoder layer."""
        hidden, wide, context = self.hidden, self.feed_forward_of(layer), self.heads_of(layer) * self.head_size
        return dict.fromkeys(("q", "k", "v"), (context, hidden)) | {
            "attention_output": (hidden, context),
            "intermediate": (wide, hidden),
            "output": (hidden, wide),
        }


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. ValueError names the file if it holds anything else; OSError if it cannot be read."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; need a Hugging Face directory with {path.name}")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a JSON {type(values).__name__}; need an object")
    return values


def read_config(directory: Path) -> Config:
    """The configuration in ``directory/config.json``. Raises as ``read_json`` and ``parse_config`` do."""
    path = Path(directory) / "config.json"
    return parse_config(read_json(path), str(path))


def parse_config(values: Mapping[str, Any], where: str) -> Config:
    """A Hugging Face configuration as ours.

    Parameters
    ----------
    values : the object in config.json
    where : what errors call its origin

    Raises
    ------
    ValueError
        a key is missing, a value is out of range, or the model is one that this package does not compute
    """
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in KEYS:
        raise ValueError(f"{where}: model_type is {_SHOW.repr(model_type)}; need 'bert' or 'distilbert'")
    _need(values, ACTIVATION_KEY[model_type], "gelu", where)
    _may(values, "position_embedding_type", "absolute", where)
    _may(values, "is_decoder", False, where)
    keys = KEYS[model_type]
    missing = [key for key in keys.values() if key not in values]
    if missing:
        raise ValueError(f"{where} lacks {missing[0]}")
    head = _head(values.get("architectures"), where)
    labels = _labels(values, where) if head == "classification" else ()
    sizes = {name: values[key] for name, key in keys.items()} | FIXED[model_type]
    sizes |= layer_sizes.parse(values, sizes["layers"], sizes["heads"], where)
    return _checked(Config(model_type, head, labels=labels, **sizes), keys, where)


def to_json(config: Config) -> dict[str, Any]:
    """A plain dictionary that ``json.dumps`` takes and ``from_json`` reads back."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
    return {name: value for name, value in values.items() if value or name not in PER_LAYER}


def from_json(values: Any, where: str) -> Config:
    """The inverse of ``to_json``, checked as strictly as a Hugging Face file. Raises ValueError."""
    names = [field.name for field in fields(Config) if field.name not in PER_LAYER]
    if not isinstance(values, dict) or sorted(values.keys() - set(PER_LAYER)) != sorted(names):
        raise ValueError(f"{where}: the configuration has {_SHOW.repr(values)}; need the keys {', '.join(names)}")
    lists = {name: layer_sizes.as_tuple(name, values[name], where) for name in ("labels", *PER_LAYER) if name in values}
    return _checked(Config(**values | lists), {}, where)


def _need(values: Mapping[str, Any], key: str, need: Any, where: str) -> None:
    if key not in values:
        raise ValueError(f"{where} lacks {key}")
    if values[key] != need:
        raise ValueError(f"{where}: {key} is {_SHOW.repr(values[key])}; need {need!r}, the only one supported")


def _may(values: Mapping[str, Any], key: str, need: Any, where: str) -> None:
    if values.get(key) is not None:
        _need(values, key, need, where)


def _head(architectures: Any, where: str) -> str:
    """One of ``HEADS``; a bare encoder, or none named, gives sentence embeddings."""
    if architectures is None or architectures == []:
        return "sentence_embedding"
    name = architectures[0] if isinstance(architectures, list) else architectures
    if name in BARE:
        return "sentence_embedding"
    for suffix, head in SUFFIXES.items():
        if isinstance(name, str) and name.endswith(suffix):
            return head
    raise ValueError(
        f"{where}: architectures names {_SHOW.repr(name)}; need {' or '.join(BARE)} or a name ending in "
        + ", ".join(SUFFIXES)
    )


def _labels(values: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The classes' names in the order of their ids: id2label, or LABEL_0 ... by num_labels (2 if absent)."""
    names = values.get("id2label")
    if names is None:
        count = values.get("num_labels", 2)
        if type(count) is not int or not 1 <= count <= MAX_LABELS:
            raise ValueError(f"{where}: num_labels is {_SHOW.repr(count)}; need an integer from 1 to {MAX_LABELS}")
        return tuple(f"LABEL_{i}" for i in range(count))
    ids = [str(i) for i in range(len(names))] if isinstance(names, dict) else []
    if not ids or set(names) != set(ids):
        raise ValueError(f"{where}: id2label is {_SHOW.repr(names)}; need the ids 0 to C - 1")
    return tuple(names[i] for i in ids)


def _checked(config: Config, keys: Mapping[str, str], where: str) -> Config:
    """``config`` if every field holds what the rest of the package may rely on; ``keys`` renames fields in errors."""
    _check_kind(config, where)
    for name, limit in LIMITS.items():
        value, low = getattr(config, name), 1
        if name == "token_types" and config.model_type == "distilbert":
            low = limit = 0
        if type(value) is not int or not low <= value <= limit:
            shown = f"{keys.get(name, name)} is {_SHOW.repr(value)}"
            raise ValueError(f"{where}: {shown}; need an integer from {low} to {limit}")
    low_eps, high_eps = EPS_RANGE
    if type(config.eps) is not float or not low_eps <= config.eps <= high_eps:
        shown = f"{keys.get('eps', 'eps')} is {_SHOW.repr(config.eps)}"
        raise ValueError(f"{where}: {shown}; need a float from {low_eps} to {high_eps}")
    if config.hidden % config.heads:
        hidden, heads = keys.get("hidden", "hidden"), keys.get("heads", "heads")
        raise ValueError(f"{where}: {hidden} is {config.hidden}; need a multiple of {heads}, {config.heads}")
    layer_sizes.check("layer_heads", config.layer_heads, config.layers, config.heads, where)
    layer_sizes.check("layer_feed_forward", config.layer_feed_forward, config.layers, config.feed_forward, where)
    if parameters(config) > MAX_PARAMETERS:
        raise ValueError(f"{where}: the sizes make {parameters(config)} parameters; need at most {MAX_PARAMETERS}")
    return config


def _check_kind(config: Config, where: str) -> None:
    if config.model_type not in tuple(KEYS):
        raise ValueError(f"{where}: model_type is {_SHOW.repr(config.model_type)}; need 'bert' or 'distilbert'")
    if config.head not in HEADS:
        raise ValueError(f"{where}: head is {_SHOW.repr(config.head)}; need one of {', '.join(HEADS)}")
    low, high = (1, MAX_LABELS) if config.head == "classification" else (0, 0)
    if not low <= len(config.labels) <= high:
        raise ValueError(f"{where}: {config.head} has {len(config.labels)} labels; need {low} to {high}")
    strange = [label for label in config.labels if not isinstance(label, str)]
    if strange:
        raise ValueError(f"{where}: a label is {_SHOW.repr(strange[0])}; need a string")


def parameters(config: Config) -> int:
    """How many numbers the embeddings and the encoder's weight matrices hold: (V + P + S) D + L (4 D² + 2 D F).

    Of a pruned model: as if all layers had all heads and neurons.
    """
    tables = (config.vocabulary + config.positions + config.token_types) * config.hidden
    return tables + config.layers * config.hidden * (4 * config.hidden + 2 * config.feed_forward)
