"""Our engine in tables 2 and 3: its integers, its other values within their bounds, and what it decides.

Texts run one at a time, so that no value is padding's.

Contract. A code whose f32 input the engine keeps is NumPy's code of that input, to the bit. Every other value, codes of
what is fused away among them, is within the bound derived from the engine's own inputs to the operator.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from refimpl.models.bench.gate import Agreement, agree, limit_of
from refimpl.models.bench.variants import dequantized
from refimpl.models.bert import Batch, forward
from refimpl.models.compress import Quantized
from refimpl.models.judge import Finding, first_outside, judge
from refimpl.models.runtime.record import record
from refimpl.models.runtime.session import Session
from refimpl.models.verify import int8
from refimpl.models.verify.fp32 import OURS
from refimpl.models.verify.report import BitsRow, LayerRow
from refimpl.quant import QUANTIZED

KEPT = ("q.codes", "k.codes", "v.codes", "intermediate.codes")
"""Codes of what the engine keeps in f32, too."""


class Judged(NamedTuple):
    """bits: a row of table 2; layers: rows of table 3; fault: the first, in words; agreement: of what it decides."""

    bits: BitsRow
    layers: list[LayerRow]
    fault: str
    agreement: Agreement


def judge_session(quantized: Quantized, session: Session, texts: Sequence[Batch]) -> Judged:
    """Record a session's run of the same model on each text, a batch of one without padding, and judge it."""
    values: dict[str, list[np.ndarray]] = defaultdict(list)
    reference: dict[str, list[np.ndarray]] = defaultdict(list)
    findings: dict[str, Finding] = {}
    for text in texts:
        taps, ours = record(session, *text), int8.record(quantized.model, text, QUANTIZED)
        for tap, value in taps.items():
            values[tap].append(value)
            reference[tap].append(ours[tap])
        for tap, found in judge(quantized.model, text, taps).items():
            findings[tap] = _join(findings[tap], found) if tap in findings else found
    exact = [np.asarray(forward(dequantized(quantized), text)) for text in texts]
    agreement = _agree(quantized.model.config.head, values["output"], reference["output"], exact)
    return Judged(
        _bits(findings, tokens=sum(text.ids.size for text in texts)),
        int8.layer_rows(OURS, quantized, _flat(values), findings, _flat(reference)),
        first_outside(findings),
        agreement,
    )


def _join(first: Finding, second: Finding) -> Finding:
    """Of the same tap in two texts."""
    worse = max(first, second, key=lambda found: found.worst)
    sums = {name: getattr(first, name) + getattr(second, name) for name in ("outside", "of", "different")}
    return worse._replace(**sums)


def _bits(findings: dict[str, Finding], tokens: int) -> BitsRow:
    kept = {tap: found for tap, found in findings.items() if tap.endswith(KEPT)}
    return BitsRow(
        execution="engine",
        layers=len(kept),
        tokens=tokens,
        codes=sum(found.of for found in kept.values()),
        different_codes=sum(found.different for found in kept.values()),
        accumulators=0,
        different_accumulators=0,
        first=next((tap for tap, found in kept.items() if found.different), ""),
    )


def _flat(taps: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    return {tap: np.concatenate([value.reshape(-1) for value in parts]) for tap, parts in taps.items()}


def _agree(head: str, outputs: list[np.ndarray], reference: list[np.ndarray], exact: list[np.ndarray]) -> Agreement:
    """Over all texts, as ``bench.gate`` does it for one batch; exact: of the f32 model with the codes' weights."""
    limit = limit_of(_distance(reference, exact))
    parts = [agree(head, output, expected, limit) for output, expected in zip(outputs, reference, strict=True)]
    same, tied, of = (sum(getattr(part, name) for part in parts) for name in ("same", "tied", "of"))
    return Agreement(_distance(outputs, reference), limit, same, tied, of)


def _distance(outputs: list[np.ndarray], reference: list[np.ndarray]) -> float:
    one, other = (np.concatenate([part.reshape(-1) for part in parts]) for parts in (outputs, reference))
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))
