"""ONNX Runtime on the CPU.

Taps are made graph outputs. A tensor that is an output cannot be fused away, which can change what runs; so
``integer_layers`` counts, in the optimized graph of this very session, the MatMuls that became MatMulIntegerToFloat, or
QLinearMatMul where codes follow.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from refimpl.models.bert import Batch
from refimpl.models.engines import Run, Session, feeds, tap_tensors
from refimpl.models.export import IR_VERSION, OPSET
from refimpl.quant import ZERO_POINT

FUSED = ("MatMulIntegerToFloat", "QLinearMatMul")


def open_session(path: Path, taps: list[str], threads: int = 1) -> Session:
    """See ``engines.open_session``."""
    tensors = tap_tensors(path, taps)
    made = _with_outputs(path, list(tensors.values()))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # s8 codes cannot become u8 where they are an output: without this it would go back to f32 there
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
        session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(options.optimized_model_filepath, load_external_data=False)
    fused = sum(node.op_type in FUSED for node in optimized.graph.node)
    inputs = [node.name for node in session.get_inputs()]

    def run(batch: Batch) -> dict[str, np.ndarray]:
        values = session.run(list(tensors.values()), feeds(batch, inputs))
        return dict(zip(tensors, values, strict=True))

    return Session(run, fused)


def _with_outputs(path: Path, tensors: list[str]) -> onnx.ModelProto:
    """The file's model, the tensors among its outputs."""
    made = onnx.load(path)
    present = {output.name for output in made.graph.output}
    for tensor in dict.fromkeys(tensors):
        if tensor not in present:
            made.graph.output.append(helper.make_empty_tensor_value_info(tensor))
    return made


def open_tensors(
    path: Path, tensors: list[str], optimized: bool
) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Any ONNX file, with the given tensors among its outputs: inputs by name -> values by tensor name.

    ``optimized``: whether nodes may be fused; a tensor that is an output cannot be fused away. One thread.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    made = _with_outputs(path, tensors).SerializeToString()
    session = ort.InferenceSession(made, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def settings() -> tuple[str, ...]:
    """See ``engines.settings``. One: its own choice of everything but threads."""
    return ("default",)


def open_fast(path: Path, shape: tuple[int, int], threads: int, setting: str) -> Run:
    """See ``engines.open_fast``. Inputs and output are bound to buffers. The graph's sizes stay free: given fixed
    ones, ONNX Runtime folds the shapes into other nodes and no longer finds the integer layers. Its threads would spin
    for 40 ms after a run, at the expense of whoever runs next; to stop that costs it nothing."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    buffers = {node.name: np.zeros(shape, np.int64) for node in session.get_inputs()}
    result = session.run(["output"], buffers)[0]
    binding = session.io_binding()
    for name, buffer in buffers.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(buffer))
    binding.bind_output("output", "cpu", 0, result.dtype.type, list(result.shape), result.ctypes.data)

    def run(batch: Batch) -> np.ndarray:
        for name, values in feeds(batch, list(buffers)).items():
            np.copyto(buffers[name], values)
        session.run_with_iobinding(binding)
        return result

    return run


def signed_product(codes: np.ndarray, w: np.ndarray) -> np.ndarray:
    """See ``engines.signed_product``; s32, by MatMulInteger with the zero point 128."""
    return matmul_integer(codes, w, ZERO_POINT)


def matmul_integer(a: np.ndarray, w: np.ndarray, zero_point: int = 0) -> np.ndarray:
    """MatMulInteger: sum_k (a[n, k] - zero_point) w[m, k]. a: u8 (N, K), w: s8 (M, K) -> s32 (N, M)."""
    node = helper.make_node("MatMulInteger", ["a", "w", "zero_point"], ["acc"])
    graph = helper.make_graph(
        [node],
        "matmul_integer",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, ["n", w.shape[1]])],
        [helper.make_tensor_value_info("acc", TensorProto.INT32, ["n", w.shape[0]])],
        [
            numpy_helper.from_array(np.ascontiguousarray(w.T), "w"),
            numpy_helper.from_array(np.array(zero_point, np.uint8), "zero_point"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"a": a})[0]
