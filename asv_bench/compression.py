"""Recipes on real data: what they left, in numbers of this machine, and the page that shows them.

    python asv_bench/compression.py collect OUT... --data DIR      each OUT into results/compression/NAME.json
    python asv_bench/compression.py old-cpu --data DIR             on a CPU without VNNI: what engines make there of the
                                                                   embedded model, into results/compression
    python asv_bench/compression.py render                         models/RESULTS.md and its figure, of these

OUT is a folder that ``refimpl compress --recipe`` made, a directory of ``refimpl train`` (a dense row), or one with the
curve.json of compression_curve.py; its name is the row's. A dense row takes half a minute; one of a recipe two,
most of it for what happens on CPUs without VNNI (compression_saturation.py). The data are those that it was trained
on. On a CPU that others use, it takes several times as long.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import compression_curve
import compression_tables
from compression_saturation import here, saturation
from race import RESULTS

from refimpl.kernels import cpu
from refimpl.models import compress
from refimpl.models.embedded import embedded_model
from refimpl.models.files import atomic
from refimpl.models.recipes.agreement import compare_engines
from refimpl.models.recipes.artifacts import HUGGING_FACE, PACKED, write_artifacts
from refimpl.models.recipes.run import REPORT
from refimpl.models.records.semantics import DOT_PRODUCTS
from refimpl.models.runner import runner
from refimpl.models.terminal import late_bar, say
from refimpl.models.training.evaluation import MEASURES
from refimpl.models.training.fine_tuning import RECORD, Plan

ROWS = RESULTS / "compression"
PAGE = Path(__file__).parents[1] / "models" / "RESULTS.md"
FIGURE = "results-curve.svg"
"""Beside the page."""
OLD_CPU = "old_cpu.json"
NO_ROWS = (compression_curve.CURVE, OLD_CPU)
"""Of the folder of the rows."""
MOST_DIFFERENCES = 20
OF_A_DIFFERENCE = ("row", "wanted", "ours", "theirs", "our_margin", "their_margin")
OF_AN_ENGINE = ("name", "ran", "why", "version", "execution", "saturates", "metrics", "rows", "different")
OF_A_REPORT = ("version", "recipe", "task", "seed", "machine", "seconds", "baseline", "sizes")


def short(words: str) -> str:
    """A command with the last part of each path only."""
    return " ".join(Path(word).name if "/" in word else word for word in words.split())


def slim(engine: dict[str, Any]) -> dict[str, Any]:
    """A row of ``compare_engines`` with a few of its differences, without their texts."""
    few = [{key: each[key] for key in OF_A_DIFFERENCE} for each in engine.get("differences", [])[:MOST_DIFFERENCES]]
    return {key: engine[key] for key in OF_AN_ENGINE if key in engine} | {"differences": few}


def of_recipe(folder: Path, data: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The row of a recipe."""
    report = json.loads((folder / REPORT).read_text("utf-8"))
    limit = limit_of(report["command"])
    layers, heads = report["layers"], report["heads"]
    size = sum(each["shape"][0] * each["shape"][1] for each in layers)
    row = {"name": folder.name, "command": short(report["command"]), "limit": limit}
    row |= {key: report[key] for key in OF_A_REPORT}
    if report.get("model_training"):
        row["model_command"] = train_command(
            report["model_training"], given.model, data.name, row["command"].split()[2]
        )
    row |= {
        "notes": [note for stage in report["stages"] for note in stage["notes"]],
        "trained": f32_metrics(folder / HUGGING_FACE, report["task"], data, limit),
        "engines": [slim(engine) for engine in report["engines"]],
        "sparsity": 1 - sum(each["nonzero"] for each in layers) / size,
        "heads": [sum(each[key] for each in heads) for key in ("kept", "of")],
        "neurons": [sum(each[key] for each in heads) for key in ("neurons", "of_neurons")],
    }
    if (folder / PACKED).exists() and not given.without_saturation:
        with tempfile.TemporaryDirectory() as temporary:
            kept = Path(temporary) if given.repaired is None else given.repaired
            row["saturation"] = saturation(folder, report, data, limit, kept / folder.name)
    return row


def limit_of(command: str) -> int | None:
    """``--limit`` of a command."""
    words = command.split()
    return int(words[words.index("--limit") + 1]) if "--limit" in words else None


def f32_metrics(directory: Path, task: str, data: Path, limit: int | None) -> dict[str, float]:
    """Of a Hugging Face directory, on our engine."""
    dense = compress.load(directory)
    with late_bar("f32") as move:
        return MEASURES[task](data, dense.tokenizer, limit)(runner(dense), move)


def train_command(run: dict[str, Any], model: str, data: str, output: str) -> str:
    """That of a run of ``refimpl train``."""
    words = ["refimpl", "train", model, "--task", run["task"], "--data", data, "-o", output]
    for name in (field.name for field in fields(Plan)):
        if name != "task" and run.get(name) is not None:
            words += [f"--{name.replace('_', '-')}", str(run[name])]
    return " ".join(words)


