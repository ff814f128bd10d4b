"""The ONNX project's own tests of single operators, as installed with the onnx package, against our operators."""

import warnings

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from refimpl.models.oracle.execute import execute
from refimpl.models.oracle.load import parse
from refimpl.models.oracle.ops import OPERATORS

UNSUPPORTED = (
    "not supported",  # types: bf16, 8-bit floats, 4 bits and less, strings; sequences
    "is not a tensor",
    "need 7 or later",
    "training_mode is true",
    "mode is 'wrap'",
    "reduction is supported as none only",
    "zero-size array to reduction operation",  # the maximum of nothing
)
"""What we refuse, by what we say when we do."""
LEAST = 550


def cases():
    with warnings.catch_warnings():  # their generators overflow on purpose
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = list(collect_testcases(None))
    names = {op for domain, op in OPERATORS if not domain}
    single = [case for case in found if case.model is not None and len(case.model.graph.node) == 1]
    return [c for c in single if c.model.graph.node[0].op_type in names and not c.model.graph.node[0].domain]


def array(value):
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def run(case):
    """None if all data sets agree, else what is wrong."""
    try:
        graph = parse(case.model)
        for given, want in case.data_sets:
            inputs = dict(zip(graph.inputs, map(array, given), strict=True))
            for got, expected in zip(execute(graph, inputs).values(), map(array, want), strict=True):
                if expected.dtype == object:  # a test whose expectation has no type
                    expected = expected.astype(got.dtype)
                assert (got.dtype, got.shape) == (expected.dtype, expected.shape), case.name
                np.testing.assert_allclose(got, expected, case.rtol, case.atol, err_msg=case.name)
    except ValueError as error:
        return str(error)
    return None


def test_every_node_test_passes_or_is_refused():
    results = {case.name: run(case) for case in cases()}
    refused = {name: said for name, said in results.items() if said is not None}
    assert {name: said for name, said in refused.items() if not any(u in said for u in UNSUPPORTED)} == {}
    assert len(results) - len(refused) >= LEAST
    tested = {case.model.graph.node[0].op_type for case in cases() if results[case.name] is None}
    untested = {op for domain, op in OPERATORS if not domain} - tested
    assert untested == {"SimplifiedLayerNormalization", "Not"}  # no standard operator; tests of opset 1


def test_the_evaluators_quantized_product_clips_now():
    """onnx #6169: its evaluator used to wrap -236 to 20; we clip, as ONNX Runtime does."""
    case = next(case for case in cases() if case.name == "test_qlinearmatmul_2D_int8_float32")
    assert run(case) is None


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_operators_of_old_opsets(opset):
    """Attributes that became inputs, and the softmax of several axes."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Softmax", ["x"], ["s"], axis=1),
        helper.make_node("Squeeze", ["s1"], ["y"], axes=[0]),
        helper.make_node("Unsqueeze", ["s"], ["s1"], axes=[0]),
        helper.make_node("ReduceSum", ["y"], ["total"], axes=[1, 2], keepdims=0),
        helper.make_node("Split", ["y"], ["first", "second"], axis=1, split=[1, 2]),
    ]
    outputs = [helper.make_tensor_value_info(n, floats, None) for n in ("y", "total", "second")]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", floats, [2, 3, 4])], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made = execute(parse(model), {"x": x})
    e = np.exp(x.reshape(2, -1))
    want = (e / e.sum(1, keepdims=True)).reshape(x.shape)
    np.testing.assert_allclose(made["y"], want, rtol=1e-6)
    np.testing.assert_allclose(made["total"], 1, rtol=1e-6)
    np.testing.assert_array_equal(made["second"], made["y"][:, 1:])
