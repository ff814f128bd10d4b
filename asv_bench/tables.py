"""What race.py measured, as Markdown. ``found`` is the content of a results/CPU.json; each table names its CPU."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from refimpl.kernels.ladder import SPARSE_4X1
from refimpl.kernels.layout.bitmask import break_even_density

REFERENCE = "OpenVINO"
PEAK_TOKENS, PEAK_DENSITY = 128, 0.2
PLACES = {
    "cache": "in a cache",
    "memory": "from memory",
    "memory, two at once": "from memory on each of two threads",
}
"""Where race.py had the weights -> in words."""


def markdown(header: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    first, *others = (f"| {' | '.join(cells)} |" for cells in (header, *rows))
    return "\n".join([first, "|" + "---|" * len(header), *others])


def race(found: dict[str, Any]) -> str:
    """One table for each number of tokens: best time, share of the peak, and how many times as fast as OpenVINO."""
    parts = []
    for tokens in dict.fromkeys(case["tokens"] for case in found["cases"]):
        cases = [case for case in found["cases"] if case["tokens"] == tokens]
        rows = [
            [_name(row[0]["name"]), f"{row[0]['density']:g}", *map(_cell, row, cases)]
            for row in zip(*(case["rows"] for case in cases), strict=True)
        ]
        parts.append(markdown([f"{tokens} tokens", "density", *(case["shape"] for case in cases)], rows))
    peak = max(case["peak_macs_per_second"] for case in found["cases"])
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    parts.append(f"Out x in. On {found['cpu']}, whose peak was {peak / 1e9:.0f} GMAC/s; {versions}.")
    return "\n\n".join(parts)


def _name(name: str) -> str:
    """Kernels as code, engines as words."""
    return f"`{name}`" if "_" in name else name


def _cell(row: dict[str, Any], case: dict[str, Any]) -> str:
    reference = [other["seconds"] for other in case["rows"] if other["name"] == REFERENCE]
    times = f" · {reference[0] / row['seconds']:.2f}x" if reference else ""
    return f"{_time(row['seconds'])} · {row['share_of_peak']:.2f}{times}"


def _time(seconds: float) -> str:
    return f"{1e6 * seconds:.0f} µs"


def peak(every: Sequence[dict[str, Any]]) -> str:
    """The 4x1 kernel's share of the peak in the races of several CPUs, one column each."""
    name = SPARSE_4X1[1].kernel.name
    columns = [
        {
            case["shape"]: row["share_of_peak"]
            for case in found["cases"]
            for row in case["rows"]
            if (case["tokens"], row["name"], row["density"]) == (PEAK_TOKENS, name, PEAK_DENSITY)
        }
        for found in every
    ]
    rows = [[shape, *(f"{column[shape]:.2f}" for column in columns)] for shape in columns[0]]
    return markdown(["share of peak, out x in", *(f"on {found['cpu']}" for found in every)], rows)


def threads(found: dict[str, Any]) -> str:
    """Times with one thread and with two, and their quotient."""
    part = found["threads"]
    rows = []
    for row in part["rows"]:
        one, two = row["seconds"]
        rows.append([_name(row["name"]), f"{row['density']:g}", _time(one), _time(two), f"{one / two:.2f}x"])
    header = [f"{part['shape']}, {part['tokens']} tokens", "density", "one thread", "two threads", "times as fast"]
    return f"{markdown(header, rows)}\n\nOut x in. On {found['cpu']}."


# --- bitmask ---------------------------------------------------------------------------------------------------------


def break_even(densities: Sequence[float], ratios: Sequence[float]) -> float | None:
    """The density below which every measured ratio is below 1, in a straight line between the two measured next to it;
    None where the lowest density has none, the highest where all have.

    densities: ascending.
    """
    slow = [i for i, ratio in enumerate(ratios) if ratio >= 1]
    if not slow:
        return densities[-1]
    i = slow[0]
    return float(np.interp(1, ratios[i - 1 : i + 1], densities[i - 1 : i + 1])) if i else None


