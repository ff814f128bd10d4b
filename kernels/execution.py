"""Compiled code with a number of threads."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba

from refimpl.kernels.simd.threefold import NATIVE, PORTABLE, KernelSource, config

_turn = threading.RLock()
_first = 0
"""The process in which parallel code ran first: this one, or one that it is forked from."""


@contextmanager
def compiled(source: KernelSource, target: str, threads: int) -> Iterator[Callable[..., Any]]:
    """``portable`` or ``native``, by name; inside, numba runs with ``threads`` threads."""
    check_threads(threads)
    execution = source.compiled(target, parallel=threads > 1)
    before = numba.get_num_threads()
    try:
        with parallel(threads):
            yield execution
    finally:
        numba.set_num_threads(before)


@contextmanager
def parallel(threads: int) -> Iterator[None]:
    """Inside, the parallel code of this Python thread has so many threads, and afterwards until others are asked for.

    Where numba has nothing better than its layer "workqueue", which ends the program if two Python threads run parallel
    code at once, they take turns, and who has to wait is warned. Where the layer is OpenMP, whose GNU library ends a
    fork of a process that has used it, the fork is refused instead: RuntimeError.
    """
    global _first
    _first = _first or os.getpid()
    if threads > 1 and _first != os.getpid() and numba.threading_layer() == "omp":
        raise RuntimeError(f"the process was forked after it had used OpenMP; threads is {threads}, need 1")
    numba.set_num_threads(threads)
    if threads == 1 or numba.threading_layer() != "workqueue":
        yield
        return
    if not _turn.acquire(blocking=False):
        warnings.warn("numba's threading layer is workqueue: parallel code takes turns; install tbb", stacklevel=3)
        _turn.acquire()
    try:
        yield
    finally:
        _turn.release()


def most_threads() -> int:
    """As many as numba has."""
    return int(config.NUMBA_NUM_THREADS)


def check_threads(threads: int) -> None:
    """Raise ValueError unless numba has so many threads."""
    if not 1 <= threads <= most_threads():
        raise ValueError(f"threads is {threads}; need 1 to {most_threads()}")


def compiles() -> bool:
    """Whether numba's compiler is switched on; if not, kernels run emulated."""
    return not config.DISABLE_JIT


def fastest(source: KernelSource) -> str:
    """ "native" where this CPU has the instructions, otherwise "portable"."""
    return NATIVE if source.runs_natively() else PORTABLE
