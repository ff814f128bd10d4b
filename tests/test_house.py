"""The rules of the house that a program can check: imports, packages, sizes, names, the kernel cache, linters."""

import ast
import os
import re
import subprocess
import sys
import time
import tomllib
from importlib.util import find_spec
from pathlib import Path

import llvmlite
import numba
import pytest

from refimpl.kernels import cache, cpu
from refimpl.kernels.catalog import KERNELS, OTHERS

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ["refimpl", "kernels", "models"]
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def short(path):
    return path.relative_to(ROOT).as_posix()


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


each_source = pytest.mark.parametrize("path", SOURCES, ids=short)


# --- imports ---------------------------------------------------------------------------------------------------------


def imported(path):
    """Full names of what a file imports, wherever it does, ``importlib.import_module("...")`` included."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            name = node.args[0]
            yield name.value if isinstance(name, ast.Constant) else ast.unparse(name)


def imports_any(path, *modules):
    return [name for name in imported(path) if any(f"{name}.".startswith(f"{module}.") for module in modules)]


@each_source
def test_imports_go_one_way(path):
    forbidden = {"refimpl": ["refimpl.kernels", "refimpl.models"], "kernels": ["refimpl.models"], "models": []}
    if short(path) != "refimpl/__main__.py":
        assert imports_any(path, *forbidden[short(path).split("/")[0]]) == []


@pytest.mark.parametrize("path", [path for path in SOURCES if not short(path).startswith("kernels/")], ids=short)
def test_numba_only_in_kernels(path):
    assert imports_any(path, "numba", "llvmlite") == []


def drives_an_engine(path):
    return short(path).startswith("models/engines/") or re.match(r"tests/golden/generate_\w+\.py$", short(path))


@pytest.mark.parametrize("path", [path for path in SOURCES + TESTS if not drives_an_engine(path)], ids=short)
def test_engines_only_where_they_are_driven(path):
    assert imports_any(path, "onnxruntime", "openvino", "torch", "transformers") == []


def test_the_import_test_sees_imports(tmp_path):
    path = tmp_path / "hidden.py"
    path.write_text(
        "def f():\n    import torch.nn as nn\n    importlib.import_module('openvino')\n    import torchlike\n"
    )
    assert imports_any(path, "torch", "openvino") == ["torch.nn", "openvino"]
    path.write_text("from refimpl import kernels\nfrom refimpl.kernels.record import Kernel\n")
    assert imports_any(path, "refimpl.kernels") == ["refimpl.kernels", "refimpl.kernels.record.Kernel"]


def test_the_command_line_imports_nothing_heavy():
    script = (
        "import sys, refimpl.models.cli; "
        "print(*{'numba', 'llvmlite', 'onnxruntime', 'openvino', 'torch', 'transformers', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# --- packages --------------------------------------------------------------------------------------------------------


def test_the_package_list_is_the_folders_on_disk():
    setuptools = PYPROJECT["tool"]["setuptools"]
    folders = [path.parent.relative_to(ROOT).parts for path in SOURCES if path.name == "__init__.py"]
    names = [".".join(parts if parts[0] == "refimpl" else ("refimpl", *parts)) for parts in folders]
    assert sorted(setuptools["packages"]) == sorted(names)
    rooms = {"refimpl" if room == "refimpl" else f"refimpl.{room}": room for room in ROOMS}
    assert setuptools["package-dir"] == rooms


@each_source
def test_every_folder_is_a_package(path):
    assert (path.parent / "__init__.py").exists()


@pytest.mark.parametrize(
    ("package", "pattern"),
    [(package, p) for package, ps in PYPROJECT["tool"]["setuptools"]["package-data"].items() for p in ps],
)
def test_package_data_exist(package, pattern):
    assert list((ROOT / package.removeprefix("refimpl.")).glob(pattern))


# --- size and words --------------------------------------------------------------------------------------------------

FILE_LINES, FUNCTION_LINES = 250, 40


def functions(path):
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def docstring_lines(node):
    """How many lines the docstring takes."""
    if ast.get_docstring(node) is None:
        return 0
    return node.body[0].end_lineno - node.body[0].lineno + 1


def lines(node):
    """Without its own docstring and those of the functions in it."""
    inner = [inside for inside in ast.walk(node) if isinstance(inside, ast.FunctionDef)]
    return node.end_lineno - node.lineno + 1 - sum(docstring_lines(inside) for inside in inner)


@each_source
def test_sizes(path):
    text = path.read_text(encoding="utf-8")
    nodes = functions(path)
    assert len(text.splitlines()) - sum(map(docstring_lines, nodes)) <= FILE_LINES
    assert {node.name: lines(node) for node in nodes if lines(node) > FUNCTION_LINES} == {}


@each_source
def test_module_docstring(path):
    assert len(ast.get_docstring(tree(path)) or "") > 20


@each_source
def test_public_functions_and_classes_have_docstrings(path):
    bare = [
        node.name
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert bare == []


NAME = re.compile(
    r"(gemm|bsgemm_[1-9]\d*x[1-9]\d*(_half|_shared(32)?)?|spgemm_bitmask)_u8s8s32(_pair_saturating)?|gemm_bf16"
)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_kernel_names_follow_the_grammar(kernel):
    """PRODUCT[_FORM]_INPUTS[_ARITHMETIC]; the module is named by the whole, the function without integer inputs."""
    assert NAME.fullmatch(kernel.name)
    assert kernel.source.emulated.__module__ == f"refimpl.kernels.{kernel.name}"
    assert kernel.source.__name__ == kernel.name.replace("_u8s8s32", "")
    assert kernel.name.endswith(kernel.oracle.__name__.removeprefix("gemm_"))


def test_every_kernel_has_a_file_and_a_record():
    assert {path.stem for path in (ROOT / "kernels").glob("*gemm*.py")} == {*KERNELS, *OTHERS}


# --- the kernel cache ------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_cache(monkeypatch, tmp_path):
    """``directory`` without what it remembers, on a copy of the sources."""
    root = tmp_path / "source"
    (root / "simd").mkdir(parents=True)
    (root / "a.py").write_text("x = 1\n")
    (root / "simd" / "b.py").write_text("y = 2\n")
    monkeypatch.setattr(cache, "__file__", str(root / "cache.py"))
    monkeypatch.setenv("REFIMPL_CACHE_DIR", str(tmp_path / "kept"))
    return root


def directory():
    return cache.directory.__wrapped__()


def test_cache_directory_follows_every_source(fresh_cache):
    first = directory()
    assert directory() == first
    seen = {first}
    for change in [
        lambda: (fresh_cache / "a.py").write_text("x = 2\n"),
        lambda: (fresh_cache / "simd" / "b.py").write_text("y = 3\n"),
        lambda: (fresh_cache / "simd" / "c.py").write_text(""),
        lambda: (fresh_cache / "simd" / "c.py").rename(fresh_cache / "c.py"),
    ]:
        change()
        seen.add(directory())
    assert len(seen) == 5
    (fresh_cache / "note.txt").write_text("not a source")
    assert directory() in seen


def test_cache_directory_follows_compiler_and_cpu(fresh_cache, monkeypatch):
    seen = {directory()}
    for owner, name, value in [
        (numba, "__version__", "0.0.1"),
        (llvmlite, "__version__", "0.0.2"),
        (cpu, "name", lambda: "another"),
        (cpu, "features", lambda: frozenset(["avx2"])),
    ]:
        monkeypatch.setattr(owner, name, value)
        seen.add(directory())
    assert len(seen) == 5


def test_cache_directory_is_where_the_environment_says(fresh_cache, monkeypatch, tmp_path):
    assert directory().parent == tmp_path / "kept"
    assert directory().is_dir()
    monkeypatch.delenv("REFIMPL_CACHE_DIR")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert directory().parent == tmp_path / "home" / ".cache" / "refimpl"


def test_a_new_cache_directory_takes_the_place_of_those_long_unused(fresh_cache, tmp_path):
    kept = tmp_path / "kept"
    for name in ("0123456789abcdef", "fedcba9876543210", "somebody-else-s1"):
        (kept / name).mkdir(parents=True)
    for name in ("fedcba9876543210", "somebody-else-s1"):
        os.utime(kept / name, (time.time() - cache.UNUSED - 60,) * 2)
    first = directory()
    assert {path.name for path in kept.iterdir()} == {first.name, "0123456789abcdef", "somebody-else-s1"}
    os.utime(first, (0, 0))
    assert directory() == first  # used today
    (fresh_cache / "a.py").write_text("x = 2\n")
    directory()
    assert first.is_dir()


def test_cache_that_cannot_be_made(fresh_cache, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REFIMPL_CACHE_DIR", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="compiled kernels are not kept: .*; set REFIMPL_CACHE_DIR"):
        assert directory() is None


def test_cache_that_exists_but_cannot_be_written(fresh_cache, monkeypatch):
    """numba itself would go on to the folder of the sources, where its key is too weak."""

    def refuse(**_):
        raise PermissionError("read-only")

    assert directory().is_dir()
    monkeypatch.setattr(cache.tempfile, "TemporaryFile", refuse)
    with pytest.warns(UserWarning, match="compiled kernels are not kept: read-only"):
        assert directory() is None


RUN = """
import numpy as np
from refimpl.kernels.gemm_u8s8s32 import GEMM
a, w = np.ones((2, 3), np.uint8), np.ones((4, 3), np.int8)
assert (GEMM.portable(a, GEMM.pack(w)) == 3).all()
(version,) = GEMM.source.versions.values()
print(sum(version.stats.cache_hits.values()), sum(version.stats.cache_misses.values()))
"""


def test_a_second_process_compiles_nothing(tmp_path):
    if numba.config.DISABLE_JIT:
        pytest.skip("NUMBA_DISABLE_JIT is set: nothing is compiled")
    environment = os.environ | {"REFIMPL_CACHE_DIR": str(tmp_path)}
    counts, files = [], []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", RUN], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        counts.append(done.stdout.split())
        files.append(sorted(tmp_path.rglob("*.nbc")))
    assert counts == [["0", "1"], ["1", "0"]]
    assert len(files[0]) == 1
    assert files[0] == files[1]
    assert not list((ROOT / "kernels").rglob("*.nb[ci]"))


# --- linters ---------------------------------------------------------------------------------------------------------


def tool(name, *arguments, **options):
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return subprocess.run(
        [sys.executable, "-m", name, *arguments], capture_output=True, text=True, check=False, **options
    )


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(arguments):
    done = tool("ruff", *arguments, "--no-cache", *ROOMS, "tests", "asv_bench", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy(tmp_path, pytestconfig):
    """On a tree of links that shows the folders where they are imported: mypy cannot see through ``package-dir``."""
    package = tmp_path / "refimpl"
    package.mkdir()
    for entry in [*(ROOT / "refimpl").iterdir(), ROOT / "kernels", ROOT / "models"]:
        (package / entry.name).symlink_to(entry)
    kept = pytestconfig.cache.mkdir("mypy") if hasattr(pytestconfig, "cache") else tmp_path / "cache"
    done = tool(
        "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(kept), "-p", "refimpl",
        cwd=tmp_path, env=os.environ | {"MYPYPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
