"""Figure 2 of Fast DistilBERT on CPUs: relative performance by length, a group of bars a length.

A bar is the texts a second of an engine over those of ONNX Runtime in INT8 (of the first other engine, where that is
not installed). A length at which that engine has no result is left out, and named below. matplotlib is optional.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from refimpl.models import engines
from refimpl.models.bench.plan import LATENCY, PRODUCTION, THROUGHPUT
from refimpl.models.bench.report import Report
from refimpl.models.bench.standings import Key, rate, standings
from refimpl.models.bench.variants import INT8
from refimpl.models.files import atomic, check_folder

BASELINE = (engines.NAMES["onnxruntime"], INT8)
ORDER = (PRODUCTION, THROUGHPUT, LATENCY)
"""Which scenario is drawn: the first of these that was measured."""
WHAT = {PRODUCTION: "batches under {limit:g} ms", THROUGHPUT: "best batch size", LATENCY: "one text in a batch"}


def check_plot(path: Path) -> None:
    """Raise ValueError or FileNotFoundError unless a plot can be drawn and written: worth knowing before the work."""
    if find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib: python -m pip install 'refimpl[plot]'")
    if path.suffix != ".png" or path.is_dir():
        raise ValueError(f"--plot is {path}; need the name of a file that ends in .png")
    check_folder(path)


def relative(report: Report, scenario: str) -> tuple[Key, dict[int, dict[Key, float]]]:
    """The baseline, and length -> contestant -> performance relative to it, where both have a result."""
    found = standings(report.plan, scenario, report.results)
    names = list(dict.fromkeys(key for entries in found.values() for key in entries))
    baseline = BASELINE if BASELINE in names else names[min(1, len(names) - 1)]
    bars: dict[int, dict[Key, float]] = {}
    for tokens, entries in found.items():
        rates = {key: rate(entry.best) for key, entry in entries.items() if entry.best is not None}
        if baseline in rates:
            bars[tokens] = {key: rates[key] / rates[baseline] for key in rates}
    return baseline, bars


def plot(report: Report, path: Path) -> None:
    """Write the figure."""
    from matplotlib.figure import Figure

    scenario = next(name for name in ORDER if name in report.plan.scenarios)
    baseline, bars = relative(report, scenario)
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(key for here in bars.values() for key in here))
    _draw(axes, names, bars)
    axes.set_ylabel(f"relative to {' '.join(baseline)}")
    missing = [str(tokens) for tokens in report.plan.tokens[scenario] if tokens not in bars]
    note = f"\nno result of {' '.join(baseline)} with {', '.join(missing)} tokens" if missing else ""
    axes.set_xlabel(f"tokens{note}")
    limit = report.plan.budget.limit * 1e3
    axes.set_title(f"{report.model}, {scenario}: {WHAT[scenario].format(limit=limit)}")
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _draw(axes: Any, names: list[Key], bars: dict[int, dict[Key, float]]) -> None:
    width = 0.8 / max(len(names), 1)
    for i, name in enumerate(names):
        places = [place + (i - (len(names) - 1) / 2) * width for place in range(len(bars))]
        heights = [here.get(name, 0.0) for here in bars.values()]
        drawn = axes.bar(places, heights, width, label=" ".join(name))
        axes.bar_label(drawn, [f"{height:.1f}" if height else "" for height in heights], fontsize=6)
    axes.set_xticks(range(len(bars)), [str(tokens) for tokens in bars])
    if names:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
