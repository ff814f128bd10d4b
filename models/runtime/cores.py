"""Sharing out the cores that a process may use, and keeping a thread on some of them."""

import os
import warnings

from refimpl.kernels.cpu import cores


def split(count: int, threads: int, pin: bool) -> list[list[int]]:
    """The cores of each of ``count`` instances; none where they are not pinned. With more threads than cores, with a
    warning, several have the same."""
    found = cores()
    if count * threads > len(found):
        asked = f"{count} instances with {threads} thread{'s' * (threads > 1)} each"
        warnings.warn(f"{asked} will wait for each other: this process may use {len(found)} cores", stacklevel=3)
    if pin and not hasattr(os, "sched_setaffinity"):
        warnings.warn("this system cannot pin threads to cores: the instances run anywhere", stacklevel=3)
        pin = False
    ring = found * -(-count * threads // len(found))
    return [sorted(set(ring[i * threads : (i + 1) * threads])) if pin else [] for i in range(count)]


def pin_to(numbers: list[int]) -> None:
    """Keep this thread, and those that it starts, on these cores; anywhere if there are none."""
    if numbers:
        os.sched_setaffinity(0, numbers)
