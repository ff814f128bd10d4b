"""Kernels compiled before they are needed, several at once.

numba compiles under a lock, one function at a time in a process. So what is not on disk yet is shared out, the longest
first: this process compiles, and helpers, processes of their own, compile beside it into the cache on disk, from which
this process loads what they made.

Contract. When ``compile_all`` returns, every job is compiled in this process. Helpers only make that sooner: where none
can be started or one dies, or where no folder can be written, this process does the work. They import the module that a
kernel is from, by name, and never the user's main module, so that a program needs no guard.
"""

import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from refimpl.kernels import cache, cpu
from refimpl.kernels.simd.threefold import KernelSource, Part, config

MOST = 4
"""Processes at once, this one included: more would each wait for their imports, as long as a kernel takes."""
PATIENCE = 120.0
"""Seconds to wait for helpers when nothing is left for this process."""
DONE = b"."
_ONE_AT_A_TIME = threading.Lock()
START = "import sys; sys.path[:] = sys.argv[1:]; from refimpl.kernels.compilation import serve; serve()"

Say = Callable[[int, int], None]
"""Told (done, of all), from whatever thread."""


class Job(NamedTuple):
    """A kernel for a target, and numba's types of its arguments."""

    source: KernelSource
    target: str
    parallel: bool
    types: tuple[Any, ...]

    @property
    def version(self) -> Any:
        """The jitted kernel."""
        return self.source.compiled(self.target, parallel=self.parallel)

    def compile(self) -> None:
        """In this process, from the disk if it is there."""
        self.version.compile(self.types)


def missing(calls: Iterable[tuple[KernelSource, str, bool, Iterable[Any]]]) -> list[Job]:
    """What calls of kernels, (source, target, parallel, arguments), would compile that is not on disk yet."""
    if config.DISABLE_JIT:
        return []
    found: dict[Any, Job] = {}
    for source, target, parallel, arguments in calls:
        version: Any = source.compiled(target, parallel=parallel)
        types = tuple(version.typeof_pyval(value) for value in arguments)
        found.setdefault((version, types), Job(source, target, parallel, types))
    return [job for job in found.values() if not _is_ready(job)]


def _is_ready(job: Job) -> bool:
    """Whether it is compiled, in this process or on disk."""
    version = job.version
    if job.types in version.overloads:
        return True
    if cache.directory() is None:
        return False
    kept = version._cache  # numba has no public way to ask what it keeps
    return kept._index_key(job.types, version.targetctx.codegen()) in kept._cache_file._load_index()


def compile_all(jobs: Sequence[Job], say: Say = lambda done, of: None) -> None:
    """Compile the jobs, here and in helpers. Of two calls at once, in two threads, the second waits and then loads."""
    with _ONE_AT_A_TIME:
        left = [job for job in jobs if not _is_ready(job)]
        if left:
            _share_out(left, say)
        for job in jobs:
            job.compile()  # from the disk


def _share_out(jobs: Sequence[Job], say: Say) -> None:
    def here(group: list[Job]) -> bool:
        for job in group:
            job.compile()
        return True

    work = _Work(jobs, say)
    helpers = _start(_count(len(work.queue)))
    threads = [threading.Thread(target=work.hand_to, args=(helper,), daemon=True) for helper in helpers]
    try:
        for thread in threads:
            thread.start()
        work.do(here)
        for thread in threads:
            thread.join(PATIENCE)
    finally:
        for helper in helpers:
            helper.kill()  # what it answered for is on disk
        for helper, thread in zip(helpers, threads, strict=True):
            thread.join()
            helper.communicate()
    work.do(here)  # what a helper left


class _Work:
    """What is left to compile. A kernel is one piece, for all its types: numba's cache would not bear two writers."""

    def __init__(self, jobs: Sequence[Job], say: Say):
        groups: dict[Any, list[Job]] = {}
        for job in jobs:
            groups.setdefault(job.version, []).append(job)
        self.queue = deque(sorted(groups.values(), key=lambda group: -_size(group[0].source)))
        self.lock, self.say = threading.Lock(), say
        self.done, self.of = 0, len(jobs)
        say(0, self.of)

    def do(self, compile_group: Callable[[list[Job]], bool]) -> None:
        """Take pieces until there are none, or one is not done: it is left to others."""
        while True:
            try:
                group = self.queue.popleft()
            except IndexError:
                return
            if not compile_group(group):
                self.queue.append(group)
                return
            with self.lock:
                self.done += len(group)
                self.say(self.done, self.of)

    def hand_to(self, helper: Any) -> None:
        """The same by a helper."""

        def ask(group: list[Job]) -> bool:
            try:
                helper.stdin.write(pickle.dumps(group))
                helper.stdin.flush()
                return helper.stdout.read(1) == DONE
            except (OSError, pickle.PicklingError):
                return False

        self.do(ask)


def _size(part: Part) -> int:
    """Bytes of bytecode with all that is inlined: about as long as it takes to compile."""
    callees = [callee for callee in part.calls.values() if isinstance(callee, Part)]
    return len(part.emulated.__code__.co_code) + sum(map(_size, callees))


def _count(pieces: int) -> int:
    """Of helpers for so many pieces: for cores that others leave idle, where the system says so."""
    if cache.directory() is None or not Path(sys.executable or "").name.startswith("python"):
        return 0  # nothing would be kept; or Python is inside another program, which must not be started again
    cpus = len(cpu.cores())
    idle = cpus - round(os.getloadavg()[0]) if hasattr(os, "getloadavg") else cpus
    return max(min(pieces, idle, MOST) - 1, 0)


def _start(count: int) -> list[subprocess.Popen]:
    """As many helpers as can be started."""
    command = [sys.executable, "-c", START, *sys.path]
    started: list[subprocess.Popen] = []
    try:
        for _ in range(count):
            started.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            )
    except OSError:
        pass
    return started


def serve() -> None:
    """A helper's life: compile the jobs that come on standard input, answer DONE for each group, end with the input."""
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever is printed is no answer
    while True:
        try:
            group: list[Job] = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        for job in group:
            job.compile()
        os.write(answers, DONE)
