"""Data files: SST-2, SQuAD with its windows and scores, masked language modelling; bad files name file and place."""

import gzip
import json

import numpy as np
import pytest
import tiny
from scipy.stats import binom

from refimpl.models.config import Config
from refimpl.models.data import masked_lm, spans, squad, squad_score, sst2
from refimpl.models.data.squad import Answer, Question
from refimpl.models.terminal import read_texts
from refimpl.models.tokenizer import Tokenizer

# --- SST-2 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b'label\ttext_a\n1\ta "good" film \n0\tno\n',
        b'\xef\xbb\xbfsentence\tlabel\r\na "good" film\t1\r\nno\t0',
    ],
)
def test_sst2(tmp_path, data):
    (tmp_path / "train.tsv").write_bytes(data)
    assert sst2.read(tmp_path / "train.tsv") == [('a "good" film', 1), ("no", 0)]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", r"row 1 is ''; need the header label<TAB>text_a or sentence<TAB>label"),
        (b"text\tlabel\n", r"row 1 is 'text<TAB>label'; need the header"),
        (b"label\ttext_a\n", r"has a header and no rows"),
        (b"label\ttext_a\n1\tgood\n\n", r"row 3 is empty; need a text and a label"),
        (b"label\ttext_a\n1\tgood\tfilm\n", r"row 2 has 3 columns; need 2"),
        (b"label\ttext_a\n1\tgood\n0\t \n", r"row 3 has no text"),
        (b"label\ttext_a\n1\tgood\n2\tbad\n", r"row 3 has the label '2'; need 0 or 1"),
        (b"label\ttext_a\n1\t\xff\n", r"row 2 is not UTF-8: .*0xff"),
    ],
)
def test_sst2_bad(tmp_path, data, error):
    (tmp_path / "train.tsv").write_bytes(data)
    with pytest.raises(ValueError, match=r"train\.tsv.*" + error):
        sst2.read(tmp_path / "train.tsv")


def test_sst2_absent(tmp_path):
    with pytest.raises(FileNotFoundError, match="need SST-2's rows"):
        sst2.read(tmp_path / "train.tsv")


# --- SQuAD -----------------------------------------------------------------------------------------------------------

CONTEXT = "the cat sat on the mat"


def written(folder, *entries, name="train.json"):
    data = json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": list(entries)}]}]}).encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder / name


def entry(id_="a", text="cat", start=4, **more):
    return {"id": id_, "question": "who sat?", "answers": [{"text": text, "answer_start": start}], **more}


@pytest.mark.parametrize("name", ["train.json", "train.json.gz"])
def test_squad(tmp_path, name):
    path = written(
        tmp_path, entry(), entry("b", " cat", 3, n_occurrences=1), entry("c", "the", 0, n_occurrences=2), name=name
    )
    first, second, third = squad.read(path)
    assert first == Question("a", "who sat?", CONTEXT, (Answer("cat", 4),), True)
    assert second == first._replace(id="b")
    assert not third.certain


@pytest.mark.parametrize(
    ("entries", "error"),
    [
        ([], "has no questions"),
        ([entry(start=5)], "question 'a': 'cat' does not stand at character 5"),
        ([entry(start="4")], "question 'a': 'cat' does not stand at character '4'"),
        ([entry(start=-18)], "question 'a': 'cat' does not stand at character -18"),
        ([entry(), entry()], "has the id 'a' twice"),
        ([entry(answers=[])], "question 'a' has no answer"),
        ([entry(answers=None)], "question 'a' has no list 'answers'"),
        ([entry(question=" ")], "question 'a' has no text 'question'"),
        ([entry(id_=7)], "a question has no text 'id'"),
        ([7], "a question has no text 'id'"),
    ],
)
def test_squad_bad(tmp_path, entries, error):
    with pytest.raises(ValueError, match=rf"train\.json.*{error}"):
        squad.read(written(tmp_path, *entries))


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("x.json", b"{", "x.json is not JSON: Expecting property name"),
        ("x.json", b"[]", "x.json has no list 'data'"),
        ("x.json.gz", b"{}", "x.json.gz is not gzip, or damaged: Not a gzipped file"),
        ("x.json.gz", gzip.compress(b"{" * 99)[:12] + b"x" * 20, "x.json.gz is not gzip, or damaged: Error -3"),
        ("x.json.gz", gzip.compress(b"{}")[:-4], "x.json.gz is not gzip, or damaged: Compressed file ended"),
        ("x.json", b"\xff", "x.json: row 1 is not UTF-8: invalid start byte, its byte 1$"),
        (
            "x.json.gz",
            gzip.compress(b'\xef\xbb\xbf{\n"caf\xe9"}'),
            "row 2 is not UTF-8: invalid continuation byte, its byte 5$",
        ),
    ],
)
def test_squad_no_json(tmp_path, name, data, error):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=error):
        squad.read(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="need SQuAD"):
        squad.read(tmp_path / "other")


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = written(tmp_path, entry())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(squad.read(path)) == 1


