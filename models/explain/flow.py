"""Which way values go next: read off a trace backwards.

Three things about a step that only later ones decide: which results its lanes will end in, which of the four places in
a dword its bytes will take in the next dot product (their colour), and whether any result depends on it at all.
"""

from typing import NamedTuple

import numpy as np

from refimpl.kernels.simd.provenance import Byte
from refimpl.kernels.simd.trace import Register, Step
from refimpl.models.explain.example import Element, Example

DOTS = {"vpdpbusd": (1, 2), "vpmaddubsw": (0, 1)}
LANEWISE = {"vpdpbusd": (0,), "vpaddd": (0, 1), "vpmaddwd": (0,)}
"""Operands: those multiplied; those whose dwords go on in the same dwords of the result."""


class Flow(NamedTuple):
    """For each step: results of its 16 dwords; slot 0 to 3 of each byte (None: padding); whether it matters.

    memory: the slot of an element of an array, by (array, index).
    """

    results: list[list[Element | None]]
    slots: list[list[int | None]]
    matters: list[bool]
    memory: dict[tuple[str, int], int]


def flow(example: Example) -> Flow:
    """Go through the steps from the last to the first."""
    count = len(example.steps)
    found = Flow([[None] * 16 for _ in range(count)], [[] for _ in range(count)], [False] * count, {})
    for i in reversed(range(count)):
        step = example.steps[i]
        if step.written:
            found.matters[i] = _store(step, example, found)
        elif not isinstance(step.result, np.ndarray):
            found.matters[i] = True  # a count or a mask
        if step.instruction in DOTS:
            _note_slots(step, example, found)
        found.slots[i] = [_slot(lane, example, found) for lane in example.provenance.registers[i] or ()]
        registers = [(at, operand) for at, operand in enumerate(step.operands) if isinstance(operand, Register)]
        for at, register in registers:
            found.matters[register.step] |= found.matters[i]
            if at in LANEWISE.get(step.instruction, ()):
                found.results[register.step] = found.results[i]
    return found


def _store(step: Step, example: Example, found: Flow) -> bool:
    """Note what the lanes of the stored register are; True if any is a result, or an activation kept for later."""
    place, register = step.operands
    elements = [example.names.get((place.array, place.at + i)) for i in range(place.size)]
    if place.size == 16:
        found.results[register.step] = elements
    lanes = example.provenance.registers[register.step] or ()
    return any(elements) or any(isinstance(lane, Byte) and (lane.array, lane.at) in example.names for lane in lanes)


def _note_slots(step: Step, example: Example, found: Flow) -> None:
    """Where an activation meets a weight; copies of an activation that meet padding do not count."""
    a, w = (example.provenance.registers[step.operands[at].step] or () for at in DOTS[step.instruction])
    for i, pair in enumerate(zip(a, w, strict=True)):
        if all((byte.array, byte.at) in example.names for byte in pair):
            found.memory.update({(byte.array, byte.at): i % 4 for byte in pair})


def _slot(lane: object, example: Example, found: Flow) -> int | None:
    return found.memory.get((lane.array, lane.at)) if isinstance(lane, Byte) else None
