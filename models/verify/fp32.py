"""Table 1: the f32 model, every tap of every engine (and of our own run) against its derived bound."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from refimpl.models.bert import Batch, Model, forward
from refimpl.models.engines import NAMES, open_session
from refimpl.models.judge import Finding, first_outside, judge
from refimpl.models.verify.report import TapRow
from refimpl.nn import Recorder

OURS = "refimpl"
MASKED = -1e30
"""Scores at or below this are masked; they differ by rounding of the lowest number and mean nothing."""


def record(model: Model, batch: Batch) -> dict[str, np.ndarray]:
    """Our own f32 run, every tap."""
    recorder = Recorder()
    forward(model, batch, tap=recorder)
    return recorder.values


def judge_engine(
    model: Model, batch: Batch, engine: str, path: Path, ours: dict[str, np.ndarray]
) -> tuple[list[TapRow], str]:
    """A row for each kind of tap of an engine's run of the exported file at ``path``, and its first fault."""
    values = open_session(engine, path, list(ours)).run(batch)
    findings = judge(model, batch, values)
    return rows(NAMES[engine], findings, values, ours), first_outside(findings)


def rows(
    name: str, findings: dict[str, Finding], values: dict[str, np.ndarray], ours: dict[str, np.ndarray]
) -> list[TapRow]:
    """Findings gathered over the layers by kind of tap, in the order of computation."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for tap in findings:
        kinds[kind(tap)].append(tap)
    return [
        TapRow(
            tap=short,
            engine=name,
            elements=sum(findings[tap].of for tap in taps),
            worst=max(findings[tap].worst for tap in taps),
            outside=sum(findings[tap].outside for tap in taps),
            difference=max(difference(values[tap], ours[tap]) for tap in taps),
        )
        for short, taps in kinds.items()
    ]


def kind(tap: str) -> str:
    """ "layer.3.q" -> "q". A layer has an "output" too, so the model's own is called "model output"."""
    if tap.startswith("layer."):
        return tap.split(".", 2)[2]
    return "model output" if tap == "output" else tap


def difference(x: np.ndarray, y: np.ndarray) -> float:
    """The largest absolute difference, masked scores apart."""
    return float(np.abs(np.where(y > MASKED, x.astype(np.float64) - y, 0)).max())
