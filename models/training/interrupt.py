"""Ctrl-C between two updates instead of in the midst of one.

The first SIGINT or SIGTERM is noted, so that the loop can finish its update and save; the second acts as usual.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def noted() -> Iterator[Callable[[], bool]]:
    """Whether a signal came, as a function. In the main thread only."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    usual = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}  # nohup stays
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for each, handler in usual.items():
            signal.signal(each, handler)

    for number in usual:
        signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
