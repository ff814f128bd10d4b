"""Watching a kernel: its emulated execution, recorded instruction by instruction.

The function is copied as for compiling, with the threefold names among its globals replaced by versions that record:
a part becomes a copy of its own, an instruction a function that runs its meaning and keeps what went in and came out.
Neither the kernel nor its arrays know of it. In a kernel that is only emulated, of plain functions, those of its own
module are the parts and those of ``refimpl.isa`` the instructions.

A register has no name in the machine's sense here: it is known by the number of the step that made it. So is a tile.
"""

import inspect
import linecache
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from types import CodeType, FrameType, FunctionType
from typing import Any, NamedTuple

import numpy as np

from refimpl.isa.amx import Amx
from refimpl.kernels.simd.threefold import Part, Threefold
from refimpl.kernels.simd.tiles import tile_call

Source = Part | Callable[..., Any]


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
    """Elements of an array argument of the kernel: ``array[at] ... array[at + size - 1]``; of a tile, so many rows of
    them, ``stride`` apart; of a prefetch, none, at an index that may be outside."""

    array: str
    at: int
    size: int
    rows: int = 1
    stride: int = 0

    @property
    def indices(self) -> list[range]:
        """The elements of each row."""
        starts = [self.at + row * self.stride for row in range(self.rows)]
        return [range(start, start + self.size) for start in starts]

    def __str__(self) -> str:
        """Both ends, included."""
        if not self.size:
            return f"{self.array}[{self.at}]"
        first = f"{self.array}[{self.at} … {self.at + self.size - 1}]"
        return f"{self.rows} rows, {self.stride} apart, from {first} on" if self.rows > 1 else first


class Step(NamedTuple):
    """One instruction that ran.

    meaning: the instruction's, in ``refimpl.isa``; on tiles if it has any. operands: registers, places in memory, and
    scalars; 0 for a tile that is zero since ``ldtilecfg``. result: the register or scalar made, or None. written: the
    place that was stored to, or None. sites: the calls that led here, from the kernel's to the instruction's own.
    tile: the number of the tile that the result is, or None.
    """

    instruction: str
    meaning: Callable[..., Any]
    operands: tuple[Any, ...]
    result: Any
    written: Place | None
    sites: tuple[Site, ...]
    tile: int | None = None

    @property
    def line(self) -> int:
        """The line of the instruction in its file."""
        return self.sites[-1].line

    @property
    def text(self) -> str:
        """The call, as it stands in the kernel's source; its first line where it spans several."""
        site = self.sites[-1]
        return linecache.getline(site.file, site.line).encode()[site.start : site.stop].decode().rstrip()


def trace(source: Source, *arguments: Any) -> list[Step]:
    """Run a kernel emulated on its arguments, which it writes to as ever, and return every instruction in order.

    Raises
    ------
    RuntimeError : an instruction was given an array that is neither an argument of the kernel nor a register
    """
    recorder = _Recorder(source, arguments)
    recorder.recording(source)(*arguments)
    return recorder.steps


