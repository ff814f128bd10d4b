"""The arithmetic of every lane of a step, as text.

Numbers are exact: what a lane kept of a sum that it could not hold stands behind an arrow.
"""

from fractions import Fraction
from typing import Any

import numpy as np

from refimpl.isa.bf16 import fma_daz_ftz
from refimpl.kernels.simd.provenance import DOTS, Item, Pair, Product, Terms
from refimpl.kernels.simd.trace import Register, Step
from refimpl.models.explain.example import Element, Example
from refimpl.models.explain.flow import Flow

LOSS = " -> "


def number(value: Any) -> str:
    """An integer or a float, which the operands of an example keep exact: 255, 4194304, -1.5."""
    return f"{value:.17g}"


def _factor(value: float) -> str:
    return f"({number(value)})" if value < 0 else number(value)


def product(p: Product) -> str:
    """255·127, 20·(-3)."""
    return f"{number(p.a.value)}·{_factor(p.w.value)}"


def pair(p: Pair) -> str:
    """255·127 + 255·127 = 64770 -> 32767; without the arrow where nothing was clipped."""
    kept = f"{LOSS}{p.value}" if p.clipped else ""
    return f"{product(p.first)} + {product(p.second)} = {p.exact}{kept}"


def is_padding(term: Product | Pair, example: Example) -> bool:
    """Whether no weight of the example is in it, or no activation."""
    if isinstance(term, Pair):
        return is_padding(term.first, example) and is_padding(term.second, example)
    return any((item.array, item.at) not in example.names for item in term)


def total(terms: Terms, example: Example) -> str:
    """A sum of terms, without padding: 10·10 + 11·(-11); (255·127 + 255·127 = 64770 -> 32767) + ...."""
    shown = [f"({pair(t)})" if isinstance(t, Pair) else product(t) for t in terms if not is_padding(t, example)]
    return " + ".join(shown) or "0"


def lanes(step: Step, number: int, example: Example, flow: Flow) -> list[str]:
    """How each 16- or 32-bit lane of the result came about; empty for bytes, bf16 and stores."""
    register = example.provenance.registers[number]
    if register is None or any(isinstance(lane, Item) for lane in register):
        return []
    results = flow.results[number]
    per_dword = len(register) // len(results)
    return [
        f"{_result(results[i // per_dword])}{_lane(step, i, terms, example)}" if terms is not None else ""
        for i, terms in enumerate(register)
    ]


def _result(element: Element | None) -> str:
    return f"{element}: " if element else "padding: "


def _lane(step: Step, i: int, terms: Terms, example: Example) -> str:
    value = step.result.flat[i]
    if step.instruction == "vpmaddubsw":
        return pair(terms[0])  # type: ignore[arg-type]
    if step.instruction in DOTS:
        before, added = _before(step, i, terms, example)
        if step.instruction == "vdpbf16ps":
            return number(before) + _chain(before, added, example)
        return f"{before} + {total(added, example)} = {value}"
    if step.instruction == "vpaddd":
        return f"{step.operands[0].value[i]} + {_factor(int(step.operands[1].value[i]))} = {value}"
    if step.instruction == "vpmaddwd":
        low, high = step.operands[0].value[2 * i : 2 * i + 2].tolist()
        return f"{low}·1 + {_factor(high)}·1 = {value}"
    return number(value)


def _before(step: Step, i: int, terms: Terms, example: Example) -> tuple[Any, Terms]:
    """What stood in a lane before a dot product, and the terms that it added."""
    acc = step.operands[0]
    if not isinstance(acc, Register):
        return acc, terms
    return acc.value.flat[i], terms[len((example.provenance.registers[acc.step] or ())[i]) :]


def _chain(total: np.float32, terms: Terms, example: Example) -> str:
    """Fused multiply-adds one after the other, each with its exact sum: " + 11·11 = 121, + 10·10 = 221"."""
    said = []
    for p in (term for term in terms if isinstance(term, Product) and not is_padding(term, example)):
        exact = Fraction(float(total)) + Fraction(p.value)
        factors = (np.array([x], np.float32) for x in (total, p.a.value, p.w.value))
        total = fma_daz_ftz(*factors)[0]
        kept = "" if Fraction(float(total)) == exact else LOSS + number(total)
        said.append(f" + {product(p)} = {number(float(exact))}{kept}")
    return ",".join(said)
