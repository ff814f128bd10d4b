"""Compiled code with a number of threads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba

from refimpl.kernels.simd.threefold import NATIVE, PORTABLE, KernelSource, config


@contextmanager
def compiled(source: KernelSource, target: str, threads: int) -> Iterator[Callable[..., Any]]:
    """``portable`` or ``native``, by name; inside, numba runs with ``threads`` threads."""
    check_threads(threads)
    execution = source.compiled(target, parallel=threads > 1)
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        yield execution
    finally:
        numba.set_num_threads(before)


def check_threads(threads: int) -> None:
    """Raise ValueError unless numba has so many threads."""
    if not 1 <= threads <= config.NUMBA_NUM_THREADS:
        raise ValueError(f"threads is {threads}; need 1 to {config.NUMBA_NUM_THREADS}")


def use_threads(threads: int) -> None:
    """The number of threads for parallel code that this Python thread runs from now on."""
    numba.set_num_threads(threads)


def fastest(source: KernelSource) -> str:
    """ "native" where this CPU has the instructions, otherwise "portable"."""
    return NATIVE if source.runs_natively() else PORTABLE
