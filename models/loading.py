"""The model that a person names: a Hugging Face directory, a packed file, or nothing for the embedded one."""

from pathlib import Path

from refimpl.models import compress, packed_file
from refimpl.models.compress import Dense, Packed
from refimpl.models.embedded import embedded_model


def load(path: Path | None) -> Dense | Packed:
    """Raises FileNotFoundError or ValueError with the path and what is wrong with it."""
    found = path or embedded_model()
    if not found.exists():
        raise FileNotFoundError(f"{found} does not exist; need a Hugging Face directory or a packed file")
    return packed_file.load(found) if found.is_file() else compress.load(found)


def load_dense(path: Path | None) -> Dense:
    """As ``load``; ValueError for a packed file."""
    loaded = load(path)
    if not isinstance(loaded, Dense):
        raise ValueError(f"{path} is packed already; need a Hugging Face directory")
    return loaded
