"""What a compressed model answers on CPUs without VNNI, on the whole dev set: really run, emulated, and repaired.

native                 OpenVINO on this CPU as it is
avx512, avx2           OpenVINO without VNNI: its vpmaddubsw saturates sums of two products
emulated               our model with every linear layer on ``gemm_u8s8s32_pair_saturating``, columns paired as they
                       stand, which is how oneDNN pairs them
repaired               the same f32 model quantized again by the recipe ptq-overflow-fix, native and without VNNI

And on a CPU that has no VNNI (``here``): a packed file in the engines as they are, and emulated.
"""

import tempfile
from filecmp import cmp
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refimpl.kernels import cpu
from refimpl.kernels.gemm_u8s8s32_pair_saturating import GEMM_PAIR_SATURATING
from refimpl.models import packed_file
from refimpl.models.bench.variants import dequantized
from refimpl.models.bert import map_linears
from refimpl.models.checkpoint import FILE
from refimpl.models.compress import Dense, Packed, Quantized, unpack
from refimpl.models.engines import NAMES
from refimpl.models.engines.isa import CAPS, NATIVE
from refimpl.models.engines.isolated import Conditions
from refimpl.models.recipes import reading
from refimpl.models.recipes.agreement import compare_engines
from refimpl.models.recipes.artifacts import HUGGING_FACE, PACKED, write_artifacts
from refimpl.models.recipes.options import Options
from refimpl.models.recipes.run import compress_by
from refimpl.models.runner import Runner, on_ops, runner
from refimpl.models.terminal import late_bar
from refimpl.models.training.evaluation import QUESTIONS, Questions
from refimpl.nn import NO_TAP, Tap
from refimpl.quant import QUANTIZED, QuantizedLinear, integer_linear

REPAIR = "ptq-overflow-fix"
ENGINE = NAMES["openvino"]
EMULATED = "emulated"

Answers = dict[int, str]
"""Row -> what was said, of the rows that ours answers otherwise."""


class Saturating(NamedTuple):
    """A linear layer with its weight as the saturating kernel reads it."""

    layer: QuantizedLinear
    packed: np.ndarray


def emulated(packed: Packed) -> Runner:
    """The model as a CPU without VNNI computes its linear layers."""
    target = GEMM_PAIR_SATURATING.fastest()
    quantized = unpack(packed)

    def change(name: str, p: Any) -> Any:
        return Saturating(p, GEMM_PAIR_SATURATING.pack(p.codes)) if isinstance(p, QuantizedLinear) else p

    def linear(x: np.ndarray, p: Any, tap: Tap = NO_TAP) -> np.ndarray:
        if not isinstance(p, Saturating):
            return QUANTIZED.linear(x, p, tap)
        return integer_linear(x, p.layer, lambda u: GEMM_PAIR_SATURATING.run(target, u, p.packed), tap)

    model = map_linears(quantized.model, change)
    return on_ops(Quantized(model, packed.tokenizer), QUANTIZED._replace(linear=linear), f"INT8, {target} vpmaddubsw")


