"""The verification, step by step, into one ``Report``."""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.kernels.simd.threefold import NATIVE, PORTABLE
from refimpl.models import compress
from refimpl.models.bench.case import describe
from refimpl.models.bench.variants import dequantized
from refimpl.models.bert import Batch, Model, linears
from refimpl.models.compress import Calibrated, Dense, Packed, Quantized
from refimpl.models.engines import NAMES, installed, version
from refimpl.models.export import count_quantized, export_onnx
from refimpl.models.information import density_of, shape_line
from refimpl.models.judge import first_outside, judge
from refimpl.models.runtime.session import Session
from refimpl.models.verify import fp32, int8, timing
from refimpl.models.verify.engine import judge_session
from refimpl.models.verify.report import Report
from refimpl.models.verify.verdict import checks
from refimpl.quant import QUANTIZED, QuantizedLinear

JUDGED_TEXTS = 12
"""How many of the texts are run and judged, in one batch; all of them calibrate."""
TIMED_TEXTS = 4

Say = Callable[[str], None]


class Int8(NamedTuple):
    """The INT8 model in its stages. session: None where our engine cannot run it."""

    quantized: Quantized
    packed: Packed
    session: Session | None


def verify(
    dense: Dense,
    texts: Sequence[str],
    name: str,
    sparsity: float = 0.8,
    say: Say = lambda step: None,
    quantizer: Callable[[Calibrated], Quantized] = compress.quantize,
) -> Report:
    """Run all steps. ``say`` is told the name of each step as it begins; ``count_steps`` of them. quantizer: as in
    ``compress.compress``.

    Raises
    ------
    ValueError
        sparsity is outside 0 ... 1, or a text cannot be encoded
    """
    batch = dense.tokenizer.encode(texts[:JUDGED_TEXTS])
    report = _report(name, dense.model, texts, batch, sparsity)
    report.calibration_texts = len(texts)
    masked = compress.prune(dense, 1 - sparsity)  # first: it may refuse the model
    with tempfile.TemporaryDirectory() as folder:
        files = {"f32": Path(folder) / "f32.onnx", "INT8": Path(folder) / "int8.onnx"}
        ours = _judge_f32(report, dense, batch, files["f32"], say)
        say("calibrate, quantize, pack")
        quantized = quantizer(compress.calibrate(masked, compress.encode_each(dense.tokenizer, texts)))
        int8_model = _stages(quantized, compress.pack(quantized))
        output = _judge_int8(report, int8_model, batch, files["INT8"], say)
        report.compression_cosine = int8.cosine(output, ours)
        _cost(report, dense, int8_model, texts, files, say)
    report.checks = checks(report)
    return report


def verify_packed(packed: Packed, texts: Sequence[str], name: str, say: Say = lambda step: None) -> Report:
    """What ``verify`` does to a model that is compressed already: nothing is pruned or calibrated, and there is no f32
    model to judge. Sizes and times of f32 are of what its codes stand for.

    Raises
    ------
    ValueError
        a linear layer is not in INT8, or a text cannot be encoded
    """
    quantized = compress.unpack(packed)
    for layer, p in linears(quantized.model).items():
        if not isinstance(p, QuantizedLinear):
            raise ValueError(f"{layer} is not in INT8, which verify needs; refimpl compare judges {name}")
    batch = packed.tokenizer.encode(texts[:JUDGED_TEXTS])
    report = _report(name, packed.model, texts, batch, 1 - density_of(packed.model))
    with tempfile.TemporaryDirectory() as folder:
        files = {"f32": Path(folder) / "f32.onnx", "INT8": Path(folder) / "int8.onnx"}
        int8_model = _stages(quantized, packed)
        _judge_int8(report, int8_model, batch, files["INT8"], say)
        decoded = Dense(dequantized(quantized), packed.tokenizer)
        export_onnx(decoded.model, files["f32"])
        _cost(report, decoded, int8_model, texts, files, say)
    report.checks = checks(report)
    return report


def count_steps(loaded: Dense | Packed) -> int:
    """How often ``verify`` says something, or ``verify_packed``."""
    return 8 + 3 * len(installed()) if isinstance(loaded, Dense) else 6 + 2 * len(installed())


