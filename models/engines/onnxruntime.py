"""ONNX Runtime on the CPU.

A tensor becomes an output of the graph to be seen. An output cannot be fused away, which can change what runs: then the
layers counted are those of that very session's optimized graph. Where nothing in particular is asked for, the graph is
optimized first and exposed then, so that what runs is what would run anyway.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from refimpl.models.bert import Batch
from refimpl.models.engines import Graph, Run, feeds, node_outputs
from refimpl.models.export import IR_VERSION, OPSET
from refimpl.quant import ZERO_POINT

INTEGER_LAYERS = ("MatMulIntegerToFloat", "QLinearMatMul")
LEVELS = {True: ort.GraphOptimizationLevel.ORT_ENABLE_ALL, False: ort.GraphOptimizationLevel.ORT_DISABLE_ALL}
INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
ARRAYS = {f"tensor({name})" for name in ("float", "double", "float16", "bool", *INTEGERS)}
"""The types that NumPy has too."""


def open_graph(path: Path, tensors: Sequence[str] | None, threads: int = 1, optimize: bool = True) -> Graph:
    """See ``engines.open_graph``."""
    made = onnx.load(path, load_external_data=False)
    written = node_outputs(made)
    forced = tensors if tensors is not None else [] if optimize else written
    with tempfile.TemporaryDirectory() as folder:
        first, second = (Path(folder, name) for name in ("first", "second"))
        session, runs = _open(made, forced, _options(threads, optimize, Path(path).parent, s8=bool(tensors)), first)
        missing = {}
        if optimize and tensors is None:
            left, folded = set(node_outputs(runs)), {constant.name for constant in runs.graph.initializer}
            missing = {name: FOLDED if name in folded else FUSED for name in written if name not in left}
            again = _options(threads, False, first, s8=False)
            session, runs = _open(runs, [name for name in written if name in left], again, second)
    foreign = {node.name: f"its type is {node.type}" for node in session.get_outputs() if node.type not in ARRAYS}
    names = [node.name for node in session.get_outputs() if node.name not in foreign]

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, inputs), strict=True))

    layers = Counter(node.op_type for node in runs.graph.node)
    return Graph(run, [node.name for node in session.get_inputs()], missing | foreign, dict(layers))


FOLDED = "ONNX Runtime folds it into a constant"
FUSED = "ONNX Runtime fuses it away"


def _options(threads: int, optimize: bool, folder: Path, s8: bool) -> ort.SessionOptions:
    """folder: where the file's external data are. s8 codes cannot become u8 where they are an output: without s8 they
    would go back to f32 there."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = LEVELS[optimize]
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    if s8:
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    return options


def _open(
    made: onnx.ModelProto, tensors: Iterable[str], options: ort.SessionOptions, folder: Path
) -> tuple[ort.InferenceSession, onnx.ModelProto]:
    """A session with these outputs too, and the graph that it runs, whose large constants are put into ``folder``."""
    folder.mkdir()
    present = {output.name for output in made.graph.output}
    made.graph.output.extend(helper.make_empty_tensor_value_info(t) for t in dict.fromkeys(tensors) if t not in present)
    options.optimized_model_filepath = f"{folder}/optimized.onnx"
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session, onnx.load(options.optimized_model_filepath, load_external_data=False)


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
