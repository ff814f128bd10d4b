"""A traced example as plain data: what ``--json`` prints, and what the terminal and the page draw."""

import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.kernels.simd.provenance import Item, Pair, numbers
from refimpl.kernels.simd.trace import Place, Register, Site, Step, functions, python
from refimpl.models.explain import sums, words
from refimpl.models.explain.example import SHAPE, AnyKernel, Example, run
from refimpl.models.explain.flow import Flow, flow


def story(kernel: AnyKernel, shape: tuple[int, int, int] = SHAPE) -> dict[str, Any]:
    """Everything about one run, of JSON's types only.

    Registers stand where they are made: ``steps[i]["result"]`` is the register ``r{i}``, ``per`` elements to a dword; a
    tile has several ``rows``. ``slots`` gives each byte's place 0 to 3, or each bf16's 0 or 1, in the dword of its next
    dot product, null for padding; ``names`` the element that it is. ``lossy`` lanes could not keep their exact sum.
    """
    example = run(kernel, shape)
    flowing = flow(example)
    files = [_function(function) for function in functions(kernel.source)]
    written = {step.written.array for step in example.steps if step.written}
    return {
        "kernel": kernel.name,
        "about": inspect.getdoc(sys.modules[python(kernel.source).__module__]),
        "layout": inspect.getdoc(sys.modules[kernel.pack.__module__]),
        "shape": dict(zip("MNK", shape, strict=True)),
        "a": numbers(example.a).tolist(),
        "w": numbers(example.w).tolist(),
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
        "dtype": _dtype(value),
        "written": written,
        "values": [None] * value.size if written else numbers(value).tolist(),
        "names": [str(example.names.get(place, "")) for place in places],
        "slots": [flowing.memory.get(place) for place in places],
    }


def _dtype(array: np.ndarray) -> str:
    return "bf16" if array.dtype == np.uint16 else str(array.dtype)


def _step(step: Step, number: int, example: Example, flowing: Flow) -> dict[str, Any]:
    lanes = sums.lanes(step, number, example, flowing)
    return {
        "instruction": step.instruction,
        "definition": (inspect.getdoc(step.meaning) or "").splitlines()[0],
        "text": step.text,
        "tile": step.tile,
        "sites": [_site(site) for site in step.sites],
        "operands": [_operand(operand) for operand in step.operands],
        "result": _result(step, number, example, flowing),
        "written": _operand(step.written) if step.written else None,
        "matters": flowing.matters[number],
        "lanes": lanes,
        "lossy": [i for i, text in enumerate(lanes) if sums.LOSS in text],
        "why": words.why(step, number, example, flowing),
    }


def _site(site: Site) -> dict[str, Any]:
    return {**site._asdict(), "file": Path(site.file).name}


def _operand(operand: Any) -> dict[str, Any]:
    if isinstance(operand, Register):
        return {"register": operand.step}
    if isinstance(operand, Place):
        return operand._asdict()
    return {"scalar": operand if isinstance(operand, tuple) else int(operand)}


def _result(step: Step, number: int, example: Example, flowing: Flow) -> dict[str, Any] | None:
    if isinstance(step.result, np.integer | int):
        return {"dtype": "scalar", "values": [int(step.result)]}
    if not isinstance(step.result, np.ndarray):
        return None
    lanes = example.provenance.registers[number] or ()
    items = [example.names.get((lane.array, lane.at)) for lane in lanes if isinstance(lane, Item)]
    return {
        "dtype": _dtype(step.result),
        "rows": len(step.result) if step.result.ndim == 2 else 1,
        "per": 4 // step.result.itemsize,
        "values": numbers(step.result).ravel().tolist(),
        "names": [str(element or "") for element in items or flowing.results[number]],
        "slots": flowing.slots[number],
    }


def _outputs(example: Example) -> list[dict[str, Any]]:
    """Every result with the products that reached it."""
    places = {element: place for place, element in example.names.items() if element.matrix == "acc"}
    exact = numbers(example.a).astype(object) @ numbers(example.w).astype(object).T  # floats here have bits to spare
    found = []
    for element, place in sorted(places.items()):
        terms = example.provenance.memory.get(place) or ()
        found.append(
            {
                "name": str(element),
                "value": example.product[element.row, element.column].item(),
                "exact": exact[element.row, element.column],
                "sum": sums.total(terms, example),
                "clipped": sum(isinstance(term, Pair) and term.clipped for term in terms),
            }
        )
    return found
