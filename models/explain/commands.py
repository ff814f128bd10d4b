"""The commands that let a person watch a kernel: ``explain`` and ``asm``."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refimpl.models.options import Force
from refimpl.models.terminal import console, print_json

if TYPE_CHECKING:
    from refimpl.models.explain.example import AnyKernel

KernelName = Annotated[str, typer.Argument(metavar="KERNEL", help="A kernel's name, such as gemm_u8s8s32.")]
Shape = Annotated[str, typer.Option(metavar="M,N,K", help="Output channels, tokens, input channels: a small product.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write a page to step through instead, in one file.")]
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON for a program instead.")]
Portable = Annotated[
    bool,
    typer.Option("--portable", metavar="", help="What runs on a CPU without the real instructions."),
]


def find(name: str) -> "AnyKernel":
    """The kernel of that name. Raises ValueError that names the nearest one, and all."""
    from refimpl.kernels.catalog import OTHERS, WATCHED

    if name in OTHERS and name not in WATCHED:
        raise ValueError(
            f"{name} is plain loops, without an instruction to show; there are {', '.join(sorted(WATCHED))}"
        )
    if name not in WATCHED:
        nearest = difflib.get_close_matches(name, WATCHED, 1, 0)[0]
        raise ValueError(f"there is no kernel {name!r}; nearest is {nearest}; there are {', '.join(sorted(WATCHED))}")
    return WATCHED[name]


def explain(
    kernel: KernelName, shape: Shape = "4,2,7", html: Html = None, force: Force = False, as_json: AsJson = False
) -> None:
    """Run a tiny product through a kernel and show every instruction, its registers and why."""
    from refimpl.models.explain import page, terminal
    from refimpl.models.explain.example import parse_shape
    from refimpl.models.explain.story import story
    from refimpl.models.files import atomic, check_output

    if html is not None:
        check_output(html, force)
    told = story(find(kernel), parse_shape(shape))
    if html is not None:
        with atomic(html) as path:
            path.write_text(page.page(told), "utf-8")
    if as_json:
        print_json(told)
    elif html is not None:
        console().print(f"{html}: {len(told['steps'])} steps; open it in a browser", markup=False)
    else:
        terminal.show(told, console())


def asm(kernel: KernelName, portable: Portable = False, as_json: AsJson = False) -> None:
    """Show the instructions that the compiler made of a kernel's inner loop, beside its Python lines."""
    from refimpl.kernels.record import Kernel
    from refimpl.kernels.simd.threefold import PORTABLE
    from refimpl.models.explain import listing

    found = find(kernel)
    if not isinstance(found, Kernel):
        raise RuntimeError(f"{kernel} is emulated only: nothing is compiled")
    data = listing.compile_listing(found, PORTABLE if portable else found.fastest())
    if as_json:
        print_json(data)
    else:
        listing.show(data, console())
