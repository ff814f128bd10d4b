"""Rung 7: before and after. Oracles: the exported file as onnx reads it, the plan, and the wiring between the two: what
a step absorbs reads nothing but what the step reads."""

import json
from collections import Counter

import numpy as np
import onnx
import pytest
import tiny
from test_2_registers import NEEDS_JIT
from test_cli import one_line, packed, refimpl  # noqa: F401

from refimpl.models import compress
from refimpl.models.bench.synthetic import random_texts, synthetic
from refimpl.models.bench.variants import dequantized
from refimpl.models.export import INPUTS, export_onnx
from refimpl.models.graph import changes as roles
from refimpl.models.graph import operators
from refimpl.models.graph.chart import FREE, ROWS, chart
from refimpl.models.graph.operators import HEAD, UNTAPPED, written
from refimpl.models.graph.report import look
from refimpl.models.runtime import plan
from refimpl.models.runtime.lines import line
from refimpl.models.runtime.plan import make_plan
from refimpl.models.runtime.record import taps_of
from refimpl.models.runtime.session import Session
from refimpl.models.runtime.steps import kind, lives
from refimpl.models.runtime.weights import prepare

LENGTHS = [5, 9]
STAGES = {"INT8": tiny.quantized, "INT8 attention": tiny.quantized_with_attention}
each_model = pytest.mark.parametrize(
    ("name", "stage"), [*((name, "INT8") for name in tiny.ONE_OF_EACH_HEAD), ("bert_classification", "INT8 attention")]
)


@pytest.fixture
def any_cpu(monkeypatch):
    """The plan of a CPU that lacks no instruction."""
    monkeypatch.setattr(plan, "lacking", lambda weights, width: [])


def looked(quantized, lengths=LENGTHS):
    texts = random_texts(np.random.default_rng(0), quantized.model.config, lengths)
    return look(compress.pack(quantized), "tiny", texts)


@each_model
def test_every_operator_of_the_file_is_in_one_step_or_the_head(tmp_path, name, stage):
    quantized = STAGES[stage](name)
    report = looked(quantized)
    for precision, model in (("INT8", quantized.model), ("f32", dequantized(quantized))):
        export_onnx(model, tmp_path / "model.onnx")
        nodes = onnx.load(tmp_path / "model.onnx").graph.node
        assert report.files[precision] == Counter(node.op_type for node in nodes)
        if precision == "INT8":
            taken = sorted(operator.output for operators in report.absorbed.values() for operator in operators)
            assert taken == sorted(node.output[0] for node in nodes)
    session = Session(compress.pack(quantized))
    mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    steps = make_plan(session.weights, session.shape(mask)).steps
    assert list(report.absorbed) == [*(step.name for step in steps), HEAD]


def check_absorbed(absorb, name="bert_classification", stage="INT8"):
    """Every step's operators take from outside what the step reads, and make what it writes. The mask is made once, and
    is the texts' lengths to the plan."""
    quantized = STAGES[stage](name)
    report, file, weights = looked(quantized), written(quantized.model), prepare(compress.pack(quantized))
    absorbed = absorb(report.plan.steps, file, weights)
    norms = {operator.output: operator.inputs[0] for operator in file.operators if operator.op == "LayerNormalization"}
    sums = {norm.replace("_norm", "_sum"): norms[file.taps[norm]] for norm in file.taps if norm.endswith("_norm")}

    def tensors(names):
        made = [name for name in names if name not in report.plan.inputs]
        taps = [tap for name in made for tap in taps_of(UNTAPPED.get(name, name), weights)]
        return {file.taps[tap] for tap in taps} | {sums[name] for name in names if name in sums}

    masking = {
        operator.output
        for step in report.plan.steps
        for operator in absorbed[step.name]
        if roles.role(operator, step.kernel) == roles.MASK
    }
    for step in report.plan.steps:
        inside = {operator.output for operator in absorbed[step.name]}
        outside = {tensor for operator in absorbed[step.name] for tensor in operator.inputs} - inside
        if step.kernel.__name__ == "embed":
            assert outside <= {INPUTS[0], INPUTS[2]}
        else:
            allowed = {INPUTS[1], *masking} if "lengths" in step.reads else set()
            assert outside - allowed == (tensors(step.reads) if inside else set())
            assert tensors(step.writes) <= inside | tensors(step.reads)


@each_model
def test_a_step_absorbs_what_lies_between_what_it_reads_and_writes(name, stage):
    check_absorbed(operators.absorbed, name, stage)


LAYERS, LAYER = 3, {"hidden": 32, "heads": 2, "feed_forward": 64, "vocabulary": 60, "positions": 48}


def test_what_becomes_of_the_operators(any_cpu):
    """Counted by hand in the equations of an encoder layer, for DistilBERT with answers to questions."""
    report = looked(synthetic(0.5, layers=LAYERS, **LAYER))
    found = {change.what: (change.before, change.after) for change in (*report.changes, *report.counts)}
    assert found == {
        "embeddings": (8, 1),  # two look-ups, cast, product; Shape, Gather, Slice; one sum
        "products": (6 * LAYERS + 1, 4 * LAYERS + 1),  # the head's too
        "scales": (10 * LAYERS, 0),  # four inputs, six weights
        "bias": (6 * LAYERS + 1, 0),
        "activation": (LAYERS, 0),
        "residual": (2 * LAYERS, 0),
        "layer norms": (2 * LAYERS + 1, 2 * LAYERS + 1),
        "quantization": (4 * LAYERS, 0),
        "attention": (4 * LAYERS, LAYERS),  # two products, scale, softmax
        "mask": (3 + LAYERS, 0),  # made once, added in each layer
        "transposes and reshapes": (9 * LAYERS, 2),
        "positions": (18, 32),
        "multiplications": (18 * LAYERS * 8192, 32 * LAYERS * 4096),
    }
    operators = [found[change.what] for change in report.changes]
    head = len(report.absorbed[HEAD])
    assert head == 0
    assert sum(before for before, _ in operators) + head == report.files["INT8"].total()
    assert sum(after for _, after in operators) == len(report.plan.steps)


