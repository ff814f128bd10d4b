"""AdamW over a flat dictionary of parameters, in place.

    parameter <- adamw(parameter, gradient, m, v, t, rate x the parameter's factor)

Biases and norms are not decayed (``is_decayed``). A parameter without a gradient is left as it is, and not decayed.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from refimpl.models.training.parameters import Parameters, is_decayed
from refimpl.nn.adamw import AdamW, adamw

Rule = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]
"""The signature of ``adamw``."""


class Moments(NamedTuple):
    """m and v of every parameter, under its name."""

    first: Parameters
    second: Parameters


def start(parameters: Mapping[str, np.ndarray]) -> Moments:
    """Zeros."""
    return Moments(*({name: np.zeros_like(w) for name, w in parameters.items()} for _ in range(2)))


class Optimizer(NamedTuple):
    """Its settings. factors: name of a parameter -> what its rate is multiplied with, 1 if not there."""

    settings: AdamW
    factors: Mapping[str, float] = {}
    rule: Rule = adamw

    def update(
        self, parameters: Parameters, gradients: Mapping[str, np.ndarray], moments: Moments, t: int, rate: float
    ) -> None:
        """Change the arrays of parameters and moments. Raises ValueError for a gradient of no parameter."""
        strange = sorted(gradients.keys() - parameters.keys())
        if strange:
            raise ValueError(f"gradients has {strange[0]}, which is no parameter")
        plain = self.settings._replace(decay=0.0)
        for name, g in gradients.items():
            own_settings = self.settings if is_decayed(name) else plain
            own = moments.first[name], moments.second[name]
            changed = self.rule(parameters[name], g, own, t, rate * self.factors.get(name, 1.0), own_settings)
            for array, new in zip((parameters[name], *own), changed, strict=True):
                if new is not array:
                    array[...] = new
