"""What scenarios.py measured, as Markdown: one table by length, one at one length, one of production."""

from collections.abc import Callable, Sequence
from typing import Any

from scenarios import BATCH, LATENCY, PRODUCTION, TWO_THREADS
from tables import markdown

from refimpl.models.bench.contestants import OURS
from refimpl.models.bench.variants import INT8

Standing = dict[str, Any]
"""Of a contestant at a length, as ``refimpl bench --json`` has it."""


def tables(found: dict[str, Any]) -> str:
    """Latency by length and density; two threads, and a batch; production; and what they have in common."""
    parts = found["bench"]
    one, production = parts[LATENCY], parts[PRODUCTION]
    beside = [parts[name] for name in (TWO_THREADS, BATCH) if name in parts]
    shown = [
        _by_length("ms for one text, tokens:", one, "latency", _milliseconds),
        _at_one_length([one, *beside]),
        _by_length(f"texts a second under {production[0]['limit_ms']:g} ms", production, "production", _rate_of_batch),
        _conditions([report for reports in parts.values() for report in reports]),
    ]
    return "\n\n".join(shown)


def _by_length(what: str, reports: Sequence[dict[str, Any]], scenario: str, cell: Callable[[Standing], str]) -> str:
    """A row a contestant of each report, a column a length."""
    rows = []
    lengths = list(dict.fromkeys(row["tokens"] for row in reports[0]["scenarios"][scenario]))
    for report, key in _contestants(reports, scenario):
        of = {row["tokens"]: row for row in report["scenarios"][scenario] if _key(row) == key}
        rows.append([key, _pruned(report), *(cell(of[tokens]) for tokens in lengths)])
    return markdown([what, "pruned", *map(str, lengths)], rows)


def _at_one_length(parts: Sequence[Sequence[dict[str, Any]]]) -> str:
    """Latency on one thread and on more, and the texts a second of a batch, each a column, at the length that all
    have."""
    columns, rows = [], {}
    (tokens,) = {row["tokens"] for report in parts[-1] for row in report["scenarios"]["throughput"]}
    for reports in parts:
        (scenario,) = reports[0]["scenarios"]
        cell = _milliseconds if scenario == "latency" else _rate
        threads = f"{reports[0]['threads']} thread{'s' * (reports[0]['threads'] > 1)}"
        batch = next(row["batch"] for row in reports[0]["scenarios"][scenario] if row["batch"])
        columns.append(f"ms for one text, {threads}" if scenario == "latency" else f"texts a second, batch of {batch}")
        for report, key in _contestants(reports, scenario):
            of = next(row for row in report["scenarios"][scenario] if (_key(row), row["tokens"]) == (key, tokens))
            rows.setdefault((key, _pruned(report)), []).append(cell(of))
    return markdown([f"{tokens} tokens", "pruned", *columns], [[*head, *cells] for head, cells in rows.items()])


def _contestants(reports: Sequence[dict[str, Any]], scenario: str) -> list[tuple[dict[str, Any], str]]:
    """Report and name of each row of a table; those that are not in INT8 do not skip zeros, and are shown once."""
    found = []
    for i, report in enumerate(reports):
        for name in dict.fromkeys(_key(row) for row in report["scenarios"][scenario]):
            if i == 0 or name.endswith("INT8"):
                found.append((report, name))
    return found


def _key(row: Standing) -> str:
    return f"{row['name']} {row['precision']}"


def _pruned(report: dict[str, Any]) -> str:
    return f"{1 - report['density']:.0%}"


def _milliseconds(row: Standing) -> str:
    return _standing(row, "" if row["ms"] is None else f"{row['ms']:.2f}")


def _rate(row: Standing) -> str:
    return _standing(row, "" if row["ms"] is None else f"{row['texts_per_second']:,.0f}")


def _rate_of_batch(row: Standing) -> str:
    return _standing(row, "" if row["ms"] is None else f"{row['texts_per_second']:,.0f} ({row['batch']})")


def _standing(row: Standing, value: str) -> str:
    """A cell; what there is instead of a time, if there is none."""
    if not value:
        return "-" if row["status"] == "timed" else row["status"]
    ours = row["name"] == OURS and row["precision"] == INT8
    return value if ours or row["ours_is_faster"] is None else f"{value} · {row['ours_is_faster']:.2f}x"


def _conditions(reports: Sequence[dict[str, Any]]) -> str:
    """Of all tables; of the first report what is the same in each."""
    first = reports[0]
    settings: dict[str, dict[str, None]] = {}
    for report in reports:
        for rows in report["scenarios"].values():
            for row in rows:
                if row["setting"]:
                    settings.setdefault(_key(row), {})[row["setting"]] = None
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items() if name != OURS)
    fastest = "; ".join(f"{key}: {' / '.join(found)}" for key, found in settings.items())
    return (
        f"{first['model']}, attention in {first['attention']}; medians. x: how many times as fast {OURS} in INT8 is, "
        f"in the same run. In brackets: the best batch size; -: none is fast enough. On {first['cpu']}; {versions}. "
        f"An engine's fastest setting that is right counts: {fastest}."
    )
