"""The whole model: what ``refimpl bench`` finds in the scenarios that the README shows, each a run of its own.

    latency      one text, one thread, by length, at several densities
    two threads  one text of 128 tokens
    batch        eight texts of 128 tokens, one thread
    production   the most texts a second in batches that take less than 10 ms, by length

Kept of a report is what the tables need: the standings, who took part and where.
"""

import json
import subprocess
import sys
from typing import Any

from rich.progress import track

from refimpl.kernels import cpu

LATENCY, TWO_THREADS, BATCH, PRODUCTION = "latency", "two threads", "batch", "production"
DENSITIES, LENGTHS, LENGTH = (0.2, 0.1, 1.0), (16, 32, 64, 96, 128, 384), 128
PRODUCTION_LENGTHS = (16, 32, 48, 64, 80, 96, 112, 128)
CONTESTANTS = 7
"""In a case, roughly: their time is shared."""
MODEL = ["--synthetic"]
"""What is run: random weights in DistilBERT's shape, or a path."""
KEPT = (
    *("model", "density", "attention", "cpu", "threads", "seconds", "limit_ms", "versions", "not_installed"),
    *("scenarios", "passed"),
)


def runs() -> list[tuple[str, list[str]]]:
    """Part of the README, and arguments of the command."""
    found = []
    for density in DENSITIES:
        model = ["--density", f"{density:g}"]
        at_128 = ["--tokens", f"{LENGTH}", *model]
        found.append((LATENCY, ["--scenario", "latency", *_tokens(LENGTHS), *model]))
        if len(cpu.cores()) > 1:
            found.append((TWO_THREADS, ["--scenario", "latency", "--threads", "2", *at_128]))
        found.append((BATCH, ["--scenario", "throughput", "--batch", "8", *at_128]))
    found.append((PRODUCTION, ["--scenario", "production", *_tokens(PRODUCTION_LENGTHS)]))
    return found


def _tokens(lengths: tuple[int, ...]) -> list[str]:
    return [word for length in lengths for word in ("--tokens", f"{length}")]


def bench(seconds: float) -> dict[str, Any]:
    """Every run. seconds: for each contestant of a case."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for part, arguments in track(runs(), "bench"):
        parts.setdefault(part, []).append(report([*arguments, "--seconds", f"{CONTESTANTS * seconds:g}"]))
    return {"bench": parts}


def report(arguments: list[str]) -> dict[str, Any]:
    """Of one run. Raises RuntimeError with what it says if it finds nothing."""
    command = [sys.executable, "-m", "refimpl", "bench", *MODEL, *arguments, "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if not ran.stdout:
        raise RuntimeError(f"{' '.join(command[2:])} ended with status {ran.returncode}: {ran.stderr.strip()}")
    found = json.loads(ran.stdout)
    return {"arguments": arguments} | {name: found[name] for name in KEPT}
