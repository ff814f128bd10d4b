"""Where in a forward pass a value is first not finite.

A tap that looks at every named value, in the order of computation, parameters first: ``layer.3.scores``.
"""

from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from refimpl.nn.taps import SEPARATOR


class Found(Exception):
    """A value is not finite; its argument is the value's name."""


class Watch:
    """A tap that raises ``Found`` at the first value with a NaN or an infinity; values may be a tape's."""

    def __init__(self, prefix: str = ""):
        self.prefix = prefix

    def __call__(self, name: str, value: Any) -> Any:
        data = value if isinstance(value, np.ndarray) else getattr(value, "data", None)
        if isinstance(data, np.ndarray) and data.dtype.kind == "f" and not np.isfinite(data).all():
            raise Found(self.prefix + name)
        return value

    def scope(self, name: str) -> "Watch":
        return Watch(self.prefix + name + SEPARATOR)


def bad_parameter(values: Mapping[str, np.ndarray], extra: Container[str]) -> str | None:
    """The first that is not finite, but for extra arrays, which may have NaN where nothing was noted."""
    return next((name for name, x in values.items() if name not in extra and not np.isfinite(x).all()), None)
