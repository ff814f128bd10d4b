"""The same product in other engines, on one thread, everything but the run itself done before.

Each product is given a, u8 (N, K), and w, s8 (M, K).
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from refimpl.bounds import gamma
from refimpl.models import engines  # before openvino, which it keeps from reporting its use


class Peer(NamedTuple):
    """run: once, while a and result are alive, since the engine points to them; a: u8 (N, K); result: (N, M), of the
    last run; allowed: (N, M), the largest error that is none; weight_bytes and activation_bytes: of one of them."""

    run: Callable[[], object]
    a: np.ndarray
    result: np.ndarray
    allowed: np.ndarray | float
    weight_bytes: int = 1
    activation_bytes: int = 1


def openvino(a: np.ndarray, w: np.ndarray) -> Peer:
    """MatMul of u8 and s8, as ``engines.openvino.matmul_integer`` but without quantizing f32: the input is u8. The
    accumulator is rounded to f32."""
    import openvino as ov
    from openvino import opset13 as opset

    from refimpl.models.engines.openvino import core, identity_limits, runtime_layers

    x = opset.parameter(list(a.shape), np.uint8)
    codes = opset.multiply(opset.convert(x, "f32"), opset.constant(np.float32(1)))
    weight = opset.fake_quantize(opset.constant(w.astype(np.float32)), *identity_limits(-128, 127), levels=256)
    model = ov.Model([opset.matmul(codes, weight, False, True)], [x])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    compiled = core().compile_model(model, "CPU", settings)
    if engines.count_integer_layers("openvino", runtime_layers(compiled)) != 1:
        raise RuntimeError("OpenVINO did not run the MatMul on integers")
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(a, shared_memory=True))
    result = np.empty((len(a), len(w)), np.float32)
    request.set_output_tensor(ov.Tensor(result, shared_memory=True))
    exact = a.astype(np.float64) @ w.T.astype(np.float64)
    return Peer(request.infer, a, result, np.abs(exact) * 2**-24)


def onnxruntime(a: np.ndarray, w: np.ndarray) -> Peer:
    """MatMulInteger, its input and output bound."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    from refimpl.models.export import IR_VERSION, OPSET

    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "w"], ["acc"])],
        "matmul_integer",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, a.shape)],
        [helper.make_tensor_value_info("acc", TensorProto.INT32, [len(a), len(w)])],
        [numpy_helper.from_array(np.ascontiguousarray(w.T), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result = np.empty((len(a), len(w)), np.int32)
    binding = session.io_binding()
    binding.bind_ortvalue_input("a", ort.OrtValue.ortvalue_from_numpy(a))
    binding.bind_output("acc", "cpu", 0, np.int32, list(result.shape), result.ctypes.data)
    return Peer(lambda: session.run_with_iobinding(binding), a, result, 0.0)


def numpy(a: np.ndarray, w: np.ndarray) -> Peer:
    """f32 BLAS; the caller limits its threads."""
    x, weights = a.astype(np.float32), w.astype(np.float32)
    result = np.empty((len(a), len(w)), np.float32)
    allowed = gamma(w.shape[1]) * (a.astype(np.float64) @ np.abs(w.T.astype(np.float64)))
    return Peer(lambda: np.matmul(x, weights.T, out=result), a, result, allowed, 4, 4)


PEERS = {
    "OpenVINO": ("openvino", openvino),
    "ONNX Runtime": ("onnxruntime", onnxruntime),
    "NumPy f32": ("numpy", numpy),
}
"""Name -> its package and its product."""


def checked(name: str, a: np.ndarray, w: np.ndarray, want: np.ndarray) -> Peer:
    """A peer whose first result is right. Raises AssertionError for another one."""
    peer = PEERS[name][1](a, w)
    peer.run()
    if (np.abs(peer.result - want.astype(np.float64)) > peer.allowed).any():
        raise AssertionError(f"{name} and the oracle differ")
    return peer


def installed() -> list[str]:
    """The names of the peers that can run here."""
    return [name for name, (package, _) in PEERS.items() if find_spec(package)]
