"""Which way values go next: read off a trace backwards.

Three things about a step that only later ones decide: which results its lanes will end in, which of the places in a
dword its bytes or bf16 will take in the next dot product (their colour), and whether any result depends on it at all.
"""

from typing import NamedTuple

import numpy as np

from refimpl.kernels.simd.provenance import DOTS, Item, met
from refimpl.kernels.simd.trace import Register, Step
from refimpl.models.explain.example import Element, Example

LANEWISE = {**dict.fromkeys(("vpdpbusd", "vdpbf16ps", "tdpbusd", "vpmaddwd"), (0,)), "vpaddd": (0, 1)}
"""Operands whose dwords go on in the same dwords of the result."""


class Flow(NamedTuple):
    """For each step: results of its dwords; slot 0 to 3 of each byte, 0 or 1 of each bf16 (None: padding); whether it
    matters.

    memory: the slot of an element of an array, by (array, index).
    """

    results: list[list[Element | None]]
    slots: list[list[int | None]]
    matters: list[bool]
    memory: dict[tuple[str, int], int]


def flow(example: Example) -> Flow:
    """Go through the steps from the last to the first."""
    count = len(example.steps)
    dwords = [step.result.nbytes // 4 if isinstance(step.result, np.ndarray) else 0 for step in example.steps]
    found = Flow([[None] * size for size in dwords], [[] for _ in range(count)], [False] * count, {})
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
    (register,) = (operand for operand in step.operands if isinstance(operand, Register))
    elements = _results(step, example)
    if register.value.itemsize == 4:
        found.results[register.step] = elements
    lanes = example.provenance.registers[register.step] or ()
    return any(elements) or any(isinstance(lane, Item) and (lane.array, lane.at) in example.names for lane in lanes)


def _results(step: Step, example: Example) -> list[Element | None]:
    """What the elements that a store writes stand for, in order."""
    place = step.written
    return [example.names.get((place.array, i)) for row in place.indices for i in row] if place else []


def _note_slots(step: Step, example: Example, found: Flow) -> None:
    """Where an activation meets a weight; copies of an activation that meet padding do not count."""
    registers = [operand.step for operand in step.operands[DOTS[step.instruction] :][:2]]
    a, w = (example.provenance.registers[register] or () for register in registers)
    per = 4 // example.steps[registers[0]].result.itemsize
    for places in met(step) if a and w else ():
        for at in places:
            pair = [(item.array, item.at) for item in (a[at[0]], w[at[1]])]
            if all(place in example.names for place in pair):
                found.memory.update(zip(pair, (i % per for i in at), strict=True))


def _slot(lane: object, example: Example, found: Flow) -> int | None:
    return found.memory.get((lane.array, lane.at)) if isinstance(lane, Item) else None
