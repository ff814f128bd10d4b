"""A loss of values inside a forward pass, beside that of its output: hidden states that are to meet a teacher's."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from refimpl.models.bert import Batch
from refimpl.nn.taps import NO_TAP, SEPARATOR, Tap


class Inner(NamedTuple):
    """names: of the taps that it needs; loss: (batch, values by name) -> the loss, and its gradient by name."""

    names: frozenset[str]
    loss: Callable[[Batch, Mapping[str, np.ndarray]], tuple[float, Mapping[str, np.ndarray]]]


class Keep:
    """A tap that keeps the values of some names, and shows ``tap`` all of them."""

    def __init__(self, values: dict[str, Any], names: frozenset[str], tap: Tap = NO_TAP, prefix: str = ""):
        self.values, self.names, self.tap, self.prefix = values, names, tap, prefix

    def __call__(self, name: str, value: Any) -> Any:
        value = self.tap(name, value)
        if self.prefix + name in self.names:
            self.values[self.prefix + name] = value
        return value

    def scope(self, name: str) -> "Keep":
        return Keep(self.values, self.names, self.tap.scope(name), self.prefix + name + SEPARATOR)
