"""Observing a model: an observer's state for what every linear layer is given, and for what it returns.

Runs any model that the reference runs: f32, fake-quantized, quantized or smoothed. A smoothed layer's input is what
remains after its multiplication. Padding would be observed too, so give one text a batch.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.models.bert import Batch, Model, forward, linears
from refimpl.nn.taps import NO_TAP, SEPARATOR, Recorder, Tap
from refimpl.quant.observers import Observer
from refimpl.quant.ops import QUANTIZED
from refimpl.quant.smooth import SmoothedLinear

INPUT = "input"
"""Tap name of what a linear layer is given."""


class Seen(NamedTuple):
    """Name of a linear layer of the encoder -> what the observer makes of its input, and of its output."""

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


class _Observing(Recorder):
    """Keeps the state of each tap's observer."""

    def __init__(self, values: dict[str, Any], prefix: str, observers: Mapping[str, Observer]):
        super().__init__(values, prefix)
        self.observers = observers

    def __call__(self, name: str, value: Any) -> Any:
        full = self.prefix + name
        observer = self.observers.get(full)
        if observer is not None:
            self.values[full] = observer.see(self.values.get(full, observer.start), value)
        return value

    def scope(self, name: str) -> "_Observing":
        return _Observing(self.values, self.prefix + name + SEPARATOR, self.observers)


def _linear(x: np.ndarray, p: Any, tap: Tap = NO_TAP) -> np.ndarray:
    if isinstance(p, SmoothedLinear):
        return _linear(x * p.inverse, p.linear, tap)
    return QUANTIZED.linear(tap(INPUT, x), p, tap)


def observe(model: Model, batches: Sequence[Batch], observer: Observer, outputs: Collection[str] | None = None) -> Seen:
    """Run the model on the batches. outputs: the layers whose outputs are observed; None for all."""
    if not batches:
        raise ValueError("batches is empty; need at least one text to calibrate with")
    names = list(linears(model))
    inputs = {name: name + SEPARATOR + INPUT for name in names}
    wanted = [name for name in names if outputs is None or name in outputs]
    found = _ranges(model, batches, dict.fromkeys([*inputs.values(), *wanted], observer))
    if observer.then is not None:
        found = _ranges(model, batches, {tap: observer.then(high) for tap, high in found.items()})
    return Seen({name: found[tap] for name, tap in inputs.items()}, {name: found[name] for name in wanted})


def _ranges(model: Model, batches: Sequence[Batch], observers: Mapping[str, Observer]) -> dict[str, np.ndarray]:
    """By tap, of one pass over the batches."""
    tap = _Observing({}, "", observers)
    for batch in batches:
        forward(model, batch, QUANTIZED._replace(linear=_linear), tap)
    return {name: observer.range(tap.values[name]) for name, observer in observers.items()}