def saturation(
    folder: Path, report: dict[str, Any], data: Path, limit: int | None, repaired: Path
) -> list[dict[str, Any]]:
    """A row for each model and way to run it.

    Parameters
    ----------
    folder : what a recipe left, whose report this is
    data, limit : as the recipe had them
    repaired : where to write the repaired model; one that is there is taken

    Returns
    -------
    list of dict
        "model": "compressed" or "repaired"; "isa": one of ``engines.isa`` or "emulated"; "ran", "why"; "metrics";
        "different": rows answered otherwise than by the same model's native run; and of the emulation, isa ->
        "different_from": rows answered otherwise than by the engine there

    Raises
    ------
    ValueError
        the files are not those that the report is of, or the repaired model is another's
    """
    task = report["task"]
    ours, rows = _of_engine(folder, task, data, limit)
    if ours != report["engines"][0]["metrics"]:
        raise ValueError(f"{folder} does not answer as its report says; need the report of these files")
    said = {row["isa"]: row.pop("said") for row in rows if row["ran"]}
    rows.append(_of_emulation(folder, task, data, limit, said))
    if not repaired.exists():
        repaired.parent.mkdir(parents=True, exist_ok=True)
        options = Options(task, seed=report["seed"], limit=limit)
        compress_by(reading.load(REPAIR, task), folder / HUGGING_FACE, data, repaired, options)
    if not cmp(*(each / HUGGING_FACE / FILE for each in (folder, repaired)), shallow=False):
        raise ValueError(f"{repaired} is of another model than {folder}; remove it")
    _, again = _of_engine(repaired, task, data, limit)
    keys = ("isa", "ran", "why", "metrics", "different")
    return [{"model": "compressed"} | row for row in rows] + [
        {"model": "repaired"} | {key: row[key] for key in keys if key in row} for row in again
    ]


def _of_engine(folder: Path, task: str, data: Path, limit: int | None) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Our metrics, and a row of OpenVINO under each ISA, native first."""
    metrics: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    for isa in (NATIVE, *CAPS):
        with late_bar(isa) as move:
            ours, *others = compare_engines(folder, task, data, limit, Conditions(isa), move)
        metrics = ours["metrics"]
        found = next(row for row in others if row["name"] == ENGINE)
        row = {"isa": isa, "ran": found["ran"], "why": found["why"]}
        if found["ran"]:
            said = {each["row"]: each["theirs"] for each in found["differences"]}
            row |= {"metrics": found["metrics"], "said": said}
            row["different"] = len(apart(said, rows[0]["said"])) if rows and rows[0]["ran"] else 0
        rows.append(row)
    return metrics, rows


def _of_emulation(folder: Path, task: str, data: Path, limit: int | None, engine: dict[str, Answers]) -> dict[str, Any]:
    packed = packed_file.load(folder / PACKED)
    found = _emulate(packed, QUESTIONS[task](data, packed.tokenizer, limit), engine)
    different = found["different_from"].get(NATIVE, 0)
    return {"isa": EMULATED, "ran": True, "why": "", "different": different} | found


def _emulate(packed: Packed, questions: Questions, engines: dict[str, Answers]) -> dict[str, Any]:
    with late_bar(EMULATED) as move:
        ours, theirs = (questions.ask(ready, move) for ready in (runner(packed), emulated(packed)))
    said = {i: b.said for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a.said != b.said}
    different = {name: len(apart(said, answers)) for name, answers in engines.items()}
    return {"metrics": questions.score(theirs), "different_from": different}


def here(path: Path, task: str, data: Path) -> dict[str, Any]:
    """A packed file in the engines as they are on this CPU, and as it is emulated: for CPUs that have no VNNI.

    Returns
    -------
    dict
        "machine": the CPU, by LLVM's name; "engines": rows of ``compare_engines``, ours first; "emulated": {"metrics",
        "different_from": {engine: rows answered otherwise than by it}}
    """
    packed = packed_file.load(path)
    quantized = unpack(packed)
    dense = Dense(dequantized(quantized), packed.tokenizer)
    with tempfile.TemporaryDirectory() as temporary, late_bar(cpu.name()) as move:
        write_artifacts(Path(temporary), packed.model.config, dense, quantized)
        engines = compare_engines(Path(temporary), task, data, tell=move)
    answers = {
        row["name"]: {each["row"]: each["theirs"] for each in row["differences"]} for row in engines if row["ran"]
    }
    found = _emulate(packed, QUESTIONS[task](data, packed.tokenizer), answers)
    return {"machine": cpu.name(), "engines": engines, "emulated": found}


def apart(one: Answers, other: Answers) -> list[int]:
    """Rows that two answer differently; both are told by where they differ from ours."""
    return sorted(row for row in one.keys() | other.keys() if one.get(row) != other.get(row))
