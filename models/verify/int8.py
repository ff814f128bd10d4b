"""Tables 2 to 4: the INT8 model to the bit in every execution, then in other engines, then on CPUs without VNNI."""

from pathlib import Path

import numpy as np

from refimpl.integer.gemm import gemm_u8s8s32_pair_saturating
from refimpl.integer.pairs import unsafe_pairs
from refimpl.kernels.bsgemm_4x1_u8s8s32 import BSGEMM_4X1
from refimpl.models.bert import Batch, Model, forward, linears
from refimpl.models.compiled import compiled_ops
from refimpl.models.compress import Packed, Quantized
from refimpl.models.engines import NAMES, open_session, signed_product
from refimpl.models.judge import Finding, first_outside, judge
from refimpl.models.verify.report import AccumulatorRow, BitsRow, LayerRow, SaturationRow
from refimpl.nn import LINEARS, NO_TAP, Ops, Recorder, Tap
from refimpl.quant import QUANTIZED, QuantizedLinear, integer_linear

EMULATED, EMULATED_TOKENS = "q", 8
CODES, ACCUMULATORS = ".codes", ".acc"
ALL_CODES = (CODES, "_codes")
"""Of linear layers, and of INT8 attention's operands."""


def record(model: Model, batch: Batch, ops: Ops) -> dict[str, np.ndarray]:
    """Every tap of a pass."""
    recorder = Recorder()
    forward(model, batch, ops, recorder)
    return recorder.values


def compiled_bits(packed: Packed, batch: Batch, target: str, reference: dict[str, np.ndarray]) -> BitsRow:
    """The whole model on a jitted kernel against the reference."""
    values = record(packed.model, batch, compiled_ops(target))
    codes = [tap for tap in reference if tap.endswith(ALL_CODES)]
    accumulators = [tap for tap in reference if tap.endswith(ACCUMULATORS)]
    integers = (*ALL_CODES, ACCUMULATORS)
    wrong = (tap for tap in reference if tap.endswith(integers) and (values[tap] != reference[tap]).any())
    return BitsRow(
        execution=f"{target} kernel",
        layers=len(accumulators),
        tokens=int(np.size(batch.ids)),
        codes=sum(reference[tap].size for tap in codes),
        different_codes=sum(int((values[tap] != reference[tap]).sum()) for tap in codes),
        accumulators=sum(reference[tap].size for tap in accumulators),
        different_accumulators=sum(int((values[tap] != reference[tap]).sum()) for tap in accumulators),
        first=next(wrong, ""),
    )


def emulated_bits(packed: Packed, reference: dict[str, np.ndarray]) -> BitsRow:
    """One linear layer, instruction by instruction, on a few tokens' codes."""
    layer = getattr(packed.model.layers[0], EMULATED)
    codes, acc = (reference[f"layer.0.{EMULATED}{kind}"] for kind in (CODES, ACCUMULATORS))
    few, expected = (x.reshape(-1, x.shape[-1])[:EMULATED_TOKENS] for x in (codes, acc))
    got = BSGEMM_4X1.emulated(few, layer.weight) - layer.compensation
    different = int((got != expected).sum())
    first = f"layer.0.{EMULATED}{ACCUMULATORS}" if different else ""
    return BitsRow("emulated kernel", 1, len(few), 0, 0, expected.size, different, first)


def engine_layers(
    quantized: Quantized, batch: Batch, engine: str, path: Path, reference: dict[str, np.ndarray]
) -> tuple[int, list[LayerRow], str]:
    """The exported model in an engine: how many linear layers ran in integers, a row an encoder layer, first fault."""
    taps = [tap for tap in reference if not tap.endswith(ACCUMULATORS)]
    session = open_session(engine, path, taps)
    values = session.run(batch)
    findings = judge(quantized.model, batch, values)
    rows = layer_rows(NAMES[engine], quantized, values, findings, reference)
    return session.integer_layers, rows, first_outside(findings)


