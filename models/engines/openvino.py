"""OpenVINO on the CPU, reading the same ONNX file.

f32 is asked for (the default would be bf16 on CPUs that have it), so that what is not quantized is f32.
The layers counted are those of the runtime model, which is what runs.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
from openvino import opset13 as opset

from refimpl.models.bert import Batch
from refimpl.models.engines import Graph, Run, count_integer_layers, feeds, node_outputs
from refimpl.quant import compensation

INTEGER_LAYERS = tuple(f"{kind} {precision}" for kind in ("FullyConnected", "MatMul") for precision in ("u8", "i8"))
NO_LAYERS = ("Input", "Const", "Output")
AS_WRITTEN = {"LP_TRANSFORMS_MODE": "NO", "SNIPPETS_MODE": "DISABLE"}
"""No integers in place of FakeQuantize and f32, no generated kernels. Properties of the CPU plugin that are not part of
its public interface."""
EXACT_K = 512
"""512 * 255 * 128 < 2**24: no sum of so many products is rounded by the conversion to f32."""


@cache
def core() -> ov.Core:
    """The one Core of this process, as OpenVINO recommends.

    Each Core has a CPU plugin of its own, which gives the thread another stack for signals and at its end puts back the
    one it found, or nothing if a later plugin's is in use. Were an older Core to go before a younger one, memory that
    is no longer mapped would be put back, and the next signal that Python handles, such as Ctrl-C, would be a
    segmentation fault.
    """
    return ov.Core()


def open_graph(path: Path, tensors: Sequence[str] | None, threads: int = 1, optimize: bool = True) -> Graph:
    """See ``engines.open_graph``."""
    model = core().read_model(path)
    ports = {name: port for node in model.get_ops() for port in node.outputs() for name in port.get_names()}
    wanted = tensors if tensors is not None else node_outputs(onnx.load(path, load_external_data=False))
    there = {result.input_value(0) for result in model.get_results()}
    model.add_outputs([port for port in {ports[name] for name in wanted if name in ports} if port not in there])
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    compiled = core().compile_model(model, "CPU", hints if optimize else hints | AS_WRITTEN)
    request = compiled.create_infer_request()
    asked = {*wanted, *(name for port in compiled.outputs for name in port.get_names())}

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        result = request.infer(inputs)
        return {name: value.copy() for port, value in result.items() for name in port.get_names() if name in asked}

    missing = {name: "OpenVINO's reader keeps no tensor of this name" for name in wanted if name not in ports}
    return Graph(run, [port.get_any_name() for port in compiled.inputs], missing, runtime_layers(compiled))


def write_ir(onnx_path: Path, path: Path) -> None:
    """OpenVINO's own converter: an ONNX file as IR, ``path`` (.xml) and the .bin beside it. Constants keep their
    types: f32 stays f32. It makes a FakeQuantize of each pair of QuantizeLinear and DequantizeLinear. RuntimeError."""
    try:
        ov.save_model(ov.convert_model(onnx_path), path, compress_to_fp16=False)
    except Exception as error:  # the converter raises types of its own
        raise RuntimeError(f"OpenVINO cannot convert {onnx_path}: {error}") from None


def settings() -> tuple[str, ...]:
    """See ``engines.settings``: the precision of what is not integer."""
    return ("f32", "bf16") if "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else ("f32",)


def open_fast(path: Path, shape: tuple[int, int], threads: int, setting: str) -> Run:
    """See ``engines.open_fast``. All sizes are fixed before compilation; inputs are bound to buffers; one stream."""
    model = core().read_model(path)
    model.reshape({port.get_any_name(): list(shape) for port in model.inputs})
    hints = {"INFERENCE_PRECISION_HINT": setting, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    compiled = core().compile_model(model, "CPU", hints)
    request = compiled.create_infer_request()
    buffers = {port.get_any_name(): np.zeros(shape, np.int64) for port in compiled.inputs}
    for name, buffer in buffers.items():
        request.set_tensor(name, ov.Tensor(buffer, shared_memory=True))

    def run(batch: Batch) -> np.ndarray:
        for name, values in feeds(batch, list(buffers)).items():
            np.copyto(buffers[name], values)
        request.infer()
        return request.get_output_tensor(0).data

    return run


def runtime_layers(compiled: ov.CompiledModel) -> dict[str, int]:
    """Layer and precision of what a compiled model runs -> how many. An attention that nobody looks into is fused into
    one Subgraph."""
    count: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        information = node.get_rt_info()
        kind, precision = (
            information[key].astype(str) if key in information else "" for key in ("layerType", "runtimePrecision")
        )
        count[f"{kind} {precision}"] += kind not in NO_LAYERS
    return dict(+count)


def signed_product(codes: np.ndarray, w: np.ndarray) -> np.ndarray:
    """See ``engines.signed_product``; s64, from ``matmul_integer``, in pieces of K whose sums are exact in f32."""
    starts = range(0, w.shape[1], EXACT_K)
    pieces = [matmul_integer(codes[:, k : k + EXACT_K], w[:, k : k + EXACT_K]).astype(np.int64) for k in starts]
    return sum(pieces) - compensation(w)


def matmul_integer(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The MatMul that OpenVINO runs on u8 x s8: sum_k a[n, k] w[m, k], as f32. a: u8 (N, K), w: s8 (M, K) -> (N, M).

    Both operands pass a FakeQuantize with step 1, which the plugin turns into integers: that is checked.
    The s32 accumulator is converted to f32 on the way out, exactly up to 2**24.
    """
    x = opset.parameter([-1, a.shape[1]], np.float32)
    codes = opset.fake_quantize(x, *identity_limits(0, 255), levels=256)
    weight = opset.fake_quantize(opset.constant(w.astype(np.float32)), *identity_limits(-128, 127), levels=256)
    product = opset.matmul(codes, weight, False, True)
    compiled = core().compile_model(ov.Model([product], [x]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    if count_integer_layers("openvino", runtime_layers(compiled)) != 1:
        raise RuntimeError("OpenVINO did not run the MatMul on integers")
    return compiled([a.astype(np.float32)])[0]


def identity_limits(low: int, high: int) -> tuple[ov.Node, ...]:
    """Input and output range of a FakeQuantize that changes nothing but the type."""
    ends = [opset.constant(np.float32(end)) for end in (low, high)]
    return (*ends, *ends)
