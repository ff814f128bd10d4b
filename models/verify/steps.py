"""The verification, step by step, into one ``Report``."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.kernels.simd.threefold import NATIVE, PORTABLE
from refimpl.models import compress
from refimpl.models.bert import Batch
from refimpl.models.compress import Dense, Packed, Quantized
from refimpl.models.engines import NAMES, installed, version
from refimpl.models.export import count_quantized, export_onnx
from refimpl.models.judge import first_outside, judge
from refimpl.models.verify import fp32, int8, timing
from refimpl.models.verify.report import Report
from refimpl.models.verify.verdict import checks
from refimpl.quant import QUANTIZED

JUDGED_TEXTS = 12
"""How many of the texts are run and judged, in one batch; all of them calibrate."""
TIMED_TEXTS = 4

Say = Callable[[str], None]


def verify(
    dense: Dense, texts: Sequence[str], name: str, sparsity: float = 0.8, say: Say = lambda step: None
) -> Report:
    """Run all steps. ``say`` is told the name of each step as it begins; ``count_steps`` of them.

    Raises
    ------
    ValueError
        sparsity is outside 0 ... 1, or a text cannot be encoded
    """
    batch = dense.tokenizer.encode(texts[:JUDGED_TEXTS])
    config = dense.model.config
    shape = f"{config.layers} layers, hidden {config.hidden}, {config.heads} heads, {config.head.replace('_', ' ')}"
    report = Report(
        model=name,
        shape=shape,
        calibration_texts=len(texts),
        texts=len(batch.ids),
        tokens=int(batch.mask.sum()),
        timed_texts=min(TIMED_TEXTS, len(texts)),
        sparsity=sparsity,
        execution=f"{BSGEMM_4X1.fastest()} {BSGEMM_4X1.name}",
        engines={NAMES[engine]: version(engine) for engine in installed()},
    )
    with tempfile.TemporaryDirectory() as folder:
        _verify(report, dense, texts, batch, Path(folder), say)
    return report


def count_steps() -> int:
    """How often ``verify`` says something."""
    return 7 + 3 * len(installed())


def _verify(report: Report, dense: Dense, texts: Sequence[str], batch: Batch, folder: Path, say: Say) -> None:
    masked = compress.prune(dense, 1 - report.sparsity)  # first: it may refuse the model
    say("f32 model in NumPy")
    ours = fp32.record(dense.model, batch)
    findings = judge(dense.model, batch, ours)
    report.fp32 = fp32.rows(fp32.OURS, findings, ours, ours)
    report.faults[f"f32 {fp32.OURS}"] = first_outside(findings)
    f32_path, int8_path = folder / "f32.onnx", folder / "int8.onnx"
    export_onnx(dense.model, f32_path)
    for engine in installed():
        say(f"f32 model in {engine}")
        rows, report.faults[f"f32 {NAMES[engine]}"] = fp32.judge_engine(dense.model, batch, engine, f32_path, ours)
        report.fp32 += rows
    say("calibrate, quantize, pack")
    batches = compress.encode_each(dense.tokenizer, texts)
    quantized = compress.quantize(compress.calibrate(masked, batches))
    packed = compress.pack(quantized)
    reference = int8.record(quantized.model, batch, QUANTIZED)
    report.compression_cosine = int8.cosine(reference["output"], ours["output"])
    _kernels(report, packed, batch, reference, say)
    export_onnx(quantized.model, int8_path)
    report.distinct_layers = count_quantized(int8_path)
    for engine in installed():
        _engine(report, quantized, batch, engine, int8_path, reference, say)
    say("CPUs without VNNI")
    report.saturation = int8.saturation(quantized, reference)
    report.saturated_output_difference = int8.saturated_difference(quantized, batch, reference)
    report.largest_output = float(abs(reference["output"]).max())
    say("sizes and times")
    report.sizes = timing.sizes(dense, quantized, packed, folder)
    files = {engine: {"f32": f32_path, "INT8": int8_path} for engine in installed()}
    few = dense.tokenizer.encode(texts[:TIMED_TEXTS])
    report.seconds = timing.race(timing.contestants(dense, quantized, packed, few, BSGEMM_4X1.fastest(), files))
    report.checks = checks(report)


def _kernels(report: Report, packed: Packed, batch: Batch, reference: dict, say: Say) -> None:
    say("INT8 kernel, emulated")
    report.bits.append(int8.emulated_bits(packed, reference))
    for target in (PORTABLE, NATIVE):
        say(f"INT8 kernel, {target}")
        if target == PORTABLE or BSGEMM_4X1.source.runs_natively():
            report.bits.append(int8.compiled_bits(packed, batch, target, reference))


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
