"""Rung 7: ONNX Runtime and OpenVINO on exported models, judged operator by operator; and their integer products.

Engines are oracles from outside: where they must equal our definition to the bit, the test says 100 %.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from vnni import NEEDS_VNNI, SATURATED, SATURATED_ATTENTION, SATURATES

from refimpl import bounds
from refimpl.integer.gemm import gemm_u8s8s32, gemm_u8s8s32_pair_saturating
from refimpl.kernels import cpu
from refimpl.models import compress
from refimpl.models.bert import Batch, Model, linears
from refimpl.models.compress import Calibrated, Quantized
from refimpl.models.embedded import demo_model
from refimpl.models.engines import NAMES, Session, feeds, installed, open_session, signed_product, tap_tensors
from refimpl.models.export import INPUTS, TAPS, count_quantized, export_onnx, to_onnx
from refimpl.models.judge import judge
from refimpl.nn.attention import split_heads
from refimpl.quant import QUANTIZED, compensation

ENGINES = [
    pytest.param(engine, marks=pytest.mark.skipif(engine not in installed(), reason=f"{engine} is not installed"))
    for engine in NAMES
]


INTEGER_ATTENTION = "INT8 attention"
CODES = (".codes", "_codes")


def needs(engine: str) -> None:
    if engine not in installed():
        pytest.skip(f"{engine} is not installed")


STAGES = {"f32": tiny.dense, "INT8": tiny.quantized, INTEGER_ATTENTION: tiny.quantized_with_attention}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(name, precision) -> path of the exported file, made once."""
    folder, made = tmp_path_factory.mktemp("exported"), {}

    def get(name: str, precision: str) -> Path:
        if (name, precision) not in made:
            model = STAGES[precision](name).model
            made[name, precision] = folder / f"{name}.{precision}.onnx"
            export_onnx(model, made[name, precision])
        return made[name, precision]

    return get


# --- the exported file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.MODELS)
@pytest.mark.parametrize("precision", STAGES)
def test_onnx_checks_the_file_in_full(exported, name, precision):
    made = onnx.load(exported(name, precision))
    onnx.checker.check_model(made, full_check=True)
    shapes = onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)
    assert {value.name for value in shapes.graph.output} == {"output"}
    types = {node.op_type for node in made.graph.node}
    assert ("QuantizeLinear" in types) == (precision != "f32")
    layers = len(tiny.dense(name).model.layers)
    assert count_quantized(exported(name, precision)) == {"f32": 0, "INT8": 6, INTEGER_ATTENTION: 8}[precision] * layers


@pytest.mark.parametrize("name", tiny.MODELS)
def test_inputs_are_those_that_the_model_reads(exported, name):
    made = onnx.load(exported(name, "f32"))
    want = INPUTS if name.startswith("bert") else INPUTS[:2]
    assert tuple(entry.name for entry in made.graph.input) == want
    assert list(feeds(tiny.batch(name), list(want))) == list(want)


def test_a_quantized_model_shares_the_codes_of_q_k_and_v():
    made = to_onnx(tiny.quantized("bert_classification").model)
    assert sum(node.op_type == "QuantizeLinear" for node in made.graph.node) == 4 * 2
    assert sum(node.op_type == "MatMul" for node in made.graph.node) == (6 + 2) * 2 + 2


def test_a_file_of_others_has_no_taps(tmp_path):
    made = to_onnx(tiny.dense("distilbert_bare").model)
    assert [entry.key for entry in made.metadata_props] == [TAPS]
    del made.metadata_props[:]
    onnx.save(made, tmp_path / "plain.onnx")
    with pytest.raises(ValueError, match="has no taps; need an ONNX file that refimpl exported"):
        tap_tensors(tmp_path / "plain.onnx", [])


# --- f32 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", tiny.MODELS)
def test_f32_is_within_the_bounds_at_every_tap(exported, name, engine):
    model, batch = tiny.dense(name).model, tiny.batch(name)
    ours = tiny.record(model, batch)
    session = open_session(engine, exported(name, "f32"), list(ours))
    values = session.run(batch)
    findings = judge(model, batch, values)
    assert list(findings) == list(ours)
    assert {tap: found for tap, found in findings.items() if found.outside} == {}
    assert all(found.worst <= 1 and found.of == ours[tap].size for tap, found in findings.items())
    assert all(values[tap].dtype == np.float32 for tap in ours)
    assert session.integer_layers == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_another_batch_size_and_length_in_the_same_session(exported, engine):
    name = "bert_question_answering"
    model = tiny.dense(name).model
    session = open_session(engine, exported(name, "f32"), list(tiny.record(model, tiny.batch(name))))
    for rows, tokens in [(3, 11), (1, 1), (2, 5), (3, 11)]:
        batch = Batch(*(array[:rows, :tokens] for array in tiny.batch(name)))
        findings = judge(model, batch, session.run(batch))
        assert not any(found.outside for found in findings.values())


# --- INT8 ------------------------------------------------------------------------------------------------------------