def bitmask(found: dict[str, Any]) -> str:
    """Bytes and times against dense weights, a row for each place and number of tokens, a column for each density; and
    where they pay, in a sentence."""
    part = found["bitmask"]
    densities = sorted({row["density"] for row in part["rows"]})
    groups: dict[tuple[str, int], dict[float, dict[str, Any]]] = {}
    for row in part["rows"]:
        groups.setdefault((row["place"], row["tokens"]), {})[row["density"]] = row
    sizes = next(iter(groups.values()))
    dense = sizes[densities[0]]["dense_bytes"]
    even = break_even_density(tuple(map(int, part["shape"].split("x"))))
    bytes_ = [f"{sizes[d]['bitmask_bytes'] / dense:.2f}" for d in densities]
    rows = [["bytes of weights", "", f"{dense / 1e6:.2f} MB", *bytes_, f"{even:.2f}"]]
    below: dict[str, dict[int, float | None]] = {}
    for (place, tokens), group in groups.items():
        ratios = [group[d]["bitmask_seconds"] / group[d]["dense_seconds"] for d in densities]
        below.setdefault(place, {})[tokens] = limit = break_even(densities, ratios)
        best = min(row["dense_seconds"] for row in group.values())
        cells = [_time(best), *(f"{ratio:.2f}" for ratio in ratios), "none" if limit is None else f"{limit:.2f}"]
        rows.append([f"time, weights {PLACES[place]}", str(tokens), *cells])
    header = ["bitmask : dense", "tokens", "dense", *(f"{d:g}" for d in densities), "break-even"]
    return f"{markdown(header, rows)}\n\n{_sizes(found)}\n\n{_pays(below)}"


def _sizes(found: dict[str, Any]) -> str:
    part = found["bitmask"]
    caches = [f"L{level} {size / 2**20:g} MiB" for level, size in part["cache_bytes"].items() if int(level) > 1]
    return (
        f"{part['shape']}, out x in, one thread a layer; from memory, {part['streamed_bytes'] / 1e6:.0f} MB of layers "
        f"in turn. On {', '.join([found['cpu'], *caches])}."
    )


def _pays(below: dict[str, dict[int, float | None]]) -> str:
    """Where the break-even densities are, and where there are none."""
    clauses = []
    for place, limits in below.items():
        said = [
            f"with {tokens} token{'s' * (tokens > 1)} "
            + ("at no measured density" if limit is None else f"below a density of {limit:.2f}")
            for tokens, limit in limits.items()
        ]
        never = all(limit is None for limit in limits.values())
        clauses.append(f"{PLACES[place]}, {'at no measured density' if never else ', '.join(said)}")
    return f"Bitmask weights are faster than dense ones: {'; '.join(clauses)}."


# --- operations ------------------------------------------------------------------------------------------------------


def operations(found: dict[str, Any]) -> str:
    """Row-wise kernels with their rates; then kernels of several stages."""
    rows = [
        [
            f"`{row['name']}`",
            row["shape"],
            _time(row["seconds"]),
            f"{row['bytes'] / row['seconds'] / 1e9:.0f}",
            f"{row['elements'] / row['seconds'] / 1e9:.1f}",
            _time(row["beside_seconds"]),
            f"{row['beside_seconds'] / row['seconds']:.1f}x",
        ]
        for row in found["operations"]["rows"]
    ]
    staged = [
        [
            f"`{row['name']}`",
            row["shape"],
            _time(row["seconds"]),
            row["beside"],
            _time(row["beside_seconds"]),
            f"{row['beside_seconds'] / row['seconds']:.1f}x",
        ]
        for row in found["operations"]["staged"]
    ]
    first = markdown(["rows", "shape", "time", "GB/s", "elements/ns", "NumPy", "times as fast"], rows)
    second = markdown(["stages", "shape", "time", "beside", "its time", "times as fast"], staged)
    return f"{first}\n\n{second}\n\nOne thread, on {found['cpu']}; GB/s counts each array once."
