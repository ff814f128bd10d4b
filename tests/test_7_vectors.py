"""Rung 7: conformance vectors. They accept what is right, in Python and in C, and reject every wrong version of it.

Three sets of wrong versions: those that the generator names in its manifest; the same ones written in C
(tests/vectors/*.c, each compiled and judged by the shipped check.c, which must fail in exactly the cases that the
manifest names); and the mutants of the lower rungs.
"""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import test_1_arithmetic as arithmetic
import test_3_operators as operators
import test_5_amx_bf16 as bf16
import test_5_attention as attention
import test_5_bitmask as bitmasks
import test_5_kernels as kernels
import test_5_layouts as layouts
import test_5_rowwise as rowwise
import test_5_saturating as saturating
from safetensors.numpy import load_file
from test_cli import one_line, refimpl  # noqa: F401
from test_mutants import SUITES

from refimpl.kernels.layout import bsr4x1
from refimpl.models.vectors.case import Expected, accepted, prove
from refimpl.models.vectors.suite import FAMILIES, find
from refimpl.models.vectors.write import write
from refimpl.nn.params import Norm

HERE = Path(__file__).parent
CASES = {name: family.cases() for name, family in FAMILIES.items()}
SOURCE = {
    name: "products" if name.endswith(("s32", "shifted", "saturating")) else
    "codes" if all(e.bound is None for case in CASES[name] for e in case.expected.values()) else "rows"
    for name in FAMILIES
}  # fmt: skip


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    path = tmp_path_factory.mktemp("vectors") / "suite"
    return path, write(path, find([]))


def every_case(manifest):
    return [case for kernel in manifest["kernels"] for case in kernel["cases"]]


# --- the folder ------------------------------------------------------------------------------------------------------