def may_be_rounded_to(codes: np.ndarray, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Which codes x / scale may be rounded to, even by an engine that adds the zero point first, multiplies by a
    rounded reciprocal and rounds after each step: four roundings of a number no larger than |x / scale| + 128."""
    quotient = np.clip(x.astype(np.float64) / float(scale), -128, 127)
    error = bounds.gamma(4) * (np.abs(quotient) + 128)
    return np.abs(codes.astype(np.float64) - 128 - quotient) <= 0.5 + error


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", tiny.MODELS)
def test_int8_runs_in_integers_and_has_our_codes(exported, name, engine):
    """ONNX Runtime quantizes by a division, as we do: every code is ours. OpenVINO computes the quotient in another
    way, so that a value on a rounding boundary may take the neighbouring code."""
    model, batch = tiny.quantized(name).model, tiny.batch(name)
    taps = [tap for tap in tiny.record(model, batch, QUANTIZED) if not tap.endswith(".acc")]
    session = open_session(engine, exported(name, "INT8"), taps)
    assert session.integer_layers == 6 * len(model.layers)
    values = session.run(batch)
    findings = judge(model, batch, values)
    assert list(findings) == taps
    rounded = () if engine == "onnxruntime" else (".codes",)
    assert [tap for tap, found in findings.items() if found.outside and not tap.endswith((*SATURATED, *rounded))] == []
    for layer, p in linears(model).items():
        x = values[tiny.input_tap(layer)]
        assert may_be_rounded_to(values[layer + ".codes"], x, p.input_scale).all(), layer


def in_integers(model: Model, batch: Batch, session: Session, taps: list[str]) -> dict[str, np.ndarray]:
    """What an engine computes with INT8 attention; no value is outside, but for codes on a rounding boundary."""
    values = session.run(batch)
    assert session.integer_layers == 8 * len(model.layers)
    findings = judge(model, batch, values)
    assert list(findings) == taps
    assert [
        tap for tap, found in findings.items() if found.outside and not tap.endswith((*CODES, *SATURATED_ATTENTION))
    ] == []
    assert {values[tap].dtype for tap in taps if tap.endswith(CODES)} == {np.dtype(np.uint8)}
    return values


def check_attention_codes(model: Model, values: dict[str, np.ndarray]) -> None:
    """Each is one of those that its own input may be rounded to."""
    for i, layer in enumerate(model.layers):
        for part, scale in layer.attention_scales._asdict().items():
            x = split_heads(values[f"layer.{i}.{part}"], model.config.heads)
            assert may_be_rounded_to(values[f"layer.{i}.{part}_codes"], x, scale).all()
        p = values[f"layer.{i}.probs"].astype(np.float64)
        assert (np.abs(values[f"layer.{i}.probs_codes"] - 255 * p) <= 0.5 + bounds.gamma(3) * 255 * p).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", tiny.MODELS)
def test_integer_attention_runs_in_integers_and_has_our_codes(exported, name, engine):
    model, batch = tiny.quantized_with_attention(name).model, tiny.batch(name)
    taps = [tap for tap in tiny.record(model, batch, QUANTIZED) if not tap.endswith(".acc")]
    session = open_session(engine, exported(name, INTEGER_ATTENTION), taps)
    check_attention_codes(model, in_integers(model, batch, session, taps))


@pytest.mark.parametrize("engine", ENGINES)
def test_density_0_in_engines(tmp_path, engine):
    name = "distilbert_bare"
    model, batch = tiny.quantized(name, 0.0).model, tiny.batch(name)
    export_onnx(model, tmp_path / "zero.onnx")
    taps = [tap for tap in tiny.record(model, batch, QUANTIZED) if not tap.endswith(".acc")]
    values = open_session(engine, tmp_path / "zero.onnx", taps).run(batch)
    findings = judge(model, batch, values)
    assert {tap: found for tap, found in findings.items() if found.outside and not tap.endswith(".codes")} == {}


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    try:
        directory = demo_model()
    except ValueError as error:
        pytest.skip(str(error))
    dense = compress.load(directory)
    texts = ["The cat sat on the mat.", "Kernels multiply bytes.", "It rains in Hamburg, as it always does in March."]
    masked = compress.prune(dense, 0.2)
    return compress.calibrate(masked, compress.encode_each(dense.tokenizer, texts))


@pytest.fixture(scope="module")
def minilm(calibrated) -> Quantized:
    return compress.quantize(calibrated)


@NEEDS_VNNI
def test_a_real_model_end_to_end_in_onnxruntime(tmp_path, minilm):
    """From the text on, six layers deep: at every tap at least 99 % of the codes are ours, the others one apart."""
    needs("onnxruntime")
    batch = minilm.tokenizer.encode(["A dog barked at the moon.", "Where is the station?"])
    ours = tiny.record(minilm.model, batch, QUANTIZED)
    export_onnx(minilm.model, tmp_path / "minilm.onnx")
    codes = [tap for tap in ours if tap.endswith(".codes")]
    session = open_session("onnxruntime", tmp_path / "minilm.onnx", codes)
    assert session.integer_layers == len(linears(minilm.model)) == 36
    values = session.run(batch)
    for tap in codes:
        step = np.abs(values[tap].astype(int) - ours[tap])
        assert (step == 0).mean() >= 0.99, tap
        assert step.max() <= 1, tap


@pytest.mark.parametrize("engine", ENGINES)
def test_integer_attention_of_a_real_model(tmp_path, calibrated, engine):
    """Also without the f32 values inside attention, so that ONNX Runtime goes from the context's sums to codes."""
    minilm = compress.quantize_with_attention(calibrated)
    batch = minilm.tokenizer.encode(["A dog barked at the moon.", "Where is the station?"])
    taps = [tap for tap in tiny.record(minilm.model, batch, QUANTIZED) if not tap.endswith(".acc")]
    export_onnx(minilm.model, tmp_path / "minilm.onnx")
    session = open_session(engine, tmp_path / "minilm.onnx", taps)
    check_attention_codes(minilm.model, in_integers(minilm.model, batch, session, taps))
    taps = [tap for tap in taps if not tap.endswith((".scores", ".probs", ".context"))]
    in_integers(minilm.model, batch, open_session(engine, tmp_path / "minilm.onnx", taps), taps)


INTERRUPTED = """
import signal, sys
from pathlib import Path
from refimpl.models.engines import open_graph
signal.signal(signal.SIGINT, signal.default_int_handler)
graph = open_graph(sys.argv[1], Path(sys.argv[2]), [])
graph = open_graph(sys.argv[1], Path(sys.argv[2]), [])  # the first goes while the second is there
del graph
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_ctrl_c_after_an_engine_is_no_crash(exported, engine):
    command = [sys.executable, "-c", INTERRUPTED, engine, str(exported("bert_classification", "f32"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


# --- integer products: FACTS.md, M1 ----------------------------------------------------------------------------------


def saturating_operands() -> tuple[np.ndarray, np.ndarray]:
    """a: u8 (8, 256), row 0 all 255; w: s8 (64, 256), row 0 all 127; the rest uniform."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (8, 256), np.uint8)
    w = rng.integers(-128, 128, (64, 256), np.int64).astype(np.int8)
    a[0], w[0] = 255, 127
    return a, w


def bare_product(engine: str, a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """sum_k a[n, k] w[m, k] as the engine computes it."""
    if engine == "onnxruntime":
        from refimpl.models.engines.onnxruntime import matmul_integer as product
    else:
        from refimpl.models.engines.openvino import matmul_integer as product
    return product(a, w)


def test_the_operands_saturate():
    a, w = saturating_operands()
    exact, saturating = gemm_u8s8s32(a, w), gemm_u8s8s32_pair_saturating(a, w)
    assert exact[0, 0] == 255 * 127 * 256
    assert saturating[0, 0] == 32767 * 128
    assert (exact != saturating).mean() > 0.95


@NEEDS_VNNI
@pytest.mark.parametrize("engine", ENGINES)
def test_integer_product_is_exact_here(engine):
    a, w = saturating_operands()
    np.testing.assert_array_equal(bare_product(engine, a, w), gemm_u8s8s32(a, w))
    signed = signed_product(engine, a, w)
    np.testing.assert_array_equal(signed, gemm_u8s8s32(a, w) - compensation(w))


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np
from test_7_engines import bare_product, saturating_operands
np.save({out!r}, bare_product({engine!r}, *saturating_operands()))
"""


def product_in_another_process(engine: str, out: Path, emulator: list[str], **variables: str) -> np.ndarray:
    """``bare_product`` of the saturating operands, in a process started with these environment variables."""
    program = PROGRAM.format(tests=str(Path(__file__).parent), out=str(out), engine=engine)
    command = [*emulator, sys.executable, "-c", program]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.load(out)


def assert_saturates(product: np.ndarray) -> None:
    a, w = saturating_operands()
    np.testing.assert_array_equal(product, gemm_u8s8s32_pair_saturating(a, w))
    assert (product != gemm_u8s8s32(a, w)).mean() > 0.95


@pytest.mark.skipif(not SATURATES, reason="this CPU has VNNI, or lacks AVX2")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_cpu_without_vnni_saturates_pairs(engine):
    assert_saturates(bare_product(engine, *saturating_operands()))


@pytest.mark.parametrize(("isa", "feature"), [("AVX512_CORE", "avx512f"), ("AVX2", "avx2")])
def test_openvino_without_vnni_saturates_pairs(tmp_path, isa, feature):
    needs("openvino")
    if platform.machine() not in ("x86_64", "AMD64") or feature not in cpu.features():
        pytest.skip(f"this CPU lacks {feature}")
    assert_saturates(product_in_another_process("openvino", tmp_path / "product.npy", [], ONEDNN_MAX_CPU_ISA=isa))


@pytest.mark.slow
def test_onnxruntime_on_a_haswell_saturates_pairs(tmp_path):
    needs("onnxruntime")
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        pytest.skip("qemu-x86_64 is not installed (Debian: qemu-user)")
    if platform.machine() != "x86_64":
        pytest.skip("needs an x86-64 Python")
    assert_saturates(product_in_another_process("onnxruntime", tmp_path / "product.npy", [qemu, "-cpu", "Haswell"]))
