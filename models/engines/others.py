"""Engines that are not ours to know: a Python function, a C function in a shared library, or any command.

    onnxruntime, openvino        the packages that this package drives
    module:function              function(onnx_path, inputs, tensors) -> {tensor name: array}; the module on Python's
                                 path or in the current folder. inputs: {name: array}; tensors: the names wanted
    ./lib.so:symbol              a u8 x s8 product, see ``library``: it computes the file's products of codes
    "command PROGRAM ..."        run without a shell, with {model} {inputs} {outputs} and, if it likes, {tensors} in its
                                 words replaced by paths: inputs and outputs are safetensors files of arrays by name,
                                 tensors a text file of the names wanted, one a line

The graph's outputs are always wanted. More may be returned and is ignored; what is wanted and not returned is reported.
"""

import importlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from refimpl.models.engines import NAMES
from refimpl.models.sealed import contiguous

Values = dict[str, np.ndarray]
Function = Callable[[str, Values, list[str]], Values]
"""onnx_path, inputs, wanted -> values."""
COMMAND = "command"
LIBRARIES = (".so", ".dylib", ".dll")


class Engine(NamedTuple):
    """What an engine's name means. kind: "package", "function", "library" or "command"; name: without the kind."""

    kind: str
    name: str


def parse(engine: str) -> Engine:
    """Read an engine's name. Raises ValueError if it can mean nothing, RuntimeError if a package is not installed."""
    if engine in NAMES:
        if find_spec(engine) is None:
            raise RuntimeError(f"{engine} is not installed; need: python -m pip install {engine}")
        return Engine("package", engine)
    if engine.startswith(COMMAND + " ") and engine[len(COMMAND) :].strip():
        return Engine("command", engine[len(COMMAND) + 1 :])
    before, _, after = engine.rpartition(":")
    if before and after:
        is_library = "/" in before or "\\" in before or before.endswith(LIBRARIES)
        return Engine("library" if is_library else "function", engine)
    raise ValueError(
        f"the engine is {engine!r}; need {', '.join(NAMES)}, module:function, ./lib.so:symbol "
        "or 'command PROGRAM {model} {inputs} {outputs}'"
    )


def load(engine: Engine) -> Function:
    """The function that runs an engine of others. Raises ValueError that says what is wrong with it."""
    if engine.kind == "function":
        return load_function(engine.name)
    if engine.kind == "library":
        from refimpl.models.engines.library import load_product, run_products  # our own operators: no other needs them

        path, _, symbol = engine.name.rpartition(":")
        product = load_product(path, symbol)
        return lambda onnx_path, inputs, tensors: run_products(product, onnx_path, inputs, tensors)
    return _command(engine.name)


def load_function(name: str) -> Callable[..., Any]:
    """The function that ``--engine module:function`` names. Raises ValueError that says what is wrong with it."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise ValueError(f"--engine is {name!r}; need module:function")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module), function, None)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(f"--engine {name}: cannot import {module}: {error}") from None
    if not callable(made):
        raise ValueError(f"--engine {name}: {module} has no function {function}")
    return made


def _command(template: str) -> Function:
    words = shlex.split(template)
    if "{outputs}" not in template:
        raise ValueError(f"the command is {template!r}; need {{model}}, {{inputs}} and {{outputs}} in it")

    def run(onnx_path: str, inputs: Values, tensors: list[str]) -> Values:
        with tempfile.TemporaryDirectory() as folder:
            paths = {name: f"{folder}/{name}.safetensors" for name in ("inputs", "outputs")}
            paths |= {"model": onnx_path, "tensors": f"{folder}/tensors.txt"}
            save_file({name: contiguous(array) for name, array in inputs.items()}, paths["inputs"])
            Path(paths["tensors"]).write_text("".join(f"{name}\n" for name in tensors), "utf-8")
            done = subprocess.run([_fill(word, paths) for word in words], check=False)
            if done.returncode:
                raise RuntimeError(f"{words[0]} ended with exit status {done.returncode}")
            try:
                return load_file(paths["outputs"])
            except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
                raise RuntimeError(f"{words[0]} wrote no safetensors file to {{outputs}}: {error}") from None

    return run


def _fill(word: str, paths: dict[str, str]) -> str:
    for name, path in paths.items():
        word = word.replace(f"{{{name}}}", path)
    return word
