"""Where every tensor of a plan lies while it lives: a picture of the arena in letters, one column a step."""

import string
from collections.abc import Sequence
from typing import NamedTuple

from refimpl.models.runtime.memory import Life
from refimpl.models.runtime.steps import Plan, kind, lives

ROWS = 12
COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "red", "bright_cyan", "bright_yellow", "bright_green")
FREE = "·"


class Chart(NamedTuple):
    """rows: from the top of the arena down, a letter for each step, FREE where nothing lies; legend: letter -> what
    tensors it stands for, of all layers."""

    rows: Sequence[str]
    legend: dict[str, str]


def chart(plan: Plan) -> Chart:
    """A row is a share of the arena, and shows the tensor that takes most of it. Inputs are left out: they are small,
    and live throughout."""
    found = {name: life for name, life in lives(plan.inputs, plan.steps).items() if name not in plan.inputs}
    letters: dict[str, str] = {}
    for name in found:
        letters.setdefault(kind(name), string.ascii_letters[len(letters) % len(string.ascii_letters)])
    size = plan.arena.peak / ROWS
    rows = [
        "".join(_letter(plan, found, letters, (row * size, (row + 1) * size), step) for step in range(len(plan.steps)))
        for row in reversed(range(ROWS))
    ]
    return Chart(rows, {letter: name for name, letter in letters.items()})


def _letter(plan: Plan, found: dict[str, Life], letters: dict[str, str], place: tuple[float, float], step: int) -> str:
    taken = {}
    for name, life in found.items():
        if life.first <= step <= life.last:
            start = plan.arena.offsets[name]
            taken[name] = min(place[1], start + life.size) - max(place[0], start)
    most = max(taken, key=lambda name: taken[name], default="")
    return letters[kind(most)] if most and taken[most] > 0 else FREE
