"""Judge another engine operator by operator: each of its values against the exact result of its own inputs.

Two engines that both round correctly drift apart, layer by layer, and no honest tolerance holds at the end. So nothing
is compared with our own run: the model's wiring is run once more with an op table that computes each operator in f64
*from the engine's values* and bounds what rounding can do to it (``refimpl.bounds``); the tap compares, and hands the
engine's value on. An operator that is wrong is found at its place, and only there.

    |engine value - f64 operator(engine inputs)| <= bound          f32 taps
    |engine code - (engine input / scale + 128)| <= 1/2 + bound    INT8 codes; those that are not ours are counted
    |engine code - 255 engine probability| <= 1/2 + bound          likewise

A value that an engine keeps to itself is replaced by the exact one, and how far the engine's own may be from that adds
to the bounds of all that is computed from it (``refimpl.propagation``).
"""

from typing import Any, NamedTuple

import numpy as np

from refimpl.models.bert import Batch, Model, forward
from refimpl.models.exact import JUDGE, Exact, unseen
from refimpl.nn.taps import SEPARATOR


class Finding(NamedTuple):
    """The verdict on one tap.

    worst: the largest |error| / bound, at most 1 if all is well; at: its index; outside: how many elements exceed
    their bound; of: how many there are; different: for codes, how many are not ours.
    """

    worst: float
    at: tuple[int, ...]
    outside: int
    of: int
    different: int


class JudgeTap:
    """Compares an ``Exact`` with the engine's value of that name, records a ``Finding`` and returns the value.

    Of taps that the engine did not expose it returns an ``Unseen``.
    """

    def __init__(self, engine: dict[str, np.ndarray], findings: dict[str, Finding] | None = None, prefix: str = ""):
        self.engine = engine
        self.findings: dict[str, Finding] = {} if findings is None else findings
        self.prefix = prefix

    def scope(self, name: str) -> "JudgeTap":
        return JudgeTap(self.engine, self.findings, self.prefix + name + SEPARATOR)

    def __call__(self, name: str, value: Any) -> Any:
        """value: an ``Exact``; returns the engine's value, f64, or u8 for codes."""
        exact: Exact = value
        name = self.prefix + name
        if name not in self.engine:
            return unseen(exact)
        theirs = self.engine[name]
        if theirs.shape != exact.value.shape:
            raise ValueError(f"{name} has shape {theirs.shape}; need {exact.value.shape}")
        self.findings[name] = find(theirs, exact)
        return theirs if theirs.dtype == np.uint8 else theirs.astype(np.float64)


def find(value: np.ndarray, exact: Exact) -> Finding:
    """Compare one tap. NaN, or infinity where a finite number is due, is outside any bound."""
    error = np.abs(value.astype(np.float64) - exact.value)
    bound = np.broadcast_to(exact.bound, error.shape)
    wrong = beyond(value, exact)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(~wrong, np.where(bound > 0, error / bound, 0.0), np.maximum(error / bound, 1.0))
    ratio = np.where(np.isinf(bound) & ~wrong, 0.0, np.where(np.isfinite(error), ratio, np.inf))
    at = np.unravel_index(int(ratio.argmax()), ratio.shape)
    different = 0 if exact.ours is None else int((value != exact.ours).sum())
    return Finding(float(ratio[at]), tuple(int(i) for i in at), int(wrong.sum()), error.size, different)


def beyond(value: np.ndarray, exact: Exact) -> np.ndarray:
    """Which elements of a tap exceed their bound, bool (...)."""
    return ~(np.abs(value.astype(np.float64) - exact.value) <= exact.bound)


def first_outside(findings: dict[str, Finding]) -> str:
    """Where an engine first leaves its bounds, in words; "" if it never does."""
    for tap, finding in findings.items():
        if finding.outside:
            return f"{tap} {list(finding.at)} has {finding.worst:.3g} times the error allowed"
    return ""


def judge(model: Model, batch: Batch, engine: dict[str, np.ndarray]) -> dict[str, Finding]:
    """Tap name -> finding, for every tap that the engine exposed, of a model in f32 or quantized.

    A NaN or an infinity of the engine's is a finding at its tap, and at what follows from it.
    """
    tap = JudgeTap(engine)
    with np.errstate(invalid="ignore", over="ignore"):
        forward(model, batch, JUDGE, tap)
    return tap.findings
