"""The command ``vectors``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refimpl.models.terminal import console, print_json

if TYPE_CHECKING:
    from refimpl.models.vectors.case import Family

Folder = Annotated[Path | None, typer.Argument(metavar="DIR", help="The folder to write; not needed with --list.")]
Kernels = Annotated[
    list[str] | None, typer.Option("--kernel", metavar="NAME", help="Only this kernel; repeatable; all if left out.")
]
List = Annotated[bool, typer.Option("--list", metavar="", help="Show the kernels and their cases, and write nothing.")]
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON for a program instead.")]
Force = Annotated[bool, typer.Option("--force", metavar="", help="Replace the suite that the folder holds.")]


def vectors(
    folder: Folder = None, kernel: Kernels = None, show: List = False, as_json: AsJson = False, force: Force = False
) -> None:
    """Write inputs and expected results for kernels in C, C++ or Rust, with a program in C that checks one."""
    from refimpl.models.vectors.suite import find
    from refimpl.models.vectors.write import write

    families = find(kernel or [])
    if show:
        _list(families, as_json)
        return
    if folder is None:
        raise ValueError("no folder was given; need DIR, or --list")
    manifest = write(folder, families, force)
    report = _summary(folder, manifest)
    if as_json:
        print_json(report)
    else:
        console().print(
            f"{folder}: {report['cases']} cases for {report['kernels']} kernel{'s' * (report['kernels'] != 1)},"
            f" {report['bytes'] / 1e6:.1f} MB; they reject {report['faults']} wrong versions. Next: README.txt there",
            markup=False,
        )


def _summary(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    kernels = manifest["kernels"]
    return {
        "folder": str(folder),
        "kernels": len(kernels),
        "cases": sum(len(kernel["cases"]) for kernel in kernels),
        "faults": sum(len(kernel["faults"]) for kernel in kernels),
        "bytes": sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()),
    }


def _list(families: "list[Family]", as_json: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    listed: list[dict[str, Any]] = [
        {"kernel": family.kernel, "contract": family.contract, "faults": list(family.faults),
         "cases": [{"case": case.operands.name, "about": case.operands.about, "dims": case.dims,
                    "source": case.operands.source, "kills": case.kills} for case in family.cases()]}
        for family in families
    ]  # fmt: skip
    if as_json:
        print_json(listed)
        return
    screen = console()
    for kernel in listed:
        screen.print(f"\n[bold]{kernel['kernel']}[/]  {escape(kernel['contract'])}")
        table = Table(box=None, pad_edge=False)
        for column in ("case", "dims", "kills", "about"):
            table.add_column(column, justify="right" if column == "kills" else "left")
        for case in kernel["cases"]:
            dims = " ".join(f"{letter} {length}" for letter, length in case["dims"].items())
            kills = f"{len(case['kills'])} of {len(kernel['faults'])}"
            table.add_row(case["case"], dims, kills, case["about"])
        screen.print(table)
    screen.print("\nkills: wrong versions of the kernel that the case rejects, of those that were tried.", style="dim")
