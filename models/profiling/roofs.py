"""What bounds a step: the roofline, with a roof for every resource.

    compute   what the multiply-accumulates take at the peaks: those of codes at VNNI's, those of f32 at that of f32
    memory    what the bytes take: parameters from the nearest cache that holds all that a pass reads, or from memory;
              activations from the nearest that holds the arena
    calls     what it takes to call the kernel from Python

each as a share of the time of the step. The largest names what bounds it if it is HALF or more. Where no resource is
used by half, instructions bound the step: those that are no multiply-accumulate, such as the interleaving of rows,
exponentials, GELU, layer norms, conversions and stores. Writing counts as reading does. A share is of time at best,
since every byte may lie nearer than its roof says: a share above one is possible, and says that it did.

Softmax, GELU and layer norms are f32 arithmetic without products: VNNI's peak says nothing of them. On a CPU without
VNNI the peak is not known, nor is then what bounds a product, unless it is memory or calls.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from refimpl.models.runtime.work import Work

HALF = 0.5
COMPUTE, MEMORY, CALLS, INSTRUCTIONS = "compute", "memory", "calls", "instructions"


class Place(NamedTuple):
    """Where bytes are read from. name: L1, L2, L3 or memory; holds: how many are read there."""

    name: str
    holds: int


@dataclass(frozen=True)
class Roofs:
    """integer, floating: multiply-accumulates a second, of all threads; reads: bytes a second, by name of the place;
    call: seconds. integer is None where the CPU lacks VNNI."""

    integer: float | None
    floating: float
    reads: Mapping[str, float]
    call: float
    parameters: Place
    activations: Place


class Shares(NamedTuple):
    """Of a step's time. compute is None where a roof is not known."""

    compute: float | None
    memory: float
    calls: float

    @property
    def bound(self) -> str | None:
        """The word; None where it cannot be told."""
        most = max((MEMORY, self.memory), (CALLS, self.calls), (COMPUTE, self.compute or 0.0), key=lambda x: x[1])
        if most[1] >= HALF:
            return most[0]
        return INSTRUCTIONS if self.compute is not None else None


def shares(seconds: float, calls: int, done: Work, roofs: Roofs) -> Shares:
    """Of ``calls`` calls that took ``seconds`` in all."""
    compute = None
    if roofs.integer is not None or not done.integer:
        compute = done.integer / (roofs.integer or 1.0) + done.floating / roofs.floating
    reads = roofs.reads
    memory = done.parameters / reads[roofs.parameters.name] + done.activations / reads[roofs.activations.name]
    return Shares(None if compute is None else compute / seconds, memory / seconds, calls * roofs.call / seconds)
