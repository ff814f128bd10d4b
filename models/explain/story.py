"""A traced example as plain data: what ``--json`` prints, and what the terminal and the page draw."""

import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.kernels.record import Kernel
from refimpl.kernels.simd.provenance import Byte, Pair
from refimpl.kernels.simd.trace import Place, Register, Site, Step, functions
from refimpl.models.explain import words
from refimpl.models.explain.example import SHAPE, Example, run
from refimpl.models.explain.flow import Flow, flow


def story(kernel: Kernel, shape: tuple[int, int, int] = SHAPE) -> dict[str, Any]:
    """Everything about one run, of JSON's types only.

    Registers stand where they are made: ``steps[i]["result"]`` is the register ``r{i}``. ``slots`` gives each byte's
    place 0 to 3 in the dword of its next dot product, null for padding; ``names`` the element that it is.
    """
    example = run(kernel, shape)
    flowing = flow(example)
    files = [_function(function) for function in functions(kernel.source)]
    written = {step.written.array for step in example.steps if step.written}
    return {
        "kernel": kernel.name,
        "about": inspect.getdoc(sys.modules[kernel.source.emulated.__module__]),
        "layout": inspect.getdoc(sys.modules[kernel.pack.__module__]),
        "shape": dict(zip("MNK", shape, strict=True)),
        "a": example.a.tolist(),
        "w": example.w.tolist(),
        "functions": files,
        "arrays": {name: _array(name, example, flowing, name in written) for name in example.arguments},
        "steps": [_step(step, i, example, flowing) for i, step in enumerate(example.steps)],
        "outputs": _outputs(example),
    }


def _function(function: Any) -> dict[str, Any]:
    lines, first = inspect.getsourcelines(function)
    code = function.__code__
    path = Path(code.co_filename)
    return {"name": code.co_name, "file": path.name, "first": first, "lines": [line.rstrip("\n") for line in lines]}


def _array(name: str, example: Example, flowing: Flow, written: bool) -> dict[str, Any]:
    """An argument before the run; the values of one that is only written mean nothing, and are null."""
    value = example.arguments[name]
    if not isinstance(value, np.ndarray):
        return {"dtype": type(value).__name__, "values": value if isinstance(value, int) else int(value)}
    places = [(name, i) for i in range(value.size)]
    return {
        "dtype": str(value.dtype),
        "written": written,
        "values": [None] * value.size if written else value.tolist(),
        "names": [str(example.names.get(place, "")) for place in places],
        "slots": [flowing.memory.get(place) for place in places],
    }


def _step(step: Step, number: int, example: Example, flowing: Flow) -> dict[str, Any]:
    lanes = example.provenance.registers[number] or ()
    clipped = [i for i, x in enumerate(lanes) if isinstance(x, tuple) and _clips(step, x)]
    return {
        "instruction": step.instruction,
        "definition": (inspect.getdoc(step.meaning) or "").splitlines()[0],
        "text": step.text,
        "sites": [_site(site) for site in step.sites],
        "operands": [_operand(operand) for operand in step.operands],
        "result": _result(step, number, example, flowing),
        "written": _operand(step.written) if step.written else None,
        "matters": flowing.matters[number],
        "lanes": words.lanes(step, number, example, flowing),
        "clipped": clipped,
        "why": words.why(step, number, example, flowing),
    }


def _clips(step: Step, terms: tuple[Any, ...]) -> bool:
    return step.instruction == "vpmaddubsw" and terms[0].clipped


def _site(site: Site) -> dict[str, Any]:
    return {**site._asdict(), "file": Path(site.file).name}


def _operand(operand: Any) -> dict[str, Any]:
    if isinstance(operand, Register):
        return {"register": operand.step}
    if isinstance(operand, Place):
        return operand._asdict()
    return {"scalar": int(operand)}


def _result(step: Step, number: int, example: Example, flowing: Flow) -> dict[str, Any] | None:
    if step.result is None:
        return None
    if not isinstance(step.result, np.ndarray):
        return {"dtype": "scalar", "values": [int(step.result)]}
    lanes = example.provenance.registers[number] or ()
    if step.result.itemsize == 1:
        names = [str(example.names.get((x.array, x.at), "")) if isinstance(x, Byte) else "" for x in lanes]
    else:
        names = [str(element or "") for element in flowing.results[number]]
    return {
        "dtype": str(step.result.dtype),
        "values": step.result.tolist(),
        "names": names,
        "slots": flowing.slots[number] if step.result.itemsize == 1 else [],
    }


def _outputs(example: Example) -> list[dict[str, Any]]:
    """Every result with the products that reached it."""
    places = {element: place for place, element in example.names.items() if element.matrix == "acc"}
    exact = example.a.astype(np.int64) @ example.w.astype(np.int64).T
    found = []
    for element, place in sorted(places.items()):
        terms = example.provenance.memory.get(place) or ()
        found.append(
            {
                "name": str(element),
                "value": int(example.product[element.row, element.column]),
                "exact": int(exact[element.row, element.column]),
                "sum": words.total(terms, example),
                "clipped": sum(isinstance(term, Pair) and term.clipped for term in terms),
            }
        )
    return found
