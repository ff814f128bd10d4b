"""Writing a suite: a folder for each case, a manifest, and what an author in C needs.

    DIR/manifest.json                what follows
        refimpl_vectors.h            drawings of the layouts, constants, what check.c and a kernel share
        check.c, example.c           reads a case and judges a kernel; a plain kernel
        README.txt
        KERNEL/CASE/data.bin         all arrays of a case, little-endian, row-major, each at a multiple of 64 bytes
                    index.txt        the same facts as in the manifest, in lines of words
                    data.safetensors the same arrays

manifest.json, version 1:

    format, version      "refimpl-vectors", 1
    refimpl              the version that wrote it
    kernels              a list of
      kernel, contract   a name, a sentence
      faults             wrong versions, each of which at least one case rejects
      cases              a list of
        case, about      a name, what it reaches
        source           where its operands are published, or ""
        dims             lengths by letter
        folder           KERNEL/CASE
        files            sha256 and bytes by name
        tensors          a list of name, dtype, shape, file ("data.bin"), offset, bytes, sha256
        expected         a list of output and kind: "equal", to the bit, the tensor of that name; or "within": an f32
                         result y with |y - tensor[output]| <= tensor[output + ".bound"], both f64
        kills            faults that this case rejects

index.txt, one fact a line, words between single spaces:

    refimpl-vectors 1
    kernel NAME
    dim LETTER LENGTH
    tensor NAME DTYPE OFFSET RANK LENGTH ...
    expect OUTPUT equal|within

Dtypes are u8 s8 u16 s32 u64 s64 f32 f64; u16 holds bf16.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from refimpl import __version__
from refimpl.models.files import atomic_folder
from refimpl.models.vectors.case import Case, Family
from refimpl.models.vectors.header import header

FORMAT, VERSION = "refimpl-vectors", 1
MANIFEST, DATA = "manifest.json", "data.bin"
ALIGNMENT = 64
SHIPPED = ("check.c", "example.c", "README.txt")


def write(path: Path, families: list[Family], force: bool = False) -> dict[str, Any]:
    """Write a suite; return its manifest. ``force`` replaces an older suite, and nothing else.

    Raises
    ------
    RuntimeError
        If a wrong version survives the cases.
    FileNotFoundError, ValueError
        If the folder cannot be made or holds files.
    """
    if is_suite(path) and not force:
        raise ValueError(f"{path} holds a suite; name another folder, or --force to replace it")
    with atomic_folder(path, is_suite) as temporary:
        kernels = [_kernel(temporary, family) for family in families]
        manifest = {"format": FORMAT, "version": VERSION, "refimpl": __version__, "kernels": kernels}
        (temporary / MANIFEST).write_text(json.dumps(manifest, separators=(",", ":")) + "\n", "utf-8")
        (temporary / "refimpl_vectors.h").write_text(header(VERSION), "utf-8")
        for name in SHIPPED:
            (temporary / name).write_bytes(Path(__file__).with_name(name).read_bytes())
    return manifest


def is_suite(folder: Path) -> bool:
    """Whether the folder holds a suite, of any version."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def _kernel(root: Path, family: Family) -> dict[str, Any]:
    cases = [_case(root, family.kernel, case) for case in family.cases()]
    return {"kernel": family.kernel, "contract": family.contract, "faults": list(family.faults), "cases": cases}


def _case(root: Path, kernel: str, case: Case) -> dict[str, Any]:
    name, about, _, source = case.operands
    folder = root / kernel / name
    folder.mkdir(parents=True)
    tensors, data = _lay_out(dict(_tensors(case)))
    expected = [{"output": output, "kind": _kind(case, output)} for output in case.expected]
    (folder / DATA).write_bytes(data)
    (folder / "index.txt").write_text("\n".join(_index(kernel, case.dims, tensors, expected)) + "\n", "utf-8")
    save_file(dict(_tensors(case)), folder / "data.safetensors")
    files = {file.name: {"bytes": file.stat().st_size, "sha256": _digest(file.read_bytes())}
             for file in sorted(folder.iterdir())}  # fmt: skip
    return {"case": name, "about": about, "source": source, "dims": case.dims, "folder": f"{kernel}/{name}",
            "files": files, "tensors": tensors, "expected": expected, "kills": case.kills}  # fmt: skip


def _tensors(case: Case) -> Iterator[tuple[str, np.ndarray]]:
    """Inputs, then expected outputs and their bounds."""
    arrays = dict(case.operands.inputs)
    for output, (value, bound) in case.expected.items():
        arrays[output] = value
        if bound is not None:
            arrays[f"{output}.bound"] = bound
    for name, array in arrays.items():
        yield name, np.ascontiguousarray(array).reshape(array.shape)


def _kind(case: Case, output: str) -> str:
    return "equal" if case.expected[output].bound is None else "within"


def _lay_out(arrays: dict[str, np.ndarray]) -> tuple[list[dict[str, Any]], bytes]:
    """The arrays behind each other, and where each is."""
    tensors, data = [], bytearray()
    for name, array in arrays.items():
        data += bytes(-len(data) % ALIGNMENT)
        raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        tensors.append(
            {"name": name, "dtype": dtype_name(array.dtype), "shape": list(array.shape), "file": DATA,
             "offset": len(data), "bytes": len(raw), "sha256": _digest(raw)}
        )  # fmt: skip
        data += raw
    return tensors, bytes(data)


def dtype_name(dtype: np.dtype) -> str:
    """The field's short name.

    >>> dtype_name(np.dtype(np.int8)), dtype_name(np.dtype(np.float64))
    ('s8', 'f64')
    """
    return {"i": "s", "u": "u", "f": "f"}[dtype.kind] + str(8 * dtype.itemsize)


def _index(
    kernel: str, dims: dict[str, int], tensors: list[dict[str, Any]], expected: list[dict[str, str]]
) -> Iterator[str]:
    yield f"{FORMAT} {VERSION}"
    yield f"kernel {kernel}"
    for letter, length in dims.items():
        yield f"dim {letter} {length}"
    for tensor in tensors:
        facts = (tensor["name"], tensor["dtype"], tensor["offset"], len(tensor["shape"]), *tensor["shape"])
        yield " ".join(map(str, ("tensor", *facts)))
    for entry in expected:
        yield f"expect {entry['output']} {entry['kind']}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
