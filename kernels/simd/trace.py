"""Watching a kernel: its emulated execution, recorded instruction by instruction.

The function is copied as for compiling, with the threefold names among its globals replaced by versions that record:
a part becomes a copy of its own, an instruction a function that runs its meaning and keeps what went in and came out.
Neither the kernel nor its arrays know of it.

A register has no name in the machine's sense here: it is known by the number of the step that made it.
"""

import inspect
import linecache
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from types import CodeType, FrameType, FunctionType
from typing import Any, NamedTuple

import numpy as np

from refimpl.kernels.simd.threefold import KernelSource, Part, Threefold


class Site(NamedTuple):
    """Where a call stands: the function, the file, its line from 1, its UTF-8 columns from 0 to
    ``stop`` exclusive (past the end where the call goes on in the next line)."""

    function: str
    file: str
    line: int
    start: int
    stop: int


class Register(NamedTuple):
    """A register operand: the step that made it, and its value."""

    step: int
    value: np.ndarray


class Place(NamedTuple):
    """Elements of an array argument of the kernel: ``array[at] ... array[at + size - 1]``."""

    array: str
    at: int
    size: int

    def __str__(self) -> str:
        """Both ends, included."""
        return f"{self.array}[{self.at} … {self.at + self.size - 1}]"


class Step(NamedTuple):
    """One instruction that ran.

    meaning: the instruction's, in ``refimpl.isa``. operands: registers, places in memory, and scalars. result: the
    register or scalar made, or None. written: the place that was stored to, or None. sites: the calls that led here,
    from the kernel's to the instruction's own.
    """

    instruction: str
    meaning: Callable[..., Any]
    operands: tuple[Any, ...]
    result: Any
    written: Place | None
    sites: tuple[Site, ...]

    @property
    def line(self) -> int:
        """The line of the instruction in its file."""
        return self.sites[-1].line

    @property
    def text(self) -> str:
        """The call, as it stands in the kernel's source; its first line where it spans several."""
        site = self.sites[-1]
        return linecache.getline(site.file, site.line).encode()[site.start : site.stop].decode().rstrip()


def trace(source: KernelSource, *arguments: Any) -> list[Step]:
    """Run a kernel emulated on its arguments, which it writes to as ever, and return every instruction in order.

    Raises
    ------
    RuntimeError : an instruction was given an array that is neither an argument of the kernel nor a register
    """
    recorder = _Recorder(source, arguments)
    recorder.recording(source)(*arguments)
    return recorder.steps


def named(source: KernelSource, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The arguments of a kernel by the names in its signature."""
    return inspect.signature(source.emulated).bind(*arguments).arguments


def instructions(source: Part) -> frozenset[str]:
    """Names of all instructions in a kernel and its parts."""
    inner = [
        instructions(call) if isinstance(call, Part) else frozenset([call.__name__]) for call in source.calls.values()
    ]
    return frozenset().union(*inner)


def functions(source: Part) -> list[Callable[..., Any]]:
    """The Python functions of a kernel and its parts, each once, as they stand in their files."""
    found = {id(source.emulated): source.emulated}
    for call in source.calls.values():
        if isinstance(call, Part):
            found |= {id(function): function for function in functions(call)}
    return sorted(found.values(), key=lambda f: (f.__code__.co_filename, f.__code__.co_firstlineno))


class _Watched(np.ndarray):
    """A view of an array that notes which elements an instruction touches: the first, and how many."""

    touched: tuple[int, int]

    def __getitem__(self, key):
        self._note(key)
        return self.view(np.ndarray)[key]

    def __setitem__(self, key, value):
        self._note(key)
        self.view(np.ndarray)[key] = value

    def _note(self, key):
        elements = np.arange(self.size)[key]
        self.touched = int(elements[0]) if elements.size else 0, elements.size


class _Recorder:
    def __init__(self, source: KernelSource, arguments: tuple[Any, ...]):
        self.steps: list[Step] = []
        self.codes: set[CodeType] = set()
        self.made: dict[int, int] = {}  # id of a register -> its step; steps keep registers alive, so ids stay theirs
        bound = named(source, arguments).items()
        self.arrays = {id(value): name for name, value in bound if isinstance(value, np.ndarray)}

    def recording(self, callee: Threefold) -> Callable[..., Any]:
        if not isinstance(callee, Part):
            return self._instruction(callee)
        source = callee.emulated
        self.codes.add(source.__code__)
        replaced = {name: self.recording(call) for name, call in callee.calls.items()}
        return FunctionType(source.__code__, source.__globals__ | replaced, source.__name__)

    def _instruction(self, instruction: Threefold) -> Callable[..., Any]:
        def run(*arguments):
            sites = tuple(self._sites(sys._getframe(1)))
            seen = [value.view(_Watched) if id(value) in self.arrays else value for value in arguments]
            result = instruction.emulated(*seen)
            operands = tuple(self._operands(arguments, seen))
            places = [operand for operand in operands if isinstance(operand, Place)]
            written = places[0] if places and result is None else None
            if isinstance(result, np.ndarray):
                self.made[id(result)] = len(self.steps)
            self.steps.append(Step(instruction.__name__, instruction.emulated, operands, result, written, sites))
            return result

        return run

    def _operands(self, arguments: tuple[Any, ...], seen: list[Any]) -> Iterator[Any]:
        """What the arguments were; an array and the index behind it are one place."""
        rest = zip(arguments, seen, strict=True)
        for value, watched in rest:
            if isinstance(watched, _Watched):
                next(rest)
                yield Place(self.arrays[id(value)], *watched.touched)
            elif not isinstance(value, np.ndarray):
                yield value
            elif id(value) in self.made:
                yield Register(self.made[id(value)], value)
            else:
                raise RuntimeError("an instruction was given an array that no instruction made and no caller gave")

    def _sites(self, frame: FrameType | None):
        """The calls inside the kernel, outermost first."""
        found = []
        while frame is not None and frame.f_code in self.codes:
            code = frame.f_code
            line, last, start, stop = next(islice(code.co_positions(), frame.f_lasti // 2, None))
            to_end = 10**6 if last != line else stop
            found.append(Site(code.co_name, code.co_filename, line or frame.f_lineno, start or 0, to_end or 0))
            frame = frame.f_back
        return reversed(found)
