"""Figure 2 of Fast DistilBERT on CPUs: relative performance by length, a group of bars a length.

A bar is the texts a second of an engine over those of ONNX Runtime in INT8 (of the first other engine, where that has
no result at any length). A length at which that engine has no result is left out, and named below. An engine has a
colour, which is paler where it does not run in INT8. What is drawn is a report as its JSON has it. matplotlib is
optional.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from refimpl.models import engines
from refimpl.models.bench.contestants import OURS
from refimpl.models.bench.plan import LATENCY, PRODUCTION, THROUGHPUT
from refimpl.models.bench.standings import Key
from refimpl.models.bench.variants import BF16, F32, INT8
from refimpl.models.files import atomic, check_output

BASELINE = (engines.NAMES["onnxruntime"], INT8)
ORDER = (PRODUCTION, THROUGHPUT, LATENCY)
"""Which scenario is drawn: the first of these that was measured."""
WHAT = {PRODUCTION: "batches under {limit:g} ms", THROUGHPUT: "best batch size", LATENCY: "one text in a batch"}
COLOURS = {OURS: "#1f5fbf", engines.NAMES["onnxruntime"]: "#6b4fc8", engines.NAMES["openvino"]: "#0f8a5f"}
OTHERS = ("#e08a00", "#c0267e", "#7a8a00")
OPACITY = {INT8: 1.0, BF16: 0.6, F32: 0.35}
GREY = "#555555"
MOST_LABELLED = 40
"""Bars: the numbers on more would run into each other."""


def check_plot(path: Path, force: bool) -> None:
    """Raise ValueError or FileNotFoundError unless a plot can be drawn and written: worth knowing before the work."""
    if find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib: python -m pip install 'refimpl[plot]'")
    if path.suffix != ".png":
        raise ValueError(f"--plot is {path}; need the name of a file that ends in .png")
    check_output(path, force)


def relative(rows: list[dict[str, Any]]) -> tuple[Key, dict[int, dict[Key, float]]]:
    """The rows of a scenario -> the baseline, and length -> contestant -> performance relative to it, where both have
    a result; no contestant where the baseline has none."""
    ran = [row for row in rows if row["texts_per_second"] is not None] or rows
    names = list(dict.fromkeys((row["name"], row["precision"]) for row in ran))
    baseline = BASELINE if BASELINE in names else names[min(1, len(names) - 1)]
    rates: dict[int, dict[Key, float]] = {}
    for row in rows:
        here = rates.setdefault(row["tokens"], {})
        if row["texts_per_second"] is not None:
            here[row["name"], row["precision"]] = row["texts_per_second"]
    return baseline, {
        tokens: {key: value / here[baseline] for key, value in here.items()} if baseline in here else {}
        for tokens, here in rates.items()
    }


def plot(found: dict[str, Any], path: Path) -> None:
    """Write the figure of a report."""
    from matplotlib.figure import Figure

    scenario = next(name for name in ORDER if name in found["scenarios"])
    baseline, every = relative(found["scenarios"][scenario])
    bars = {tokens: here for tokens, here in every.items() if here}
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    _draw(axes, bars)
    words = " ".join(baseline)
    axes.set_ylabel(f"times as fast as {words}")
    axes.set_xlabel("tokens of a text")
    title = f"{found['model']}, {scenario}: {WHAT[scenario].format(limit=found['limit_ms'])}"
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    missing = ", ".join(str(tokens) for tokens, here in every.items() if not here)
    threads = f"{found['threads']} thread{'s' * (found['threads'] != 1)}"
    note = f"{found['cpu']}, {threads}; refimpl INT8 has {found['density']:.0%} of the 4x1 blocks."
    note += f" Left out: {missing} tokens, where {words} has no result." if missing else ""
    figure.supxlabel(note, x=0.01, ha="left", fontsize=8.5, color=GREY)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _draw(axes: Any, bars: dict[int, dict[Key, float]]) -> None:
    names = list(dict.fromkeys(key for here in bars.values() for key in here))
    engines_here = list(dict.fromkeys(name for name, _ in names if name not in COLOURS))
    colours = COLOURS | {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(engines_here)}
    width = 0.84 / max(len(names), 1)
    for i, key in enumerate(names):
        places = [place + (i - (len(names) - 1) / 2) * width for place in range(len(bars))]
        heights = [here.get(key, 0.0) for here in bars.values()]
        look = {"color": colours[key[0]], "alpha": OPACITY[key[1]], "edgecolor": "white", "linewidth": 0.5}
        drawn = axes.bar(places, heights, width, label=" ".join(key), **look)
        if len(names) * len(bars) <= MOST_LABELLED or i == 0:
            axes.bar_label(drawn, [f"{height:.1f}" if height else "" for height in heights], padding=1, fontsize=7)
    axes.set_xticks(range(len(bars)), [str(tokens) for tokens in bars])
    axes.tick_params(axis="x", length=0)
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    if names:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
