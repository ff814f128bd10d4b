"""The race: on one machine, kernels and engines in turns, and what each takes.

``python asv_bench/race.py``, on an otherwise idle machine: about five minutes, and twenty for "bench". It adds to
results/CPU.json, CPU in LLVM's name; readme.py makes tables and a plot of it.

    race        every rung of the ladders against the peers, one thread, on three layers of BERT-base
    threads     one thread against two
    bitmask     bitmask weights against dense ones, with few tokens
    operations  row-wise kernels, attention and the fused layer, each beside another way to the same
    bench       the whole model in each scenario, beside the other engines: scenarios.py
"""

import argparse
import json
from collections.abc import Callable
from contextlib import ExitStack
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from benchmarks import bitmask as bitmask_bench
from benchmarks import operations as operations_bench
from benchmarks.bitmask import Bitmask
from benchmarks.measuring import (
    PEAK,
    PEAK_MACS,
    Contestant,
    array_bytes,
    in_turns,
    operands,
    peak_second,
    prepared,
    timed,
)
from peers import PEERS, Peer, checked, installed
from rich.progress import track
from scenarios import bench
from threadpoolctl import threadpool_limits

from refimpl.kernels import cpu
from refimpl.kernels.gemm_u8s8s32 import GEMM
from refimpl.kernels.ladder import DENSE, SPARSE_4X1
from refimpl.kernels.record import Kernel
from refimpl.kernels.spgemm_bitmask_u8s8s32 import SPGEMM_BITMASK

RESULTS = Path(__file__).parent / "results"
SHAPES, TOKENS, DENSITIES = ("768x768", "3072x768", "768x3072"), (32, 128), (1.0, 0.2, 0.1)
THREADS_SHAPE, THREADS_TOKENS = "3072x768", 128


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


def entries(shape: str, tokens: int, open_: ExitStack) -> list[Entry]:
    """All contestants of a case, each compared with the oracle."""
    m, k = map(int, shape.split("x"))
    found = []
    for kernel, density in kernels(tokens):
        a, w = operands(m, k, tokens, density)
        packed = kernel.pack(w)  # once: the shared layouts take seconds
        traffic = array_bytes([packed] if isinstance(packed, np.ndarray) else packed) + a.nbytes + 4 * m * tokens
        run = open_.enter_context(prepared(kernel._replace(pack=lambda _, packed=packed: packed), a, w))
        found.append(Entry(kernel.name, density, tokens * np.count_nonzero(w), traffic, run))
    a, w = operands(m, k, tokens, 1.0)
    for name in installed():
        peer = checked(name, a, w, DENSE[0].kernel.oracle(a, w))
        traffic = peer.weight_bytes * w.size + peer.activation_bytes * a.size + 4 * m * tokens
        found.append(Entry(name, 1.0, tokens * m * k, traffic, timed(peer.run), peer))
    return found


def case(shape: str, tokens: int, seconds: float) -> dict[str, Any]:
    """Measure all contestants of a case in turns."""
    with ExitStack() as open_:
        lined_up = {f"{entry.name} {entry.density}": entry for entry in entries(shape, tokens, open_)}
        samples = in_turns({PEAK: peak_second} | {name: entry.run for name, entry in lined_up.items()}, seconds)
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


def race(seconds: float) -> dict[str, Any]:
    """All cases, and the versions of the peers."""
    with threadpool_limits(1):
        pairs = track(list(product(TOKENS, SHAPES)), "race")
        measured = [case(shape, tokens, seconds) for tokens, shape in pairs]
        copies = {"memory": bandwidth(2**27), "cache": bandwidth(2**19)}
    packages = {name: metadata.version(PEERS[name][0]) for name in installed()}
    return {"versions": packages, "bytes_per_second": copies, "cases": measured}


def threads(seconds: float) -> dict[str, Any]:
    """The dense kernel, and the sparse rungs on sparse weights, all in turns, on one thread and on two."""
    m, k = map(int, THREADS_SHAPE.split("x"))
    pairs = [(kernel, d) for kernel, d in kernels(THREADS_TOKENS) if (kernel is GEMM) == (d == 1.0)]
    lined_up: dict[str, Contestant] = {}
    with ExitStack() as open_:
        for count in (1, 2):  # ascending: numba runs parallel code with the number that was set last
            for kernel, density in pairs:
                a, w = operands(m, k, THREADS_TOKENS, density)
                run = open_.enter_context(prepared(kernel, a, w, count))
                lined_up[f"{kernel.name} {density} {count}"] = run
        samples = in_turns(lined_up, seconds)
    rows = [
        {"name": kernel.name, "density": d, "seconds": [samples[f"{kernel.name} {d} {n}"].best for n in (1, 2)]}
        for kernel, d in pairs
    ]
    return {"threads": {"shape": THREADS_SHAPE, "tokens": THREADS_TOKENS, "rows": rows}}


def bitmask(seconds: float) -> dict[str, Any]:
    """All parameters of the benchmark that this machine has CPUs for."""
    rows = []
    places = [place for place, count in bitmask_bench.PLACES.items() if count <= numba.config.NUMBA_NUM_THREADS]
    for place, tokens, density in track(list(product(places, *Bitmask.params[1:])), "bitmask"):
        benchmark = Bitmask()
        benchmark.setup(place, tokens, density)
        taken = benchmark.seconds(seconds)
        benchmark.teardown(place, tokens, density)
        row = {"place": place, "tokens": tokens, "density": density}
        for form, kernel in (("dense", GEMM), ("bitmask", SPGEMM_BITMASK)):
            row |= {f"{form}_bytes": benchmark.bytes[kernel.name], f"{form}_seconds": taken[kernel.name]}
        rows.append(row)
    shape = f"{bitmask_bench.M}x{bitmask_bench.K}"
    sizes = {"cache_bytes": cpu.cache_bytes(), "streamed_bytes": bitmask_bench.streamed_bytes()}
    return {"bitmask": {"shape": shape, **sizes, "rows": rows}}


def operations(seconds: float) -> dict[str, Any]:
    """Rows of the row-wise kernels, and of those with several stages."""
    found: dict[str, list] = {}
    groups = {"rows": operations_bench.ROW_DUELS, "staged": operations_bench.STAGED_DUELS}
    for group, name in track([(group, name) for group, duels in groups.items() for name in duels], "operations"):
        duel = groups[group][name]()
        kernel, other = operations_bench.measured(duel, seconds)
        row = {"name": name.split()[0], "shape": duel.shape, "elements": duel.elements, "bytes": duel.traffic}
        row |= {"seconds": kernel.best, "beside": duel.beside, "beside_seconds": other.best}
        found.setdefault(group, []).append(row)
    return {"operations": found}


PARTS: dict[str, Callable[[float], dict[str, Any]]] = {
    part.__name__: part for part in (race, threads, bitmask, operations, bench)
}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="measure, and add to results/CPU.json")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part alone; may be repeated")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each contestant (bitmask: for each pair)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse_args()
    path = given.results / f"{cpu.name()}.json"
    found = json.loads(path.read_text()) if path.exists() else {"cpu": cpu.name()}
    few = numba.config.NUMBA_NUM_THREADS < 2
    for part in given.only or [name for name in PARTS if not (few and name == "threads")]:
        found |= PARTS[part](given.seconds)
        path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