def layer_rows(
    name: str,
    quantized: Quantized,
    values: dict[str, np.ndarray],
    findings: dict[str, Finding],
    reference: dict[str, np.ndarray],
) -> list[LayerRow]:
    """A row an encoder layer of an engine's values, judged."""
    rows = []
    for layer in range(len(quantized.model.layers)):
        prefix = f"layer.{layer}."
        codes = [tap for tap in values if tap.startswith(prefix) and tap.endswith(ALL_CODES)]
        steps = [np.abs(values[tap].astype(int) - reference[tap]) for tap in codes]
        total = sum(step.size for step in steps)
        ours, theirs = reference[prefix + "output_norm"], values[prefix + "output_norm"]
        rows.append(
            LayerRow(
                layer=layer,
                engine=name,
                codes_equal=sum(int((step == 0).sum()) for step in steps) / total,
                largest_step=max(int(step.max()) for step in steps),
                own_equal=1 - sum(findings[tap].different for tap in codes) / total,
                outside=sum(found.outside for tap, found in findings.items() if _row(tap, quantized) == layer),
                difference=float(np.abs(ours - theirs).max()),
                cosine=cosine(ours, theirs),
            )
        )
    return rows


def _row(tap: str, quantized: Quantized) -> int:
    """The layer in whose row a tap counts: the embeddings in the first, the head in the last."""
    if tap.startswith("layer."):
        return int(tap.split(".")[1])
    return 0 if tap.startswith("embedding") else len(quantized.model.layers) - 1


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    """Of all elements as one vector, in f64."""
    x, y = (z.ravel().astype(np.float64) for z in (x, y))
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def engine_accumulators(quantized: Quantized, engine: str, reference: dict[str, np.ndarray]) -> AccumulatorRow:
    """The engine's bare integer MatMul, given our codes and weights, against our accumulators."""
    layers = linears(quantized.model)
    different = clipped = total = 0
    for name, layer in layers.items():
        codes, acc = reference[name + CODES], reference[name + ACCUMULATORS]
        flat = codes.reshape(-1, codes.shape[-1])
        theirs = signed_product(engine, flat, layer.codes)
        wrong = theirs != acc.reshape(theirs.shape)
        if wrong.any():
            clipped += int((theirs == _saturated(flat, layer))[wrong].sum())
        different += int(wrong.sum())
        total += acc.size
    return AccumulatorRow(NAMES[engine], len(layers), total, different, clipped)


def saturation(quantized: Quantized, reference: dict[str, np.ndarray]) -> list[SaturationRow]:
    """What pair-saturating CPUs compute from the same codes, a row an encoder layer."""
    rows = []
    for i, layer in enumerate(quantized.model.layers):
        pairs = unsafe = different = total = 0
        for name in LINEARS:
            p = getattr(layer, name)
            codes, acc = (reference[f"layer.{i}.{name}{kind}"] for kind in (CODES, ACCUMULATORS))
            saturated = _saturated(codes.reshape(-1, codes.shape[-1]), p)
            different += int((saturated != acc.reshape(saturated.shape)).sum())
            total += acc.size
            possible = unsafe_pairs(p.codes)
            pairs, unsafe = pairs + possible.size, unsafe + int(possible.sum())
        rows.append(SaturationRow(i, pairs, unsafe, total, different))
    return rows


def _saturated(codes: np.ndarray, p: QuantizedLinear) -> np.ndarray:
    """codes: u8 (N, K)."""
    return gemm_u8s8s32_pair_saturating(codes, p.codes) - p.compensation


def saturated_difference(quantized: Quantized, batch: Batch, reference: dict[str, np.ndarray]) -> float:
    """The largest difference of the model's output when every layer saturates."""
    return float(np.abs(forward(quantized.model, batch, SATURATING) - reference["output"]).max())


def _saturating_linear(x: np.ndarray, p: QuantizedLinear, tap: Tap = NO_TAP) -> np.ndarray:
    if not isinstance(p, QuantizedLinear):
        return QUANTIZED.linear(x, p, tap)
    return integer_linear(x, p, lambda u: gemm_u8s8s32_pair_saturating(u, p.codes), tap)


SATURATING = QUANTIZED._replace(linear=_saturating_linear)
"""The op table of a quantized model on a CPU without VNNI."""
