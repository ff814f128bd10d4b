"""A model by its path: a Hugging Face directory, a packed file, or none for the embedded one."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from refimpl.models.compress import Dense, Packed


def load(path: Path | None) -> "Dense | Packed":
    """FileNotFoundError or ValueError with what is wrong."""
    from refimpl.models import compress, packed_file
    from refimpl.models.embedded import embedded_model

    found = path or embedded_model()
    if not found.exists():
        raise FileNotFoundError(f"{found} does not exist; need a Hugging Face directory or a packed file")
    return packed_file.load(found) if found.is_file() else compress.load(found)