def named(source: Source, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The arguments of a kernel by the names in its signature."""
    return inspect.signature(python(source)).bind(*arguments).arguments


def python(source: Source) -> FunctionType:
    """The Python function of a kernel, a part or an instruction."""
    return source.emulated if isinstance(source, Threefold) else source  # type: ignore[return-value]


def _calls(source: Source) -> dict[str, Source]:
    """Its parts and instructions, by the names that it calls."""
    if isinstance(source, Part):
        return dict(source.calls)
    function = python(source)
    found = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, FunctionType) and (value.__module__ == function.__module__ or _is_instruction(value))
    }


def _is_instruction(callee: Source) -> bool:
    return not isinstance(callee, Part) and python(callee).__module__.startswith("refimpl.isa.")


def instructions(source: Source) -> frozenset[str]:
    """Names of all instructions in a kernel and its parts."""
    calls = _calls(source).values()
    inner = [frozenset([call.__name__]) if _is_instruction(call) else instructions(call) for call in calls]
    return frozenset().union(*inner)


def functions(source: Source) -> list[FunctionType]:
    """The Python functions of a kernel and its parts, each once, as they stand in their files."""
    found = {id(python(source)): python(source)}
    for call in _calls(source).values():
        if not _is_instruction(call):
            found |= {id(function): function for function in functions(call)}
    return sorted(found.values(), key=lambda f: (f.__code__.co_filename, f.__code__.co_firstlineno))


class _Watched(np.ndarray):
    """A view of an array that notes which elements an instruction touches: at each access the first byte and how many.
    Its own views write into the same notes."""

    touched: list[tuple[int, int]]

    def __array_finalize__(self, source):
        self.touched = getattr(source, "touched", [])

    def __getitem__(self, key):
        self._note(key)
        return self.view(np.ndarray)[key]

    def __setitem__(self, key, value):
        self._note(key)
        self.view(np.ndarray)[key] = value

    def _note(self, key):
        elements = np.arange(self.size)[key] * self.itemsize
        self.touched.append((int(elements[0]) if elements.size else 0, elements.size * self.itemsize))


class _Recorder:
    def __init__(self, source: Source, arguments: tuple[Any, ...]):
        self.steps: list[Step] = []
        self.codes: set[CodeType] = set()
        self.made: dict[int, int] = {}  # id of a register -> its step; steps keep registers alive, so ids stay theirs
        self.tiles: dict[int, Register] = {}  # those written since ldtilecfg
        bound = named(source, arguments).items()
        self.arrays = {id(value): name for name, value in bound if isinstance(value, np.ndarray)}

    def recording(self, callee: Source) -> Callable[..., Any]:
        source = python(callee)
        if _is_instruction(callee):
            return self._instruction(source)
        self.codes.add(source.__code__)
        replaced = {name: self.recording(call) for name, call in _calls(callee).items()}
        return FunctionType(source.__code__, source.__globals__ | replaced, source.__name__)

    def _instruction(self, instruction: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments):
            sites = tuple(self._sites(sys._getframe(1)))
            seen = [value.view(_Watched) if id(value) in self.arrays else value for value in arguments]
            returned = instruction(*seen)
            meaning, result, tile, before, rest = instruction, returned, None, (), arguments
            if arguments and isinstance(arguments[0], Amx):
                reads, rest, tile, result, meaning = tile_call(instruction, arguments, returned)
                before = tuple(self.tiles.get(t, 0) for t in reads)
            operands = (*before, *self._operands(rest, seen[len(seen) - len(rest) :]))
            places = [operand for operand in operands if isinstance(operand, Place)]
            written = places[0] if places and places[0].size and result is None else None
            self._keep(result, tile)
            self.steps.append(Step(instruction.__name__, meaning, operands, result, written, sites, tile))
            return returned

        return run

    def _keep(self, result: Any, tile: int | None) -> None:
        """Note which step, the next one, makes a register or a tile."""
        if isinstance(result, Amx):
            self.tiles.clear()
        elif tile is not None:
            self.tiles[tile] = Register(len(self.steps), result)
        elif isinstance(result, np.ndarray):
            self.made[id(result)] = len(self.steps)

    def _operands(self, arguments: tuple[Any, ...], seen: list[Any]) -> Iterator[Any]:
        """What the arguments were; an array and the index behind it are one place."""
        rest = zip(arguments, seen, strict=True)
        for value, watched in rest:
            if isinstance(watched, _Watched):
                at, _ = next(rest)
                if not watched.touched:
                    yield Place(self.arrays[id(value)], int(at), 0)
                    continue
                starts, sizes = zip(*watched.touched, strict=True)
                stride = (starts[-1] - starts[0]) // max(len(starts) - 1, 1)
                at, size, stride = (count // value.itemsize for count in (starts[0], sizes[0], stride))
                yield Place(self.arrays[id(value)], at, size, len(starts), stride)
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
