"""A safetensors file that says what it is: a JSON header in its metadata, and a digest of all that it holds.

    metadata    KEY    {"version": 1, ..., "sha256": "..."}
    tensors    any

A file is untrusted: what cannot be read is a ValueError with the file and what is wrong with it. The digest finds
damage, not malice: whoever writes a file can write its digest.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from refimpl.models.files import atomic


class Kind(NamedTuple):
    """A kind of file. key: of its header in the metadata; name, need and instead: words for errors."""

    key: str
    version: int
    name: str
    need: str
    instead: str


def contiguous(array: np.ndarray) -> np.ndarray:
    """The same values and shape, () included, in C order: safetensors writes the memory as it lies."""
    return np.ascontiguousarray(array).reshape(array.shape)


def save(tensors: Mapping[str, np.ndarray], path: Path, metadata: dict[str, str]) -> None:
    """Write the file, atomically. Equal contents are equal bytes."""
    with atomic(path) as temporary:
        save_file({name: contiguous(array) for name, array in tensors.items()}, temporary, metadata)
        _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """safetensors writes its keys in an order that is another each time."""
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        first = {"__metadata__": dict(sorted(header.pop("__metadata__").items()))}
        text = json.dumps(first | header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length
        file.seek(8)
        file.write(text.ljust(length))


def digest(described: Any, tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of what the JSON value ``described`` says and of every tensor's name, dtype, shape and bytes."""
    sha256 = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        sha256.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        sha256.update(contiguous(array).reshape(-1).view(np.uint8).data)  # a file may hold dtypes that have no buffer
    return sha256.hexdigest()


def read(path: Path, kind: Kind, also: Iterable[str] = ()) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """Header, metadata and tensors of a file; ``also`` are further keys that the metadata must have.

    Raises
    ------
    FileNotFoundError, ValueError
        with the file and what is wrong with it
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    wanted = {kind.key, *also}
    try:
        with safe_open(path, "numpy") as handle:
            metadata = handle.metadata() or {}
            names = handle.keys() if wanted <= metadata.keys() else []
            tensors = {name: handle.get_tensor(name) for name in names}
    except SafetensorError:
        raise ValueError(f"{path} is not a safetensors file, or a damaged one; need {kind.need}") from None
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a safetensors file: {error}; need {kind.need}") from None
    if not wanted <= metadata.keys():
        raise ValueError(f"{path} is a safetensors file, but no {kind.name}; {kind.instead} instead")
    try:
        header = json.loads(metadata[kind.key])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} has a damaged header: {error}") from None
    version = header.get("version") if isinstance(header, dict) else None
    if type(version) is not int or version != kind.version:
        raise ValueError(f"{path} has the format version {version!r}; this program reads version {kind.version}")
    return header, metadata, tensors
