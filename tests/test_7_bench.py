"""Rung 7: the command that races the engines. Oracle of what is timed: its own gate, which a wrong engine must fail."""

import json

import pytest
from test_2_registers import NEEDS_JIT
from test_cli import one_line, refimpl  # noqa: F401
from tiny import quantized

from refimpl.models import compress, packed_file
from refimpl.models.bench.synthetic import synthetic
from refimpl.prune import live_blocks

pytestmark = NEEDS_JIT
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small packed model in a file."""
    path = tmp_path_factory.mktemp("bench") / "small.safetensors"
    packed_file.save(compress.pack(quantized("distilbert_question_answering")), path)
    return path


def wrong(path, batch_size, tokens, threads):
    """An engine of the user's that answers nonsense."""
    import onnx

    shape = onnx.load(path).graph.output[0].type.tensor_type.shape.dim
    last = shape[-1].dim_value

    def run(ids, mask):
        import numpy as np

        return 100 * np.random.default_rng(int(ids.sum())).normal(size=(*ids.shape, last)).astype(np.float32)

    return run


@pytest.mark.parametrize("scenario", ["latency", "throughput", "production"])
def test_scenarios(refimpl, model, scenario):  # noqa: F811
    status, out, _ = refimpl(
        "bench",
        model,
        "--scenario",
        scenario,
        "--tokens",
        "8",
        "--batch",
        "1",
        "--batch",
        "2",
        "--seconds",
        "0.1",
        "--json",
    )
    assert status == 0
    report = json.loads(out)
    assert "refimpl" in out
    assert "OpenVINO" in out
    assert report


def test_a_wrong_engine_is_not_timed(refimpl, model):  # noqa: F811
    status, out, _ = refimpl(
        "bench", model, "--scenario", "latency", "--tokens", "8", "--seconds", "0.1", "--engine", "test_7_bench:wrong"
    )
    assert status == 1
    assert "wrong" in out


def test_mistakes(one_line, model):  # noqa: F811
    assert "scenario" in one_line("bench", model, "--scenario", "fastest")
    assert "tokens" in one_line("bench", model, "--tokens", "1")
    assert "threads" in one_line("bench", model, "--threads", "0")
    assert "nowhere" in one_line("bench", model, "--engine", "nowhere:at_all", "--scenario", "latency", "--tokens", "8")


def test_synthetic_models_have_the_density_and_the_seed():
    small = {"layers": 1, "hidden": 48, "heads": 4, "feed_forward": 96, "vocabulary": 50, "positions": 16}
    first, again, other = (synthetic(0.25, seed, **small) for seed in (0, 0, 1))
    codes = [made.model.layers[0].intermediate.codes for made in (first, again, other)]
    assert abs(live_blocks(codes[0], (4, 1)).mean() - 0.25) < 0.02
    assert (codes[0] == codes[1]).all()
    assert (codes[0] != codes[2]).any()
