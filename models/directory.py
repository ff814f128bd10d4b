"""A model as a Hugging Face directory: what ``checkpoint.load_model`` and other programs read.

config.json, model.safetensors, tokenizer.json, vocab.txt (of a WordPiece tokenizer), and further files as given
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import save_file

from refimpl.models import layer_sizes
from refimpl.models.checkpoint import FILE
from refimpl.models.compress import Dense
from refimpl.models.config import ACTIVATION_KEY, KEYS, Config
from refimpl.models.files import atomic, atomic_folder
from refimpl.models.sealed import contiguous
from refimpl.models.tokenizer import FILE as TOKENIZER
from refimpl.models.tokenizer import VOCABULARY
from refimpl.models.training.parameters import named

ARCHITECTURES = {
    "classification": "{}ForSequenceClassification",
    "question_answering": "{}ForQuestionAnswering",
    "masked_lm": "{}ForMaskedLM",
    "sentence_embedding": "{}Model",
}
CLASSES = {"bert": "Bert", "distilbert": "DistilBert"}


def save_directory(
    dense: Dense, path: Path, more: Mapping[str, str], replaceable: Callable[[Path], bool] = lambda path: False
) -> None:
    """Write the folder, which must be new, empty or ``replaceable``; it is whole or not there.

    Parameters
    ----------
    more : name of a further file -> its text
    """
    with atomic_folder(path, replaceable) as folder:
        tensors = {name: contiguous(array) for name, array in named(dense.model).items()}
        try:
            with atomic(folder / FILE) as temporary:
                save_file(tensors, temporary, {"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from None
        config = to_hugging_face(dense.model.config)
        if "cls.predictions.decoder.weight" in tensors or "vocab_projector.weight" in tensors:
            config["tie_word_embeddings"] = False
        texts = {
            "config.json": json.dumps(config, indent=2) + "\n",
            TOKENIZER: dense.tokenizer.text,
            **more,
        }
        words = word_list(dense.tokenizer.text)
        if words is not None:
            texts[VOCABULARY] = words
        for name, text in texts.items():
            (folder / name).write_text(text, "utf-8")


def to_hugging_face(config: Config) -> dict[str, Any]:
    """The object of ``config.json``: the inverse of ``parse_config``."""
    kind = config.model_type
    values: dict[str, Any] = {
        "architectures": [ARCHITECTURES[config.head].format(CLASSES[kind])],
        "model_type": kind,
        ACTIVATION_KEY[kind]: "gelu",
        **{key: getattr(config, field) for field, key in KEYS[kind].items()},
        **layer_sizes.to_hugging_face(config.layer_heads, config.layer_feed_forward, config.heads),
    }
    if config.labels:
        values["id2label"] = {str(i): label for i, label in enumerate(config.labels)}
        values["label2id"] = {label: i for i, label in enumerate(config.labels)}
    return values


def word_list(tokenizer: str) -> str | None:
    """The ``vocab.txt`` of a tokenizer.json's text: a token a line, its id the line's number. None where ids have gaps
    or the model is not WordPiece."""
    model = json.loads(tokenizer)["model"]
    words = sorted(model["vocab"].items(), key=lambda item: item[1]) if model.get("type") == "WordPiece" else []
    if not words or [id_ for _, id_ in words] != list(range(len(words))):
        return None
    return "".join(word + "\n" for word, _ in words)
