"""The file that all engines get, and its inputs, from what a user names."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from refimpl.models.compare.run import Subject
from refimpl.models.compress import Packed, unpack
from refimpl.models.embedded import embedded_model
from refimpl.models.engines import onnx_file
from refimpl.models.export import export_onnx
from refimpl.models.loading import load as load_model
from refimpl.models.loading import name_of
from refimpl.models.oracle.load import load
from refimpl.models.records.inputs import chosen_tensors, encode_texts, load_tokenizer, read_arrays
from refimpl.models.terminal import read_texts

TEXTS = 8
"""How many texts are run, at most: every tensor of every engine is kept, and one text reaches every node."""
OURS = ".safetensors"


class Feed(NamedTuple):
    """Options: a file of arrays; or a file of texts, our own if None, and whose tokenizer; and patterns of tensors."""

    inputs: Path | None = None
    text: Path | None = None
    tokenizer: Path | None = None
    tensors: list[str] | None = None


@contextmanager
def opened(model: Path | None, feed: Feed) -> Iterator[Subject]:
    """A subject from an ONNX file, or from a model of ours, which is exported for as long as the block lasts.

    Raises
    ------
    FileNotFoundError, ValueError
        for a file that is no model, has unknown operators or a cycle, or inputs that cannot be made for it
    """
    if feed.inputs is not None and (feed.text is not None or feed.tokenizer is not None):
        raise ValueError("--inputs and texts were given; need one of the two")
    if model is not None and model.is_file() and model.suffix != OURS:
        yield _subject(str(model), model, feed, feed.tokenizer)
        return
    if model is not None and not model.exists():
        raise FileNotFoundError(f"{model} does not exist; need an ONNX file, a Hugging Face directory or a packed file")
    loaded = load_model(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export_onnx(unpack(loaded).model if isinstance(loaded, Packed) else loaded.model, path)
        yield _subject(name_of(model), path, feed, feed.tokenizer or model)


def _subject(name: str, path: Path, feed: Feed, tokenizer: Path | None) -> Subject:
    made, graph = onnx_file.load(path), load(path)
    inputs, fed = _fed(made, feed, tokenizer)
    onnx_file.check_inputs(made, inputs)
    return Subject(name, path, graph, inputs, fed, chosen_tensors(made, feed.tensors))


def _fed(made: onnx.ModelProto, feed: Feed, tokenizer: Path | None) -> tuple[dict[str, np.ndarray], str]:
    if feed.inputs is not None:
        return read_arrays(feed.inputs), str(feed.inputs)
    texts = read_texts(feed.text)
    few = texts[:TEXTS]
    inputs = encode_texts(few, load_tokenizer(tokenizer or embedded_model()), made)
    tokens = next(iter(inputs.values())).shape[-1]
    origin = "our own" if feed.text is None else str(feed.text)
    return inputs, f"{len(few)} of {len(texts)} texts of {origin}, padded to {tokens} tokens"
