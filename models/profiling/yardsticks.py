"""What the roofs are measured with: a run of each is timed in turns with the passes, in one run of the program."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from refimpl.kernels import cpu, peak
from refimpl.kernels.encoder import layernorm
from refimpl.models.profiling.roofs import Place, Roofs
from refimpl.models.runtime.session import Ready
from refimpl.models.runtime.work import given_to, work

MEMORY = "memory"
FOLD, LEAST, MOST = 4, 2**27, 2**29
"""Memory is read in a block of so many times the last cache, within LEAST and MOST bytes."""
EMPTY_CALLS = 100
INTEGER, FLOATING, CALL = "integer peak", "f32 peak", "empty calls"


def place_of(size: int, caches: Mapping[int, int]) -> str:
    """The nearest cache that holds so many bytes, L1, L2 or L3, or memory. caches: level -> bytes."""
    return next((f"L{level}" for level, holds in sorted(caches.items()) if size <= holds), MEMORY)


def block_of(place: str, caches: Mapping[int, int]) -> int:
    """Bytes to read again and again, so that they come from that place: half of a cache, or much more than the last."""
    if place != MEMORY:
        return caches[int(place.removeprefix("L"))] // 2
    return min(max(FOLD * max(caches.values(), default=0), LEAST), MOST)


class Yardsticks(NamedTuple):
    """runs: by name; amounts: what each run does: multiply-accumulates, bytes or calls."""

    runs: Mapping[str, Callable[[], object]]
    amounts: Mapping[str, int]
    parameters: Place
    activations: Place

    def roofs(self, seconds: Mapping[str, float], threads: int) -> Roofs:
        """seconds: of a run of each. The peaks are measured on one thread."""
        rates = {name: amount / seconds[name] for name, amount in self.amounts.items()}
        places = {place.name: rates[place.name] for place in (self.parameters, self.activations)}
        integer = threads * rates[INTEGER] if INTEGER in rates else None
        return Roofs(integer, threads * rates[FLOATING], places, 1 / rates[CALL], self.parameters, self.activations)


def yardsticks(ready: Ready) -> Yardsticks:
    """For a plan whose inputs are filled in."""
    caches, threads = cpu.cache_bytes(), ready.plan.shape.threads
    read = sum(work(step, ready).parameters for step in ready.plan.steps)
    places = [Place(place_of(size, caches), size) for size in (read, ready.plan.arena.peak)]
    found = {FLOATING: peak.f32_peak()}
    if peak.dot_products.runs_natively():
        found[INTEGER] = peak.integer_peak()
    found |= {place.name: peak.read_peak(block_of(place.name, caches), threads) for place in places}
    found[CALL] = peak.Yardstick(_empty_calls(ready), EMPTY_CALLS)
    runs = {name: yardstick.run for name, yardstick in found.items()}
    return Yardsticks(runs, {name: yardstick.amount for name, yardstick in found.items()}, *places)


def _empty_calls(ready: Ready) -> Callable[[], None]:
    """Calls of a kernel of the plan with nothing to do."""
    number, step = next(
        (i, step) for i, step in enumerate(ready.plan.steps) if step.kernel.emulated.__module__ == layernorm.__name__
    )
    given, run = given_to(step, ready), ready.calls[number][0]
    empty = given | {name: given[name][:0] for name in ("x", "out")}

    def calls() -> None:
        for _ in range(EMPTY_CALLS):
            run(*empty.values())

    return calls
