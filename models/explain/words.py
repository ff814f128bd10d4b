"""A step in words: what it did, and the arithmetic of every lane."""

from collections.abc import Callable
from itertools import islice

from refimpl.kernels.simd.provenance import Byte, Lanes, Pair, Product, Terms
from refimpl.kernels.simd.trace import Place, Step
from refimpl.models.explain.example import Element, Example
from refimpl.models.explain.flow import Flow

LIMITS = {True: "32767 is the most", False: "-32768 is the least"}


def _factor(value: int) -> str:
    return f"({value})" if value < 0 else str(value)


def product(p: Product) -> str:
    """255·127, 20·(-3)."""
    return f"{p.a.value}·{_factor(p.w.value)}"


def pair(p: Pair) -> str:
    """255·127 + 255·127 = 64770 -> 32767; without the arrow where nothing was clipped."""
    kept = f" -> {p.value}" if p.clipped else ""
    return f"{product(p.first)} + {product(p.second)} = {p.exact}{kept}"


def is_padding(term: Product | Pair, example: Example) -> bool:
    """Whether no weight of the example is in it, or no activation."""
    if isinstance(term, Pair):
        return is_padding(term.first, example) and is_padding(term.second, example)
    return any((byte.array, byte.at) not in example.names for byte in term)


def total(terms: Terms, example: Example) -> str:
    """A sum of terms, without padding: 10·10 + 11·(-11); (255·127 + 255·127 = 64770 -> 32767) + ...."""
    shown = [f"({pair(t)})" if isinstance(t, Pair) else product(t) for t in terms if not is_padding(t, example)]
    return " + ".join(shown) or "0"


def lanes(step: Step, number: int, example: Example, flow: Flow) -> list[str]:
    """How each 16- or 32-bit lane of the result came about; empty for bytes and stores."""
    register = example.provenance.registers[number]
    if register is None or any(isinstance(lane, Byte) for lane in register):
        return []
    results = flow.results[number]
    per_dword = len(register) // 16
    return [
        f"{_result(results[i // per_dword])}{_lane(step, i, terms, example)}" if terms is not None else ""
        for i, terms in enumerate(register)
    ]


def _result(element: Element | None) -> str:
    return f"{element}: " if element else "padding: "


def _lane(step: Step, i: int, terms: Terms, example: Example) -> str:
    value = step.result[i]
    if step.instruction == "vpmaddubsw":
        return pair(terms[0])  # type: ignore[arg-type]
    if step.instruction == "vpdpbusd":
        return f"{step.operands[0].value[i]} + {total(terms[-4:], example)} = {value}"
    if step.instruction == "vpaddd":
        return f"{step.operands[0].value[i]} + {_factor(int(step.operands[1].value[i]))} = {value}"
    if step.instruction == "vpmaddwd":
        low, high = step.operands[0].value[2 * i : 2 * i + 2].tolist()
        return f"{low}·1 + {_factor(high)}·1 = {value}"
    return str(value)


def why(step: Step, number: int, example: Example, flow: Flow) -> str:
    """One to three sentences for a newcomer."""
    say = _SAY.get(step.instruction)
    said = say(step, number, example, flow) if say else ""
    if not flow.matters[number]:
        said += " Only padding: no result of this example depends on this step."
    return said.strip()


def _elements(found: Lanes | list[Element | None], example: Example) -> str:
    """The elements in a register or a place, in order, each once."""
    named = [example.names.get((x.array, x.at)) if isinstance(x, Byte) else x for x in found]
    kept = list(dict.fromkeys(str(element) for element in named if element))
    more = f" … {len(kept) - 8} more" if len(kept) > 8 else ""
    return " ".join(islice(kept, 8)) + more


def _load(step: Step, number: int, example: Example, flow: Flow) -> str:
    found = _elements(example.provenance.registers[number] or [], example)
    rest = "; the rest is padding" if None in flow.slots[number] else ""
    place = next(operand for operand in step.operands if isinstance(operand, Place))
    what = {
        "vpbroadcastd": "Reads one dword, the four bytes {}, and repeats it in all 16 dwords, so that every dword of "
        "the other operand meets it",
        "vpexpandb": "Reads the next nonzero bytes, {}, and spreads them over the places that the bits of the mask "
        "name; a clear bit leaves 0",
    }.get(step.instruction, "Reads 64 bytes, {}")
    return what.format(place) + (f". They are {found}{rest}." if found else ".")


