"""Instances: several sessions on one copy of the weights, each with a batch of its own.

    with Instances(packed, 2) as instances:
        for output in instances.run(batches): ...
        future = instances.submit(ids, mask)

One instance with all threads has the shortest latency, several with few threads each do more in a second; ``refimpl
tune`` measures which split suits a model and a machine. Instances are threads of this process or, with ``processes``,
processes of their own, whose Python does not wait for each other's; as always with multiprocessing, a script starts
them under ``if __name__ == "__main__":``.

A batch that cannot be run raises what a session raises, when its output is asked for, and harms no other batch. If the
process of an instance is killed, the batch that it had raises RuntimeError, and the next one gets a new process.
Source: "INST_NUM" and "WEIGHT_SHARING" of Intel Extension for Transformers' neural engine.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np

from refimpl.kernels import execution
from refimpl.models.compress import Packed
from refimpl.models.runtime.cores import pin_to, split
from refimpl.models.runtime.processes import Nursery, Remote
from refimpl.models.runtime.session import Session
from refimpl.models.runtime.shared import share
from refimpl.models.runtime.weights import Weights, prepare

Run = Callable[..., np.ndarray]
AHEAD = 2
"""Batches that ``run`` takes ahead of the output that is asked for, an instance."""


class Instances:
    """A context manager. tokenizer: of the model, None if it was made of ``Weights``."""

    def __init__(
        self, model: Packed | Weights, count: int, threads: int = 1, processes: bool = False, pin: bool = False
    ):
        """threads: of each instance. pin: keep each on cores of its own.

        Raises ValueError for less than one instance, or what ``Session`` raises. More threads in all than there are
        cores are allowed, with a warning.
        """
        if count < 1:
            raise ValueError(f"count is {count}; need at least 1")
        execution.check_threads(threads)
        weights = model if isinstance(model, Weights) else prepare(model)
        self._shared = share(weights) if processes else None
        self.weights: Weights = weights if self._shared is None else self._shared.tree
        self.tokenizer = model.tokenizer if isinstance(model, Packed) else None
        self.count, self.threads = count, threads
        self._cores = split(count, threads, pin)
        self._pool: ThreadPoolExecutor | None = None
        self._remotes: list[Remote] = []
        self._mine = threading.local()

    def __enter__(self) -> "Instances":
        with ExitStack() as stack:
            waiting: SimpleQueue[tuple[Run, list[int]]] = SimpleQueue()
            for instance in self._start(stack):
                waiting.put(instance)
            self._pool = ThreadPoolExecutor(self.count, "instance", self._begin, (waiting,))
            self._process = os.getpid()
            self._opened = stack.pop_all()
        return self

    def _start(self, stack: ExitStack) -> Iterator[tuple[Run, list[int]]]:
        """What runs an instance's batches, and the cores of the thread that calls it."""
        if self._shared is None:
            for cores in self._cores:
                yield Session(self.weights, threads=self.threads), cores
            return
        nursery = Nursery(self._shared, self.threads)
        stack.callback(nursery.close)
        self._remotes.clear()
        for cores in self._cores:
            self._remotes.append(Remote(nursery, cores))
            stack.callback(self._remotes[-1].close)
            yield self._remotes[-1], []

    @property
    def pids(self) -> list[int]:
        """The processes of the instances; none if they are threads of this one."""
        return [remote.pid for remote in self._remotes]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the batches that were given; after an exception, only for those that run."""
        assert self._pool is not None
        with self._opened:
            self._pool.shutdown(cancel_futures=kind is not None)

    def _begin(self, waiting: "SimpleQueue[tuple[Run, list[int]]]") -> None:
        """A thread of the pool takes an instance for its own."""
        self._mine.run, cores = waiting.get_nowait()
        pin_to(cores)

    def submit(self, *batch: Any) -> "Future[np.ndarray]":
        """The arguments of a session's call: ids, mask, types. Raises RuntimeError outside the ``with`` block."""
        if self._pool is None:
            raise RuntimeError("the instances have not started; need a with block around this")
        if os.getpid() != self._process:
            raise RuntimeError("the process was forked after these instances started; start others in it")
        return self._pool.submit(lambda: self._mine.run(*batch))

    def run(self, batches: Iterable[tuple[Any, ...]]) -> "Outputs":
        """The outputs of batches, in their order. Each is a tuple of arguments of ``submit``."""
        return Outputs(self, batches)


class Outputs(Iterator[np.ndarray]):
    """An iterator that outlives a batch that raises: what comes next is the output of the next batch."""

    def __init__(self, instances: Instances, batches: Iterable[tuple[Any, ...]]):
        self._instances, self._batches = instances, iter(batches)
        self._pending: deque[Future[np.ndarray]] = deque()

    def __next__(self) -> np.ndarray:
        for batch in islice(self._batches, AHEAD * self._instances.count - len(self._pending)):
            self._pending.append(self._instances.submit(*batch) if isinstance(batch, tuple) else _no_batch(batch))
        if not self._pending:
            raise StopIteration
        return self._pending.popleft().result()


def _no_batch(found: Any) -> "Future[np.ndarray]":
    future: Future[np.ndarray] = Future()
    future.set_exception(TypeError(f"a batch is {type(found).__name__}; need a tuple of ids, mask and types"))
    return future
