"""The machine code that the compiler made of a kernel: its inner loop, line by line of the Python source.

The kernel is compiled twice, both times fresh and without the cache: as it runs, and with line tables in the kernel and
in all of its parts. Line tables may change what the optimizer does, so the lines are only believed if the inner loops
of both are the same instructions; otherwise the loop is shown without them.

The inner loop is the one with the most instructions that compute with vector registers (moves and zeros do not). LLVM
prints it in AT&T's syntax: the operand written to stands last.
"""

import re
from collections import Counter
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import numba

from refimpl.kernels.simd.threefold import KernelSource, Part, config

VECTOR = re.compile(r"%[xyz]mm\d+|\bv\d+\.\d+[bhsd]\b")
LABEL = re.compile(r"^(\.LBB\w+|[.\w$]+):")
LOCATION = re.compile(r"^\s+\.loc\s+(\d+)\s+(\d+)")
FILE = re.compile(r'^\s+\.file\s+(\d+)\s+(?:"([^"]*)"\s+)?"([^"]*)"')
IDLE = re.compile(r"v?mov|vpxor|vxorp")
STACK = re.compile(r"\(%rsp|\[sp")
"""By %rsp alone: spilled vectors realign the frame, whose locals then go by it; %rbp is one more pointer to arrays."""


class Line(NamedTuple):
    """One machine instruction. file and line: of the Python source, if known; line is 0 if not."""

    mnemonic: str
    operands: str
    file: str
    line: int


class Listing(NamedTuple):
    """loop: the inner loop; lines_known: whether its line tables are right."""

    loop: list[Line]
    lines_known: bool

    @property
    def counts(self) -> Counter[str]:
        """How often each mnemonic stands in the loop."""
        return Counter(line.mnemonic for line in self.loop)

    @property
    def spills(self) -> list[Line]:
        """Instructions of the loop that hold a vector register in memory on the stack, for want of registers."""
        return [line for line in self.loop if VECTOR.search(line.operands) and STACK.search(line.operands)]


def listing(source: KernelSource, target: str, run: Callable[[Callable[..., Any]], Any]) -> Listing:
    """Compile for a target, and find the inner loop. ``run`` calls the execution that it is given once: with its types.

    Raises
    ------
    RuntimeError : this CPU cannot run the target, or numba's compiler is switched off, or there is no loop
    """
    if config.DISABLE_JIT:
        raise RuntimeError("NUMBA_DISABLE_JIT is set: nothing is compiled")
    source.compiled(target)  # raises where this CPU lacks an instruction
    plain, lined = (inner_loop(_assembly(source, target, run, debug)) for debug in (False, True))
    same = [line[:2] for line in plain] == [line[:2] for line in lined]
    return Listing(lined if same else plain, same)


def _assembly(source: KernelSource, target: str, run: Callable[[Callable[..., Any]], Any], debug: bool) -> str:
    version = _fresh(source, target, debug)
    run(version)
    return "\n".join(version.inspect_asm().values())


def _fresh(part: Part, target: str, debug: bool) -> Any:
    """A version of its own, never kept; parts stay inlined."""
    callees = {
        name: _fresh(callee, target, debug) if isinstance(callee, Part) else callee.compiled(target)
        for name, callee in part.calls.items()
    }
    source = part.emulated
    copy = FunctionType(source.__code__, source.__globals__ | callees, source.__name__)
    return numba.njit(**part.options, debug=debug)(copy)


def inner_loop(assembly: str) -> list[Line]:
    """The loop with the most vector instructions: a stretch from a label to a jump back to it, without one inside."""
    lines, labels = _parse(assembly)
    loops = [
        lines[labels[target] : at + 1]
        for at, line in enumerate(lines)
        if line.mnemonic.startswith(("j", "b")) and labels.get(target := line.operands, at + 1) <= at
    ]
    innermost = [loop for loop in loops if not any(other is not loop and _inside(other, loop) for other in loops)]
    if not innermost:
        raise RuntimeError("the compiler left no loop")
    return max(innermost, key=lambda loop: sum(map(_computes, loop)))


def _computes(line: Line) -> bool:
    return VECTOR.search(line.operands) is not None and not IDLE.match(line.mnemonic)


def _inside(inner: list[Line], outer: list[Line]) -> bool:
    return len(inner) < len(outer) and any(inner[0] is line for line in outer) and any(inner[-1] is x for x in outer)


def _parse(assembly: str) -> tuple[list[Line], dict[str, int]]:
    """Instructions, each with its line; and where labels stand among them."""
    lines: list[Line] = []
    labels: dict[str, int] = {}
    files: dict[str, str] = {}
    here = ("", 0)
    for text in assembly.splitlines():
        if label := LABEL.match(text):
            labels[label[1]] = len(lines)
        elif file := FILE.match(text):
            files[file[1]] = file[3]
        elif location := LOCATION.match(text):
            here = (files.get(location[1], ""), int(location[2]))
        elif text.startswith("\t") and not text.startswith(("\t.", "\t#")):
            mnemonic, _, operands = text.split("#")[0].strip().partition("\t")
            lines.append(Line(mnemonic, operands.strip(), *here))
    return lines, labels
