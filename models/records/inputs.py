"""Inputs for a file of anybody's: arrays from a file, or texts through a tokenizer; and which tensors to show."""

import zipfile
import zlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from refimpl.models import packed_file
from refimpl.models.config import read_config
from refimpl.models.embedded import embedded_model
from refimpl.models.engines import feeds, node_outputs, onnx_file
from refimpl.models.export import INPUTS
from refimpl.models.records.file import HEADER, load_record
from refimpl.models.terminal import read_texts
from refimpl.models.tokenizer import Tokenizer

INTEGERS = (np.int64, np.int32)
DAMAGED = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    KeyError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy and zipfile raise for a file that is no archive of arrays. NotImplementedError is a RuntimeError."""

LONGEST = 200
"""Of what they say: zipfile quotes a whole file in a message."""


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name from FILE.npz, or from FILE.safetensors: a record gives its inputs, any other file all it has.

    Raises FileNotFoundError, ValueError. Nothing is unpickled.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; need a .npz file of arrays, or a record")
    if path.suffix == ".npz":
        return _from_npz(path)
    try:
        with safe_open(path, "numpy") as file:
            is_record = HEADER in (file.metadata() or {})
        return load_record(path).inputs if is_record else load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError):
        raise ValueError(f"{path} is neither a .npz nor a safetensors file, or a damaged one") from None


def _from_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file:  # NumPy itself leaves a damaged one open
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise ValueError("it is a single array")
            with loaded:
                return {name: loaded[name] for name in loaded.files}
    except DAMAGED as error:
        raise ValueError(f"{path} is not a .npz file of arrays: {str(error)[:LONGEST]}") from None


def load_tokenizer(path: Path) -> Tokenizer:
    """Of a Hugging Face directory or a packed file."""
    if Path(path).is_file():
        return packed_file.load(path).tokenizer
    return Tokenizer.load(path, read_config(path))


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer, made: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Texts as the inputs of a graph that names them as BERT's exports do. Raises ValueError if it does not."""
    wanted = onnx_file.signature(made).inputs
    if not {"input_ids"} <= wanted.keys() <= set(INPUTS) or any(d not in INTEGERS for d, _ in wanted.values()):
        have = ", ".join(f"{name} ({dtype})" for name, (dtype, _) in wanted.items())
        raise ValueError(f"texts give {', '.join(INPUTS)}, int64 or int32; the file's inputs are {have}: give --inputs")
    arrays = feeds(tokenizer.encode(texts), list(wanted))
    return {name: array.astype(wanted[name][0]) for name, array in arrays.items()}


def given_inputs(
    made: onnx.ModelProto, inputs: Path | None, text: Path | None, tokenizer: Path | None
) -> dict[str, np.ndarray]:
    """What the options --inputs, --file and --tokenizer give a graph. ValueError unless one of the first two is there.

    Without a tokenizer, the embedded model's.
    """
    if (inputs is None) == (text is None):
        raise ValueError(f"{'no inputs' if inputs is None else 'two inputs'} were given; need --inputs or --file")
    if inputs is not None:
        return read_arrays(inputs)
    texts = read_texts(text)
    return encode_texts(texts, load_tokenizer(tokenizer or embedded_model()), made)


def chosen_tensors(made: onnx.ModelProto, patterns: list[str] | None) -> list[str] | None:
    """The tensors that the option --tensors means, None if it is left out. ValueError if it matches none."""
    if not patterns:
        return None
    chosen = [name for name in node_outputs(made) if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise ValueError(f"--tensors {' '.join(patterns)} matches no tensor of the file")
    return chosen