def of_training(folder: Path, data: Path, given: argparse.Namespace) -> dict[str, Any]:
    """A dense row: the directory as ONNX and IR in f32, in all engines."""
    run = json.loads((folder / RECORD).read_text("utf-8"))["run"]
    task, limit = run["task"], run["limit"]
    with tempfile.TemporaryDirectory() as temporary, late_bar("dense") as move:
        dense = compress.load(folder)
        sizes = write_artifacts(Path(temporary), dense.model.config, dense, None)
        engines = compare_engines(Path(temporary), task, data, limit, tell=move)
    return {
        "name": folder.name,
        "command": train_command(run, given.model, data.name, folder.name),
        "limit": limit,
        "version": run["version"],
        "recipe": {"name": "dense", "about": "f32, as it was fine-tuned", "stages": []},
        "task": task,
        "seed": run["seed"],
        "machine": cpu.name(),
        "seconds": None if given.minutes is None else 60 * given.minutes,
        "baseline": engines[0]["metrics"],
        "sizes": sizes,
        "notes": [],
        "trained": engines[0]["metrics"],
        "engines": [slim(engine) for engine in engines],
        "sparsity": 0.0,
    }


KINDS: dict[str, Callable[[Path, Path, argparse.Namespace], dict[str, Any]]] = {REPORT: of_recipe, RECORD: of_training}
"""What a folder has -> what makes its row."""


def collect(given: argparse.Namespace) -> None:
    """Measure, and write a file a folder."""
    given.results.mkdir(parents=True, exist_ok=True)
    for folder in given.outs:
        if (folder / compression_curve.CURVE).exists():
            shutil.copyfile(folder / compression_curve.CURVE, given.results / compression_curve.CURVE)
            continue
        made = next((KINDS[name] for name in KINDS if (folder / name).exists()), None)
        if made is None:
            raise ValueError(f"{folder} has neither {REPORT}, {RECORD} nor {compression_curve.CURVE}")
        say("collect:", folder.name, "bold")
        row = made(folder.resolve(), given.data.resolve(), given)
        with atomic(given.results / f"{folder.resolve().name}.json") as temporary:
            temporary.write_text(json.dumps(row, indent=1) + "\n", "utf-8")


def old_cpu(given: argparse.Namespace) -> None:
    """Measure the embedded model on this CPU, and write the file."""
    exact = sorted(DOT_PRODUCTS & cpu.features())
    if exact or "avx2" not in cpu.features():
        raise ValueError(f"this CPU has {', '.join(exact) or 'no AVX2'}; need one with AVX2 and without VNNI")
    given.results.mkdir(parents=True, exist_ok=True)
    facts = json.loads(embedded_model().with_suffix(".json").read_text("utf-8"))
    found = here(embedded_model(), facts["task"], given.data.resolve())
    found |= {"task": facts["task"], "engines": [slim(engine) for engine in found["engines"]]}
    with atomic(given.results / OLD_CPU) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def render(given: argparse.Namespace) -> None:
    """Write the page, and the figure if there is a curve."""
    curve = read_json(given.results / compression_curve.CURVE)
    given.page.write_text(page_of(given.results), "utf-8")
    if curve:
        compression_curve.draw(curve, given.page.with_name(FIGURE))


def page_of(results: Path) -> str:
    """The text of the page."""
    curve = read_json(results / compression_curve.CURVE)
    part = curve and compression_tables.curve_part(curve, compression_curve.command(curve), FIGURE)
    return compression_tables.page(read_rows(results), part, read_json(results / OLD_CPU))


def read_rows(results: Path) -> list[dict[str, Any]]:
    """All that were collected."""
    paths = sorted(path for path in results.glob("*.json") if path.name not in NO_ROWS)
    return [json.loads(path.read_text("utf-8")) for path in paths]


def read_json(path: Path) -> dict[str, Any] | None:
    """If it was collected."""
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def main() -> None:
    """Collect or render."""
    parser = argparse.ArgumentParser(description="results of recipes: collect them, render the page")
    commands = parser.add_subparsers(required=True)
    collecting = commands.add_parser("collect", help="measure, and write results/compression/NAME.json")
    collecting.add_argument("outs", metavar="OUT", type=Path, nargs="+", help="folders of compress, train, or a curve")
    collecting.add_argument("--data", type=Path, required=True, help="the folder with the task's train.* and dev.*")
    collecting.add_argument("--repaired", type=Path, help="keep the repaired models in this folder")
    collecting.add_argument("--without-saturation", action="store_true", help="only what the report says, and f32")
    collecting.add_argument("--model", default="MODEL", help="a name for what the dense model was trained from")
    collecting.add_argument("--minutes", type=float, help="of a dense row: how long the training took")
    collecting.set_defaults(run=collect)
    old = commands.add_parser("old-cpu", help="on a CPU without VNNI: the embedded model in the engines")
    old.add_argument("--data", type=Path, required=True, help="the folder with the task's dev.*")
    old.set_defaults(run=old_cpu)
    rendering = commands.add_parser("render", help="write models/RESULTS.md")
    rendering.add_argument("--page", type=Path, default=PAGE, help="the file to write")
    rendering.set_defaults(run=render)
    for command in (collecting, old, rendering):
        command.add_argument("--results", type=Path, default=ROWS, help="folder of the rows")
    given = parser.parse_args()
    try:
        given.run(given)
    except (ValueError, OSError, RuntimeError) as error:
        say("error:", error, "red")
        sys.exit(2)


if __name__ == "__main__":
    main()
