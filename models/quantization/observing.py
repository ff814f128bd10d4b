"""Observing a model: an observer's state for what every linear layer is given, and for what it returns.

Runs any model that the reference runs: f32, fake-quantized, quantized or smoothed. A smoothed layer's input is what
remains after its multiplication. Padding would be observed too, so give one text a batch.
"""

from collections.abc import Collection, Sequence
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
    """Keeps an observer's state for each tap among ``names``."""

    def __init__(self, values: dict[str, Any], prefix: str, observer: Observer, names: frozenset[str]):
        super().__init__(values, prefix)
        self.observer, self.names = observer, names

    def __call__(self, name: str, value: Any) -> Any:
        full = self.prefix + name
        if full in self.names:
            self.values[full] = self.observer.see(self.values.get(full, self.observer.start), value)
        return value

    def scope(self, name: str) -> "_Observing":
        return _Observing(self.values, self.prefix + name + SEPARATOR, self.observer, self.names)


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
    tap = _Observing({}, "", observer, frozenset([*inputs.values(), *wanted]))
    for batch in batches:
        forward(model, batch, QUANTIZED._replace(linear=_linear), tap)
    states = tap.values
    return Seen(
        {name: observer.range(states[key]) for name, key in inputs.items()},
        {name: observer.range(states[name]) for name in wanted},
    )