def test_same_bytes_again(suite, tmp_path):
    path, manifest = suite
    assert write(tmp_path / "again", find([])) == manifest
    files = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())
    assert files == sorted(f.relative_to(tmp_path / "again") for f in (tmp_path / "again").rglob("*") if f.is_file())
    assert all((path / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)
    assert sum((path / file).stat().st_size for file in files) < 2_000_000
    assert json.loads((path / "manifest.json").read_text("utf-8")) == manifest


DTYPES = {"u8": "u1", "s8": "i1", "u16": "<u2", "s32": "<i4", "u64": "<u8", "s64": "<i8", "f32": "<f4", "f64": "<f8"}


def test_manifest_index_raw_and_safetensors_agree(suite):
    path, manifest = suite
    assert (manifest["format"], manifest["version"]) == ("refimpl-vectors", 1)
    for case in every_case(manifest):
        folder = path / case["folder"]
        for name, facts in case["files"].items():
            data = (folder / name).read_bytes()
            assert facts == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        raw, kept = (folder / "data.bin").read_bytes(), load_file(folder / "data.safetensors")
        index = (folder / "index.txt").read_text().splitlines()
        assert kept.keys() == {tensor["name"] for tensor in case["tensors"]}
        for tensor in case["tensors"]:
            part = raw[tensor["offset"] : tensor["offset"] + tensor["bytes"]]
            assert tensor["offset"] % 64 == 0
            assert hashlib.sha256(part).hexdigest() == tensor["sha256"]
            array = np.frombuffer(part, DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
            assert (array.tobytes(), array.dtype, array.shape) == (
                kept[tensor["name"]].tobytes(), kept[tensor["name"]].dtype, kept[tensor["name"]].shape
            )  # fmt: skip
            words = [tensor[key] for key in ("name", "dtype", "offset")] + [len(array.shape), *array.shape]
            assert " ".join(map(str, ["tensor", *words])) in index
        assert {f"expect {e['output']} {e['kind']}" for e in case["expected"]} <= set(index)
        assert {f"dim {letter} {length}" for letter, length in case["dims"].items()} <= set(index)


def test_data_reach_the_hard_cases():
    inputs = [case.operands.inputs for name in CASES for case in CASES[name] if SOURCE[name] == "products"]
    assert {1, 6} <= {i["a"].shape[1] for i in inputs}
    assert any((i["w"] == -128).any() for i in inputs)
    assert any((np.diff(i["indptr"]) == 0).any() and i["indptr"][-1] for i in inputs if "indptr" in i)
    sums = [case.expected["acc"].value for case in CASES["gemm_u8s8s32"]]
    assert any((np.abs(acc) > 2**24).any() and (acc % 2).any() for acc in sums)
    for name in CASES:
        for case in CASES[name]:
            bounds = [e.bound for e in case.expected.values() if e.bound is not None]
            assert all(np.isfinite(bound).all() for bound in bounds)
            assert not case.operands.inputs.keys() & case.expected.keys()


def published(kernel, name):
    (case,) = [case for case in CASES[kernel] if case.operands.name == f"published_{name}"]
    assert case.operands.source
    return case.expected["acc"].value


def test_published_numbers():
    """What the issues themselves, or the formula applied by hand, say."""
    for kernel in ("gemm_u8s8s32", "bsgemm_4x1_u8s8s32"):
        twin = kernel + "_pair_saturating"
        for name, exact, clipped in [
            ("onednn_document", [[64770]], [[32767]]),
            ("pytorch_44939", [[33278]], [[32767]]),
            ("onnxruntime_16105", [[-3132, -2922]], [[-3050, -2922]]),
        ]:
            assert published(kernel, name).tolist() == exact
            assert published(twin, name).tolist() == clipped
        a = np.array([[238, 115, 94], [245, 111, 102], [158, 225, 48]])
        w = np.array([[25, 42, -81], [36, -123, -86], [125, 76, 35]])
        correction = 26 * a.sum(1)[:, None] - 42 * w.sum(1) - 3276
        exact, clipped = (published(k, "onnxruntime_7524") + correction for k in (kernel, twin))
        np.testing.assert_array_equal(exact, (a - 42) @ (w.T + 26))
        assert exact[:, 2].tolist() == [40214, 41351, 36548]
        assert clipped[:, 2].tolist() == [34491, 35057, 32465]
        np.testing.assert_array_equal(clipped[:, :2], exact[:, :2])
    exact, clipped = (published(f"gemm_s8s8s32_shifted{s}", "onednn_476") for s in ("", "_pair_saturating"))
    assert np.argwhere(exact != clipped).tolist() == [[0, 2], [1, 2], [3, 2]]
    assert exact[[0, 1, 3], 2].tolist() == [20064, 21140, 29969]
    assert clipped[[0, 1, 3], 2].tolist() == [15387, 14763, 13713]
    assert published("gemm_s8s8s32_shifted", "onednn_document").item() == 32258
    assert published("gemm_s8s8s32_shifted_pair_saturating", "onednn_document").item() == 255


def test_a_fault_that_survives_stops_the_generator():
    family = FAMILIES["quantize_probs"]
    with pytest.raises(RuntimeError, match="the vectors of quantize_probs accept a wrong version: none"):
        prove(family.kernel, {**family.faults, "none": lambda i: {}}, family.cases())


def test_nan_is_outside_every_bound():
    wide = Expected(np.zeros(2), np.full(2, 1e300))
    assert wide.accepts(np.ones(2, np.float32))
    assert not wide.accepts(np.array([0, np.nan], np.float32))
    assert not Expected(np.zeros(1, np.float32)).accepts(-np.zeros(1, np.float32))


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command(refimpl, one_line, tmp_path, monkeypatch):  # noqa: F811
    path = tmp_path / "suite"
    status, out, _ = refimpl("vectors", path, "--kernel", "gelu", "--kernel", "softmax", "--json")
    report = json.loads(out)
    assert (status, report["kernels"], report["cases"]) == (0, 2, len(CASES["gelu"]) + len(CASES["softmax"]))
    assert report["bytes"] == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert {file.name for file in path.iterdir()} == {
        "manifest.json", "refimpl_vectors.h", "check.c", "example.c", "README.txt", "gelu", "softmax"
    }  # fmt: skip
    assert bsr4x1.__doc__.strip() in (path / "refimpl_vectors.h").read_text()
    assert "holds a suite; name another folder, or --force to replace it" in one_line("vectors", path)
    status, out, _ = refimpl("vectors", path, "--kernel", "rescale", "--force")
    said = f"{path}: 3 cases for 1 kernel, {size(path):.1f} MB; they reject 5 wrong versions. Next: README.txt there"
    assert (status, " ".join(out.split())) == (0, said)
    monkeypatch.setattr("refimpl.models.vectors.write.header", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(path, find(["gelu"]), force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["suite"]
    assert (path / "rescale").is_dir()


def size(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def test_a_folder_that_cannot_give_way_stays(monkeypatch, tmp_path):
    path = tmp_path / "suite"
    write(path, find(["gelu"]))
    true = Path.replace

    def replace(self, target):
        if self.name.startswith("suite.") and not self.name.endswith(".old"):
            raise OSError("no")
        return true(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="no"):
        write(path, find(["softmax"]), force=True)
    assert (path / "gelu").is_dir()
    assert [file.name for file in tmp_path.iterdir()] == ["suite"]


def test_list(refimpl):  # noqa: F811
    _, out, _ = refimpl("vectors", "--list", "--kernel", "gemm_s8s8s32_shifted")
    assert "acc[n, m] = sum_k (a[n, k] + 128) w[m, k]" in out
    assert max(map(len, out.splitlines())) <= 100
    listed = json.loads(refimpl("vectors", "--list", "--json")[1])
    assert [kernel["kernel"] for kernel in listed] == list(FAMILIES)
    assert {"case", "about", "dims", "source", "kills"} == listed[0]["cases"][0].keys()


def test_mistakes(one_line, tmp_path):  # noqa: F811
    (tmp_path / "file").write_text("")
    assert "there are no vectors for 'gemm'; nearest is gemm_bf16" in one_line("vectors", "--kernel", "gemm")
    assert "no folder was given; need DIR, or --list" in one_line("vectors")
    assert "is not a folder; create it first" in one_line("vectors", tmp_path / "a" / "b", "--kernel", "gelu")
    assert "is a file; need the name of a folder" in one_line("vectors", tmp_path / "file", "--kernel", "gelu")
    error = one_line("vectors", tmp_path, "--kernel", "gelu", "--force")
    assert "holds other files; name another folder" in error
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


# --- in C ------------------------------------------------------------------------------------------------------------

COMPILER = shutil.which("cc") or shutil.which("gcc")
NEEDS_C = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler named cc or gcc")


@pytest.fixture(scope="module")
def build(suite, tmp_path_factory):
    """Compile a kernel with check.c, strictly; return the program."""
    folder = tmp_path_factory.mktemp("programs")
    flags = [COMPILER, "-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{suite[0]}"]
    subprocess.run([*flags, "-O1", "-c", suite[0] / "check.c", "-o", folder / "check.o"], check=True)

    def compile_(source, *definitions):
        program = folder / "-".join((source.stem, *definitions))
        switches = [f"-D{name}" for name in definitions]
        subprocess.run([*flags, *switches, folder / "check.o", source, "-o", program, "-lm"], check=True)
        return program

    return compile_


def failing(program, folders, root):
    """The cases in which the program finds an output wrong, and its exit status."""
    done = subprocess.run([program, *folders], cwd=root, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    assert "judged" in done.stdout
    return {line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAIL")}, done.returncode


@NEEDS_C
def test_the_example_passes(suite, build):
    root, manifest = suite
    program = build(root / "example.c")
    own = [case["folder"] for case in every_case(manifest) if case["folder"].startswith("gemm_u8s8s32/")]
    assert failing(program, own, root) == (set(), 0)
    assert failing(program, ["softmax/one"], root) == (set(), 2)  # skipped: nothing was judged
    done = subprocess.run([program, "nowhere"], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "no index of this version: nowhere/index.txt\n")


@NEEDS_C
@pytest.mark.parametrize("source", ["products", "codes", "rows"])
def test_c_kernels_pass(suite, build, source):
    root, manifest = suite
    folders = [case["folder"] for case in every_case(manifest) if SOURCE[case["folder"].split("/")[0]] == source]
    assert failing(build(HERE / "vectors" / f"{source}.c"), folders, root) == (set(), 0)


FAULTS = sorted({(SOURCE[name], fault) for name, family in FAMILIES.items() for fault in family.faults})


@NEEDS_C
@pytest.mark.parametrize(("source", "fault"), FAULTS, ids=[f"{source}: {fault}" for source, fault in FAULTS])
def test_a_wrong_c_kernel_fails_where_the_manifest_says(suite, build, source, fault):
    root, manifest = suite
    program = build(HERE / "vectors" / f"{source}.c", f"MUTANT_{fault.upper()}")
    kernels = [k for k in manifest["kernels"] if SOURCE[k["kernel"]] == source and fault in k["faults"]]
    cases = [case for kernel in kernels for case in kernel["cases"]]
    wrong = {case["folder"] for case in cases if fault in case["kills"]}
    assert all(any(folder.startswith(f"{kernel['kernel']}/") for folder in wrong) for kernel in kernels)
    assert failing(program, [case["folder"] for case in cases], root) == (wrong, 1)


# --- the mutants of the lower rungs ----------------------------------------------------------------------------------


def norm(i):
    return Norm(i["weight"], i["bias"], float(i["eps"]))


def product(kernel):
    return kernel, lambda f, i: {"acc": f(i["a"], i["w"])}


def packing(kernel, *names):
    return kernel, lambda f, i: {name: getattr(f(i["w"]), name) for name in names}


def in_registers(f, i):
    """A part for stacks of registers, on any number of lanes."""
    x = i["x"].reshape(-1)
    return {"y": f(np.pad(x, (0, -x.size % 16)))[: x.size].reshape(i["x"].shape)}


ADAPTERS = {
    arithmetic.check_quantize_activation: ("quantize_rows", lambda f, i: {"codes": f(i["x"], i["scale"])}),
    rowwise.check_quantize_rows: ("quantize_rows", lambda f, i: {"codes": f(i["x"], i["scale"])}),
    arithmetic.check_quantize_weight: (
        "quantize_weight", lambda f, i: dict(zip(("codes", "scale"), f(i["w"]), strict=True))),
    arithmetic.check_scale_of: (
        "quantize_weight", lambda f, i: {"scale": f(np.abs(i["w"]).max(1)).astype(np.float32)}),
    arithmetic.check_requantize: (
        "requantize",
        lambda f, i: {"codes": f(i["acc"], i["input_scale"], i["weight_scale"], i["output_scale"])}),
    arithmetic.check_rescale: (
        "rescale", lambda f, i: {"y": f(i["acc"], i["input_scale"], i["weight_scale"], i["bias"])}),
    arithmetic.check_gemm: product("gemm_u8s8s32"),
    kernels.check_gemm_kernel: product("gemm_u8s8s32"),
    arithmetic.check_pair_saturating: product("gemm_u8s8s32_pair_saturating"),
    saturating.check_gemm_pair_saturating: product("gemm_u8s8s32_pair_saturating"),
    arithmetic.check_compensation: (
        "gemm_s8s8s32_shifted",
        lambda f, i: {"acc": (i["a"].astype(np.int32) + 128) @ i["w"].T.astype(np.int32) - f(i["w"])}),
    kernels.check_bsgemm_4x1_kernel: product("bsgemm_4x1_u8s8s32"),
    kernels.check_bsgemm_4x1_half_kernel: product("bsgemm_4x1_u8s8s32"),
    saturating.check_bsgemm_4x1_pair_saturating: product("bsgemm_4x1_u8s8s32_pair_saturating"),
    saturating.check_sparse_oracle: product("bsgemm_4x1_u8s8s32_pair_saturating"),
    bitmasks.check_spgemm_bitmask: product("spgemm_bitmask_u8s8s32"),
    bf16.check_gemm_bf16: product("gemm_bf16"),
    bf16.check_gemm_bf16_oracle: product("gemm_bf16"),
    layouts.check_vnni4_pack: packing("gemm_u8s8s32", "values"),
    layouts.check_bsr4x1_pack: packing("bsgemm_4x1_u8s8s32", "indptr", "indices", "values"),
    layouts.check_panels_pack: ("bsgemm_4x1_u8s8s32", lambda f, i: {"a_panels": f(i["a"])}),
    bitmasks.check_bitmask_pack: packing("spgemm_bitmask_u8s8s32", "starts", "masks", "values"),
    operators.check_softmax: ("softmax", lambda f, i: {"y": f(i["x"])}),
    rowwise.check_softmax_rows: ("softmax", lambda f, i: {"y": f(i["x"])}),
    operators.check_layernorm: ("layernorm", lambda f, i: {"y": f(i["x"], norm(i))}),
    rowwise.check_layernorm_rows: ("layernorm", lambda f, i: {"y": f(i["x"], norm(i))}),
    operators.check_add_layernorm: ("add_layernorm", lambda f, i: {"y": f(i["x"], i["residual"], norm(i))}),
    rowwise.check_add_layernorm_rows: ("add_layernorm", lambda f, i: {"y": f(i["x"], i["residual"], norm(i))}),
    operators.check_gelu: ("gelu", lambda f, i: {"y": f(i["x"])}),
    rowwise.check_gelu: ("gelu", in_registers),
    rowwise.check_gelu_u8_table: (
        "gelu_u8_table",
        lambda f, i: {"y": f(i["codes"], np.float32(0.0421)[...], np.float32(0.0317)[...])}),
    attention.check_quantize_probs: ("quantize_probs", lambda f, i: {"codes": f(i["x"])}),
}  # fmt: skip
"""The check that a mutant was written for -> the kernel whose vectors must reject it, and how it is called."""

BEYOND = {("check_gemm_bf16_oracle", "w for a")}
"""Differs only in which of two NaNs it returns; the vectors hold none."""

JUDGED = [suite for suite in SUITES if suite.check in ADAPTERS]


def accepts(check, version, case):
    """Packed arrays are inputs of a case; what a packing must give is there."""
    inputs = case.operands.inputs
    expected = {name: Expected(value) for name, value in inputs.items()} | case.expected
    with np.errstate(all="ignore"):
        return accepted(expected, ADAPTERS[check][1](version, inputs))


def test_every_adapter_is_used():
    assert {suite.check for suite in JUDGED} == set(ADAPTERS)


@pytest.mark.parametrize("suite", JUDGED, ids=[suite.check.__name__ for suite in JUDGED])
def test_vectors_accept_the_true_one(suite):
    """Emulated kernels among them."""
    assert all(accepts(suite.check, suite.true, case) for case in CASES[ADAPTERS[suite.check][0]])


@pytest.mark.parametrize(
    ("check", "mutant"),
    [
        pytest.param(suite.check, mutant, id=f"{suite.check.__name__.removeprefix('check_')}: {name}")
        for suite in JUDGED
        for name, mutant in suite.mutants.items()
        if (suite.check.__name__, name) not in BEYOND
    ],
)
def test_vectors_reject_a_mutant(check, mutant):
    assert not all(accepts(check, mutant, case) for case in CASES[ADAPTERS[check][0]])
