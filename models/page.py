"""An HTML file that needs nothing else: no network, no other file; style, script and data are inside.

``page.css`` holds the colours and the type that all pages share; a page's own folder has ``page.html`` and ``page.js``.
"""

import html
import json
import re
from pathlib import Path
from typing import Any

STYLE = Path(__file__).with_name("page.css")


def fill(folder: Path, title: str, data: Any) -> str:
    """The text of the file. data: JSON; it is data in the page, never markup: what could end its element is escaped."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    parts = {
        "TITLE": html.escape(title),
        "STYLE": STYLE.read_text("utf-8"),
        "SCRIPT": (folder / "page.js").read_text("utf-8"),
        "DATA": text,
    }
    page = (folder / "page.html").read_text("utf-8")
    return re.sub(f"@({'|'.join(parts)})@", lambda place: parts[place[1]], page)
