"""Where every lane of every register of a trace comes from, down to the products of single bytes.

A byte that was only moved has an origin: an element of an array. A 16- or 32-bit lane of an integer product has terms:
products of two bytes, or pairs of them that ``vpmaddubsw`` added and saturated. A lane's value is the sum of its terms'
values (wrapped to s32), and a test recomputes every output from them.

Moves are followed by running the instruction's own meaning on numbered bytes. What an instruction outside this module's
table makes has no provenance (None), nor has what is made from it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.integer.narrow import saturate_s16
from refimpl.kernels.simd.trace import Register, Step


class Byte(NamedTuple):
    """A byte's value, and the element that it was loaded from: array is "" if none, as of zeros that a mask leaves."""

    value: int
    array: str = ""
    at: int = -1


class Product(NamedTuple):
    """a, of u8, times w, of s8."""

    a: Byte
    w: Byte

    @property
    def value(self) -> int:
        """Exact."""
        return self.a.value * self.w.value


class Pair(NamedTuple):
    """Two products, added and saturated to s16."""

    first: Product
    second: Product

    @property
    def exact(self) -> int:
        """The sum before saturation."""
        return self.first.value + self.second.value

    @property
    def value(self) -> int:
        """The sum as kept: -32768 ... 32767."""
        return int(saturate_s16(np.array(self.exact)))

    @property
    def clipped(self) -> bool:
        """Whether saturation changed it."""
        return self.value != self.exact


Terms = tuple[Product | Pair, ...]
Lanes = Sequence[Any]  # a Byte for each byte, or Terms for each wider lane


class Provenance(NamedTuple):
    """registers: for each step, the lanes of its result, or None. memory: (array, index) -> what was last stored."""

    registers: list[Lanes | None]
    memory: dict[tuple[str, int], Any]


def provenance(steps: list[Step]) -> Provenance:
    """Follow every byte and every product through a trace."""
    found = Provenance([], {})
    for step in steps:
        follow = _FOLLOW.get(step.instruction)
        found.registers.append(follow(step, found) if follow else None)
    return found


def _lanes(operand: Register, found: Provenance) -> Lanes | None:
    return found.registers[operand.step]


def _load(step: Step, found: Provenance) -> Lanes | None:
    """Number the elements that are read, from 1, and see where the numbers arrive; 0 is no element."""
    place, *rest = step.operands
    array = np.zeros(place.at + place.size, step.result.dtype)
    array[place.at :] = np.arange(1, place.size + 1)
    labels = step.meaning(array, place.at, *rest).view(f"u{array.itemsize}")
    elements = [(place.array, place.at + int(label) - 1) if label else None for label in labels]
    if array.itemsize > 1:
        return [found.memory.get(element) if element else None for element in elements]
    return [_byte(value, element, found) for value, element in zip(step.result.tolist(), elements, strict=True)]


def _byte(value: int, element: tuple[str, int] | None, found: Provenance) -> Byte:
    """What was stored there, if a step stored it; otherwise the element itself."""
    return Byte(value) if element is None else found.memory.get(element) or Byte(value, *element)


def _store(step: Step, found: Provenance) -> None:
    place, register = step.operands
    lanes = _lanes(register, found) or [None] * place.size
    found.memory.update({(place.array, place.at + i): lane for i, lane in enumerate(lanes)})


def _move(step: Step, found: Provenance) -> Lanes | None:
    """Bytes of two registers, told apart by numbers from 0 to 127."""
    sources = [_lanes(register, found) for register in step.operands]
    if any(lanes is None for lanes in sources):
        return None
    numbers = [np.arange(64 * i, 64 * i + 64).astype(step.result.dtype) for i in range(len(sources))]
    flat = [byte for lanes in sources for byte in lanes or ()]
    return [flat[i] for i in step.meaning(*numbers).tolist()]


def _or(step: Step, found: Provenance) -> Lanes | None:
    """Bytes of which at most one is not 0."""
    first, second = (_lanes(register, found) for register in step.operands)
    if first is None or second is None:
        return None
    return [x if x.value else y for x, y in zip(first, second, strict=True)]


def _products(a: Lanes | None, w: Lanes | None, count: int) -> list[tuple[Product, ...]] | None:
    """``count`` neighbours at a time."""
    if a is None or w is None:
        return None
    products = [Product(x, y) for x, y in zip(a, w, strict=True)]
    return [tuple(products[i : i + count]) for i in range(0, len(products), count)]


def _vpdpbusd(step: Step, found: Provenance) -> Lanes | None:
    acc, a, w = (_lanes(register, found) for register in step.operands)
    return _sum(acc, _products(a, w, 4))


def _vpmaddubsw(step: Step, found: Provenance) -> Lanes | None:
    a, w = (_lanes(register, found) for register in step.operands)
    pairs = _products(a, w, 2)
    return pairs and [(Pair(*pair),) for pair in pairs]


def _vpmaddwd(step: Step, found: Provenance) -> Lanes | None:
    """By ones, which only adds neighbours."""
    words, ones = step.operands
    lanes = _lanes(words, found)
    if lanes is None or (ones.value != 1).any():
        return None
    return [lanes[i] + lanes[i + 1] for i in range(0, len(lanes), 2)]


def _vpaddd(step: Step, found: Provenance) -> Lanes | None:
    return _sum(*(_lanes(register, found) for register in step.operands))


def _sum(first: Lanes | None, second: Lanes | None) -> Lanes | None:
    if first is None or second is None:
        return None
    return [None if a is None or b is None else a + b for a, b in zip(first, second, strict=True)]


def _zero(step: Step, found: Provenance) -> Lanes:
    return [()] * step.result.size


_FOLLOW: dict[str, Callable[[Step, Provenance], Lanes | None]] = {
    **dict.fromkeys(("vmovdqu8_load", "vpbroadcastd", "vpexpandb", "vmovdqu32_load"), _load),
    **dict.fromkeys(("vmovdqu8_store", "vmovdqu32_store"), _store),
    **dict.fromkeys(("vpunpcklbw", "vpunpckhbw", "vpunpcklwd", "vpunpckhwd"), _move),
    "vpord": _or,
    "vpdpbusd": _vpdpbusd,
    "vpmaddubsw": _vpmaddubsw,
    "vpmaddwd": _vpmaddwd,
    "vpaddd": _vpaddd,
    "zero_s32": _zero,
}
