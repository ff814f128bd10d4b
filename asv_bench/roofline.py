"""The roofline of a race, as a picture."""

from pathlib import Path
from typing import Any

from refimpl.kernels.ladder import LADDERS

LABELLED = "3072x768"
RUNGS = dict.fromkeys(rung.kernel.name for ladder in LADDERS.values() for rung in ladder)
COLOURS = {
    **dict(zip(RUNGS, ("#8c8c8c", "#1f5fbf", "#e08a00", "#c0267e", "#b0402a", "#7a8a00"), strict=False)),
    "OpenVINO": "#0f8a5f",
    "ONNX Runtime": "#6b4fc8",
    "NumPy f32": "#444444",
}
MARKERS = {1.0: "o", 0.2: "s", 0.1: "^"}


def plot(found: dict[str, Any], path: Path) -> None:
    """Share of the VNNI peak against MACs a byte, one panel for each number of tokens, 900 pixels wide."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    tokens = list(dict.fromkeys(case["tokens"] for case in found["cases"]))
    figure, panels = pyplot.subplots(len(tokens), 1, figsize=(9, 4.1 * len(tokens)), squeeze=False, sharex=True)
    for panel, count in zip(panels[:, 0], tokens, strict=True):
        cases = [case for case in found["cases"] if case["tokens"] == count]
        _roofs(panel, found, max(case["peak_macs_per_second"] for case in cases))
        for case in cases:
            _points(panel, case)
        panel.set_title(f"{count} tokens, one thread", loc="left", fontsize=11, fontweight="bold")
        panel.set_ylabel("share of the VNNI peak")
    panels[-1, 0].set_xlabel("multiply-accumulates that survive pruning, per byte of weights, activations and results")
    shapes = ", ".join(dict.fromkeys(case["shape"] for case in found["cases"] if case["shape"] != LABELLED))
    note = f"{found['cpu']}. Labelled: {LABELLED} (out x in), with the density of the weights; faint: {shapes}."
    figure.text(0.01, 0.008, note, fontsize=8.5, color="#555555")
    figure.tight_layout(rect=(0, 0.025, 1, 1))
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _roofs(panel: Any, found: dict[str, Any], peak: float) -> None:
    left, right, bottom, top = 1.2, 300, 0.015, 1.5
    panel.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, top))
    for name, bytes_per_second in found["bytes_per_second"].items():
        ridge = peak / bytes_per_second
        panel.plot([left, ridge, right], [left / ridge, 1, 1], color="#222222", linewidth=1, zorder=1)
        x = max(left * 1.06, bottom * ridge * 1.3)
        panel.text(
            x, 1.12 * x / ridge, f"copy in {name}, {bytes_per_second / 1e9:.0f} GB/s", rotation=32.5,
            rotation_mode="anchor", fontsize=8, color="#555555",
        )  # fmt: skip
    panel.text(35, 1.07, f"peak, {peak / 1e9:.0f} GMAC/s", fontsize=8, color="#555555")
    panel.set_xticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
    panel.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1], ["0.02", "0.05", "0.1", "0.2", "0.5", "1"])
    panel.minorticks_off()
    panel.grid(color="#e6e6e6", linewidth=0.6, zorder=0)
    panel.spines[["top", "right"]].set_visible(False)


def _points(panel: Any, case: dict[str, Any]) -> None:
    """The points of a case; of the labelled one with names in a column on the right, from the fastest down."""
    labelled = case["shape"] == LABELLED
    rows = sorted(case["rows"], key=lambda row: -row["share_of_peak"])
    step = min(0.077, 1 / len(rows))
    for i, row in enumerate(rows):
        at, colour = (row["macs_per_byte"], row["share_of_peak"]), COLOURS.get(row["name"], "#000000")
        alpha, size = (1.0, 46) if labelled else (0.25, 18)
        marker = MARKERS.get(row["density"], "o")
        panel.scatter(*at, size, colour, marker=marker, alpha=alpha, linewidths=0, zorder=3)
        if labelled:
            name = row["name"].removesuffix("_u8s8s32").replace("_u8s8s32_", "_")
            text = f"{name}  {row['density']:g}" if "_" in row["name"] else name
            panel.annotate(
                text, at, (1.015, 0.985 - i * step), textcoords="axes fraction", fontsize=8.5, color=colour,
                va="center", annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.55, "relpos": (0, 0.5)},
            )  # fmt: skip
