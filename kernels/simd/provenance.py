"""Where every lane of every register of a trace comes from, down to the products of single bytes or bf16.

A number that was only moved has an origin: an element of an array. A 16- or 32-bit lane of a product has terms, in the
order in which they are added: products of two numbers, or pairs of them that ``vpmaddubsw`` added and saturated. An
integer lane's value is the sum of its terms' values (wrapped to s32), an f32 lane's the chain of fused multiply-adds
with them; a test recomputes every output from them.

Moves are followed by running the instruction's own meaning on numbered elements. What an instruction outside this
module's table makes has no provenance (None), nor has what is made from it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from refimpl.integer.narrow import saturate_s16
from refimpl.isa.bf16 import from_bf16
from refimpl.kernels.simd.trace import Register, Step

DOTS = {"vpdpbusd": 1, "vpmaddubsw": 0, "vdpbf16ps": 1, "tdpbusd": 1}
"""Dot products, and which of their operands is the first factor; the second one follows."""
LOADS = (
    *("vmovdqu8_load", "vmovdqu8_load_low", "vpbroadcastd", "vpexpandb", "vmovdqu32_load"),
    *("vmovdqu16_load", "vpbroadcastd_pair", "tileloadd"),
)
STORES = ("vmovdqu8_store", "vmovdqu32_store", "vmovups_store", "tilestored")


class Item(NamedTuple):
    """The value of a byte or a bf16, and the element that it was loaded from: array is "" if none, as of zeros that a
    mask leaves."""

    value: float
    array: str = ""
    at: int = -1


class Product(NamedTuple):
    """a, of u8, times w, of s8; or both of bf16."""

    a: Item
    w: Item

    @property
    def value(self) -> float:
        """Exact."""
        return self.a.value * self.w.value


class Pair(NamedTuple):
    """Two products, added and saturated to s16."""

    first: Product
    second: Product

    @property
    def exact(self) -> float:
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
Lanes = Sequence[Any]  # an Item for each byte or bf16, or Terms for each lane of a product


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


def numbers(array: np.ndarray) -> np.ndarray:
    """What the elements stand for: u16 are bf16."""
    return from_bf16(array) if array.dtype == np.uint16 else array


def met(step: Step) -> list[list[tuple[int, int]]]:
    """For each lane of a dot product's result the elements of its two factors that meet there, in order of addition."""
    a, w = (operand.value for operand in step.operands[DOTS[step.instruction] :][:2])
    if step.tile is None:
        per = a.size // step.result.size
        order = range(per)[:: -1 if step.instruction == "vdpbf16ps" else 1]
        return [[(per * lane + i, per * lane + i) for i in order] for lane in range(step.result.size)]
    depth, row = a.shape[1], w.shape[1]
    return [
        [(m * depth + k, k // 4 * row + 4 * n + k % 4) for k in range(depth)] for m, n in np.ndindex(step.result.shape)
    ]


def _lanes(operand: Register, found: Provenance) -> Lanes | None:
    return found.registers[operand.step]


def _load(step: Step, found: Provenance) -> Lanes | None:
    """Number the elements that are read, a row at a time from 1, and see where they arrive; 0 is no element."""
    place, *rest = step.operands
    elements: list[tuple[str, int] | None] = [None] * step.result.size
    for row in place.indices:
        array = np.zeros(place.indices[-1].stop, step.result.dtype)
        array[row] = np.arange(1, place.size + 1)
        labels = step.meaning(array, place.at, *rest).ravel().view(f"u{array.itemsize}")
        for i in np.flatnonzero(labels):
            elements[i] = (place.array, row[int(labels[i]) - 1])
    if step.result.itemsize == 4:
        return [found.memory.get(element) if element else None for element in elements]
    values = numbers(step.result).ravel().tolist()
    return [_item(value, element, found) for value, element in zip(values, elements, strict=True)]


def _item(value: float, element: tuple[str, int] | None, found: Provenance) -> Item:
    """What was stored there, if a step stored it; otherwise the element itself."""
    return Item(value) if element is None else found.memory.get(element) or Item(value, *element)


def _store(step: Step, found: Provenance) -> None:
    (register,) = (operand for operand in step.operands if isinstance(operand, Register))
    elements = [(step.written.array, i) for row in step.written.indices for i in row]  # type: ignore[union-attr]
    found.memory.update(zip(elements, _lanes(register, found) or [None] * len(elements), strict=True))


def _move(step: Step, found: Provenance) -> Lanes | None:
    """Bytes of two registers, told apart by numbers from 0 to 127."""
    sources = [_lanes(register, found) for register in step.operands]
    if any(lanes is None for lanes in sources):
        return None
    numbers = [np.arange(64 * i, 64 * i + 64).astype(step.result.dtype) for i in range(len(sources))]
    flat = [byte for lanes in sources for byte in lanes or ()]
    return [flat[i] for i in step.meaning(*numbers).tolist()]


def _permute(step: Step, found: Provenance) -> Lanes | None:
    """Bytes of two registers, by an index whose own origin does not count."""
    index, *tables = step.operands
    return _move(step._replace(meaning=partial(step.meaning, index.value), operands=tuple(tables)), found)


def _insert(step: Step, found: Provenance) -> Lanes | None:
    """The lower half of a register, and a load above it."""
    register, place = step.operands
    kept = _lanes(register, found)
    above = zip(step.result[32:].tolist(), place.indices[0], strict=True)
    return kept and [*kept[:32], *(_item(value, (place.array, i), found) for value, i in above)]


def _or(step: Step, found: Provenance) -> Lanes | None:
    """Bytes of which at most one is not 0."""
    first, second = (_lanes(register, found) for register in step.operands)
    if first is None or second is None:
        return None
    return [x if x.value else y for x, y in zip(first, second, strict=True)]


def _products(step: Step, found: Provenance) -> list[Terms] | None:
    a, w = (_lanes(register, found) for register in step.operands[DOTS[step.instruction] :][:2])
    if a is None or w is None:
        return None
    return [tuple(Product(a[i], w[j]) for i, j in pairs) for pairs in met(step)]


def _dot(step: Step, found: Provenance) -> Lanes | None:
    acc = step.operands[0]
    return _sum(_lanes(acc, found) if isinstance(acc, Register) else _zero(step, found), _products(step, found))


def _vpmaddubsw(step: Step, found: Provenance) -> Lanes | None:
    pairs = _products(step, found)
    return pairs and [(Pair(*pair),) for pair in pairs]  # type: ignore[arg-type]


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
    **dict.fromkeys(LOADS, _load),
    **dict.fromkeys(STORES, _store),
    **dict.fromkeys(("vpunpcklbw", "vpunpckhbw", "vpunpcklwd", "vpunpckhwd"), _move),
    **dict.fromkeys(("vpdpbusd", "vdpbf16ps", "tdpbusd"), _dot),
    **dict.fromkeys(("zero_s32", "zero_f32"), _zero),
    "vpermi2b": _permute,
    "vinserti64x4": _insert,
    "vpord": _or,
    "vpmaddubsw": _vpmaddubsw,
    "vpmaddwd": _vpmaddwd,
    "vpaddd": _vpaddd,
}
