"""Every recipe that ships, on a small model: the engines of others load its files, run them in integers, and answer as
the reference does."""

import shutil

import numpy as np
import pytest
import recipe_child as child
from test_7_engines import needs
from vnni import SATURATES

from refimpl.models.bench.gate import TIE
from refimpl.models.bench.variants import dequantized
from refimpl.models.bert import forward, linears
from refimpl.models.data import spans, squad, sst2
from refimpl.models.engines.serving import serving
from refimpl.models.recipes import reading, run
from refimpl.models.recipes.agreement import FILES
from refimpl.models.recipes.options import Options
from refimpl.models.training.fine_tuning import Plan, fine_tune
from refimpl.models.verify.engine import _agree
from refimpl.models.verify.int8 import SATURATING
from refimpl.quant import QUANTIZED

QUICK = ("jpqd-sst2", "prune-4x1-80")
MODELS = {"sst2": "bert_classification", "squad": "bert_question_answering"}
ENDINGS = {"sst2": "tsv", "squad": "json"}
LOGITS = {"sst2": 1, "squad": 2}
"""Of an answer."""


def trained(folder, task):
    """A model that answers all rows rightly, which are for evaluation, too; and the data."""
    data = child.prepare(folder, task, MODELS[task]) / "data"
    shutil.copy(data / f"train.{ENDINGS[task]}", data / f"dev.{ENDINGS[task]}")
    plan = Plan(task, epochs=20, batch=8, learning_rate=0.01, dropout=0.0)
    fine_tune(folder / "model", data, folder / "trained", plan, False)
    return folder / "trained", data


def batches_of(task, data, tokenizer):
    """The dev set, a row a batch, without padding."""
    if task == "sst2":
        rows = tokenizer.rows([sentence.text for sentence in sst2.read(data / "dev.tsv")])
    else:
        rows = spans.windows(squad.read(data / "dev.json"), tokenizer, spans.LENGTH)
    return [tokenizer.batch([row])[0] for row in rows]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in reading.names()]
)
def test_the_files_of_a_shipped_recipe_in_all_engines(name, tmp_path, monkeypatch):
    """Outputs are as near the reference's as ``bench.gate`` asks, to the saturating one's where engines do. What it
    calls a tie is of two logits; an answer to a question has two, so that its margin may be twice as large where it is
    another than ours, which never saturates."""
    needs("onnxruntime")
    needs("openvino")
    task, given, write = "squad" if name.endswith("squad") else "sst2", [], run.write_artifacts
    monkeypatch.setattr(run, "write_artifacts", lambda *parts: given.append(parts[-1]) or write(*parts))
    model, data = trained(tmp_path, task)
    report = run.compress_by(child.small(reading.load(name, task)), model, data, tmp_path / "out", Options(task))
    (quantized,) = given
    assert [row["name"] for row in report["engines"]] == ["refimpl", "ONNX Runtime", "OpenVINO"]
    assert report["sizes"]["missing"] == {}
    count, batches = len(linears(quantized.model)), batches_of(task, data, quantized.tokenizer)
    for row in report["engines"]:
        assert (row["ran"], row["why"], row["rows"]) == (True, "", len(batches))
        assert (row["integer_layers"], row["products"], row["in_floats"]) == (count, count, 0)
    ops = SATURATING if SATURATES else QUANTIZED
    reference = [forward(quantized.model, batch, ops) for batch in batches]
    exact = [forward(dequantized(quantized), batch) for batch in batches]
    size = np.sqrt(np.mean(np.square(np.concatenate([x.ravel() for x in reference]))))
    for row, engine in zip(report["engines"][1:], FILES, strict=True):
        with serving(engine, tmp_path / "out" / FILES[engine]) as served:
            found = _agree(quantized.model.config.head, [served.run(x) for x in batches], reference, exact)
        assert found.right, found
        assert SATURATES or all(
            each["our_margin"] < LOGITS[task] * TIE * found.limit * size for each in row["differences"]
        )
