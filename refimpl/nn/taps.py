"""Taps: named values inside a forward pass, so that another engine can find the first place where it differs.

A tap is called as ``value = tap("name", value)`` and returns what the pass goes on with. ``tap.scope("layer.0")``
prefixes the names that follow.
"""

from typing import Any, Protocol

SEPARATOR = "."


class Tap(Protocol):
    """What a forward pass expects of its ``tap`` argument."""

    def __call__(self, name: str, value: Any) -> Any: ...

    def scope(self, name: str) -> "Tap": ...


class NoTap:
    """Looks at nothing."""

    def __call__(self, name: str, value: Any) -> Any:
        return value

    def scope(self, name: str) -> "NoTap":
        return self


NO_TAP = NoTap()


class Recorder:
    """Keeps every value under its full name, in the order of computation.

    >>> recorder = Recorder()
    >>> recorder.scope("layer.0")("q", 1.5)
    1.5
    >>> recorder.values
    {'layer.0.q': 1.5}
    """

    def __init__(self, values: dict[str, Any] | None = None, prefix: str = ""):
        self.values: dict[str, Any] = {} if values is None else values
        self.prefix = prefix

    def __call__(self, name: str, value: Any) -> Any:
        self.values[self.prefix + name] = value
        return value

    def scope(self, name: str) -> "Recorder":
        return type(self)(self.values, self.prefix + name + SEPARATOR)
