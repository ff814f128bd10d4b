"""The files of a recipe in their engines over a task's whole dev set: how good each is, and where its answers are not
our engine's.

    refimpl         packed.safetensors, or huggingface/ where the model is in f32
    ONNX Runtime    model.onnx
    OpenVINO        openvino/openvino_model.xml

Contract. Every engine is asked the same rows in the same batches, and scored by ``training.evaluation``. Engines round
floats in different places, so a row whose logits nearly tie can be answered differently by two that are right: the
margins say how near. An engine that did not run says why; nothing is left out.
Integer layers are counted in what the engine made of the file (``engines.count_integer_layers``); products are the
matrix products of the file whose operands are both quantized. An engine may merge equal ones, and OpenVINO fuses the
two of an attention into a Subgraph, which is not counted. Of the linear layers' products all should be among the
integer layers: what is missing runs in floats.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from refimpl import __version__
from refimpl.kernels import cpu
from refimpl.models import compress, engines, packed_file
from refimpl.models.bert import Batch, linears
from refimpl.models.compress import Dense, Packed, PackedLinear
from refimpl.models.engines.isolated import Conditions
from refimpl.models.engines.serving import serving
from refimpl.models.export import count_quantized
from refimpl.models.recipes.artifacts import HUGGING_FACE, IR, ONNX, PACKED
from refimpl.models.records.semantics import PAIR_SATURATING, semantics_of
from refimpl.models.runner import Runner, runner, threads_in_words
from refimpl.models.training.evaluation import QUESTIONS, Answer, Questions, check_head

OURS = "refimpl"
FILES = {"onnxruntime": ONNX, "openvino": IR}
"""Engine -> the file that it reads."""

Tell = Callable[[int, int, str], None]


class Subject(NamedTuple):
    """What all are asked, and what ours answered."""

    ready: Runner
    questions: Questions
    conditions: Conditions
    ours: Sequence[Answer]


def compare_engines(
    folder: Path,
    task: str,
    data: Path,
    limit: int | None = None,
    conditions: Conditions = Conditions(),  # noqa: B008  # immutable
    tell: Tell = lambda done, of, name: None,
) -> list[dict[str, Any]]:
    """A row an engine, ours first, as JSON.

    Parameters
    ----------
    folder : as ``artifacts.write_artifacts`` leaves it
    task, data, limit : as ``training.evaluation`` takes them
    conditions : of all engines the threads, of the others the ISA and the timeout, too; ours runs as it does
    tell : (rows done, of all, engine)

    Returns
    -------
    list of dict
        "name", "file", "ran", "why": not, "" if it did; and of those that did "version"; "execution": what ran, in
        words; "metrics": {name: value}; "integer_layers", "products", "in_floats": counts; "layers": {kind: how many
        run}, as far as the engine tells; "saturates": whether it clips sums of two products to 16 bits here,
        by ``records.semantics``; "rows": of the dev set, how many, or hidden tokens; "different": how many are
        answered otherwise than by ours; "differences": these, [{"row": number from 0, "text", "wanted", "ours",
        "theirs", "our_margin", "their_margin": logits or None}]

    Raises
    ------
    FileNotFoundError, ValueError
        for a task, data or folder that cannot be meant, or a model that is not for the task
    """
    if task not in QUESTIONS:
        raise ValueError(f"the task is {task!r}; need {', '.join(QUESTIONS)}")
    loaded = _load(folder)
    ready = runner(loaded, conditions.threads)
    check_head(ready.config, task)
    questions = QUESTIONS[task](data, loaded.tokenizer, limit)
    products = count_quantized(folder / ONNX)
    answers = questions.ask(ready, lambda done, of: tell(done, of, OURS))
    subject = Subject(ready, questions, conditions, answers)
    packed = sum(isinstance(layer, PackedLinear) for layer in linears(loaded.model).values())
    attention = 2 * sum(layer.attention_scales is not None for layer in loaded.model.layers)
    facts = {"version": __version__, "execution": ready.execution, "saturates": False}
    facts |= {"integer_layers": packed + attention, "layers": {}}
    file = PACKED if isinstance(loaded, Packed) else HUGGING_FACE
    rows = [_row(OURS, file) | facts | _said(subject, answers)]
    for engine, file in FILES.items():
        made = _row(engines.NAMES[engine], file)
        try:
            made |= _other(engine, folder / file, subject, tell)
        except (RuntimeError, TimeoutError, FileNotFoundError) as error:
            made |= {"ran": False, "why": str(error)}
        rows.append(made)
    for row in rows:
        if row["ran"]:
            row |= {"products": products, "in_floats": max(products - attention - row["integer_layers"], 0)}
    return rows


def _load(folder: Path) -> Dense | Packed:
    for name in (ONNX, HUGGING_FACE):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder} has no {name}; need the folder of a compressed model")
    path = folder / PACKED
    return packed_file.load(path) if path.exists() else compress.load(folder / HUGGING_FACE)


def _row(name: str, file: str) -> dict[str, Any]:
    return {"name": name, "file": file, "ran": True, "why": ""}


def _other(engine: str, path: Path, subject: Subject, tell: Tell) -> dict[str, Any]:
    name = engines.NAMES[engine]
    with serving(engine, path, subject.conditions) as served:
        theirs = subject.ready._replace(run=lambda *batch: served.run(Batch(*batch)))
        answers = subject.questions.ask(theirs, lambda done, of: tell(done, of, name))
        count = engines.count_integer_layers(engine, served.layers)
        facts = {"version": served.version, "integer_layers": count, "layers": served.layers}
    isa, threads = subject.conditions.isa, subject.conditions.threads
    found = semantics_of({"engine": engine, "isa": isa, "cpu": {"features": cpu.features()}})
    saturates = count > 0 and found == PAIR_SATURATING
    precision = "f32" if count == 0 else "INT8, saturating" if saturates else "INT8"
    execution = f"{precision}, {threads_in_words(threads)}"
    return {"execution": execution, "saturates": saturates} | facts | _said(subject, answers)


def _said(subject: Subject, answers: Sequence[Answer]) -> dict[str, Any]:
    asked = subject.questions
    rows = zip(asked.texts, asked.wanted, subject.ours, answers, strict=True)
    differences = [
        {
            "row": i,
            "text": text,
            "wanted": wanted,
            "ours": ours.said,
            "theirs": theirs.said,
            "our_margin": ours.margin,
            "their_margin": theirs.margin,
        }
        for i, (text, wanted, ours, theirs) in enumerate(rows)
        if ours.said != theirs.said
    ]
    return {
        "metrics": asked.score(answers),
        "rows": len(answers),
        "different": len(differences),
        "differences": differences,
    }
