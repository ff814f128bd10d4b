"""A step in words: what it did, for a newcomer."""

from collections.abc import Callable
from itertools import islice

from refimpl.kernels.simd.provenance import LOADS, STORES, Item, Lanes, Pair
from refimpl.kernels.simd.trace import Place, Register, Step
from refimpl.models.explain.example import Element, Example
from refimpl.models.explain.flow import Flow
from refimpl.models.explain.sums import pair

LIMITS = {True: "32767 is the most", False: "-32768 is the least"}


def why(step: Step, number: int, example: Example, flow: Flow) -> str:
    """One to three sentences for a newcomer."""
    say = _SAY.get(step.instruction)
    said = say(step, number, example, flow) if say else ""
    if not flow.matters[number]:
        said += " Only padding: no result of this example depends on this step."
    return said.strip()


def _elements(found: Lanes | list[Element | None], example: Example) -> str:
    """The elements in a register or a place, in order, each once."""
    named = [example.names.get((x.array, x.at)) if isinstance(x, Item) else x for x in found]
    kept = list(dict.fromkeys(str(element) for element in named if isinstance(element, Element)))
    more = f" … {len(kept) - 8} more" if len(kept) > 8 else ""
    return " ".join(islice(kept, 8)) + more


def _load(step: Step, number: int, example: Example, flow: Flow) -> str:
    found = _elements(example.provenance.registers[number] or [], example)
    lanes = example.provenance.registers[number] or []
    unnamed = any(isinstance(x, Item) and (x.array, x.at) not in example.names for x in lanes)
    rest = "; the rest is padding, or pruned" if unnamed else ""
    place = next(operand for operand in step.operands if isinstance(operand, Place))
    what = {
        "vpbroadcastd": "Reads one dword, the four bytes {}, and repeats it in all 16 dwords, so that every dword of "
        "the other operand meets it",
        "vpbroadcastd_pair": "Reads one dword, the pair of bf16 {}, and repeats it in all 16 dwords, so that every "
        "dword of the other operand meets it",
        "tileloadd": f"Tile {step.tile} becomes r{number}. Reads {{}}, each row of memory into one of the tile",
        "vmovdqu8_load_low": "Reads 32 bytes, {}, into the lower half of a register",
        "vpexpandb": "Reads the next nonzero bytes, {}, and spreads them over the places that the bits of the mask "
        "name; a clear bit leaves 0",
    }.get(step.instruction, "Reads 64 bytes, {}")
    return what.format(place) + (f". They are {found}{rest}." if found else ".")


def _store(step: Step, number: int, example: Example, flow: Flow) -> str:
    (register,) = (operand for operand in step.operands if isinstance(operand, Register))
    found = _elements(flow.results[register.step], example)
    return f"Writes r{register.step} to {step.written}." + (f" Results in it: {found}." if found else "")


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


def _vinserti64x4(step: Step, number: int, example: Example, flow: Flow) -> str:
    register, place = step.operands
    found = _elements((example.provenance.registers[number] or [])[32:], example)
    return f"Reads 32 bytes, {place}, into the upper half; the lower one is that of r{register.step}." + (
        f" They are {found}." if found else ""
    )


def _vpermi2b(step: Step, number: int, example: Example, flow: Flow) -> str:
    index, a, b = (f"r{register.step}" for register in step.operands)
    found = _elements((example.provenance.registers[number] or [])[:4], example)
    return (
        f"Picks each byte from the 128 of {a} and {b}, as {index} says. Nothing is computed: values move, so that the "
        "four k of one token become neighbours in a dword." + (f" The first dword is now {found}." if found else "")
    )


def _prefetcht0(step: Step, number: int, example: Example, flow: Flow) -> str:
    (place,) = step.operands
    return f"Asks for the cache line of {place}, which a later step may read, ahead of time. It changes no value."


def _vpdpbusd(step: Step, number: int, example: Example, flow: Flow) -> str:
    acc, a, w = (f"r{register.step}" for register in step.operands)
    return (
        f"In each of 16 dwords: multiplies four bytes of {a} (unsigned) by four of {w} (signed), and adds the four "
        f"products to {acc}, all in 32 bits: exact."
    )


def _vdpbf16ps(step: Step, number: int, example: Example, flow: Flow) -> str:
    acc, a, w = (f"r{register.step}" for register in step.operands)
    return (
        f"In each of 16 dwords: multiplies two bf16 of {a} by two of {w}, and adds the products to {acc}, in f32: "
        "first that of the upper ones, of odd k, then that of the lower, each in a fused multiply-add that rounds "
        "once. An arrow stands where f32 could not hold the exact sum."
    )


def _configuration(step: Step, number: int, example: Example, flow: Flow) -> str:
    rows, colsb = (" ".join(map(str, sizes)) for sizes in step.operands)
    return (
        "No instruction: Python lays out 64 bytes for the next step to read. Byte 0 is the palette, 1; from byte 16 on "
        f"stand the bytes of a row of tile 0 … 7, two bytes each: {colsb}; from byte 48 on their rows: {rows}."
    )


def _ldtilecfg(step: Step, number: int, example: Example, flow: Flow) -> str:
    sizes = enumerate(zip(step.result.rows, step.result.colsb, strict=True))
    used = "; ".join(f"tile {t} has {rows} rows of {colsb} bytes" for t, (rows, colsb) in sizes if rows)
    return f"Sets the sizes of the tiles and clears them: {used}. The others are not in use."


def _tdpbusd(step: Step, number: int, example: Example, flow: Flow) -> str:
    acc, a, w = step.operands
    start = f"r{acc.step}" if isinstance(acc, Register) else "0, what ldtilecfg left there"
    return (
        f"Tile {step.tile} becomes r{number}: {start}, plus the matrix product of r{a.step} and r{w.step}. A row of "
        f"r{a.step} is a token (unsigned); its dword q meets row q of r{w.step}, in which every dword is another "
        "channel (signed): four products of bytes each time, all added in 32 bits: exact."
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


def _kmovq_load(step: Step, number: int, example: Example, flow: Flow) -> str:
    (place,) = (operand for operand in step.operands if isinstance(operand, Place))
    return (
        f"Reads the mask {place}: {int(step.result):#b}. Bit j, lowest first, says whether byte j of the register "
        "has a weight of its own; where it is clear, the weight is 0 and not stored."
    )


def _popcnt(step: Step, number: int, example: Example, flow: Flow) -> str:
    return f"Counts the set bits of the mask: {step.result} weights are stored for this register."


_SAY: dict[str, Callable[[Step, int, Example, Flow], str]] = {
    **dict.fromkeys(LOADS, _load),
    **dict.fromkeys(STORES, _store),
    **dict.fromkeys(("vpunpcklbw", "vpunpckhbw", "vpunpcklwd", "vpunpckhwd"), _unpack),
    **dict.fromkeys(("zero_s32", "zero_f32"), _zero),
    "prefetcht0": _prefetcht0,
    "vinserti64x4": _vinserti64x4,
    "vpermi2b": _vpermi2b,
    "vpdpbusd": _vpdpbusd,
    "vdpbf16ps": _vdpbf16ps,
    "configuration": _configuration,
    "ldtilecfg": _ldtilecfg,
    "tdpbusd": _tdpbusd,
    "vpmaddubsw": _vpmaddubsw,
    "vpmaddwd": _vpmaddwd,
    "vpaddd": _vpaddd,
    "ones_s16": lambda *_: "Thirty-two words of 1, to multiply by: the next instruction only adds neighbours.",
    "kmovq_load": _kmovq_load,
    "popcnt": _popcnt,
}
