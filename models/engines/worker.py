"""The process that holds an engine: ``python -m refimpl.models.engines.worker FOLDER``, started by ``isolated``.

reads    request.json        {"engine", "model", "tensors", "threads", "optimize"}
         inputs.safetensors  by name
writes   values.safetensors  by name
         answer.json         {"not_exposed", "layers", "version", "cpu"}; or else error.txt, one line, and exit status 1
"""

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from refimpl.kernels import cpu
from refimpl.models.engines import Graph, onnx_file, open_graph, others, version
from refimpl.models.sealed import contiguous

REQUEST, INPUTS, VALUES, ANSWER, ERROR = (
    "request.json", "inputs.safetensors", "values.safetensors", "answer.json", "error.txt",
)  # fmt: skip
LONGEST = 1000
"""Characters of an error."""
NO_VALUE = "the engine returned no value for it"


def work(folder: Path) -> None:
    """Do what the request in a folder says."""
    request = json.loads((folder / REQUEST).read_text("utf-8"))
    inputs, engine = load_file(folder / INPUTS), others.parse(request["engine"])
    path, tensors = Path(request["model"]), request["tensors"]
    if engine.kind == "package":
        graph = open_graph(engine.name, path, tensors, request["threads"], request["optimize"])
        number = version(engine.name)
    else:
        graph, number = _of_others(engine, path, tensors), _version_of(engine)
    values = graph.run(inputs)
    save_file({name: contiguous(array) for name, array in values.items()}, folder / VALUES)
    answer = {
        "not_exposed": graph.not_exposed,
        "layers": graph.layers,
        "version": number,
        "cpu": {"name": cpu.name(), "features": sorted(cpu.features() & set(cpu.INTEREST))},
    }
    (folder / ANSWER).write_text(json.dumps(answer), "utf-8")


def _of_others(engine: others.Engine, path: Path, tensors: list[str] | None) -> Graph:
    signature = onnx_file.signature(onnx_file.load(path))
    wanted = list(dict.fromkeys([*(signature.tensors if tensors is None else tensors), *signature.outputs]))
    function, missing = others.load(engine), {}

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        returned: Any = function(str(path), inputs, wanted)
        if not isinstance(returned, dict):
            raise TypeError(f"{engine.name} returned {type(returned).__name__}; need a dict of arrays by tensor name")
        for name in wanted:
            if name not in returned:
                missing[name] = NO_VALUE
            elif not isinstance(returned[name], np.ndarray):
                raise TypeError(f"{engine.name} returned {type(returned[name]).__name__} for {name}; need an array")
        return {name: returned[name] for name in wanted if name in returned}

    return Graph(run, list(signature.inputs), missing, {})


def _version_of(engine: others.Engine) -> str:
    """Of the package that a function comes from, if it says so."""
    if engine.kind != "function":
        return ""
    packages = importlib.metadata.packages_distributions().get(engine.name.split(":")[0].split(".")[0], [])
    return version(packages[0]) if packages else ""


def main(folder: Path) -> int:
    """``work``; an error becomes one line in a file."""
    try:
        work(folder)
    except Exception as error:  # whatever an engine raises
        kind = "" if isinstance(error, ValueError | TypeError | RuntimeError) else f"{type(error).__name__}: "
        (folder / ERROR).write_text(" ".join(f"{kind}{error}".split())[:LONGEST] or kind, "utf-8", "replace")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
