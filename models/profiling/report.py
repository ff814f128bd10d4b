"""Everything that ``refimpl profile`` found, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from refimpl.kernels import cpu
from refimpl.models.bench.measuring import Samples
from refimpl.models.config import Config, to_json
from refimpl.models.profiling.roofs import Roofs, Shares, shares
from refimpl.models.runtime.lines import line
from refimpl.models.runtime.session import Ready
from refimpl.models.runtime.steps import Shape, kind
from refimpl.models.runtime.work import Work, work


class Row(NamedTuple):
    """Some calls of one kernel, or a part without. line: of the step, or the first of them, "" for none; seconds, work:
    of all calls."""

    name: str
    line: str
    calls: int
    seconds: float
    work: Work

    def shares(self, roofs: Roofs) -> Shares | None:
        """None for a part without a kernel."""
        return shares(self.seconds, self.calls, self.work, roofs) if self.calls else None


@dataclass(frozen=True)
class Report:
    """lengths: tokens of each text; rows: of every part of a pass, which add up to it, averages of the fastest quarter
    of so many ``passes``; whole: of passes without a look at the clock."""

    model: str
    config: Config
    density: float
    attention: str
    lengths: Sequence[int]
    shape: Shape
    rows: Sequence[Row]
    passes: int
    whole: Samples
    roofs: Roofs

    @property
    def seconds(self) -> float:
        """Of a pass with looks at the clock."""
        return sum(row.seconds for row in self.rows)

    def grouped(self) -> list[Row]:
        """Rows of the same step of several layers in one."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(kind(row.name), []).append(row)
        return [_sum(name, rows) for name, rows in groups.items()]

    def to_json(self) -> dict[str, Any]:
        """For ``json.dumps``; times in milliseconds, rates a second."""
        return {
            "model": self.model,
            "config": to_json(self.config),
            "density": self.density,
            "attention": self.attention,
            "cpu": cpu.name(),
            "threads": self.shape.threads,
            "lengths": list(self.lengths),
            "shape": self.shape._asdict(),
            "pass_ms": self.seconds * 1e3,
            "passes": self.passes,
            "unwatched_pass_ms": {name: getattr(self.whole, name) * 1e3 for name in ("median", "p10", "p90")},
            "roofs": {
                "integer_macs_per_second": self.roofs.integer,
                "f32_macs_per_second": self.roofs.floating,
                "bytes_per_second": dict(self.roofs.reads),
                "call_ms": self.roofs.call * 1e3,
                "parameters": self.roofs.parameters._asdict(),
                "activations": self.roofs.activations._asdict(),
            },
            "rows": [self._row(row) for row in self.rows],
            "kinds": [self._row(row) for row in self.grouped()],
        }

    def _row(self, row: Row) -> dict[str, Any]:
        found = row.shares(self.roofs)
        return {
            "name": row.name,
            "line": row.line,
            "calls": row.calls,
            "ms": row.seconds * 1e3,
            "share": row.seconds / self.seconds,
            "integer_macs": row.work.integer,
            "f32_macs": row.work.floating,
            "parameter_bytes": row.work.parameters,
            "activation_bytes": row.work.activations,
            "share_of_compute": None if found is None else found.compute,
            "share_of_memory": None if found is None else found.memory,
            "share_of_calls": None if found is None else found.calls,
            "bound": None if found is None else found.bound,
        }


def _sum(name: str, rows: Sequence[Row]) -> Row:
    done = Work()
    for row in rows:
        done = done.plus(row.work)
    return Row(name, rows[0].line, sum(row.calls for row in rows), sum(row.seconds for row in rows), done)


def rows_of(parts: Mapping[str, float], ready: Ready) -> list[Row]:
    """Of the parts of a pass, those that are steps with what they do. parts: name -> seconds."""
    steps = {step.name: step for step in ready.plan.steps}
    return [
        Row(name, str(line(steps[name])), 1, seconds, work(steps[name], ready))
        if name in steps
        else Row(name, "", 0, seconds, Work())
        for name, seconds in parts.items()
    ]