def _store(step: Step, number: int, example: Example, flow: Flow) -> str:
    found = _elements(flow.results[step.operands[1].step], example)
    return f"Writes r{step.operands[1].step} to {step.written}." + (f" Results in it: {found}." if found else "")


def _unpack(step: Step, number: int, example: Example, flow: Flow) -> str:
    a, b = (f"r{register.step}" for register in step.operands)
    half = "upper" if "punpckh" in step.instruction else "lower"
    item = "words (two bytes)" if step.instruction.endswith("wd") else "bytes"
    found = _elements((example.provenance.registers[number] or [])[:4], example)
    return (
        f"Takes {item} of {a} and {b} in turns, from the {half} half of each 128-bit lane (a line below). Nothing is "
        f"computed: values move, so that the four k of one token become neighbours in a dword."
        + (f" The first dword is now {found}." if found else "")
    )


def _vpdpbusd(step: Step, number: int, example: Example, flow: Flow) -> str:
    acc, a, w = (f"r{register.step}" for register in step.operands)
    return (
        f"In each of 16 dwords: multiplies four bytes of {a} (unsigned) by four of {w} (signed), and adds the four "
        f"products to {acc}, all in 32 bits: exact."
    )


def _vpmaddubsw(step: Step, number: int, example: Example, flow: Flow) -> str:
    a, w = (f"r{register.step}" for register in step.operands)
    said = f"Multiplies bytes of {a} (unsigned) by bytes of {w} (signed) and adds each two neighbours into 16 bits. "
    pairs = [terms[0] for terms in example.provenance.registers[number] or () if isinstance(terms[0], Pair)]
    clipped = [p for p in pairs if p.clipped]
    if not clipped:
        return said + "Every sum fits into -32768 … 32767 here, so nothing is lost."
    texts = {pair(p): p for p in clipped}
    words = [
        f"{text}: {LIMITS[p.exact > 0]} that a signed 16-bit word holds, so {abs(p.exact - p.value)} of the sum is lost"
        for text, p in texts.items()
    ]
    more = f"; and {len(words) - 4} more" if len(words) > 4 else ""
    return said + f"{len(clipped)} of {len(pairs)} sums saturate. " + "; ".join(words[:4]) + more + "."


def _vpmaddwd(step: Step, number: int, example: Example, flow: Flow) -> str:
    words = f"r{step.operands[0].step}"
    return (
        f"Multiplies the 16-bit words of {words} by 1 and adds each two neighbours into 32 bits: exact. What was "
        "clipped before stays lost."
    )


def _vpaddd(step: Step, number: int, example: Example, flow: Flow) -> str:
    acc, more = (f"r{register.step}" for register in step.operands)
    return f"Adds {more} to the accumulators {acc}, in 32 bits: exact."


def _zero(step: Step, number: int, example: Example, flow: Flow) -> str:
    found = _elements(flow.results[number], example)
    return "Sixteen accumulators start at 0." + (f" They will become: {found}." if found else "")


def _popcnt(step: Step, number: int, example: Example, flow: Flow) -> str:
    return f"Counts the set bits of the mask: {step.result} weights are stored for this register."


_SAY: dict[str, Callable[[Step, int, Example, Flow], str]] = {
    **dict.fromkeys(("vmovdqu8_load", "vpbroadcastd", "vpexpandb"), _load),
    **dict.fromkeys(("vmovdqu8_store", "vmovdqu32_store"), _store),
    **dict.fromkeys(("vpunpcklbw", "vpunpckhbw", "vpunpcklwd", "vpunpckhwd"), _unpack),
    "vpdpbusd": _vpdpbusd,
    "vpmaddubsw": _vpmaddubsw,
    "vpmaddwd": _vpmaddwd,
    "vpaddd": _vpaddd,
    "zero_s32": _zero,
    "ones_s16": lambda *_: "Thirty-two words of 1, to multiply by: the next instruction only adds neighbours.",
    "popcnt": _popcnt,
}
