"""Writes tests/golden/records: a tiny INT8 model, and what engines returned for it on CPUs that this one can be.

    python tests/golden/generate_records.py

Needs onnxruntime, openvino, qemu-x86_64 and a CPU with AVX-512 VNNI. Every scale is a power of two and every sum below
2**24, so that no value depends on the order or rounding of float operations: what differs between CPUs is the product.
Three dimensions: of two, ONNX Runtime makes a Gemm and runs it in f32.
"""

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from refimpl.models.engines.isolated import Conditions, run_isolated
from refimpl.models.records.file import save_record

FOLDER = Path(__file__).parent / "records"
RUNS = [("openvino", "native"), ("openvino", "avx512"), ("openvino", "avx2"), ("onnxruntime", "native"),
        ("onnxruntime", "qemu-haswell")]  # fmt: skip
SHAPE, SIZES = (2, 3), (64, 32, 16)
ZERO_POINT = 128
INPUT_SCALES = (2.0**-4, 2.0**2)
WEIGHT_SCALE = 2.0**-7


def make_model() -> onnx.ModelProto:
    """Two linear layers of large weights in QDQ form, with a Relu between them."""
    rng = np.random.default_rng(0)
    nodes, constants, x = [], [numpy_helper.from_array(np.array(ZERO_POINT, np.uint8), "zero")], "x"
    for i, (k, m) in enumerate(pairwise(SIZES)):
        w = rng.integers(64, 128, (k, m)) * rng.choice([-1, 1], (k // 2, m)).repeat(2, 0)  # pairs of one sign
        arrays = {
            "scale": np.float32(INPUT_SCALES[i]),
            "w": w.astype(np.int8),
            "w_scale": np.full(m, WEIGHT_SCALE, np.float32),
            "bias": (rng.integers(-64, 64, m) * INPUT_SCALES[i]).astype(np.float32),
        }
        constants += [numpy_helper.from_array(np.asarray(array), f"{name}{i}") for name, array in arrays.items()]
        coding = [f"scale{i}", "zero"]
        nodes += [
            helper.make_node("QuantizeLinear", [x, *coding], [f"codes{i}"]),
            helper.make_node("DequantizeLinear", [f"codes{i}", *coding], [f"x{i}"]),
            helper.make_node("DequantizeLinear", [f"w{i}", f"w_scale{i}"], [f"weight{i}"], axis=1),
            helper.make_node("MatMul", [f"x{i}", f"weight{i}"], [f"product{i}"]),
            helper.make_node("Add", [f"product{i}", f"bias{i}"], [f"sum{i}"]),
        ]
        x = f"relu{i}"
        if i == 0:
            nodes.append(helper.make_node("Relu", ["sum0"], [x]))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "tokens", SIZES[0]])
    returned = helper.make_tensor_value_info("sum1", TensorProto.FLOAT, ["batch", "tokens", SIZES[-1]])
    graph = helper.make_graph(nodes, "tiny", [given], [returned], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


def main() -> None:
    """Replace the folder's files."""
    rng = np.random.default_rng(1)
    x = (rng.integers(0, 128, (*SHAPE, SIZES[0])) * INPUT_SCALES[0]).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.onnx"
        onnx.save(make_model(), path)
        for engine, isa in RUNS:
            run = run_isolated(engine, path, {"x": x}, None, Conditions(isa))
            save_record(run, {"x": x}, FOLDER / f"{engine}.{isa}.safetensors")
        onnx.save(make_model(), FOLDER / "tiny.onnx")


if __name__ == "__main__":
    main()