def test_texts_name_the_row_that_is_no_text(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(b"\xef\xbb\xbfa cat\r\n\n caf\xc3\xa9 \n")
    assert read_texts(path) == ["a cat", "caf\xe9"]
    path.write_bytes(b"a cat\n\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"train\.txt: row 3 is not UTF-8: invalid continuation byte, its byte 4$"):
        read_texts(path)


def questions(*truths):
    return [Question(str(i), "?", "", tuple(Answer(text, 0) for text in texts), True) for i, texts in enumerate(truths)]


def check_score(score):
    """By hand. "a lonely cat" has the words lonely, cat; "the cat sat": cat, sat: P = R = 1/2."""
    asked = questions(["The Cat!"], ["the cat sat", "dogs"], ["a cat"], ["cat cat"], ["x-y"])
    said = {"0": "cat", "1": "a lonely  cat", "3": "cat", "4": "xy"}
    assert score(asked, said) == pytest.approx((100 * 2 / 5, 100 * (1 + 0.5 + 0 + 2 / 3 + 1) / 5), rel=1e-15)
    assert score(questions(["no", "yes it is", "it is"]), {"0": "It is."}) == (100, 100)
    assert score(questions(["anthem theatre"]), {"0": "them atre"}) == (0, 0)


def test_score():
    check_score(squad_score.score)
    with pytest.raises(ValueError, match="questions is empty"):
        squad_score.score([], {})


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    config = Config("bert", "question_answering", 1000, 8, 1, 1, 8, 512, 2, 1e-12)
    return Tokenizer(tiny._tokenizer(), config, "vocab.txt")


def long_question(words, answer, asked=1):
    """A context of many words; the answer is the one at ``answer``."""
    parts = ["cat"] * words
    parts[answer] = "mat"
    context = " ".join(parts)
    return Question("a", "who " * asked, context, (Answer("mat", context.index("mat")),), True)


def check_windows(make):
    """[CLS] q [SEP] context [SEP]: rows of 80 tokens, each 10 later than the one before; the last ends at the end."""
    asked = long_question(100, 30, 2)
    config = Config("bert", "question_answering", 1000, 8, 1, 1, 8, 512, 2, 1e-12)
    tokenizer = Tokenizer(tiny._tokenizer(), config, "vocab.txt")
    head = len(tokenizer.pieces([asked.question])[0])
    room = 80 - head - 3
    found = make([asked], tokenizer, 80, 10)
    steps = -(-(100 - room) // 10)
    assert [(row.begin, row.end) for row in found] == [(10 * i, min(10 * i + room, 100)) for i in range(steps + 1)]
    whole = tokenizer.encode([(asked.question, asked.context[: 4 * room - 1])])
    batch, origin = tokenizer.batch(found)
    for name in ("ids", "mask", "types"):
        np.testing.assert_array_equal(getattr(batch, name)[0], getattr(whole, name)[0])
    assert [len(row) for row in found[:-1]] == [80] * steps
    for i, row in enumerate(found):
        texts = [asked.context[a:b] for a, b in origin.spans[i][origin.second[i]]]
        assert texts == asked.context.split()[row.begin : row.end]


def test_windows(tokenizer):
    check_windows(spans.windows)
    short = spans.windows([long_question(5, 2), long_question(6, 2)], tokenizer)
    assert [(row.number, row.begin, row.end) for row in short] == [(0, 0, 5), (1, 0, 6)]
    (cut,) = spans.windows([long_question(5, 2, 100)], tokenizer)
    assert len(cut) == spans.LONGEST_QUESTION + 3 + 5
    with pytest.raises(ValueError, match="length is 513 and stride 128; need stride >= 1 and length from 195 to 512"):
        spans.windows([], tokenizer, 513)


def check_target(target):
    """In each window the target's tokens are the answer's, if it has the answer at all."""
    config = Config("bert", "question_answering", 1000, 8, 1, 1, 8, 512, 2, 1e-12)
    tokenizer = Tokenizer(tiny._tokenizer(), config, "vocab.txt")
    asked = long_question(200, 90)
    asked = asked._replace(answers=(Answer("cat mat cat", asked.answers[0].start - 4),))
    rows = spans.windows([asked], tokenizer, 80, 10)
    said = []
    for row in rows:
        first, last = target(row, asked)
        said.append((first, last) != (0, 0))
        assert said[-1] == (row.begin <= 89 and row.end >= 92)
        if said[-1]:
            assert max(first, last) < len(row)
            assert asked.context[row.offsets[first][0] : row.offsets[last][1]] == "cat mat cat"
    assert {True, False} == set(said)


def test_target(tokenizer):
    check_target(spans.target)
    inside = long_question(5, 2)._replace(answers=(Answer("a", 9),))  # of "mat": the token that holds it
    (row,) = spans.windows([inside], tokenizer)
    assert spans.target(row, inside) == (row.first + 2, row.first + 2)


def check_best_spans(best):
    """Against every legal pair, one by one, with ties; spans of one token, at the end, and too long ones."""
    draw = np.random.default_rng(1)
    for tokens, low in ((1, 0), (40, 5), (90, 3)):
        output = draw.integers(-3, 4, (tokens, 2)).astype(np.float32)
        second = np.arange(tokens) >= low
        second[-1] = tokens == 1
        pairs = [
            (i, j, float(output[i, 0] + output[j, 1]))
            for i in range(tokens)
            for j in range(i, min(i + 30, tokens))
            if second[i] and second[j]
        ]
        assert best(output, second, 20) == sorted(pairs, key=lambda pair: -pair[2])[:20]
        assert len(best(output, second, 10**6)) == len(pairs)


def test_best_spans():
    check_best_spans(spans.best_spans)
    assert spans.best_spans(np.zeros((4, 2), np.float32), np.zeros(4, bool)) == []


# --- masked language modelling ---------------------------------------------------------------------------------------


def check_masking(mask_tokens):
    """Shares: each count lies in the central 1 - 1e-9 of its binomial distribution, exactly computed."""
    shape, vocabulary, mask_id = (500, 400), 1000, 3
    ids = np.random.default_rng(1).integers(4, vocabulary, shape)
    ordinary = np.random.default_rng(2).random(shape) < 0.9
    hidden, labels = mask_tokens(ids, ordinary, mask_id, vocabulary, np.random.default_rng(3))
    chosen = labels != -100
    np.testing.assert_array_equal(labels[chosen], ids[chosen])
    np.testing.assert_array_equal(hidden[~chosen], ids[~chosen])
    assert not chosen[~ordinary].any()
    masked = int((hidden[chosen] == mask_id).sum())
    stayed = int((hidden[chosen] == ids[chosen]).sum())
    n = int(chosen.sum())
    for count, of, share in (
        (n, int(ordinary.sum()), 0.15),
        (masked, n, 0.8 + 0.1 / vocabulary),
        (stayed, n, 0.1 + 0.1 / vocabulary),
    ):
        low, high = binom.interval(1 - 1e-9, of, share)
        assert low <= count <= high
    others = hidden[chosen & (hidden != mask_id) & (hidden != ids)]
    assert others.min() < 10
    assert others.max() > vocabulary - 10
    again = mask_tokens(ids, ordinary, mask_id, vocabulary, np.random.default_rng(3))
    np.testing.assert_array_equal(again.ids, hidden)


def test_masking():
    check_masking(masked_lm.mask_tokens)
    ids = np.zeros((1, 2), np.int64)
    with pytest.raises(TypeError, match="ids has dtype int32; need int64"):
        masked_lm.mask_tokens(ids.astype(np.int32), ids == 0, 0, 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="ordinary has shape"):
        masked_lm.mask_tokens(ids, ids[0] == 0, 0, 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="mask_id is 1; need 0 to 0"):
        masked_lm.mask_tokens(ids, ids == 0, 1, 1, np.random.default_rng(0))
