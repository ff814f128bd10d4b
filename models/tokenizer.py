"""Text to token ids, as Hugging Face does it: ``tokenizer.json``, or WordPiece over a ``vocab.txt``.

Padding and truncation set in the file are ignored; both are done here: a batch is padded to its longest row, and what
is longer than the model's positions is cut (the longer text of a pair first) with a warning that counts the tokens.
The file is untrusted: whatever the tokenizers library cannot read is a ValueError.
Source: BERT, arXiv 1810.04805, section 3: [CLS] A [SEP] and [CLS] A [SEP] B [SEP], token types 0 and 1.
"""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from refimpl.models.bert import Batch
from refimpl.models.config import Config, read_json

FILE, VOCABULARY, OPTIONS = "tokenizer.json", "vocab.txt", "tokenizer_config.json"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
PAD = "[PAD]"
Text = str | tuple[str, str]


class Origin(NamedTuple):
    """Where each token of a batch comes from.

    spans : s64 (B, T, 2), first character and one past the last, in the token's own text; 0, 0 for special tokens
    second : bool (B, T), whether the token belongs to the second text of its pair
    """

    spans: np.ndarray
    second: np.ndarray


class Tokenizer:
    """A tokenizer that fits a model: ids below its vocabulary, rows no longer than its positions."""

    def __init__(self, text: str, config: Config, where: str):
        self.text = text
        self.positions, self.vocabulary = config.positions, config.vocabulary
        self._whole = _parse(text, where)
        self._whole.no_truncation()
        self.pad = _pad_id(self._whole, where)
        self._whole.no_padding()
        with _library(f"{where} cannot encode a text"):
            probes = self._whole.encode_batch(["a", ("a", "a")])
        self.ends = probes[0].ids[0], probes[0].ids[-1]
        used = [id_ for row in probes for id_ in row.ids]
        largest = max([self.pad, *used, *self._whole.get_vocab(with_added_tokens=True).values()])
        if largest >= config.vocabulary:
            raise ValueError(f"{where} has the token id {largest}; need 0 to {config.vocabulary - 1}")

    @classmethod
    def load(cls, directory: Path, config: Config) -> "Tokenizer":
        """From ``tokenizer.json``, else ``vocab.txt``. FileNotFoundError if neither is there; ValueError if damaged."""
        directory = Path(directory)
        path = directory / FILE
        if path.exists():
            return cls.from_bytes(path.read_bytes(), config, str(path))
        if (directory / VOCABULARY).exists():
            return cls(wordpiece(directory), config, str(directory / VOCABULARY))
        raise FileNotFoundError(f"{directory} has neither {FILE} nor {VOCABULARY}")

    @classmethod
    def from_bytes(cls, data: bytes, config: Config, where: str = "tokenizer") -> "Tokenizer":
        """The inverse of ``to_bytes``. ValueError if the bytes are no tokenizer, or its ids exceed the vocabulary."""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{where} is not UTF-8: {error}") from None
        return cls(text, config, where)

    def to_bytes(self) -> bytes:
        """The text of ``tokenizer.json`` in UTF-8."""
        return self.text.encode()

    def reads_as(self, other: "Tokenizer") -> bool:
        """Whether both give every text the same ids, as far as their files tell; how they cut, pad and decode does not
        count."""
        first, second = (json.loads(each._whole.to_str()) | {"decoder": None} for each in (self, other))
        return bool(first == second and self.pad == other.pad)

    def token_id(self, token: str) -> int | None:
        """The id of a token of the vocabulary, None if it has none."""
        return self._whole.token_to_id(token)

    def token(self, id_: int) -> str:
        """The token of an id, "" if the vocabulary has none."""
        return self._whole.id_to_token(id_) or ""

    def encode(self, texts: Sequence[Text]) -> Batch:
        """Token ids, mask and token types of texts or of pairs of texts.

        Raises
        ------
        TypeError
            texts is not a sequence of str, or of pairs of str
        ValueError
            there are no texts, or one has no tokens
        """
        return self.encode_with_origin(texts)[0]

    def encode_with_origin(self, texts: Sequence[Text]) -> tuple[Batch, Origin]:
        """As ``encode``, and each token's characters and text: question answering needs them."""
        return self.batch(self.rows(texts))

    def rows(self, texts: Sequence[Text]) -> list[Any]:
        """One of the library's encodings a text, none longer than the model's positions. Raises as ``encode``."""
        _check_texts(texts)
        return self._fit(list(texts))

    def pieces(self, texts: Sequence[str]) -> list[Any]:
        """One of the library's encodings a text, however long, without special tokens. Raises as ``encode``."""
        _check_texts(texts)
        with _library("the tokenizer cannot encode the texts"):
            return self._whole.encode_batch(list(texts), add_special_tokens=False)

    def batch(self, rows: Sequence[Any]) -> tuple[Batch, Origin]:
        """A batch of what ``rows`` gave, padded to the longest."""
        longest = max(len(row) for row in rows)
        ids = np.full((len(rows), longest), self.pad, np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        spans, second = np.zeros((*ids.shape, 2), np.int64), np.zeros(ids.shape, bool)
        for i, row in enumerate(rows):
            n = len(row)
            ids[i, :n], mask[i, :n], types[i, :n] = row.ids, 1, row.type_ids
            spans[i, :n] = row.offsets
            second[i, :n] = [source == 1 for source in row.sequence_ids]
        return Batch(ids, mask, types), Origin(spans, second)

    def _fit(self, texts: list[Text]) -> list[Any]:
        """One library encoding per text, none longer than the model's positions."""
        rows = _run(self._whole, texts)
        for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
            if set(range(1 if isinstance(text, str) else 2)) - set(row.sequence_ids):
                raise ValueError(f"texts[{i}] has no tokens; need text that the tokenizer does not drop")
        too_long = [i for i, row in enumerate(rows) if len(row) > self.positions]
        if too_long:
            cut = self._cut([texts[i] for i in too_long])
            dropped = sum(len(rows[i]) - len(row) for i, row in zip(too_long, cut, strict=True))
            warnings.warn(
                f"{len(too_long)} of {len(rows)} texts cut to {self.positions} tokens, the model's positions; "
                f"{dropped} tokens dropped",
                stacklevel=5,
            )
            for i, row in zip(too_long, cut, strict=True):
                rows[i] = row
        return rows

    def _cut(self, texts: list[Text]) -> list[Any]:
        need = max(self._whole.num_special_tokens_to_add(pair) + 1 + pair for pair in {type(t) is tuple for t in texts})
        if self.positions < need:
            raise ValueError(
                f"the model has {self.positions} positions; need {need} for one token and the special ones"
            )
        clipping = _parse(self.text, "tokenizer")
        clipping.no_padding()
        clipping.enable_truncation(self.positions, strategy="longest_first")
        return _run(clipping, texts)


def wordpiece(directory: Path) -> str:
    """The ``tokenizer.json`` text that a ``vocab.txt`` (one token a line, its id the line number) stands for.

    ``tokenizer_config.json``, if there, says do_lower_case (true by default), strip_accents (null: as lower-casing
    does) and tokenize_chinese_chars (true).
    """
    path = directory / VOCABULARY
    try:
        lines = path.read_text("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None
    vocabulary = {token: i for i, token in enumerate(lines)}
    missing = [token for token in SPECIAL if token not in vocabulary]
    if missing:
        raise ValueError(f"{path} lacks the token {missing[0]}; need {', '.join(SPECIAL)}")
    options = directory / OPTIONS
    given = read_json(options) if options.exists() else {}
    lower, chinese = (_flag(given, key, options) for key in ("do_lower_case", "tokenize_chinese_chars"))
    accents = None if given.get("strip_accents") is None else _flag(given, "strip_accents", options)
    tokenizer = tokenizers.Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=lower, handle_chinese_chars=chinese, strip_accents=accents)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens([token for token in (*SPECIAL, "[MASK]") if token in vocabulary])
    return tokenizer.to_str()


def _flag(options: dict[str, Any], key: str, where: Path) -> bool:
    value = options.get(key, True)
    if not isinstance(value, bool):
        raise ValueError(f"{where}: {key} is {value!r:.80}; need true or false")
    return value


@contextmanager
def _library(what: str) -> Iterator[None]:
    """Turn whatever the tokenizers library raises into a ValueError: bare Exceptions, and Rust panics."""
    try:
        yield
    except BaseException as error:  # a panic is no Exception, and its class cannot be imported
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise ValueError(f"{what}: {error}") from None
        raise


def _parse(text: str, where: str) -> tokenizers.Tokenizer:
    with _library(f"{where} is not a tokenizer.json"):
        return tokenizers.Tokenizer.from_str(text)


def _pad_id(tokenizer: tokenizers.Tokenizer, where: str) -> int:
    """The id of [PAD], or the one of the file's padding section."""
    pad = tokenizer.token_to_id(PAD)
    if pad is None and tokenizer.padding:
        pad = tokenizer.padding["pad_id"]
    if pad is None:
        raise ValueError(f"{where} has no padding token; need {PAD} in the vocabulary")
    return int(pad)


def _run(tokenizer: tokenizers.Tokenizer, texts: list[Text]) -> list[Any]:
    with _library("the tokenizer cannot encode the texts"):
        return tokenizer.encode_batch(texts)


def _check_texts(texts: Sequence[Text]) -> None:
    if isinstance(texts, str):
        raise TypeError("texts is str; need a list of str or of pairs of str")
    if not len(texts):
        raise ValueError("texts is empty; need at least one text")
    for i, text in enumerate(texts):
        parts = text if isinstance(text, tuple) and len(text) == 2 else (text,)
        for part in parts:
            if not isinstance(part, str):
                raise TypeError(f"texts[{i}] is {type(part).__name__}; need str or a pair of str")
            if not part.strip():
                raise ValueError(f"texts[{i}] is empty or white space; need text")
            if not _is_unicode(part):
                raise ValueError(f"texts[{i}] has a lone surrogate; need text that UTF-8 can hold")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
