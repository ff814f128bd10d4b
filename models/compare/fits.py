"""Mistakes with a number that the values themselves tell: a scale, factor or bias that is r times what it should be.

The tensor depends on r (or on 1 / r, if it divides) as slope r + intercept, at least where nothing is clipped: two runs
of the chain give both. Each element then allows r from (theirs - bound - intercept) / slope to
(theirs + bound - intercept) / slope, and the r that most of them allow is tried like any other mistake. What it
explains counts; how it was found does not.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from refimpl.models.compare.chain import Chain
from refimpl.models.compare.hypotheses_codes import QUANTIZERS, SCALED
from refimpl.models.compare.hypotheses_operands import bias_of
from refimpl.models.compare.use import Use, scaled, value
from refimpl.models.exact import Exact
from refimpl.quant.affine import limits

FEWEST = 8
"""Elements that one number must explain."""
PER_CHANNEL = 4
"""Elements of each channel that its own number must explain."""
ROUNDS = 2
"""The bounds depend on r, too."""
FRACTIONS = {f"{a} / {b}": a / b for a, b in ((127, 128), (255, 256), (254, 255), (127, 255), (128, 255), (1, 2))}
NUMBERS = {"0": 0.0, "2": 2.0, "4": 4.0, "-1": -1.0} | FRACTIONS | {
    " / ".join(reversed(name.split(" / "))): 1 / ratio for name, ratio in FRACTIONS.items()
}  # fmt: skip

BY_CHANNEL = "scale of a or b"

Factor = float | np.ndarray


class Knob(NamedTuple):
    """A number of a node that may be r times another one. turn: a use and r -> the use with it, or None.

    under: what comes of it is divided by r.
    """

    name: str
    ops: tuple[str, ...]
    turn: Callable[[Use, Factor], Use | None]
    under: bool = False


class Fit(NamedTuple):
    """A mistake whose number is known. vague: as of a hypothesis."""

    name: str
    use: Use
    vague: int


def _input(name: str) -> Callable[[Use, Factor], Use | None]:
    def turn(use: Use, r: Factor) -> Use | None:
        x = use.get(name)
        return None if x is None else use.put(**{name: scaled(x, r)})

    return turn


def _bias(use: Use, r: Factor) -> Use | None:
    """A bias in integers is rounded to them."""
    bias = use.get("bias")
    return None if bias is None else use.put(bias=scaled(bias, r))


def _added(use: Use, r: Factor) -> Use | None:
    i = bias_of(use)
    return None if i is None else use.replace_at(i, scaled(use.xs[i], r))  # type: ignore[arg-type]


def _constant_factor(use: Use, r: Factor) -> Use | None:
    i = next((i for i, fixed in enumerate(use.constant) if fixed and value(use.xs[i]).dtype.kind == "f"), None)
    if i is None or (use.op == "Div" and i == 0):
        return None
    return use.replace_at(i, scaled(use.xs[i], r))  # type: ignore[arg-type]


PRODUCT_SCALED = tuple(op for op in SCALED if op not in ("QLinearAdd",))
KNOBS = [
    Knob(BY_CHANNEL, PRODUCT_SCALED, _input("a_scale")),
    Knob("scale of a", ("QLinearAdd",), _input("a_scale")),
    Knob("scale of b", ("QLinearAdd",), _input("b_scale")),
    Knob("scale of x", ("DequantizeLinear",), _input("x_scale")),
    Knob("output scale", QUANTIZERS, _input("y_scale"), under=True),
    Knob("scale of the bias", ("Gemm", "MatMulIntegerToFloat"), _bias),
    Knob("scale of the bias", ("Add",), _added),
    Knob("factor", ("Mul",), _constant_factor),
    Knob("divisor", ("Div",), _constant_factor, under=True),
    Knob("factor of a", ("MatMul",), _input("a")),
]


def fits(chain: Chain, use: Use) -> Iterator[Fit]:
    """Each number of a node that explains much, and the scales of its channels if none of them does."""
    for knob in KNOBS:
        if use.op in knob.ops:
            yield from _turned(chain, use, knob)


def _turned(chain: Chain, use: Use, knob: Knob) -> Iterator[Fit]:
    r, name = 1.0, "1"
    for _ in range(ROUNDS):
        allowed = _allowed(chain, use, knob, r)
        if allowed is None or np.isfinite(allowed[0]).sum() < FEWEST:
            return
        r, name = _named(*most_common(*(part.reshape(-1) for part in allowed)))
        if r in (0.0, 1.0):
            break
    turned = knob.turn(use, r)
    if r != 1 and turned is not None:
        yield Fit(f"{knob.name} times {name}", turned, 1)
    if knob.name == BY_CHANNEL and allowed is not None:
        yield from _by_channel(use, *allowed)


def _by_channel(use: Use, lower: np.ndarray, upper: np.ndarray) -> Iterator[Fit]:
    """A number for each output channel, if the channels are those of the tensor."""
    weights, b_scale = use.get("b"), use.get("b_scale")
    if weights is None or b_scale is None or not lower.ndim or weights.value.shape[-1] != lower.shape[-1]:
        return
    factor = np.ones(lower.shape[-1])
    for c, (low, high) in enumerate(zip(*(part.reshape(-1, factor.size).T for part in (lower, upper)), strict=True)):
        if np.isfinite(low).sum() >= PER_CHANNEL:
            factor[c], _ = _named(*most_common(low, high))
    if len(set(factor)) > 1:
        yield Fit("other scales of the channels", use.put(b_scale=scaled(b_scale, factor)), 2)


def _allowed(chain: Chain, use: Use, knob: Knob, start: float) -> tuple[np.ndarray, np.ndarray] | None:
    """For each element of the tensor, from where to where r may be, NaN where it says nothing."""
    start = 1 / start if knob.under else start
    ends = [_judged(chain, use, knob, 1 / r if knob.under else r) for r in (start, start / 2)]
    if ends[0] is None or ends[1] is None or ends[0].value.shape != chain.theirs.shape:
        return None
    value, half = (end.value.astype(np.float64) for end in ends if end is not None)
    bound = np.broadcast_to(ends[0].bound, value.shape)
    with np.errstate(all="ignore"):
        slope = (value - half) / (start / 2)
        intercept = value - slope * start
        theirs = chain.theirs.astype(np.float64)
        edges = np.stack([(theirs - bound - intercept) / slope, (theirs + bound - intercept) / slope])
        edges = 1 / edges if knob.under else edges
    says = (slope != 0) & np.isfinite(edges).all(0)
    if ends[0].ours is not None:
        low, high = limits(ends[0].ours.dtype)
        says &= (theirs > low) & (theirs < high) & (value > low) & (value < high)
    return np.where(says, edges.min(0), np.nan), np.where(says, edges.max(0), np.nan)


def _judged(chain: Chain, use: Use, knob: Knob, r: float) -> Exact | None:
    turned = knob.turn(use, r)
    return None if turned is None else chain.run(turned)[1]


def most_common(lower: np.ndarray, upper: np.ndarray) -> tuple[float, float]:
    """The piece of the line that most intervals share. NaN: none. f64 (N,) twice.

    >>> most_common(np.array([0.0, 1.0, 5.0]), np.array([2.0, 3.0, 6.0]))
    (1.0, 2.0)
    """
    there = np.isfinite(lower)
    starts, ends = np.sort(lower[there]), np.sort(upper[there])
    depth = np.arange(1, starts.size + 1) - np.searchsorted(ends, starts, side="left")
    low = starts[int(depth.argmax())]
    return float(low), float(ends[np.searchsorted(ends, low, side="left")])


def _named(low: float, high: float) -> tuple[float, str]:
    """The simplest number of an interval, and how to write it.

    >>> _named(0.9921, 0.9922), _named(1.0699, 1.0701)
    ((0.9921875, '127 / 128'), (1.07, '1.07'))
    """
    slack = 1e-7 * max(abs(low), abs(high))
    for name, number in {"1": 1.0, **NUMBERS}.items():
        if low - slack <= number <= high + slack:
            return number, name
    middle = (low + high) / 2
    short = (f"{middle:.{digits}g}" for digits in range(1, 10))
    text = next((text for text in short if low <= float(text) <= high), f"{middle:.17g}")
    return float(text), f"{float(text):.9g}"
