"""Functions with three executions, and how one Python source becomes all of them.

    emulated    the plain Python function on NumPy registers
    portable    jitted; every instruction in a form that any CPU of numba's has
    native      jitted; every instruction the real one, where this CPU has them all

A kernel is a Python function under ``@kernel``, its parts are functions under ``@part``, and both call instructions.
To compile for a target, the function is copied with the threefold names among its globals replaced by their versions
for that target: there is no switch inside a kernel and no global state.
"""

import importlib
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any, ClassVar

import numba

from refimpl.kernels import cache, cpu

PORTABLE, NATIVE = "portable", "native"
config: Any = numba.config  # numba fills this module at run time, unseen by type checkers
_making = threading.RLock()
"""Held while a version is made, so that no other thread finds one that is not kept on disk yet."""


class Threefold:
    """Calling it runs the emulated version; ``features`` are the CPU features that the native one needs."""

    features: frozenset[str]

    def __init__(self, meaning: Callable[..., Any]):
        self.emulated = meaning
        self.__name__ = meaning.__name__
        self.__doc__ = meaning.__doc__

    def __call__(self, *args: Any) -> Any:
        return self.emulated(*args)

    def compiled(self, target: str) -> Callable[..., Any]:
        """The version for a target that jitted code can call."""
        raise NotImplementedError


class Part(Threefold):
    """A function of kernels, always inlined into the kernel that calls it."""

    # Only jitted code calls a part: wrappers for others would take a quarter of the time of compiling.
    options: dict[str, Any] = {  # noqa: RUF012
        "forceinline": True,
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
    }

    def __init__(self, meaning: Callable[..., Any]):
        super().__init__(meaning)
        self.calls = {
            name: value
            for name in meaning.__code__.co_names
            if isinstance(value := meaning.__globals__.get(name), Threefold)
        }
        self.features = frozenset().union(*(callee.features for callee in self.calls.values()))
        self.versions: dict[Any, Callable[..., Any]] = {}

    def compiled(self, target: str) -> Callable[..., Any]:
        return self._jit(target, target, self.options)

    def _jit(self, name: str, target: str, options: dict[str, Any]) -> Callable[..., Any]:
        if config.DISABLE_JIT:
            return self.emulated
        if name not in self.versions:
            self.versions[name] = numba.njit(**options)(self._copy(name, target))
        return self.versions[name]

    def _copy(self, name: str, target: str) -> FunctionType:
        """The same code with its callees for the target, under a name of its own (numba's cache goes by it)."""
        source = self.emulated
        callees = {callee: threefold.compiled(target) for callee, threefold in self.calls.items()}
        copy = FunctionType(source.__code__, source.__globals__ | callees, f"{source.__name__}_{name}")
        copy.__qualname__ = copy.__name__
        copy.__module__ = source.__module__
        return copy


class KernelSource(Part):
    """A function of arrays called from Python: lazily compiled, kept on disk, releases the GIL.

    Its outer loop runs over ``numba.prange``: in the serial versions that is ``range``, in the parallel ones the
    iterations are shared out among numba's threads.
    """

    # Division by zero raises nothing: a branch at each division would keep LLVM from making vectors.
    options = {"nogil": True, "no_cfunc_wrapper": True, "error_model": "numpy"}  # noqa: RUF012
    recipe: tuple[Callable[..., "KernelSource"], tuple[Any, ...]] | None = None
    made: ClassVar[dict[tuple[str, str], "KernelSource"]] = {}

    def __init__(self, meaning: Callable[..., Any]):
        super().__init__(meaning)
        self.made[meaning.__module__, self.__name__] = self

    def __reduce__(self) -> tuple[Callable[..., "KernelSource"], tuple[Any, ...]]:
        """Pickled by its recipe, (function, arguments), or by name: another process has the kernels of a module once it
        has imported the module."""
        return self.recipe or (_named, (self.emulated.__module__, self.__name__))

    def compiled(self, target: str, parallel: bool = False) -> Callable[..., Any]:
        """The jitted kernel. Raises RuntimeError for a native version that this CPU cannot run."""
        if target == NATIVE and not self.runs_natively():
            raise RuntimeError(f"{self.__name__} needs the CPU features {', '.join(self.missing())}; use portable")
        name = f"{target}_parallel" if parallel else target
        return self._jit(name, target, {**self.options, "parallel": parallel})

    def _jit(self, name: str, target: str, options: dict[str, Any]) -> Callable[..., Any]:
        with _making:
            fresh = name not in self.versions
            version = super()._jit(name, target, options)
            return cache.keep(version) if fresh else version

    def runs_natively(self) -> bool:
        """Whether this CPU has every instruction of the native version."""
        return not self.missing()

    def missing(self) -> list[str]:
        """The features that the native version needs and this CPU lacks."""
        return sorted(self.features - cpu.features())


def _named(module: str, name: str) -> KernelSource:
    importlib.import_module(module)
    return KernelSource.made[module, name]


def part(function: Callable[..., Any]) -> Part:
    """Decorator: a piece of a kernel, inlined."""
    return Part(function)


def kernel(function: Callable[..., Any]) -> KernelSource:
    """Decorator: a kernel, called from Python with arrays."""
    return KernelSource(function)
