"""Twins: a kernel again, with one instruction exchanged for another wherever it is called.

The source stays one: a twin cannot drift from the kernel that it is made of.
"""

from types import FunctionType

from refimpl.kernels.simd.threefold import KernelSource, Part, Threefold


def exchange(source: KernelSource, old: Threefold, new: Threefold, name: str, module: str) -> KernelSource:
    """The kernel ``source`` with every call of ``old``, at any depth of its parts, a call of ``new``.

    ``name`` and ``module`` become those of the new kernel; the cache on disk goes by the name. Raises ValueError where
    ``source`` never calls ``old``.
    """
    if not _calls(source, old):
        raise ValueError(f"{source.__name__} does not call {old.__name__}")
    function = _copy(source, {old: new})
    function.__name__ = function.__qualname__ = name
    function.__module__ = module
    return KernelSource(function)


def _calls(part: Part, sought: Threefold) -> bool:
    """Whether the part calls it, itself or through other parts."""
    callees = part.calls.values()
    return any(callee is sought or (isinstance(callee, Part) and _calls(callee, sought)) for callee in callees)


def _copy(part: Part, twins: dict[Threefold, Threefold]) -> FunctionType:
    """The part's function with its callees' twins; ``twins`` also keeps those made, so that each is made once."""
    for callee in part.calls.values():
        if callee not in twins:
            twins[callee] = Part(_copy(callee, twins)) if isinstance(callee, Part) else callee
    source = part.emulated
    callees = {name: twins[callee] for name, callee in part.calls.items()}
    copy = FunctionType(source.__code__, source.__globals__ | callees, source.__name__)
    copy.__module__ = source.__module__
    return copy
