"""Everything that ``refimpl bench`` found, as plain data and as what other views of it need."""

from dataclasses import asdict, dataclass
from typing import Any

from refimpl import __version__
from refimpl.kernels import cpu
from refimpl.models import engines
from refimpl.models.bench.case import TIMED, Result
from refimpl.models.bench.plan import Plan
from refimpl.models.bench.standings import Entry, rate, standings
from refimpl.models.config import Config

MILLISECONDS = 1e3


@dataclass(frozen=True)
class Report:
    """density: share of the 4x1 blocks of the encoder's weights that is alive; attention: "INT8" or "f32"."""

    model: str
    config: Config
    density: float
    attention: str
    plan: Plan
    results: list[Result]

    @property
    def passed(self) -> bool:
        """Whether every contestant was right wherever it ran."""
        return all(result.status == TIMED for result in self.results)

    def to_json(self) -> dict[str, Any]:
        """For ``json.dumps``; times in milliseconds."""
        budget = self.plan.budget
        return {
            "model": self.model,
            "config": asdict(self.config),
            "density": self.density,
            "attention": self.attention,
            "cpu": cpu.name(),
            "threads": budget.threads,
            "seconds": budget.seconds,
            "limit_ms": budget.limit * MILLISECONDS,
            "versions": versions(),
            "not_installed": not_installed(),
            "cases": [_case(result) for result in self.results],
            "scenarios": {name: self._scenario(name) for name in self.plan.scenarios},
            "passed": self.passed,
        }

    def _scenario(self, scenario: str) -> list[dict[str, Any]]:
        table = standings(self.plan, scenario, self.results)
        return [
            {"tokens": tokens, "name": name, "precision": precision, **_entry(entry)}
            for tokens, entries in table.items()
            for (name, precision), entry in entries.items()
        ]


def _case(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tokens": result.case.tokens,
        "batch": result.case.batch,
        "name": result.name,
        "precision": result.precision,
        "status": result.status,
        "setting": result.setting,
        "agreement": None if result.agreement is None else result.agreement._asdict(),
        "notes": list(result.notes),
    }
    if result.samples is not None:
        median, p10, p90, count = result.samples
        times = {name: value * MILLISECONDS for name, value in (("ms", median), ("p10_ms", p10), ("p90_ms", p90))}
        found |= times | {"runs": count, "texts_per_second": rate(result)}
    return found


def _entry(entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = {"status": entry.status} | dict.fromkeys(("setting", "batch", "ms", "texts_per_second"))
    if entry.best is not None and entry.best.samples is not None:
        found |= {"setting": entry.best.setting, "batch": entry.best.case.batch}
        found |= {"ms": entry.best.samples.median * MILLISECONDS, "texts_per_second": rate(entry.best)}
    return found | {"ours_is_faster": entry.times}


def versions() -> dict[str, str]:
    """Of the programs that take part, by what people call them."""
    return {"refimpl": __version__} | {engines.NAMES[name]: engines.version(name) for name in engines.installed()}


def not_installed() -> list[str]:
    """The engines that could take part and do not."""
    return [words for package, words in engines.NAMES.items() if package not in engines.installed()]
