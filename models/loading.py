"""The model that a command is given: a Hugging Face directory, a packed file, the embedded one or a synthetic one.

Imports wait until a command needs them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from refimpl.models.embedded import NAME as EMBEDDED
from refimpl.models.embedded import demo_model, embedded_model
from refimpl.models.terminal import read_texts

if TYPE_CHECKING:
    from refimpl.models.compress import Dense, Packed

DENSITY = 0.2
"""Share of the 4x1 blocks that is kept where a command compresses and nothing else is asked for."""


def load(path: Path | None) -> "Dense | Packed":
    """A directory or a packed file; the embedded one if there is no path."""
    from refimpl.models import compress, packed_file

    found = path or embedded_model()
    if not found.exists():
        raise FileNotFoundError(f"{found} does not exist; need a Hugging Face directory or a packed file")
    return packed_file.load(found) if found.is_file() else compress.load(found)


def load_dense(path: Path | None) -> "Dense":
    """A directory; all-MiniLM-L6-v2 if there is no path. Raises FileNotFoundError, ValueError for a packed file."""
    from refimpl.models.compress import Dense

    if path is not None and not path.exists():
        raise FileNotFoundError(f"{path} does not exist; need a Hugging Face directory")
    loaded = load(path or demo_model())
    if not isinstance(loaded, Dense):
        raise ValueError(f"{path} is packed already; need a Hugging Face directory")
    return loaded


def load_for_engine(
    path: Path | None, density: float | None, synthetic: bool, int8_attention: bool | None = None
) -> "Dense | Packed | None":
    """What ``pack`` makes a packed model of: None if that is to be synthetic.

    Raises ValueError for a density or an attention that cannot be, or cannot be had, and for a path beside
    ``synthetic``.
    """
    from refimpl import check
    from refimpl.models.compress import Packed

    check.fraction("--density", DENSITY if density is None else density)
    if synthetic:
        if path is not None:
            raise ValueError(f"--synthetic makes a model, but {path} is given too; need one of the two")
        return None
    loaded = load(path)
    if isinstance(loaded, Packed) and density is not None:
        raise ValueError(
            f"{name_of(path)} is packed already, so that --density cannot change it; leave it out, or name a directory"
        )
    if isinstance(loaded, Packed) and int8_attention is not None:
        raise ValueError(
            f"{name_of(path)} is packed already, with its attention; leave --int8-attention and --f32-attention out"
        )
    return loaded


def pack(loaded: "Dense | Packed | None", density: float | None, int8_attention: bool | None = None) -> "Packed":
    """A packed model as it is, a dense one compressed on our own texts, or random weights in DistilBERT's shape.

    density: DENSITY if None; int8_attention: f32 if False.
    """
    from refimpl.models import compress
    from refimpl.models.bench.synthetic import synthetic

    kept = DENSITY if density is None else density
    quantizer = compress.quantize if int8_attention is False else compress.quantize_with_attention
    if loaded is None:
        return compress.pack(synthetic(kept, quantizer))
    if isinstance(loaded, compress.Dense):
        return compress.compress(loaded, read_texts(None), kept, quantizer=quantizer)
    return loaded


def positions_of(loaded: "Dense | Packed | None") -> int:
    """Of the model that ``pack`` makes."""
    from refimpl.models.bench.synthetic import POSITIONS

    return POSITIONS if loaded is None else loaded.model.config.positions


def name_of(path: Path | None, synthetic: bool = False) -> str:
    """What to call it."""
    from refimpl.models.bench.synthetic import NAME

    return NAME if synthetic else str(path or EMBEDDED)
