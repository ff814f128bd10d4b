"""Tiny models for the tests: the golden ones of ``tests/golden`` with a tokenizer, and their stages of compression."""

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from refimpl.models import compress
from refimpl.models.bert import Batch, Model, forward
from refimpl.models.compress import Calibrated, Dense, Masked, Quantized
from refimpl.models.tokenizer import Tokenizer, wordpiece
from refimpl.nn import REFERENCE, Ops, Recorder

GOLDEN = Path(__file__).parent / "golden"
MODELS = sorted(path.parent.name for path in GOLDEN.glob("*/expected.safetensors"))
ONE_OF_EACH_HEAD = ["bert_classification", "bert_question_answering", "distilbert_masked_lm", "distilbert_bare"]
TOKENS = 41  # the smallest vocabulary among the golden models
TEXTS = ["the cat sat", "a hat on the mat", "cats sat", "the cat sat on a mat", "it sat", "not the hat"]
DENSITY = 0.4
INPUT = {"attention_output": "context", "intermediate": "attention_norm", "output": "gelu"}
"""Linear layer -> the tap that is its input, in the same encoder layer; q, k and v have the layer's own input."""


@cache
def vocabulary() -> str:
    """The first tokens of the golden word list: as many as every golden model has rows for."""
    lines = (GOLDEN / "wordpiece" / "vocab.txt").read_text("utf-8").split("\n")
    return "\n".join(lines[:TOKENS]) + "\n"


def copy(name: str, folder: Path) -> Path:
    """A complete Hugging Face directory of a golden model, free to be damaged."""
    made = folder / name
    made.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name / file, made)
    (made / "vocab.txt").write_text(vocabulary(), "utf-8")
    return made


@cache
def dense(name: str) -> Dense:
    model = compress.load_model(GOLDEN / name)
    return Dense(model, Tokenizer(_tokenizer(), model.config, "vocab.txt"))


@cache
def _tokenizer() -> str:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text(vocabulary(), "utf-8")
        return wordpiece(Path(folder))


@cache
def batch(name: str) -> Batch:
    """Three rows of random ids, two of them padded."""
    tensors = load_file(GOLDEN / name / "expected.safetensors")
    return Batch(*(tensors[key] for key in Batch._fields))


def rows(name: str) -> list[Batch]:
    """The same rows one by one, without their padding."""
    whole = batch(name)
    lengths = whole.mask.sum(1)
    return [Batch(*(array[i : i + 1, :n] for array in whole)) for i, n in enumerate(lengths)]


@cache
def masked(name: str, density: float = DENSITY) -> Masked:
    return compress.prune(dense(name), density)


@cache
def calibrated(name: str, density: float = DENSITY) -> Calibrated:
    return compress.calibrate(masked(name, density), rows(name))


@cache
def quantized(name: str, density: float = DENSITY) -> Quantized:
    return compress.quantize(calibrated(name, density))


@cache
def quantized_with_attention(name: str, density: float = DENSITY) -> Quantized:
    return compress.quantize_with_attention(calibrated(name, density))


def input_tap(name: str) -> str:
    """The tap of a linear layer's input: "layer.1.q" -> "layer.0.output_norm"."""
    layer, number, field = name.split(".")
    if field in INPUT:
        return f"{layer}.{number}.{INPUT[field]}"
    return f"layer.{int(number) - 1}.output_norm" if int(number) else "embeddings"


def record(model: Model, batch: Batch, ops: Ops = REFERENCE, recorder: Recorder | None = None) -> dict[str, np.ndarray]:
    """Every tap of a pass."""
    recorder = Recorder() if recorder is None else recorder
    forward(model, batch, ops, recorder)
    return recorder.values


def same(first: object, second: object) -> None:
    """Assert that two trees of tuples hold the same types, dtypes and bits."""
    assert type(first) is type(second)
    if isinstance(first, np.ndarray):
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)
    elif isinstance(first, tuple):
        assert len(first) == len(second)
        for left, right in zip(first, second, strict=True):
            same(left, right)
    else:
        assert first == second


def same_model(first: Model, second: Model) -> None:
    """``same`` for whole models."""
    assert first.config == second.config
    for part in ("embeddings", "layers", "head"):
        same(getattr(first, part), getattr(second, part))


def with_positions(folder: Path, count: int) -> Path:
    """The directory with so many positions, those of the file repeated."""
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    (name,) = [name for name in tensors if name.endswith("position_embeddings.weight")]
    tensors[name] = np.resize(tensors[name], (count, tensors[name].shape[1]))
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": count}))
    return folder


def write_data(folder: Path) -> Path:
    """Small files of all three tasks: a sentence is positive if it has a cat."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    rows = [" ".join(draw.choice(["cat", "hat", "mat", "sat", "the"], draw.integers(1, 7))) for _ in range(24)]
    (folder / "train.tsv").write_text("label\ttext_a\n" + "".join(f"{int('cat' in row)}\t{row}\n" for row in rows))
    (folder / "dev.tsv").write_text("sentence\tlabel\nthe cat\t1\nthe hat\t0\n")
    for name in ("train", "dev"):
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n")
        answers = [(row, row.split()[-1]) for row in rows[:12]]
        paragraphs = [
            {
                "context": row,
                "qas": [
                    {"id": str(i), "question": "who", "answers": [{"text": text, "answer_start": row.rindex(text)}]}
                ],
            }
            for i, (row, text) in enumerate(answers)
        ]
        (folder / f"{name}.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return folder
