"""Instances as processes. One process, the nursery, attaches to the shared weights and gets everything ready; the
instances are forked from it, so that they share Python, the imported modules and the compiled kernels with it, too.

    caller  -- spawn -->  nursery  -- fork -->  instance
       |<--- who, fate ------|                     |
       |<--------- batches, outputs ---------------|

A fork is safe only where no other threads run. Nothing is known about the caller's process, so it is not forked, and
the nursery runs kernels with one thread only: instances with more threads load their kernels themselves, each its own
copy. An instance ends as its pipe does: when it is closed, or the caller is gone. What SIGKILL of the caller leaves is
a batch that runs to its end, and nothing in any file system.
"""

import gc
import multiprocessing
import os
import signal
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from refimpl.models.runtime.cores import pin_to
from refimpl.models.runtime.session import Session
from refimpl.models.runtime.shared import Shared
from refimpl.models.runtime.weights import Weights
from refimpl.models.runtime.widths import HALF, WIDE


class Nursery:
    """Where instances come from. Raises RuntimeError where processes cannot be forked, or if it does not start."""

    def __init__(self, shared: Shared, threads: int):
        if not hasattr(os, "fork"):
            raise RuntimeError("this system cannot fork processes; need instances that are threads: processes=False")
        method = multiprocessing.get_context("spawn")
        self._commands, there = method.Pipe()
        self._process = method.Process(target=_nursery, args=(shared, threads, there), daemon=True)
        self._lock = threading.Lock()
        self._process.start()
        there.close()
        try:
            self._commands.recv()
        except (EOFError, OSError):
            self.close()
            raise RuntimeError(
                f"the process that starts instances {in_words(self._process.exitcode)} before it was ready; a script "
                "that starts processes must do so under `if __name__ == '__main__':`"
            ) from None

    def start(self, cores: list[int]) -> tuple[int, Connection]:
        """A new instance on these cores: its process and the pipe to it."""
        from multiprocessing.reduction import send_handle

        here, there = multiprocessing.Pipe()
        with self._lock, there:
            try:
                self._commands.send(cores)
                send_handle(self._commands, there.fileno(), self._process.pid)
                return self._commands.recv(), here
            except (EOFError, OSError):
                here.close()
                raise RuntimeError("the process that starts instances is gone; close these and start others") from None

    def fate(self, pid: int) -> str:
        """How a process ended that has, in words."""
        with self._lock:
            try:
                self._commands.send(pid)
                return in_words(self._commands.recv())
            except (EOFError, OSError):
                return "ended"

    def close(self) -> None:
        """Wait until it and the instances have ended; their pipes must be closed."""
        self._commands.close()
        self._process.join()


class Remote:
    """An instance in a process, called like a session. pid: its process."""

    def __init__(self, nursery: Nursery, cores: list[int]):
        self._nursery, self._cores = nursery, cores
        self.pid, self._pipe = nursery.start(cores)

    def __call__(self, *batch: Any) -> np.ndarray:
        """Raises what the session raises; RuntimeError if the process ends instead of answering."""
        if self._pipe.closed:
            self.pid, self._pipe = self._nursery.start(self._cores)
        try:
            self._pipe.send(batch)
            good, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._pipe.close()
            fate = self._nursery.fate(self.pid)
            raise RuntimeError(f"the process {self.pid} of an instance {fate}, and its batch is lost") from None
        if not good:
            raise answer
        return np.asarray(answer)

    def close(self) -> None:
        """End the process after its batch."""
        self._pipe.close()


def in_words(status: int | None) -> str:
    """An exit status as multiprocessing has it: minus the number of a signal, if one ended the process."""
    return f"was killed by {signal.Signals(-status).name}" if status and status < 0 else f"ended with status {status}"


def _nursery(shared: Shared, threads: int, commands: Connection) -> None:
    """Answers cores, which a pipe follows, with the number of a new process, and the number of one that has ended with
    its exit status."""
    from multiprocessing.reduction import recv_handle

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who then closes the pipes
    weights: Weights = shared.tree
    if threads == 1:
        _load_kernels(weights)
    gc.freeze()  # a collection in a fork would write to every object, and so copy the pages that it shares
    commands.send("ready")
    while (command := _received(commands)) is not None:
        if isinstance(command, int):
            commands.send(os.waitstatus_to_exitcode(os.waitpid(command, 0)[1]))
            continue
        with Connection(recv_handle(commands)) as pipe:
            pid = os.fork()
            if pid == 0:
                commands.close()  # so that the caller sees the end of the nursery
                _run_and_exit(weights, threads, command, pipe)
            commands.send(pid)
    _wait_for_all()


def _load_kernels(weights: Weights) -> None:
    """By a text for each width of panels."""
    session = Session(weights)
    for tokens in {min(width, weights.config.positions) for width in (HALF, WIDE)}:
        session(np.zeros((1, tokens), np.int64))


def _run_and_exit(weights: Weights, threads: int, cores: list[int], pipe: Connection) -> None:
    """Without what Python does at the end of a process: that is for the nursery to do."""
    status = 1
    try:
        pin_to(cores)
        _answer(Session(weights, threads=threads), pipe)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _answer(session: Session, pipe: Connection) -> None:
    while (batch := _received(pipe)) is not None:
        try:
            answer: tuple[bool, Any] = True, session(*batch)
        except Exception as error:
            answer = False, error
        try:
            pipe.send(answer)
        except OSError:  # nobody waits for it
            return


def _received(pipe: Connection) -> Any:
    """None when the other end is closed."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return None


def _wait_for_all() -> None:
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return
