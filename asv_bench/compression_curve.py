"""Accuracy against density: one fine-tuned model pruned in several ways to six densities, a short training a point.

    python asv_bench/compression_curve.py MODEL --data DIR -o FOLDER

MODEL is its own teacher, whose logits are computed once; blocks are 4x1; nothing is quantized. FOLDER/curve.json has
the points that are done, FOLDER/stages the checkpoints of the one in work: the same command goes on. With the settings
as they are a point takes 500 updates of 32 rows and an evaluation.

    magnitude, snip_momentum    the same but for the criterion: each layer alike, cubic schedule
    inc                         snip_momentum, all layers ranked together, exponential decay
    movement                    NNCF's, of blocks in attention and of neurons; its factor decides the density
    topk                        movement as Sanh et al. have it: scores learned by AdamW, each layer alike, cubic
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

from threadpoolctl import threadpool_limits

from refimpl.kernels import cpu
from refimpl.models import compress
from refimpl.models.compress import Dense
from refimpl.models.files import atomic
from refimpl.models.recipes.beginning import taught
from refimpl.models.recipes.kinds import Distillation, Movement, Training
from refimpl.models.recipes.options import Options, check_options
from refimpl.models.recipes.prune_kind import Prune
from refimpl.models.recipes.run import make_setting
from refimpl.models.recipes.setting import Setting, work_on
from refimpl.models.recipes.stages import run_stage
from refimpl.models.terminal import say
from refimpl.models.training import interrupt
from refimpl.models.training.run import Stopped
from refimpl.models.training.show import Bar
from refimpl.prune import BLOCK_4X1

CURVE, STAGES = "curve.json", "stages"
DENSITIES = (0.70, 0.50, 0.30, 0.20, 0.10, 0.05)
FACTORS = (0.0003, 0.005, 0.05, 1.0, 10.0, 1000.0)
LABELS = {
    "magnitude": "magnitude",
    "snip_momentum": "snip_momentum",
    "inc": "snip_momentum, all layers ranked together (inc)",
    "movement": "movement (NNCF)",
    "topk": "movement, topK of learned scores",
}
COLOURS = dict(zip(LABELS, ("#1f5fbf", "#e08a00", "#b03060", "#0f8a5f", "#777777"), strict=True))
MARKERS = dict(zip(LABELS, "osD^v", strict=True))
LEAST = 70.0
"""Of the figure: what is below is in the table alone."""
TASK = "sst2"
EVERY, BEGIN, END = 20, 0.15, 0.7
"""Masks change every so many updates, between these shares of all; scores that are learned begin at zero."""


def lines(epochs: int) -> dict[str, list[Training]]:
    """Each with the training of its points, by the teacher's logits alone."""
    common: dict[str, Any] = {"epochs": epochs, "learning_rate": 1e-4, "warmup": 0.05}
    common["distil"] = Distillation("kl_batchmean", 2.0, 1.0)

    def pruned(method: str, criterion: str | None = None) -> list[Training]:
        how = common | {"method": method, "criterion": criterion, "begin": BEGIN, "end": END, "every": EVERY}
        return [Prune(sparsity=round(1 - density, 6), **how) for density in DENSITIES]

    moved = common | {"warmup_start_epoch": BEGIN * epochs, "warmup_end_epoch": END * epochs, "score_rate": 5.0}
    return {
        "magnitude": pruned("prune-ofa"),
        "snip_momentum": pruned("prune-ofa", "snip_momentum"),
        "inc": pruned("inc"),
        "movement": [Movement(factor=x, structured=False, block=BLOCK_4X1, **moved) for x in FACTORS],
        "topk": pruned("movement"),
    }


