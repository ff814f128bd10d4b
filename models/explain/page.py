"""A story as one HTML file that needs nothing else. ``#step=12`` in the address opens that step."""

from pathlib import Path
from typing import Any

from refimpl.models.page import fill


def page(story: dict[str, Any]) -> str:
    """The text of the file."""
    return fill(Path(__file__).parent, f"{story['kernel']}, instruction by instruction", story)