@pytest.mark.parametrize("lengths", [[12], [33, 48, 5]])
def test_the_chart_shows_what_lies_there(lengths):
    report = looked(synthetic(0.5, layers=LAYERS, **LAYER), lengths)
    plan, (rows, legend) = report.plan, chart(report.plan)
    assert (len(rows), {len(row) for row in rows}) == (ROWS, {len(plan.steps)})
    size, seen = plan.arena.peak / ROWS, set("".join(rows))
    assert {legend[letter] for letter in seen - {FREE}} >= {"qkv", "output.codes", "attention_norm.codes"}
    for step in range(len(plan.steps)):
        alive = {
            name: (plan.arena.offsets[name], plan.arena.offsets[name] + life.size)
            for name, life in lives(plan.inputs, plan.steps).items()
            if life.first <= step <= life.last and name not in plan.inputs
        }
        for row, letters in enumerate(reversed(rows)):
            here = {kind(x) for x, (start, end) in alive.items() if start < (row + 1) * size and end > row * size}
            assert legend[letters[step]] in here if letters[step] != FREE else not here


def test_a_line(any_cpu):
    quantized = tiny.quantized("bert_classification")
    session = Session(prepare(compress.pack(quantized), "dense"))
    shape = session.shape(np.ones((2, 16), int))
    found = {step.name: line(step) for step in make_plan(session.weights, shape).steps}
    assert str(found["embedding_rows"]) == (
        "embedding_rows  embed(ids, places, types) -> f32 (32, 32): word + position + token type"
    )
    norm = found["layer.1.attention_norm"]
    assert (norm.kernel, norm.reads) == ("layernorm_codes_half", ("layer.1.attention_sum",))
    assert [tuple(made) for made in norm.writes] == [
        ("layer.1.attention_norm", "f32", (1, 32, 32), 4096, "layer.1.attention_sum"),
        ("layer.1.attention_norm.codes", "u8", (1, 32, 32), 1024, ""),
    ]
    assert str(found["hidden"].writes[0]) == "f32 (32, 32)"


# --- the command -----------------------------------------------------------------------------------------------------


def graph_json(refimpl, *arguments):  # noqa: F811
    status, out, err = refimpl("graph", *arguments, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


def test_json(any_cpu, refimpl, packed):  # noqa: F811
    found = graph_json(refimpl, packed, "--tokens", 5, "--tokens", 12, "--batch", 2)
    assert found["lengths"] == [5, 5, 12, 12]
    assert found["shape"] == {
        "width": 64,
        "panels": 1,
        "texts": 4,
        "most": 1,
        "rows": 48,
        "threads": 1,
        "align": 4,
        "picked": 32,
    }
    counted = Counter(found["head"])
    for step in found["steps"]:
        assert step.keys() == {"name", "kernel", "fused", "reads", "writes", "absorbs"}
        assert all(made["nbytes"] > 0 for made in step["writes"])
        counted.update(step["absorbs"])
    assert counted == found["operators"]["INT8"]
    memory = found["memory"]
    assert memory["bound"] <= memory["peak"] <= memory["total"]
    assert memory["tensors"] > len(found["steps"])
    assert {change["what"] for change in found["changes"]} >= {"products", "mask", "positions"}


@pytest.mark.parametrize("more", [[], ["--all"], ["--layer", 1]])
def test_tables_within_100_columns(refimpl, packed, more):  # noqa: F811
    status, out, err = refimpl("graph", packed, *more)
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    assert ("Layer 1" in out) == ("--layer" in more)
    assert ("embed.to_panels" in out) == ("--all" in more)
    assert out.count("attention_f32") == (2 if more == ["--all"] else 1)


def test_a_directory_is_compressed_first(refimpl, tmp_path):  # noqa: F811
    model = tiny.copy("distilbert_bare", tmp_path)
    for more, attention in (((), "INT8"), (("--f32-attention",), "f32")):
        assert f"\n{attention} attention; 1 text of " in refimpl("graph", model, *more)[1]
    status, out, _ = refimpl("graph", model, "--density", 0.5, "--json")
    assert status == 0
    assert json.loads(out)["density"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("command", ["graph", "profile"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--f32-attention"], "is packed already, with its attention"),
        (["--tokens", 1], "--tokens is 1; need 2 to 16, the model's positions"),
        (["--tokens", 8, "--tokens", 17], "--tokens is 17; need 2 to 16"),
        (["--batch", 0], "--batch is 0; need 1 to 4096"),
        (["--density", 0.5], "is packed already, so that --density cannot change it"),
        (["--density", 1.5], "--density is 1.5; need 0 to 1"),
        (["--synthetic"], "--synthetic makes a model, but"),
    ],
)
def test_mistakes(one_line, packed, command, arguments, message):  # noqa: F811
    assert message in one_line(command, packed, *arguments)


@pytest.mark.parametrize("layer", [-1, 2])
def test_a_layer_that_is_not_there(one_line, packed, layer):  # noqa: F811
    assert f"--layer is {layer}; need 0 to 1, the model's layers" in one_line("graph", packed, f"--layer={layer}")


@NEEDS_JIT
def test_a_path_that_is_not_there(one_line, tmp_path):  # noqa: F811
    for command in ("graph", "profile"):
        assert "nowhere does not exist" in one_line(command, tmp_path / "nowhere")
