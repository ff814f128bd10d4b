"""SST-2 of GLUE: one sentence or phrase a row, tab-separated, with its label.

    label<TAB>text_a          or          sentence<TAB>label          the header says which
    1<TAB>a charming journey              a charming journey<TAB>1

Contract. UTF-8, one row a line, no quoting (a quotation mark is a character like any other), label 0 or 1. The first
row that is anything else is a ValueError that names the file and the row, counted from 1 with the header. Spaces at
the ends of a text are dropped.
Source: Socher et al., EMNLP 2013; GLUE, arXiv 1804.07461, section 3.1.
"""

from pathlib import Path
from typing import NamedTuple

LABELS = ("negative", "positive")
COLUMNS = {("label", "text_a"): 1, ("sentence", "label"): 0}
"""The header -> which of the two columns is the text."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Sentence(NamedTuple):
    """label: an index of LABELS."""

    text: str
    label: int


def read(path: Path) -> list[Sentence]:
    """The sentences of a file, in its order.

    Raises
    ------
    FileNotFoundError
        there is no such file
    ValueError
        the header or a row is not as above, or there is no row
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; need SST-2's rows, tab-separated")
    rows = path.read_bytes().removeprefix(BYTE_ORDER_MARK).split(b"\n")
    if not rows[-1]:
        rows.pop()
    header = tuple(_fields(path, 1, rows[0])) if rows else ()
    if header not in COLUMNS:
        need = " or ".join("<TAB>".join(names) for names in COLUMNS)
        raise ValueError(f"{path}: row 1 is {'<TAB>'.join(header)!r:.80}; need the header {need}")
    if len(rows) == 1:
        raise ValueError(f"{path} has a header and no rows; need at least one")
    return [_sentence(path, number, row, COLUMNS[header]) for number, row in enumerate(rows[1:], 2)]


def _fields(path: Path, number: int, row: bytes) -> list[str]:
    try:
        return row.removesuffix(b"\r").decode().split("\t")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: row {number} is not UTF-8: {error}") from None


def _sentence(path: Path, number: int, row: bytes, text_at: int) -> Sentence:
    fields = _fields(path, number, row)
    if fields == [""]:
        raise ValueError(f"{path}: row {number} is empty; need a text and a label")
    if len(fields) != 2:
        raise ValueError(f"{path}: row {number} has {len(fields)} columns; need 2")
    text, label = fields[text_at].strip(), fields[1 - text_at]
    if not text:
        raise ValueError(f"{path}: row {number} has no text; need one beside its label")
    if label not in ("0", "1"):
        raise ValueError(f"{path}: row {number} has the label {label!r:.80}; need 0 or 1")
    return Sentence(text, int(label))
