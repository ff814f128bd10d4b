"""What a recipe's report says that nobody measures: what was asked for, what stages left, what is left of the model."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from refimpl import __version__
from refimpl.kernels import cpu
from refimpl.models.bert import linears
from refimpl.models.compress import Dense
from refimpl.models.recipes.options import Options
from refimpl.models.recipes.recipe import Recipe, to_json
from refimpl.models.recipes.setting import Done, Work
from refimpl.models.training.fine_tuning import RECORD

MOST_POINTS = 400
"""Of a curve."""


def stage_row(done: Done) -> dict[str, Any]:
    """Of a stage, but for its name and its time."""
    every = -(-len(done.sparsity) // MOST_POINTS) or 1
    points = dict.fromkeys([*done.sparsity[::every], *done.sparsity[-1:]])
    last = done.history[-1] if done.history else {}
    metrics = {name: value for name, value in last.items() if name not in ("epoch", "loss")}
    return {
        "updates": done.updates,
        "metrics": metrics,
        "history": list(done.history),
        "sparsity": [list(point) for point in points],
        "notes": list(done.notes),
        "tuning": [
            {"step": trial.step, "kept": sorted(trial.kept), "metric": trial.value, "good": trial.good}
            for trial in done.tuning
        ],
    }


def anatomy(before: Dense, work: Work) -> dict[str, Any]:
    """What is left of each linear layer, and of heads and neurons. Heads have the numbers of the model before."""
    model, rows = work.dense.model, []
    whole = replace(before.model.config, layer_heads=(), layer_feed_forward=())
    for name, p in linears(model).items():
        shape = whole.linear_shapes(0)[name.rpartition(".")[2]]
        nonzero = int((p.weight != 0).sum())
        rows.append({"name": name, "shape": list(shape), "kept_shape": list(p.weight.shape), "nonzero": nonzero})
    heads = [
        {"layer": i, "kept": model.config.heads_of(i), "kept_heads": list(work.heads[i]), "of": whole.heads}
        | {"neurons": model.config.feed_forward_of(i), "of_neurons": whole.feed_forward}
        for i in range(len(model.layers))
    ]
    return {"layers": rows, "heads": heads}


def about(recipe: Recipe, given: str, model: Path, data: Path, output: Path, options: Options) -> dict[str, Any]:
    """What was asked for, as a command, and on which machine. given: the recipe, as the command has it."""
    words = ["refimpl", "compress", str(model), "--recipe", given, "--data", str(data), "-o", str(output)]
    for name, value in asdict(options).items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return {
        "version": __version__,
        "command": " ".join(words),
        "recipe": to_json(recipe),
        "task": options.task,
        "seed": options.seed,
        "limit": options.limit,
        "machine": cpu.name(),
        "model_training": _training_of(model),
    }


def _training_of(model: Path) -> dict[str, Any] | None:
    """The settings by which ``refimpl train`` made the model, if it did: what its record says, in a file of others."""
    try:
        run = json.loads((model / RECORD).read_text("utf-8"))["run"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return run if isinstance(run, dict) else None
