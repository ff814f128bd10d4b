"""The machine code of a kernel's inner loop beside its Python, for a person."""

import linecache
from typing import Any

from rich.console import Console
from rich.text import Text

from refimpl.kernels.record import Kernel
from refimpl.kernels.simd.assembly import Listing, listing
from refimpl.kernels.simd.provenance import LOADS, STORES
from refimpl.kernels.simd.threefold import NATIVE
from refimpl.kernels.simd.trace import functions, instructions
from refimpl.models.explain.example import SHAPE, operands

RENAMED = {
    "popcntq": "popcnt",
    "vbroadcastss": "vpbroadcastd_pair",
    "vpdpwssd": "vpmaddwd and vpaddd in one",
}
"""Mnemonics that LLVM writes for instructions with another name: the same bits."""


def implements(mnemonic: str, known: frozenset[str]) -> str:
    """Which of a kernel's instructions a mnemonic stands for; for a move, any of its whole loads and stores."""
    if mnemonic.startswith(("vmovdqu", "vmovups")):
        return " / ".join(sorted(name for name in known if name in LOADS + STORES and name.startswith("vmov")))
    return mnemonic if mnemonic in known else RENAMED.get(mnemonic, "")


def compile_listing(kernel: Kernel, target: str) -> dict[str, Any]:
    """The inner loop as plain data. Raises what ``kernels.simd.assembly.listing`` raises."""
    a, w = operands(kernel, SHAPE)
    packed = kernel.pack(w)
    return _data(kernel, target, listing(kernel.source, target, lambda execution: kernel.call(execution, a, packed)))


def _data(kernel: Kernel, target: str, found: Listing) -> dict[str, Any]:
    known = instructions(kernel.source)
    files = {function.__code__.co_filename.rpartition("/")[2]: function for function in functions(kernel.source)}
    loop = []
    for line in found.loop:
        function = files.get(line.file.rpartition("/")[2])
        path = function.__code__.co_filename if function and line.line and found.lines_known else ""
        loop.append(
            {
                "mnemonic": line.mnemonic,
                "operands": line.operands,
                "implements": implements(line.mnemonic, known),
                "line": line.line if path else 0,
                "python": linecache.getline(path, line.line).strip() if path else "",
            }
        )
    return {
        "kernel": kernel.name,
        "target": target,
        "lines_known": found.lines_known,
        "counts": dict(found.counts.most_common()),
        "spills": len(found.spills),
        "loop": loop,
    }


def show(data: dict[str, Any], console: Console) -> None:
    """Each instruction with its Python line, or, where lines are not known, with the instruction that it implements."""
    console.print(
        Text(data["kernel"], "bold"), Text(f"{data['target']}: the inner loop, {len(data['loop'])} instructions")
    )
    if data["lines_known"]:
        console.print(
            Text("Compiled again with line tables, the loop is the same: its Python lines are beside it.\n", "dim")
        )
    else:
        console.print(
            Text("Line tables change this loop, so no Python lines; by mnemonic, what it implements:\n", "yellow")
        )
    before = None
    for line in data["loop"]:
        beside = f"{line['line']:4} {line['python']}" if line["line"] else line["implements"]
        text = Text(f"{line['mnemonic']:14}{line['operands']:40}"[:56].ljust(56), "bold" if line["implements"] else "")
        text.append(beside if beside != before else "   ·", "cyan")
        console.print(text, no_wrap=True, overflow="ellipsis")
        before = beside
    console.print()
    for mnemonic, count in data["counts"].items():
        console.print(Text(f"{count:5} {mnemonic}"))
    if data["spills"]:
        console.print(Text(f"{data['spills']} of them hold vector registers on the stack: spilled.", "red"))
    else:
        console.print(Text("Nothing spilled: every vector stays in a register.", "green"))
    if data["target"] != NATIVE:
        console.print(Text("Portable: other instructions may stand for one of the kernel's.", "dim"))