def points(setting: Setting, dense: Dense, epochs: int, done: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Those that are not done yet, each as it is finished."""
    known, stages = {(point["line"], point["number"]) for point in done}, lines(epochs)
    wanted = [(line, number) for number in range(len(DENSITIES)) for line in stages]
    for i, (line, number) in enumerate(wanted, 1):
        if (line, number) in known:
            continue
        begun = perf_counter()
        say("point:", f"{i} of {len(wanted)}: {line}, number {number + 1}", "bold")
        made = run_stage(setting, i, stages[line][number], work_on(dense))
        metrics = {name: value for name, value in made.history[-1].items() if name not in ("epoch", "loss")}
        yield {
            "line": line,
            "number": number,
            "kept": 1 - made.sparsity[-1][1],
            "metrics": metrics,
            "updates": made.updates,
            "seconds": round(perf_counter() - begun, 1),
        }
        for path in setting.folder.iterdir():
            path.unlink()


def measure(given: argparse.Namespace) -> None:
    """Go through the points, and write after each."""
    options = Options(TASK, seed=given.seed, limit=given.limit, threads=given.threads)
    check_options(options)
    (given.output / STAGES).mkdir(parents=True, exist_ok=True)
    path = given.output / CURVE
    about = {"model": given.model.name, "task": TASK, "data": given.data.name, "machine": cpu.name()}
    about |= {key: getattr(given, key) for key in ("limit", "epochs", "seed", "threads")}
    found = json.loads(path.read_text("utf-8")) if path.exists() else about | {"points": []}
    if {key: found[key] for key in about} != about:
        raise ValueError(f"{path} is of another model or other settings; name another folder")
    dense = compress.load(given.model)
    with Bar() as bar, threadpool_limits(given.threads), interrupt.noted() as stop:
        bar.stop = stop
        setting = taught(make_setting(dense, dense, given.data, options, bar, given.output / STAGES))
        if "dense" not in found:
            bar.begin(0, 0, "dense")
            found["dense"] = setting.task.evaluate(dense.model)
        for point in points(setting, dense, given.epochs, found["points"]):
            found["points"].append(point)
            with atomic(path) as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def command(curve: dict[str, Any]) -> str:
    """What measured it, with the last part of each path."""
    limit = "" if curve["limit"] is None else f" --limit {curve['limit']}"
    return (
        f"python asv_bench/compression_curve.py {curve['model']} --data {curve['data']} -o curve{limit} "
        f"--epochs {curve['epochs']} --seed {curve['seed']} --threads {curve['threads']}"
    )


def draw(curve: dict[str, Any], path: Path) -> None:
    """The figure, SVG: a line a criterion, from dense to sparse. The same curve is the same file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    (metric, dense), *_ = curve["dense"].items()
    with mpl.rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.axhline(dense, color="#555555", linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        axes.annotate(f"dense {dense:.2f}", (DENSITIES[0], dense), (0, 3), textcoords="offset points", fontsize=8)
        for line in LABELS:
            seen = [(p["kept"], p["metrics"][metric]) for p in curve["points"] if p["line"] == line]
            here = sorted(point for point in seen if point[1] >= LEAST)
            if len(here) > 1:
                look = {"color": COLOURS[line], "marker": MARKERS[line], "markersize": 5}
                axes.plot(*zip(*here, strict=True), label=LABELS[line], **look)
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xticks(DENSITIES)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.minorticks_off()
        axes.set_xlabel("weights that are kept")
        axes.set_ylabel(f"{metric}, %")
        axes.grid(axis="y", linewidth=0.4, color="#dddddd")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, loc="lower left")
        with atomic(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="accuracy against density, by criterion")
    parser.add_argument("model", metavar="MODEL", type=Path, help="a fine-tuned Hugging Face directory")
    parser.add_argument("--data", type=Path, required=True, help="the folder with train.tsv and dev.tsv")
    parser.add_argument("-o", "--output", metavar="FOLDER", type=Path, required=True, help="where curve.json goes")
    parser.add_argument("--limit", type=int, default=16000, help="training rows")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    try:
        measure(given)
    except (ValueError, OSError, RuntimeError, Stopped) as error:
        say("error:", error, "red")
        sys.exit(2)


if __name__ == "__main__":
    main()
