"""What a step of ours is about to call is compiled first, and who has to wait is told."""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

from refimpl.kernels import compilation, execution
from refimpl.kernels.simd.threefold import KernelSource


def compile_first(
    calls: Iterable[tuple[KernelSource, bool, tuple[Any, ...]]], say: compilation.Say | None = None
) -> None:
    """calls: kernel, whether it is parallel, its arguments; say: told (done, of all), from any thread; if left out,
    there is a line on a terminal. Nothing is said where all is on disk."""
    missing = compilation.missing(
        (source, execution.fastest(source), parallel, arguments) for source, parallel, arguments in calls
    )
    if missing:
        from refimpl.models.terminal import late_bar  # not before a person waits: it costs time to import

        with late_bar("compiling kernels") if say is None else nullcontext(say) as told:
            compilation.compile_all(missing, told)
