"""The race: every rung of the ladders against the peers on one thread, on three layers of BERT-base.

``python asv_bench/race.py``, on an otherwise idle machine: about two minutes. It writes results/race.json, the plot
results/roofline.png and the table in README.md.
"""

import json
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from benchmarks.measuring import PEAK, PEAK_MACS, Contestant, in_turns, operands, peak_second, prepared, timed
from peers import PEERS, Peer, checked, installed
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from threadpoolctl import threadpool_limits

from refimpl.kernels import cpu
from refimpl.kernels.ladder import DENSE, SPARSE_4X1
from refimpl.kernels.record import Kernel

RESULTS = Path(__file__).parent / "results"
SHAPES, TOKENS, DENSITIES = ("768x768", "3072x768", "768x3072"), (32, 128), (1.0, 0.2, 0.1)
SECONDS = 1.0


class Entry(NamedTuple):
    """One contestant of a case. macs: that survive pruning; traffic: bytes of weights, activations and results;
    peer: keeps alive what an engine points to."""

    name: str
    density: float
    macs: int
    traffic: int
    run: Contestant
    peer: Peer | None = None


def kernels(tokens: int) -> list[tuple[Kernel, float]]:
    """The dense ladder on dense weights, then the sparse one on each density; nothing twice."""
    pairs = [(rung.kernel, 1.0) for rung in DENSE]
    pairs += [(rung.kernel, d) for d in DENSITIES for rung in SPARSE_4X1 if rung.is_for(tokens)]
    return list({(kernel.name, density): (kernel, density) for kernel, density in pairs}.values())


def packed_bytes(packed: Any) -> int:
    """All arrays of a packed weight."""
    parts = [packed] if isinstance(packed, np.ndarray) else packed
    return sum(part.nbytes for part in parts if isinstance(part, np.ndarray))


def entries(shape: str, tokens: int, open_: ExitStack) -> list[Entry]:
    """All contestants of a case, each compared with the oracle."""
    m, k = map(int, shape.split("x"))
    found = []
    for kernel, density in kernels(tokens):
        a, w = operands(m, k, tokens, density)
        packed = kernel.pack(w)  # once: the shared layouts take seconds
        traffic = packed_bytes(packed) + a.nbytes + 4 * m * tokens
        run = open_.enter_context(prepared(kernel._replace(pack=lambda _, packed=packed: packed), a, w))
        found.append(Entry(kernel.name, density, tokens * np.count_nonzero(w), traffic, run))
    a, w = operands(m, k, tokens, 1.0)
    for name in installed():
        peer = checked(name, a, w, DENSE[0].kernel.oracle(a, w))
        traffic = peer.weight_bytes * w.size + peer.activation_bytes * a.size + 4 * m * tokens
        found.append(Entry(name, 1.0, tokens * m * k, traffic, timed(peer.run), peer))
    return found


def case(shape: str, tokens: int) -> dict[str, Any]:
    """Measure all contestants of a case in turns."""
    with ExitStack() as open_:
        lined_up = {f"{entry.name} {entry.density}": entry for entry in entries(shape, tokens, open_)}
        samples = in_turns({PEAK: peak_second} | {name: entry.run for name, entry in lined_up.items()}, SECONDS)
    peak = PEAK_MACS / samples[PEAK].best
    rows = []
    for name, entry in lined_up.items():
        best, median, count = samples[name]
        share, intensity = entry.macs / best / peak, entry.macs / entry.traffic
        row = {"name": entry.name, "density": entry.density, "seconds": best, "median_seconds": median}
        rows.append(row | {"samples": count, "share_of_peak": share, "macs_per_byte": intensity})
    return {"shape": shape, "tokens": tokens, "peak_macs_per_second": peak, "rows": rows}


def bandwidth(size: int) -> float:
    """Bytes a second that a copy of ``size`` bytes reads and writes; the best of several."""
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    run = timed(lambda: np.copyto(target, source))
    return 2 * size / min(run() for _ in range(max(5, 2**28 // size)))


def race() -> dict[str, Any]:
    """All cases, the machine and the versions."""
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}")
    cases = [(shape, tokens) for tokens in TOKENS for shape in SHAPES]
    measured = []
    with threadpool_limits(1), Progress(*columns, TimeElapsedColumn()) as progress:
        task = progress.add_task("race", total=len(cases))
        for shape, tokens in cases:
            progress.update(task, description=f"{shape}, {tokens} tokens")
            measured.append(case(shape, tokens))
            progress.advance(task)
        copies = {"memory": bandwidth(2**27), "cache": bandwidth(2**19)}
    packages = {name: metadata.version(PEERS[name][0]) for name in installed()}
    return {"cpu": cpu.name(), "versions": packages, "bytes_per_second": copies, "cases": measured}


def main() -> None:
    """Measure, draw and write."""
    from race_report import plot
    from readme import rewrite

    RESULTS.mkdir(exist_ok=True)
    found = race()
    (RESULTS / "race.json").write_text(json.dumps(found, indent=1) + "\n")
    plot(found, RESULTS / "roofline.png")
    rewrite(["race"])


if __name__ == "__main__":
    main()
