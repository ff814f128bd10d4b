"""A comparison as one HTML file that needs nothing else: causes on top, then a heat map of every tensor.

Rows are nodes in order of computation, by layer; columns are engines on ISAs; colour is error as a share of the bound,
or, for codes, the share that is not ours. What ``page.js`` reads is made here.
"""

import math
from itertools import groupby
from pathlib import Path
from typing import Any

from refimpl.models.compare.report import Report, Run
from refimpl.models.compare.show import label, percent, said, sentence
from refimpl.models.page import fill

INSIDE = "inside its bounds"
CELL = ("state", "reason", "codes", "of", "different", "outside", "worst", "at", "size", "bound", "steps", "followed")
"""Fields of a ``TensorRow`` in a cell."""


def page(report: Report) -> str:
    """The text of the file."""
    return fill(Path(__file__).parent, f"{report.model}: engines compared", data(report))


def data(report: Report) -> dict[str, Any]:
    """What the page shows, as JSON without infinities."""
    ran = [run for run in report.runs if not run.failed]
    rows = list(zip(*(run.rows for run in ran), strict=True))
    groups = [
        {
            "name": name,
            "rows": [
                {"tensor": row[0].tensor, "node": row[0].node, "op": row[0].op, "cells": [_cell(one) for one in row]}
                for row in found
            ],
        }
        for name, found in groupby(rows, lambda row: row[0].group)
    ]
    return {
        "model": report.model,
        "about": f"{report.nodes} nodes, {report.fed}; products of codes should be {report.against}",
        "sha256": report.sha256,
        "cards": [_card(run) for run in report.runs],
        "columns": [label(run) for run in ran],
        "groups": groups,
    }


def _cell(row: Any) -> dict[str, Any]:
    return {name: _finite(getattr(row, name)) for name in CELL if getattr(row, name) not in ("", 0, False, ())}


def _finite(x: Any) -> Any:
    return str(x) if isinstance(x, float) and not math.isfinite(x) else x


def _card(run: Run) -> dict[str, Any]:
    if run.failed:
        empty: dict[str, Any] = {"lines": [], "notes": [], "facts": [], "conditions": []}
        return {"name": label(run), "verdict": "not run", "said": run.failed, **empty}
    codes, equal = run.codes()
    verdict = f"{len(run.outside)} tensors outside" if run.outside else INSIDE if run.passed else "nothing judged"
    return {
        "name": label(run),
        "verdict": verdict,
        "said": said(run),
        "lines": [sentence(why) for why in run.causes],
        "notes": list(run.notes),
        "facts": [
            f"on its own inputs: {percent(equal, codes)} of codes are ours" if codes else "no codes",
            *_ends(run),
        ],
        "conditions": _conditions(run),
    }


def _ends(run: Run) -> list[str]:
    ends = run.ends
    assert ends is not None
    same = f", argmax equal in {ends.same_place} of {ends.rows} rows" if ends.rows else ""
    told = [f"end to end: output off by {ends.difference:.1e} of {ends.largest:.3g}{same}"]
    if ends.codes:
        told.append(
            f"end to end: {percent(ends.codes_equal, ends.codes)} of codes equal, largest step {ends.largest_step}"
        )
    return told


def _conditions(run: Run) -> list[tuple[str, str]]:
    info = run.info
    return [
        ("engine", f"{info['engine']} {info['version']}"),
        ("CPU", info["emulator"] or f"{info['cpu']['model']} ({info['cpu']['name']})"),
        ("features", " ".join(info["cpu"]["features"])),
        ("set", ", ".join(f"{name}={value}" for name, value in info["environment"].items()) or "nothing"),
        ("threads", str(info["threads"])),
        ("fusions", "as the engine likes" if info["optimize"] else "as few as it allows"),
        ("products of QDQ", "judged as integers" if run.fused else "judged as floats"),
        ("layers", ", ".join(f"{count} {name}" for name, count in sorted(info["layers"].items())) or "not told"),
        ("inputs, SHA-256", info["inputs_sha256"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in info["versions"].items())),
    ]
