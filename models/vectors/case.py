"""What the suite is made of: cases with inputs and expected outputs, and families of cases with wrong versions.

A case is one call of one kernel. Its expected outputs follow from its inputs by ``refimpl`` alone. A family also lists
*faults*: plausible wrong versions of the kernel. A case kills a fault if one of the fault's outputs is not accepted;
``prove`` raises unless every fault of a family is killed by one of its cases.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]
Version = Callable[[Arrays], dict[str, np.ndarray]]
"""Inputs -> the outputs that it makes, by name."""


class Expected(NamedTuple):
    """One output. bound None: the very bits of ``value``. Otherwise value and bound are f64 and the result is f32, to
    lie within ``bound`` of ``value``, element by element."""

    value: np.ndarray
    bound: np.ndarray | None = None

    def accepts(self, got: np.ndarray) -> bool:
        """NaN is accepted only where the very bits are asked for."""
        if self.bound is not None:
            return got.shape == self.value.shape and bool((np.abs(got - self.value) <= self.bound).all())
        return (got.dtype, got.shape) == (self.value.dtype, self.value.shape) and got.tobytes() == self.value.tobytes()


class Operands(NamedTuple):
    """What a case is called, what it reaches, its inputs by name, and where they are published, if they are."""

    name: str
    about: str
    inputs: dict[str, np.ndarray]
    source: str = ""


class Case(NamedTuple):
    """dims: lengths by letter; kills: the faults of the family that this case tells from the truth."""

    operands: Operands
    dims: dict[str, int]
    expected: dict[str, Expected]
    kills: list[str]


class Family(NamedTuple):
    """A kernel and its vectors.

    contract: what it computes, for the manifest. dims: letter -> input and axis. right: inputs -> expected outputs.
    faults: wrong versions by name. operands: inputs of the cases.
    """

    kernel: str
    contract: str
    dims: dict[str, tuple[str, int]]
    right: Callable[[Arrays], dict[str, Expected]]
    faults: dict[str, Version]
    operands: Callable[[], list[Operands]]

    def cases(self) -> list[Case]:
        """All cases. Raises RuntimeError if a fault survives them."""
        cases = [self._case(operands) for operands in self.operands()]
        prove(self.kernel, self.faults, cases)
        return cases

    def _case(self, operands: Operands) -> Case:
        inputs = operands.inputs
        dims = {letter: inputs[name].shape[axis] for letter, (name, axis) in self.dims.items()}
        expected = self.right(inputs)
        kills = [name for name, fault in self.faults.items() if not accepted(expected, fault(inputs))]
        return Case(operands, dims, expected, kills)


def accepted(expected: Mapping[str, Expected], outputs: Arrays) -> bool:
    """Whether all outputs are as expected; an output that is missing is not judged."""
    return all(expected[name].accepts(got) for name, got in outputs.items())


def exactly(**values: np.ndarray) -> dict[str, Expected]:
    """Outputs expected to the bit."""
    return {name: Expected(value) for name, value in values.items()}


def prove(kernel: str, faults: Mapping[str, Version], cases: list[Case]) -> None:
    """Raise RuntimeError if no case tells one of the faults from the truth."""
    survivors = set(faults).difference(*(case.kills for case in cases))
    if survivors:
        raise RuntimeError(f"the vectors of {kernel} accept a wrong version: {', '.join(sorted(survivors))}")