def _report(name: str, model: Model, texts: Sequence[str], batch: Batch, sparsity: float) -> Report:
    return Report(
        model=name,
        shape=shape_line(model.config),
        texts=len(batch.ids),
        tokens=int(batch.mask.sum()),
        timed_texts=min(TIMED_TEXTS, len(texts)),
        sparsity=sparsity,
        execution=f"{BSGEMM_4X1.fastest()} {BSGEMM_4X1.name}",
        engines={NAMES[engine]: version(engine) for engine in installed()},
    )


def _stages(quantized: Quantized, packed: Packed) -> Int8:
    try:
        return Int8(quantized, packed, Session(packed))
    except ValueError as error:
        warnings.warn(f"our engine cannot run this model, so it is not judged: {error}", stacklevel=3)
        return Int8(quantized, packed, None)


def _cost(report: Report, dense: Dense, stages: Int8, texts: Sequence[str], files: dict[str, Path], say: Say) -> None:
    """Table 5."""
    say("sizes and times")
    report.sizes = timing.sizes(dense, *stages[:2], files["INT8"].parent)
    few = dense.tokenizer.encode(texts[:TIMED_TEXTS])
    report.seconds = timing.race(timing.ours(dense, *stages, few) | timing.engines(few, files))


def _judge_f32(report: Report, dense: Dense, batch: Batch, path: Path, say: Say) -> np.ndarray:
    """Table 1; returns our own output."""
    say("f32 model in NumPy")
    ours = fp32.record(dense.model, batch)
    findings = judge(dense.model, batch, ours)
    report.fp32 = fp32.rows(fp32.OURS, findings, ours, ours)
    report.faults[f"f32 {fp32.OURS}"] = first_outside(findings)
    export_onnx(dense.model, path)
    for engine in installed():
        say(f"f32 model in {engine}")
        rows, report.faults[f"f32 {NAMES[engine]}"] = fp32.judge_engine(dense.model, batch, engine, path, ours)
        report.fp32 += rows
    return ours["output"]


def _judge_int8(report: Report, stages: Int8, batch: Batch, path: Path, say: Say) -> np.ndarray:
    """Tables 2 to 4; returns the reference's output."""
    quantized, model = stages.quantized, stages.quantized.model
    integer = all(layer.attention_scales is not None for layer in model.layers)
    report.attention = "INT8" if integer else "f32"
    report.products = len(linears(model)) + 2 * len(model.layers) * integer
    reference = int8.record(model, batch, QUANTIZED)
    _kernels(report, stages.packed, batch, reference, say)
    say("INT8 model in our engine")
    if stages.session is not None:
        _our_engine(report, quantized, stages.session, batch)
    export_onnx(model, path)
    report.distinct_layers = count_quantized(path)
    for engine in installed():
        _engine(report, quantized, batch, engine, path, reference, say)
    say("CPUs without VNNI")
    report.saturation = int8.saturation(quantized, reference)
    report.saturated_output_difference = int8.saturated_difference(quantized, batch, reference)
    report.largest_output = float(abs(reference["output"]).max())
    return reference["output"]


def _kernels(report: Report, packed: Packed, batch: Batch, reference: dict, say: Say) -> None:
    say("INT8 kernel, emulated")
    report.bits.append(int8.emulated_bits(packed, reference))
    for target in (PORTABLE, NATIVE):
        say(f"INT8 kernel, {target}")
        if target == PORTABLE or BSGEMM_4X1.source.runs_natively():
            report.bits.append(int8.compiled_bits(packed, batch, target, reference))


def _our_engine(report: Report, quantized: Quantized, session: Session, batch: Batch) -> None:
    found = judge_session(quantized, session, compress.split(batch))
    report.bits.append(found.bits)
    report.int8 += found.layers
    report.faults[f"INT8 {fp32.OURS}"] = found.fault
    report.decides, report.decisions = found.agreement.right, describe(found.agreement)


def _engine(
    report: Report, quantized: Quantized, batch: Batch, engine: str, path: Path, reference: dict, say: Say
) -> None:
    say(f"INT8 model in {engine}")
    name = NAMES[engine]
    found = int8.engine_layers(quantized, batch, engine, path, reference)
    report.integer_layers[name], rows, report.faults[f"INT8 {name}"] = found
    report.int8 += rows
    say(f"integer MatMul in {engine}")
    report.accumulators.append(int8.engine_accumulators(quantized, engine, reference))
