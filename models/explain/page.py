"""A story as one HTML file that needs nothing else: no network, no other file; style and script are inside.

``#step=12`` in the address opens that step.
"""

import html
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def page(story: dict[str, Any]) -> str:
    """The text of the file. The story is data in it, never markup: what could end its element is escaped."""
    data = json.dumps(story, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        data = data.replace(character, f"\\u{ord(character):04x}")
    parts = {
        "TITLE": html.escape(f"{story['kernel']}, instruction by instruction"),
        "SCRIPT": (HERE / "page.js").read_text("utf-8"),
        "STORY": data,
    }
    text = (HERE / "page.html").read_text("utf-8")
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part, 1)
    return text
