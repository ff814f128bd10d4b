"""The three scenarios of Fast DistilBERT on CPUs, section 4, and the cases that each needs.

latency      one text in a batch: the time that it takes
throughput   the batch size with the most texts a second
production   the same among the batches that take less than a limit, 10 ms in the paper
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from refimpl.models.options import check_batches, check_tokens

LATENCY, THROUGHPUT, PRODUCTION = SCENARIOS = ("latency", "throughput", "production")
TOKENS = (16, 32, 48, 64, 80, 96, 112, 128)
"""Of Table 4."""
LONG = 384
"""Of SQuAD, in the latency scenario."""
BATCHES = (1, 2, 4, 8, 16, 32)
SHARE = 0.25


class Case(NamedTuple):
    """Texts in a batch, and tokens in a text."""

    batch: int
    tokens: int


class Budget(NamedTuple):
    """threads: of every engine; seconds: of measuring, a case; limit: seconds that a batch may take in production."""

    threads: int = 1
    seconds: float = 1.0
    limit: float = 0.010


@dataclass(frozen=True)
class Plan:
    """What is measured. tokens: of each scenario, and batches of all but latency, ascending."""

    scenarios: tuple[str, ...]
    tokens: dict[str, tuple[int, ...]]
    batches: tuple[int, ...]
    budget: Budget

    def sizes(self, scenario: str) -> tuple[int, ...]:
        """The batch sizes that a scenario looks at."""
        return (1,) if scenario == LATENCY else self.batches

    def cases(self) -> list[Case]:
        """Every case once, the lengths one after the other, and the batches of a length from small to large."""
        found = {
            Case(batch, tokens)
            for scenario in self.scenarios
            for tokens in self.tokens[scenario]
            for batch in self.sizes(scenario)
        }
        return sorted(found, key=lambda case: (case.tokens, case.batch))

    @property
    def longest(self) -> float:
        """Seconds of a batch beyond which no larger one is tried: in production none counts that is slower than the
        limit, and in throughput one that takes SHARE of a case's time has long been as efficient as it will be."""
        return self.budget.seconds * SHARE if THROUGHPUT in self.scenarios else self.budget.limit


def make_plan(
    scenarios: Sequence[str], tokens: Sequence[int], batches: Sequence[int], positions: int, budget: Budget
) -> Plan:
    """Fill in what is left out, and check the rest against the model's positions.

    Raises
    ------
    ValueError
        that says what is needed instead
    """
    for scenario in scenarios:
        if scenario not in SCENARIOS:
            raise ValueError(f"--scenario is {scenario!r:.80}; need {', '.join(SCENARIOS)}")
    if batches and set(scenarios) == {LATENCY}:
        raise ValueError(f"--batch is given, but {LATENCY} has one text in a batch; leave it out")
    check_tokens(tokens, positions)
    check_batches(batches)
    lengths = {}
    for scenario in SCENARIOS:
        usual = (*TOKENS, LONG) if scenario == LATENCY else TOKENS
        lengths[scenario] = tuple(sorted(set(tokens))) or tuple(n for n in usual if n <= positions) or (positions,)
    chosen = tuple(scenario for scenario in SCENARIOS if scenario in (scenarios or SCENARIOS))
    return Plan(chosen, lengths, tuple(sorted(set(batches))) or BATCHES, budget)
