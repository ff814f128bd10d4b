"""Twins: a kernel again, with some of its instructions or parts exchanged for others wherever they are called.

The source stays one: a twin cannot drift from the kernel that it is made of.
"""

from collections.abc import Mapping
from types import FunctionType

from refimpl.kernels.simd.threefold import KernelSource, Part, Threefold


def exchange(source: KernelSource, twins: Mapping[Threefold, Threefold], name: str, module: str) -> KernelSource:
    """The kernel ``source`` with every call of a key of ``twins``, at any depth of its parts, a call of its value.

    ``name`` and ``module`` become those of the new kernel; the cache on disk goes by the name. Raises ValueError where
    ``source`` calls none of the keys.
    """
    if not any(_calls(source, old) for old in twins):
        raise ValueError(f"{source.__name__} does not call {', '.join(old.__name__ for old in twins)}")
    function = _copy(source, frozenset(twins), dict(twins))
    function.__name__ = function.__qualname__ = name
    function.__module__ = module
    return KernelSource(function)


def exchange_in_part(part: Part, twins: Mapping[Threefold, Threefold]) -> Part:
    """``exchange`` in a part."""
    return Part(_copy(part, frozenset(twins), dict(twins)))


def _calls(part: Part, sought: Threefold) -> bool:
    """Whether the part calls it, itself or through other parts."""
    callees = part.calls.values()
    return any(callee is sought or (isinstance(callee, Part) and _calls(callee, sought)) for callee in callees)


def _copy(part: Part, exchanged: frozenset[Threefold], twins: dict[Threefold, Threefold]) -> FunctionType:
    """The part's function with its callees' twins; ``twins`` also keeps those made, so that each is made once. Parts
    in which nothing is exchanged stay themselves, so that a twin can have twins."""
    for callee in part.calls.values():
        if callee not in twins:
            changes = isinstance(callee, Part) and any(_calls(callee, old) for old in exchanged)
            twins[callee] = Part(_copy(callee, exchanged, twins)) if changes else callee  # type: ignore[arg-type]
    source = part.emulated
    callees = {name: twins[callee] for name, callee in part.calls.items()}
    copy = FunctionType(source.__code__, source.__globals__ | callees, source.__name__)
    copy.__module__ = source.__module__
    return copy
